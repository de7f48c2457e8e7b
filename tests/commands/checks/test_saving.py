"""Saved models, adapters and checksums: what is sound passes, what is broken is found."""

from __future__ import annotations

import pytest
import torch

from llmkit.commands.checks import saving


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "baseline", "model"])
def test_what_is_saved_is_loaded_again(open_named, kind):
    assert saving.check_saved(open_named(kind)).state == "pass"


@pytest.mark.parametrize("check", [saving.check_adapter_start, saving.check_merged], ids=lambda check: check.__name__)
def test_adapters_are_checked_where_there_are_some(open_named, check):
    assert check(open_named("finetune")).state == "pass"
    assert check(open_named("finetune", "method=full")).state == "not applicable"
    assert check(open_named("pretrain")).state == "not applicable"


def test_weights_that_are_not_read_back_are_found(open_named, monkeypatch):
    from llmkit.models import causal_lm

    monkeypatch.setattr(causal_lm, "load_weights", lambda model, folder: None)
    assert saving.check_saved(open_named("pretrain")).state == "fail"


def test_a_folder_that_others_read_as_another_model_is_found(open_named):
    case = open_named("baseline")
    others = open_named("baseline").trainee.model
    case.open_saved = lambda folder: others
    assert saving.check_saved(case).state == "fail"
    with torch.no_grad():
        for parameter in others.parameters():
            parameter.fill_(float("nan"))
    assert saving.check_saved(case).state == "fail"


def test_an_adapter_that_changes_the_model_at_once_is_found(open_named):
    case = open_named("finetune")
    with torch.no_grad():
        for name, parameter in case.trainee.trained().items():
            if "lora_B" in name:
                parameter += 0.1
    case.trainee.start = case.trainee.weights()
    assert saving.check_adapter_start(case).state == "fail"


def test_a_merge_that_loses_the_adapter_is_found(open_named, monkeypatch):
    from llmkit.models import lora

    monkeypatch.setattr(lora, "merge_lora", lambda model: model.unload())
    assert saving.check_merged(open_named("finetune")).state == "fail"


def test_a_damaged_file_is_found(open_named, prepared_folder, tmp_path):
    import shutil

    case = open_named("pretrain")
    assert saving.check_files(case).state == "pass"
    copy = tmp_path / "copy"
    shutil.copytree(prepared_folder, copy)
    tokens = copy / "tokens-train.npy"
    content = bytearray(tokens.read_bytes())
    content[-1] ^= 1
    tokens.write_bytes(content)
    case.folders = [copy]
    outcome = saving.check_files(case)
    assert outcome.state == "fail"
    assert "tokens-train.npy does not match its checksum" in outcome.note
