"""Every damage of a checkpoint is found, and no loader makes up a tensor that is not there."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainers import differences, outcome
from trials import damage, flip, flip_all

from llmkit.errors import ModelError
from llmkit.training.checkpoint import MANIFEST, find_damage, newest_checkpoint


@pytest.fixture(scope="module")
def whole(forks, material, tmp_path_factory):
    """A whole checkpoint of a language model."""
    folder = tmp_path_factory.mktemp("whole")
    found = forks.run(folder, material / "tokenizer", 1, log=folder / "log", call="save")
    assert found["code"] == 0, (folder / "log").read_text()
    assert find_damage(folder / "step-00000001") is None
    return folder / "step-00000001"


@pytest.fixture
def checkpoint(whole, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(whole, tmp_path / "checkpoints" / whole.name)


def test_every_single_flipped_bit_of_the_manifest_is_found(checkpoint):
    verdicts = list(flip_all(checkpoint / MANIFEST, checkpoint))
    assert [verdict for verdict in verdicts if verdict.problem] == []
    assert len(verdicts) == 8 * (checkpoint / MANIFEST).stat().st_size
    assert find_damage(checkpoint) is None


def test_three_hundred_damages_of_all_files_are_found(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json", MANIFEST} <= names
    verdicts = list(damage(checkpoint, random.Random(0), count=300))
    assert [verdict for verdict in verdicts if verdict.problem] == []
    assert len({verdict.fault for verdict in verdicts}) > 4 * len(names), "some files met hardly any damage"


def test_a_file_that_cannot_be_read_is_a_damage(checkpoint):
    (checkpoint / "state.json").unlink()
    (checkpoint / "state.json").mkdir()
    assert "missing" in find_damage(checkpoint)
    (checkpoint / MANIFEST).unlink()
    (checkpoint / MANIFEST).mkdir()
    assert find_damage(checkpoint)


def test_the_newest_whole_one_is_taken_whatever_happened_to_those_behind_it(whole, tmp_path, capsys):
    names = [f"step-{step:08}" for step in (1, 2, 3, 12)]
    for name in names:
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / names[3] / MANIFEST).unlink()
    (tmp_path / names[2] / "optimizer.safetensors").write_bytes(b"")
    assert newest_checkpoint(tmp_path) == tmp_path / names[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"damaged-{n}" for n in names[2:]] + names[:2]
    said = capsys.readouterr().err
    assert all(f"{name} is damaged" in said for name in names[2:])


@pytest.mark.parametrize("name", ["pretrain", "lora", "mlp"])
def test_a_run_with_damaged_checkpoints_goes_on_from_a_whole_one(name, forks, trainers, undisturbed, tmp_path):
    expected, _ = undisturbed(name)
    command, log = trainers[name].command(tmp_path / "run"), tmp_path / "log"
    sight = str(tmp_path / "run/checkpoints/step-00000008")
    found = forks.run(*command, log=log, fault={"signal": 9, "sight": sight})
    assert found["code"] == -9
    newest = max((tmp_path / "run/checkpoints").glob("step-*"))
    path = next(newest.glob("*model.safetensors"))
    path.write_bytes(flip(bytearray(path.read_bytes()), random.Random(1)))
    assert forks.run(*command, log=log)["code"] == 0, log.read_text()
    assert f"{newest.name} is damaged" in log.read_text()
    assert (newest.parent / f"damaged-{newest.name}").is_dir()
    assert differences(expected, outcome(tmp_path / "run")) == []


def without(tensors, name):
    """All tensors but one."""
    return {key: value for key, value in tensors.items() if key != name}


def check_each_tensor(path, load):
    """Take each tensor of a file out in turn; give one another shape, and add one: loading must fail and name it."""
    tensors = load_file(path)
    name = max(tensors)
    damages = {key: without(tensors, key) for key in tensors}
    assert len(damages) > 3
    longer = {**tensors, name: torch.zeros(tensors[name].numel() + 1)}
    more = {**tensors, f"{name}.more": torch.zeros(3)}
    for wanted, damaged in [*damages.items(), (name, longer), (f"{name}.more", more)]:
        save_file(damaged, path, metadata={"format": "pt"})
        with pytest.raises(ModelError) as caught:
            load()
        assert wanted in str(caught.value)
    save_file(tensors, path, metadata={"format": "pt"})
    load()


def test_no_tensor_of_a_model_is_made_up(material, tmp_path):
    from llmkit.models.causal_lm import load_causal_lm, load_weights

    folder = shutil.copytree(material / "base/model", tmp_path / "model")
    model = load_causal_lm(folder)
    check_each_tensor(folder / "model.safetensors", lambda: load_causal_lm(folder))
    check_each_tensor(folder / "model.safetensors", lambda: load_weights(model, folder))


def test_no_tensor_of_an_adapter_is_made_up(forks, trainers, tmp_path):
    from llmkit.models.causal_lm import load_causal_lm
    from llmkit.models.lora import load_adapter_weights

    found = forks.run(*trainers["lora"].command(tmp_path / "run", steps=1), log=tmp_path / "log")
    assert found["code"] == 0, (tmp_path / "log").read_text()
    folder = tmp_path / "run/model"
    model = load_causal_lm(folder)
    check_each_tensor(folder / "adapter_model.safetensors", lambda: load_adapter_weights(model, folder))
    check_each_tensor(folder / "adapter_model.safetensors", lambda: load_causal_lm(folder))


@pytest.mark.parametrize("kind", ["mlp", "rnn"])
def test_no_tensor_of_a_baseline_is_made_up(kind, forks, trainers, tmp_path):
    from llmkit.models.baselines import load_baseline

    found = forks.run(*trainers[kind].command(tmp_path / "run", steps=1), log=tmp_path / "log")
    assert found["code"] == 0, (tmp_path / "log").read_text()
    folder = tmp_path / "run/model"
    check_each_tensor(folder / "model.safetensors", lambda: load_baseline(folder))
