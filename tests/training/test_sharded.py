"""Weights that FSDP has spread over two processes train, validate and are saved as if they were whole.

Accelerate shards on GPUs only; here torch's own `fully_shard` does to the model on two CPU processes what it would do.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

JOB = """
import sys
from pathlib import Path
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from llmkit.data.prepared import TokenRows, open_prepared
from llmkit.evaluation.perplexity import measure_stream
from llmkit.losses import causal_lm_loss_sum
from llmkit.models.causal_lm import build_causal_lm, load_weights, save_causal_lm
from llmkit.recipe.schema import ModelSection, PretrainRecipe, TrainSection
from llmkit.training import loop
from llmkit.training.job import start_job
from llmkit.training.run import RunOptions, open_run

data, output, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
is_sharded = "sharded" in sys.argv
rows = {"batch_size": 4, "micro_batch_size": 1, "seq_len": 32}
config = TrainSection(steps=steps, **rows, precision="fp32", schedule="constant", warmup_steps=1, validate_every=2)
accelerator = start_job(config)
prepared = open_prepared(data)
section = ModelSection(num_layers=2, hidden_size=32, num_heads=2)
model = build_causal_lm(section, vocab_size=len(prepared.tokenizer), seq_len=32, tokenizer=prepared.tokenizer, seed=0)


def shard(wrapped, optimizer):
    mesh = init_device_mesh("cpu", (accelerator.num_processes,))
    for layer in wrapped.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(wrapped, mesh=mesh)
    return wrapped, loop.make_optimizer(wrapped, config)


if is_sharded:
    accelerator.prepare = shard
options = RunOptions(extend=output.exists())
stream, num_bytes = prepared.split("validation").first_documents(2000)
with open_run(output, PretrainRecipe(train=config), accelerator, options=options) as run:
    loop.train(
        model,
        TokenRows(prepared.split("train"), 32),
        causal_lm_loss_sum,
        config,
        run,
        accelerator=accelerator,
        save_model=lambda folder, weights: save_causal_lm(model, prepared.tokenizer, folder, weights),
        load_model=lambda folder: load_weights(model, folder),
        validate=lambda: measure_stream(model, stream, num_bytes, seq_len=32, batch_size=4),
    )
"""


@pytest.fixture
def job(tmp_path, prepared_folder):
    script = tmp_path / "job.py"
    script.write_text(JOB)

    def run(output, steps, *words, processes=1):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        arguments = [str(script), str(prepared_folder), str(output), str(steps), *words]
        command = [sys.executable, *(launcher if processes > 1 else []), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]

    return run


def test_a_sharded_run_that_is_continued_equals_a_whole_one(job, tmp_path):
    whole = job(tmp_path / "whole", 4)
    job(tmp_path / "sharded", 2, "sharded", processes=2)
    sharded = job(tmp_path / "sharded", 4, "sharded", processes=2)
    for mine, other in zip(whole, sharded, strict=True):
        for key in mine.keys() & {"loss", "grad_norm", "validation"}:
            assert other[key] == pytest.approx(mine[key], abs=1e-5)
    saved = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "sharded")]
    for name, tensor in saved[0].items():
        assert torch.allclose(saved[1][name], tensor, atol=1e-5), name
    assert saved[0].keys() == saved[1].keys()
