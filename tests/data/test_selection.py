"""What is left out, and the account of it."""

from __future__ import annotations

import pytest

from llmkit.data.document import Document
from llmkit.data.selection import EXACT, NEAR, NO_TEXT, TOO_SHORT, DocumentAccount, Selection, add_up, describe_dropped

LONG = "the model learns to guess the next token from the text that came before it"


def select(texts, **settings):
    account = DocumentAccount()
    documents = (Document(text, f"a:{number}") for number, text in enumerate(texts, 1))
    kept = [document.text for document in Selection(**settings).of(documents, account)]
    return kept, {reason: about["documents"] for reason, about in account.to_json().items()}


def test_only_documents_without_text_are_left_out_unasked():
    assert select(["a", "", " \n", "a", "b"]) == (["a", "a", "b"], {NO_TEXT: 2})


def test_short_documents_are_measured_without_the_space_around_them():
    assert select(["12345", " 1234 ", "123456", ""], min_length=5) == (["12345", "123456"], {TOO_SHORT: 1, NO_TEXT: 1})


def test_the_first_of_equal_documents_stays():
    kept, dropped = select([LONG, "b", LONG + "\n", "b"], dedupe="exact")
    assert kept == [LONG, "b"]
    assert dropped == {EXACT: 2}


def test_exact_and_near_duplicates_are_counted_apart():
    pytest.importorskip("rensa")
    kept, dropped = select([LONG, LONG, LONG.upper() + "!", "b"], dedupe="near")
    assert kept == [LONG, "b"]
    assert dropped == {EXACT: 1, NEAR: 1}


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_what_stays_does_not_depend_on_how_much_is_looked_at_together(monkeypatch, at_once):
    monkeypatch.setattr("llmkit.data.selection.AT_ONCE", at_once)
    texts = [f"text {i % 7}" for i in range(30)]
    assert select(texts, dedupe="exact") == ([f"text {i}" for i in range(7)], {EXACT: 23})


def test_the_account_tells_bytes_and_the_first_place():
    account = DocumentAccount()
    documents = [Document(text, f"a:{i}") for i, text in enumerate(["long enough", "né", "x"])]
    assert len(list(Selection(min_length=5).of(iter(documents), account))) == 1
    assert account.to_json() == {TOO_SHORT: {"first": "a:1", "documents": 2, "bytes": 4}}
    total = add_up([account.to_json(), account.to_json()])
    assert total == {TOO_SHORT: {"first": "a:1", "documents": 4, "bytes": 8}}
    assert describe_dropped(total) == ["left out, too short: 4 documents, 8 bytes (first: a:1)"]
