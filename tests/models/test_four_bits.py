"""Adapters on weights in 4 bits; where there is no NVIDIA GPU, they are refused with what to do instead."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch

from llmkit.errors import RecipeError
from llmkit.models import four_bits
from llmkit.models.causal_lm import load_causal_lm
from llmkit.tokenizer import load_tokenizer


def test_4_bits_elsewhere_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(four_bits, "pick_device", lambda: torch.device("cpu"))
    with pytest.raises(RecipeError, match="need an NVIDIA GPU, and this machine trains on cpu") as raised:
        four_bits.four_bit_options()
    assert "method=lora" in raised.value.fix


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(four_bits, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(four_bits, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="bitsandbytes, which is not installed"):
        four_bits.four_bit_options()


@pytest.mark.skipif(not torch.cuda.is_available() or find_spec("bitsandbytes") is None, reason="no GPU with 4 bits")
def test_an_adapter_on_4_bits_is_trained_and_loaded_and_never_merged_into_them(run_cli, tiny_model_folder, tmp_path):
    rows = [{"instruction": f"say the {i}", "output": "next token"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses = {}
    for method in ("lora", "qlora"):
        fields = (f"method={method}", "train.steps=3", "train.batch_size=4", "train.warmup_steps=0", "train.lr=1e-2")
        sets = [word for field in fields for word in ("--set", field)]
        files = ("--model", tiny_model_folder, "--data", tmp_path / "rows.jsonl", "--output", tmp_path / method)
        result = run_cli("finetune", *files, *sets, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["step"] == 3
        losses[method] = json.loads((tmp_path / method / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    # An adapter changes nothing at first: the losses are those of the weights, which 4 bits round.
    assert losses["qlora"] != losses["lora"]
    assert losses["qlora"] == pytest.approx(losses["lora"], rel=0.05)
    # What was learned changes the model that it belongs to, in whole numbers of bytes and in 4 bits.
    adapter, ids = tmp_path / "qlora" / "model", torch.arange(30)[None]
    for options in (None, four_bits.four_bit_options()):
        base, tuned = (load_causal_lm(folder, options=options) for folder in (tiny_model_folder, adapter))
        with torch.no_grad():
            plain, learned = (model(ids.to(model.device)).logits for model in (base, tuned))
        assert learned.isfinite().all()
        assert not torch.equal(learned, plain)
    stored = tmp_path / "four-bits"
    base.save_pretrained(stored)
    load_tokenizer(tiny_model_folder).save_pretrained(stored)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(stored)}))
    result = run_cli("model", "merge", adapter, "--output", tmp_path / "merged")
    assert result.exit_code == 2
    assert "stored in few bits" in result.stderr
    assert not (tmp_path / "merged").exists()
