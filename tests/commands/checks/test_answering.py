"""Generation and scores: the cache, the batch and the tree change nothing, and where they do that is found."""

from __future__ import annotations

import pytest
import torch

from llmkit.commands.checks import answering


@pytest.mark.parametrize(
    "check", [answering.check_cache, answering.check_batch_size, answering.check_tree], ids=lambda c: c.__name__
)
def test_a_sound_model_passes(open_named, check):
    assert check(open_named("model")).state == "pass"
    assert check(open_named("finetune")).state == "pass"
    assert check(open_named("baseline")).state == "not applicable"


def test_a_cache_that_is_off_by_one_place_is_found(open_named, monkeypatch):
    from llmkit.generation import decode

    sound = decode.Forward.extend

    def extend(self, ids, running):
        sound(self, ids, running)
        if self.cache is not None:
            self.input_ids = (self.input_ids + 1) % 200

    monkeypatch.setattr(decode.Forward, "extend", extend)
    outcome = answering.check_cache(open_named("model"))
    assert outcome.state == "fail"
    assert outcome.value >= 1


def test_scores_that_depend_on_their_neighbours_are_found(open_named):
    from llmkit.losses import body_of

    case = open_named("model")

    def lean_on_neighbours(module, inputs, output):
        shift = len(output.last_hidden_state) - 1
        output.last_hidden_state = output.last_hidden_state + shift * torch.linspace(-1, 1, 32)
        return output

    body_of(case.answerer).register_forward_hook(lean_on_neighbours)
    assert answering.check_batch_size(case).state == "fail"


def test_branches_that_see_each_other_are_found(open_named, monkeypatch):
    from llmkit.evaluation import scoring

    sound = scoring.tree_mask
    monkeypatch.setattr(scoring, "can_branch", lambda model, longest: True)
    monkeypatch.setattr(scoring, "tree_mask", lambda *args: torch.zeros_like(sound(*args)))
    assert answering.check_tree(open_named("model")).state == "fail"
