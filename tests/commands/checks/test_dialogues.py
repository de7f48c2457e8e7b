"""What is trained of dialogues, and what a chat begins with."""

from __future__ import annotations

import numpy as np
import pytest

from llmkit.commands.checks import dialogues


@pytest.mark.parametrize("check", [dialogues.check_supervision, dialogues.check_same_ids], ids=lambda c: c.__name__)
def test_sound_dialogues_pass(open_named, check):
    assert check(open_named("finetune")).state == "pass"
    assert check(open_named("model")).state == "pass"
    assert check(open_named("pretrain")).state == "not applicable"


@pytest.fixture
def bend_rows(monkeypatch):
    """Lets each row be made by a function of the sound one."""
    from llmkit.data import dialogue

    sound = dialogue.make_row

    def bend(change):
        def make_row(*args, **kwargs):
            row = sound(*args, **kwargs)
            return row._replace(targets=change(row.input_ids, row.targets))

        monkeypatch.setattr(dialogue, "make_row", make_row)

    return bend


def test_a_trained_prompt_is_found(open_named, bend_rows):
    bend_rows(lambda ids, targets: np.append(ids[1:], targets[-1]).astype(np.int32))
    outcome = dialogues.check_supervision(open_named("finetune"))
    assert outcome.state == "fail"
    assert outcome.value > 10


def test_an_end_of_turn_that_is_not_trained_is_found(open_named, bend_rows, tiny_tokenizer):
    case = open_named("finetune")
    end = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    case.supervised = [(ids, np.where(targets == end, -100, targets)) for ids, targets in case.supervised]
    outcome = dialogues.check_supervision(case)
    assert outcome.state == "fail"
    assert "an answer without its end" in outcome.note


def test_an_earlier_answer_that_is_not_trained_is_found(open_named, bend_rows):
    def last_alone(ids, targets):
        kept = np.full_like(targets, -100)
        place = max(np.flatnonzero(targets != -100), default=-1)
        while place >= 0 and targets[place] != -100:
            kept[place] = targets[place]
            place -= 1
        return kept

    bend_rows(last_alone)
    case = open_named("finetune")
    case.supervised = []
    outcome = dialogues.check_supervision(case)
    assert outcome.state == "fail"
    assert "1 of 2 answers are not trained" in outcome.note


def test_a_chat_that_begins_otherwise_is_found(open_named, monkeypatch):
    from llmkit.data import dialogue

    sound = dialogue.render_prompt
    monkeypatch.setattr(dialogue, "render_prompt", lambda *args, **kwargs: [1, *sound(*args, **kwargs)])
    assert dialogues.check_same_ids(open_named("finetune")).state == "fail"


def test_stretches_of_targets_are_found_with_their_last():
    assert list(dialogues.spans([-100, 5, 6, -100, -100, 7])) == [([5, 6], 6), ([7], 7)]
    assert list(dialogues.spans([-100, -100])) == []
