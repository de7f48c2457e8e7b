"""Texts and their labels as rows for a classifier on top of a language model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from llmkit.batch import Batch
from llmkit.console import say
from llmkit.data.dialogue import IdsAndTargets, Row, lay_end_to_end, pad
from llmkit.data.dialogue_set import Account, Overlong, fate_of, raise_nothing_left
from llmkit.data.documents import read_records
from llmkit.data.forms import check_columns
from llmkit.errors import DataError
from llmkit.tokenizer import encode_texts

TEXT_COLUMNS = ("text", "sentence", "content", "review", "question")
LABEL_COLUMNS = ("label", "category", "class", "intent", "target")

NO_TEXT = "no text"
NO_LABEL = "no label"
TWO_LABELS = "texts stand there more than once, with different labels"


class LabelledText(NamedTuple):
    """A text, what it is, and where it stands."""

    text: str
    label: str
    where: str

    @property
    def question(self) -> str:
        """What is asked: the text."""
        return self.text

    @property
    def content(self) -> str:
        """What texts share that are the same; one text has one label."""
        return self.text


def read_texts(source: str, *, columns: Mapping[str, str] | None = None) -> tuple[list[LabelledText], Account]:
    """The texts of a source and their labels, and an account of the rows that lack one.

    Args:
        source: What `read_records` takes.
        columns: The names of the columns `text` and `label`, where the usual ones do not fit.

    Raises:
        DataError: A row has no such columns.
        RecipeError: `columns` names something else.
    """
    check_columns(columns or {}, ("text", "label"))
    account, names = Account(source), dict(columns or {})
    found: list[LabelledText] = []
    for record in read_records(source):
        if not account.num_read:
            names = {
                "text": find_column(record.values, names.get("text"), TEXT_COLUMNS, record.where, "text"),
                "label": find_column(record.values, names.get("label"), LABEL_COLUMNS, record.where, "label"),
            }
            say(f"{source}: texts in column {names['text']!r}, labels in column {names['label']!r}")
        account.num_read += 1
        text, label = (record.values.get(names[kind]) for kind in ("text", "label"))
        if not isinstance(text, str) or not text.strip():
            account.drop(NO_TEXT, record.where)
        elif label is None or isinstance(label, list | dict) or not str(label).strip():
            account.drop(NO_LABEL, record.where)
        else:
            found.append(LabelledText(text, str(label).strip(), record.where))
    return found, account


def find_column(values: Mapping[str, object], asked: str | None, usual: Sequence[str], where: str, kind: str) -> str:
    """The column that was asked for, or the first of the usual ones that there is."""
    name = next((name for name in ([asked] if asked else usual) if name in values), None)
    if name is None:
        there = ", ".join(map(str, values)) or "none"
        raise DataError(
            f"there is no column {asked!r}" if asked else f"no column for the {kind}: the columns are {there}",
            where=where,
            fix=f"name it in the recipe: data.columns={{{kind}: NAME}}; there are {there}",
        )
    return name


def collect_labels(texts: Sequence[LabelledText]) -> list[str]:
    """The labels in the order of their classes: numbers by their value, names by the alphabet.

    Raises:
        DataError: There are fewer than two.
    """
    labels = {text.label for text in texts}
    if len(labels) < 2:
        raise DataError(
            f"there is {len(labels)} label: {', '.join(labels)}",
            where="data.source",
            fix="a classifier needs two or more",
        )
    are_numbers = all(label.lstrip("-").isdecimal() for label in labels)
    return sorted(labels, key=(lambda label: (int(label), label)) if are_numbers else (lambda label: (0, label)))


class TextRows:
    """Texts as ids with a class each, stacked by index."""

    unit = "texts"

    def __init__(self, ids: Sequence[Sequence[int]], classes: Sequence[int], *, is_flat: bool = False) -> None:
        self.rows: list[IdsAndTargets] = [(np.array(i, dtype=np.int32), np.zeros(len(i), np.int32)) for i in ids]
        self.classes = list(classes)
        self.is_stream = False
        self.is_flat = is_flat
        self.lengths: Sequence[int] | None = [len(row) for row, _ in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def content_hash(self) -> str:
        """SHA-256 over all ids and classes, in their order."""
        return hashlib.sha256(json.dumps([[r.tolist() for r, _ in self.rows], self.classes]).encode()).hexdigest()

    def batch(self, indices: Sequence[int]) -> Batch:
        """The texts with these indices; `ends` (B,) is the place of each one's last token among all, `targets` (B,)."""
        rows = [self.rows[i] for i in indices]
        lengths = torch.tensor([len(ids) for ids, _ in rows])
        batch = lay_end_to_end(rows) if self.is_flat else pad(rows)
        width = batch["input_ids"].shape[1]
        starts = lengths.cumsum(0) - lengths if self.is_flat else torch.arange(len(rows)) * width
        return {**batch, "ends": starts + lengths - 1, "targets": torch.tensor([self.classes[i] for i in indices])}


def encode_labelled(
    texts: Sequence[LabelledText],
    labels: Sequence[str],
    tokenizer: object,
    account: Account,
    *,
    max_length: int,
    overlong: Overlong,
) -> tuple[list[list[int]], list[int]]:
    """Ids and class of every text that is used; what becomes of each is counted in `account`.

    Raises:
        DataError: A label is unknown, a text is too long and that is an error, or nothing is left.
    """
    account.max_length = max_length
    classes = {label: number for number, label in enumerate(labels)}
    kept_ids, kept_classes = [], []
    known = {text.content: text.label for text in texts}
    account.num_duplicates = len(texts) - len(known)
    if others := {text.content for text in texts if text.label != known[text.content]}:
        account.notes[TWO_LABELS] = len(others)
    for text, ids in zip(texts, encode_texts(tokenizer, [t.text for t in texts]), strict=True):
        if text.label not in classes:
            message = f"label {text.label!r} is none of the training data's: {', '.join(labels[:20])}"
            raise DataError(message, where=text.where, fix="mend the label, or add rows with it to the training data")
        cut = ids[-max_length:] if overlong == "cut-left" else ids[:max_length] if overlong == "cut-right" else ids
        row = Row(np.array(cut, np.int32), np.array([classes[text.label]], np.int32), len(text.text.encode()), len(ids))
        if (reason := fate_of([row], text.where, max_length, overlong)) is not None:
            account.drop(reason, text.where)
            continue
        account.use(row)
        kept_ids.append(cut)
        kept_classes.append(classes[text.label])
    if not kept_ids:
        raise_nothing_left(account)
    return kept_ids, kept_classes
