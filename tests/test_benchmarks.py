"""The benchmarks start; what they measure is never a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("bench_*.py")), ids=lambda path: path.stem)
def test_a_benchmark_tells_its_options(path):
    result = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "--rounds" in result.stdout


def in_benchmarks(code):
    """The JSON that a Python in the folder of the benchmarks prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, check=True, capture_output=True, text=True, timeout=120
    )
    return json.loads(result.stdout)


def test_a_tool_that_fails_is_told_of_by_its_last_words():
    code = (
        "import json, sys, bench_pretrain as bench\n"
        "words = 'raise ValueError(1)', 'import time; time.sleep(9)', 'pass', 'print(1); print({})'\n"
        "bench.LONGEST_SECONDS = 2\n"
        "found = [bench.run([sys.executable, '-c', word], {}) for word in words]\n"
        "print(json.dumps([*found, bench.run(['/no/such/python'], {})]))"
    )
    failed, slow, silent, good, missing = in_benchmarks(code)
    assert failed == {"error": "ValueError: 1"}
    assert slow == {"error": "it took more than 2 s"}
    assert silent == {"error": "it ended with exit code 0"}
    assert good == {}
    assert "/no/such/python" in missing["error"]


def test_the_arithmetic_of_a_token_is_that_of_the_model():
    code = (
        "import json, bench_pretrain as bench, torch\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "from llmkit.models.flops import flops_per_token\n"
        "with torch.device('meta'):\n"
        "    model = LlamaForCausalLM(LlamaConfig(vocab_size=4096, hidden_size=384, intermediate_size=1024,\n"
        "        num_hidden_layers=6, num_attention_heads=6, tie_word_embeddings=True))\n"
        "print(json.dumps([bench.flops_per_token(4096), flops_per_token(model, 256)]))"
    )
    by_hand, by_model = in_benchmarks(code)
    assert by_hand == by_model


def test_each_peer_is_held_against_the_best_setting_of_the_others():
    code = (
        "import json, bench_pretrain as bench\n"
        "speeds = {'llmkit': [6000.0, 6600.0, 6400.0], 'litgpt': [4000.0], 'Trainer': [3200.0]}\n"
        "found = {name: bench.Result(list(s), [100.0] * len(s), [9.0] * len(s)) for name, s in speeds.items()}\n"
        "found['Trainer compiled'] = bench.Result([5120.0], [100.0], [9.0])\n"
        "found['plain loop'] = bench.Result(error='no')\n"
        "print(json.dumps(list(bench.rows_of(found, 4096, 1e12))))"
    )
    rows = {row["tool"]: row for row in in_benchmarks(code)}
    # The median of the rounds is 6,400.
    assert (rows["llmkit"]["of_litgpt"], rows["llmkit"]["of_trainer"]) == (1.6, 1.25)
    assert rows["Trainer"]["of_trainer"] == 0.62
    assert rows["plain loop"]["error"] == "no"
