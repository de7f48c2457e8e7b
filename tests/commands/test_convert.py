"""`llmkit model convert`: from GGUF and to it."""

from __future__ import annotations

import json

import pytest
import torch

from llmkit.models.causal_lm import load_causal_lm
from llmkit.tokenizer import encode_text, load_tokenizer

pytest.importorskip("gguf")

TEXT = "the model learns 👍 class"


@pytest.fixture
def exported(run_cli, tiny_model_folder, tmp_path):
    """The tiny model as GGUF, in a folder."""
    result = run_cli("model", "convert", tiny_model_folder, "--output", tmp_path / "exported", "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_there_and_back_again(run_cli, exported, tiny_model_folder, tmp_path):
    assert exported["tensors"] == {"F16": 15, "F32": 5}
    result = run_cli("model", "convert", exported["file"], "--output", tmp_path / "back", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["architecture"], document["dtype"], document["chat_template"]) == ("llama", "fp32", True)
    ids = encode_text(load_tokenizer(tiny_model_folder), TEXT)
    assert encode_text(load_tokenizer(tmp_path / "back"), TEXT) == ids
    with torch.no_grad():
        one, other = (
            load_causal_lm(folder)(torch.tensor([ids])).logits for folder in (tiny_model_folder, tmp_path / "back")
        )
    assert torch.allclose(one, other, atol=0.02)
    assert "llmkit" not in (tmp_path / "back" / "config.json").read_text()
    assert "quantization" not in (tmp_path / "back" / "config.json").read_text()


def test_a_modelfile_lies_beside_the_weights(exported, tmp_path):
    text = (tmp_path / "exported" / "Modelfile").read_text()
    assert text.splitlines()[0] == f"FROM ./{exported['file'].rpartition('/')[2]}"
    assert 'TEMPLATE """{{ range .Messages }}' in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert exported["modelfile_template"] is True


def test_a_file_may_be_named(run_cli, tiny_model_folder, tmp_path):
    target = tmp_path / "small.gguf"
    result = run_cli("model", "convert", tiny_model_folder, "--output", target, "--dtype", "q8_0")
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.Modelfile", "small.gguf"]
    assert (tmp_path / "small.Modelfile").read_text().startswith("FROM ./small.gguf\n")
    again = run_cli("model", "convert", tiny_model_folder, "--output", target)
    assert again.exit_code == 2
    assert "there already" in again.stderr


def test_bf16_halves_the_folder(run_cli, exported, tmp_path):
    for dtype in ("fp32", "bf16"):
        run_cli("model", "convert", exported["file"], "--output", tmp_path / dtype, "--dtype", dtype)
    sizes = [(tmp_path / dtype / "model.safetensors").stat().st_size for dtype in ("fp32", "bf16")]
    assert 1.8 < sizes[0] / sizes[1] <= 2


def test_an_adapter_is_merged(run_cli, tiny_model, tiny_tokenizer, tiny_model_folder, tmp_path):
    from llmkit.models.causal_lm import save_causal_lm
    from llmkit.models.gguf_read import read_gguf
    from llmkit.models.lora import attach_lora
    from llmkit.recipe.schema import LoraSection

    model = attach_lora(tiny_model, LoraSection(rank=4), base=tiny_model_folder, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    save_causal_lm(model, tiny_tokenizer, tmp_path / "adapter")
    result = run_cli("model", "convert", tmp_path / "adapter", "--output", tmp_path / "a.gguf")
    assert result.exit_code == 0, result.stderr
    assert "merged" in result.stderr
    ids = torch.tensor([encode_text(tiny_tokenizer, TEXT)])
    with torch.no_grad():
        wanted, found = model.eval()(ids).logits, read_gguf(tmp_path / "a.gguf").model(ids).logits
    assert torch.allclose(found, wanted, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--output", "x"], "no such file"),
        (["MODEL", "--to", "folder", "--output", "x"], "cannot be converted to a folder"),
        (["MODEL", "--dtype", "bf16", "--output", "x"], "a gguf has no bf16"),
        (["MODEL/config.json", "--output", "x"], "not a GGUF file"),
        (["MODEL", "--output", "MODEL"], "not empty"),
        (["MODEL", "--output", "model.onnx"], "ONNX is not written here"),
    ],
)
def test_what_cannot_be_done_is_told(run_cli, tiny_model_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    given = [str(a).replace("MODEL", str(tiny_model_folder)) for a in arguments]
    result = run_cli("model", "convert", *given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "fix:" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_is_a_sound_script():
    import re
    import subprocess
    from pathlib import Path

    import llmkit

    script = Path(llmkit.__file__).parent.parent / "recipes" / "smollm2.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert re.search(r"^set -euo pipefail$", script.read_text(), flags=re.M)
