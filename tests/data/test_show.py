"""Rows as they are shown."""

from __future__ import annotations

import numpy as np

from llmkit.batch import IGNORE_INDEX
from llmkit.data.dialogue import Row
from llmkit.data.document import Document
from llmkit.data.show import dialogue_row, document_rows, token_texts
from llmkit.tokenizer import encode_text


def test_the_texts_of_tokens_are_the_text(tiny_tokenizer):
    text = "the model\nlearns <|endoftext|> 12"
    assert "".join(token_texts(tiny_tokenizer, encode_text(tiny_tokenizer, text))) == text


def test_a_character_of_several_tokens_is_shown_at_its_last(tiny_tokenizer):
    ids = encode_text(tiny_tokenizer, "a解b")
    assert token_texts(tiny_tokenizer, ids) == ["a", "·", "·", "解", "b"]


def test_a_token_is_trained_where_the_position_before_has_it_as_target():
    row = Row(np.array([7, 8, 9]), np.array([IGNORE_INDEX, 9, IGNORE_INDEX]), 1, 3)
    assert dialogue_row(row).trained == [False, False, True]


def test_the_statistics_count_every_document_and_the_rows_only_the_first(tiny_tokenizer):
    rows, statistics = document_rows((Document(f"the {i}", "x") for i in range(600)), tiny_tokenizer, limit=2)
    assert len(rows) == 2
    assert statistics["documents"] == 600
    assert statistics["bytes"] == sum(len(f"the {i}") for i in range(600))
