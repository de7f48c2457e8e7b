"""What must hold of training is found to hold, and each fault is found."""

from __future__ import annotations

import pytest
import torch

from llmkit.commands.checks import training

CHECKS = (
    training.check_split,
    training.check_packing,
    training.check_resume,
    training.check_gradients,
    training.check_first_loss,
    training.check_heart,
)


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "baseline"])
def test_sound_training_passes(open_named, kind):
    case = open_named(kind)
    found = {check.__name__: check(case) for check in CHECKS}
    passed = {name for name, outcome in found.items() if outcome.state == "pass"}
    not_asked = {"baseline": {"check_packing"}, "finetune": {"check_first_loss"}}.get(kind, set())
    assert passed == found.keys() - not_asked, found
    assert all(found[name].state == "not applicable" for name in not_asked)


def test_a_mean_where_a_sum_should_be_is_found(open_named, monkeypatch):
    from llmkit import losses

    summed = losses.causal_lm_loss_sum
    monkeypatch.setattr(losses, "causal_lm_loss_sum", lambda m, b, **k: summed(m, b, **k) / b["targets"].shape[0])
    outcome = training.check_split(open_named("pretrain"))
    assert outcome.state == "fail"
    assert outcome.value > 0.1


def test_documents_that_see_each_other_are_found_where_rows_are_packed(open_named, monkeypatch):
    from llmkit import losses

    monkeypatch.setattr(losses, "model_inputs", lambda model, batch: {"input_ids": batch["input_ids"]})
    assert training.check_packing(open_named("pretrain", "data.document_mask=true")).state == "fail"
    outcome = training.check_packing(open_named("pretrain"))
    assert outcome.state == "not applicable"
    assert "nothing is packed" in outcome.note


def test_an_optimizer_that_forgets_its_state_is_found(open_named, monkeypatch):
    from llmkit.training import checkpoint

    monkeypatch.setattr(checkpoint, "restore_from", lambda *args, **kwargs: None)
    assert training.check_resume(open_named("pretrain")).state == "fail"


def test_a_resumed_run_that_begins_anew_is_found(open_named, monkeypatch):
    from llmkit.training import restore

    monkeypatch.setattr(restore, "newest_checkpoint", lambda folder: None)
    for kind in ("pretrain", "finetune"):
        outcome = training.check_resume(open_named(kind))
        assert outcome.state == "fail"
        assert "went on from step 0" in outcome.note


def test_a_run_that_saves_nothing_on_its_way_is_found(open_named, monkeypatch):
    sound = training.small
    monkeypatch.setattr(training, "small", lambda train, **fields: sound(train, **fields, save_every=0))
    outcome = training.check_resume(open_named("pretrain"))
    assert outcome.state == "fail"
    assert "no checkpoint was written" in outcome.note


def test_a_weight_that_is_no_number_after_the_resumption_is_found(open_named, monkeypatch):
    case = open_named("baseline")
    sound, runs = training.run, []

    def run(*args):
        weights = sound(*args)
        runs.append(weights)
        if len(runs) == 2:
            weights[list(weights)[-1]][...] = float("nan")
        return weights

    monkeypatch.setattr(training, "run", run)
    assert training.check_resume(case).state == "fail"


def test_a_parameter_without_a_gradient_and_one_that_is_not_finite_are_found(open_named):
    case = open_named("baseline")
    case.trainee.model.unused = torch.nn.Parameter(torch.ones(2))
    case.trainee.start = case.trainee.weights()
    outcome = training.check_gradients(case)
    assert (outcome.state, outcome.value) == ("fail", 1)
    assert "unused: no gradient" in outcome.note
    case = open_named("baseline")
    sound = case.trainee.loss_sum
    case.trainee.loss_sum = lambda model, batch: sound(model, batch) * torch.tensor(float("inf"))
    assert training.check_gradients(case).state == "fail"


def test_weights_that_begin_too_large_are_found(open_named):
    case = open_named("pretrain")
    with torch.no_grad():
        case.trainee.model.get_output_embeddings().weight.mul_(200)
    case.trainee.start = case.trainee.weights()
    outcome = training.check_first_loss(case)
    assert outcome.state == "fail"
    assert outcome.value > outcome.tolerance


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.source=wine", "loss.class_weights=balanced"),
        ("data.source=wine", "train.label_smoothing=0.4"),
        ("model.dropout=0.9", "model.num_layers=3"),
    ],
    ids=["weights", "smoothing", "dropout"],
)
def test_what_a_recipe_adds_to_the_loss_or_leaves_to_chance_is_no_fault(open_named, overrides):
    case = open_named("baseline", *overrides)
    assert training.check_first_loss(case).state == "pass"
    outcome = training.check_heart(case)
    assert outcome.state == "pass", outcome


def test_a_price_of_large_logits_is_no_part_of_the_first_loss(open_named):
    case = open_named("pretrain", "train.z_loss=0.1")
    assert training.check_first_loss(case).state == "pass"


def test_a_loss_that_is_nothing_from_the_start_leaves_nothing_to_learn(open_named):
    case = open_named("baseline")
    sound = case.trainee.loss_sum
    case.trainee.loss_sum = lambda model, batch: 0 * sound(model, batch)
    outcome = training.check_heart(case)
    assert outcome.state == "not applicable"
    assert "before anything is learnt" in outcome.note


def test_the_worst_of_some_numbers_is_one_that_is_none():
    from math import isnan, nan

    assert isnan(training.worst([0.1, nan, 0.2]))
    assert training.worst([0.1, 0.3, 0.2]) == 0.3


def test_a_model_that_does_not_learn_is_found(open_named, monkeypatch):
    from llmkit.training import step

    monkeypatch.setattr(step, "lr_at", lambda *args, **kwargs: 0.0)
    outcome = training.check_heart(open_named("baseline"))
    assert outcome.state == "fail"
    assert outcome.value == pytest.approx(1.0, abs=0.2)


def test_a_check_leaves_the_model_as_it_was(open_named):
    case = open_named("finetune")
    before = case.trainee.weights()
    training.check_heart(case)
    training.check_resume(case)
    after = case.trainee.weights()
    assert all(torch.equal(before[name], after[name]) for name in before)
