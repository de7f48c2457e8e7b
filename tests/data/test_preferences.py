"""Pairs of answers: what is judged of them, how they are stacked, and what becomes of those that cannot be used."""

from __future__ import annotations

import pytest
import torch

from llmkit.batch import IGNORE_INDEX, count_targets
from llmkit.data.messages import Message
from llmkit.data.preference_forms import Preference
from llmkit.data.preferences import PairRows, encode_pairs
from llmkit.errors import DataError
from llmkit.models.preference import answer_log_likelihoods


def pair(question, chosen, rejected, where="pairs:1"):
    return Preference(
        where, [Message("user", question)], [Message("assistant", chosen)], [Message("assistant", rejected)]
    )


PAIRS = [
    pair("what comes next?", "the next token", "text"),
    pair("and then?", "we ask it what comes after that", "the"),
    pair("and then we ask it?", "class", "def return"),
]


def encode(pairs, tokenizer, max_length=200, overlong="drop"):
    return encode_pairs(pairs, tokenizer, name="train", max_length=max_length, overlong=overlong)


def test_only_the_two_answers_are_judged(tiny_tokenizer):
    earlier = [Message("user", "what?"), Message("assistant", "the token"), Message("user", "and then?")]
    preference = Preference("pairs:1", earlier, [Message("assistant", "text")], [Message("assistant", "class")])
    [both], account = encode([preference], tiny_tokenizer)
    texts = [tiny_tokenizer.decode([t for t in row.targets if t != IGNORE_INDEX]) for row in both]
    assert texts == ["text<|im_end|>", "class<|im_end|>"]
    assert account.to_json()["tokens"] == sum(len(row.input_ids) for row in both)


def test_pairs_that_teach_nothing_are_dropped_and_counted(tiny_tokenizer):
    pairs = [PAIRS[0], pair("q?", "same", "same", "pairs:2"), pair("q?", "text", " ", "pairs:3")]
    found, account = encode(pairs, tiny_tokenizer)
    assert len(found) == 1
    assert sum(account.dropped.values()) == 2
    assert set(account.first_dropped.values()) == {"pairs:2", "pairs:3"}


def test_pairs_are_accounted_for_as_dialogues_are(tiny_tokenizer):
    thinks = [Message("assistant", "the next token", thinking="class def")]
    pairs = [
        PAIRS[0],
        pair("what comes next?", "the next token", "7"),
        pair("<|im_end|>", "text", "class"),
        Preference("pairs:4", [Message("user", "what?")], thinks, [Message("assistant", "text")], source="pairs"),
    ]
    report = encode([*pairs, PAIRS[0]], tiny_tokenizer)[1].to_json()
    assert (report["read"], report["used"], report["duplicates"]) == (5, 5, 1)
    assert report["rows_with_near_empty_answers"] == 1
    assert report["rows_with_text_like_control_tokens"] == 1
    assert list(report["notes"].values()) == [1]
    assert report["sources"]["pairs"]["rows"] == 1


def test_a_pair_that_the_template_refuses_is_dropped_and_counted(tiny_tokenizer):
    refused = Preference("pairs:2", [Message("user", "q?")], [Message("assistant", "the")], [Message("bot", "token")])
    refused.rejected.append(Message("assistant", "text"))
    found, account = encode([PAIRS[0], refused], tiny_tokenizer)
    assert len(found) == 1
    assert account.first_dropped == {"message 2 has role 'bot'; roles are system, user, assistant, tool": "pairs:2"}


def test_an_answer_that_asks_not_to_be_learned_drops_its_pair(tiny_tokenizer):
    unlearned = [Message("assistant", "token", is_trained=False)]
    pairs = [PAIRS[0], Preference("pairs:2", [Message("user", "q?")], unlearned, [Message("assistant", "text")])]
    assert encode(pairs, tiny_tokenizer)[1].dropped == {"no answer to learn": 1}


def test_a_pair_with_one_row_too_long_is_dropped_or_an_error(tiny_tokenizer):
    pairs = [PAIRS[0], pair("q?", "the next token " * 40, "text", "pairs:2")]
    found, account = encode(pairs, tiny_tokenizer, max_length=60)
    assert len(found) == 1
    assert account.dropped == {"longer than max_length": 1}
    with pytest.raises(DataError, match=r"has .* tokens, data\.max_length is 60"):
        encode(pairs, tiny_tokenizer, max_length=60, overlong="error")


def test_a_cut_pair_keeps_what_fits(tiny_tokenizer):
    [both], account = encode([pair("q?", "the next token " * 40, "text")], tiny_tokenizer, 60, "cut-right")
    assert len(both.chosen.input_ids) == 60
    assert account.num_cut == 1


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_batch_tells_which_row_each_position_belongs_to(tiny_tokenizer, tiny_model, is_flat):
    pairs, _ = encode(PAIRS, tiny_tokenizer)
    batch = PairRows(pairs, is_flat=is_flat).batch([2, 0])
    assert count_targets(batch) == 2
    rows = [row for i in (2, 0) for row in pairs[i]]
    for number, row in enumerate(rows):
        mine = batch["answers"][batch["documents"] == number]
        assert [t for t in mine.tolist() if t != IGNORE_INDEX] == [t for t in row.targets if t != IGNORE_INDEX]
    with torch.no_grad():
        found = answer_log_likelihoods(tiny_model, batch).log_likelihoods
        alone = [answer_log_likelihoods(tiny_model, PairRows(pairs).batch([i])).log_likelihoods for i in (2, 0)]
    assert torch.allclose(found, torch.cat(alone), rtol=1e-4)


def test_the_reference_goes_along_with_its_pair(tiny_tokenizer):
    rows = PairRows(encode(PAIRS, tiny_tokenizer)[0])
    rows.reference = torch.arange(6.0).view(3, 2)
    assert rows.batch([2, 0])["reference"].tolist() == [[4.0, 5.0], [0.0, 1.0]]


def test_a_padded_pair_counts_twice_its_longer_row(tiny_tokenizer):
    pairs, _ = encode(PAIRS, tiny_tokenizer)
    flat, padded = PairRows(pairs, is_flat=True), PairRows(pairs)
    sizes = [len(ids) for ids, _ in flat.documents]
    assert flat.lengths == [sizes[0] + sizes[1], sizes[2] + sizes[3], sizes[4] + sizes[5]]
    assert padded.lengths == [2 * max(sizes[:2]), 2 * max(sizes[2:4]), 2 * max(sizes[4:])]
