"""A text to learn to write, in three splits: lines by a hash of their content, one text by stretches."""

from __future__ import annotations

from pathlib import Path

from llmkit.data.decoding import decode, read_bytes, split_lines
from llmkit.data.documents import read_documents
from llmkit.data.labelled_set import LabelledData, RowReading, TensorRows, check_split
from llmkit.data.language import SymbolEncoder, cut_stretches, fit_symbols, is_list_of_texts
from llmkit.data.splits import SPLITS, assign_splits, share_of
from llmkit.data.targets import SymbolTarget
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData


def encode_language(data: BaselineData, *, max_length: int) -> LabelledData:
    """Text as rows of ids, each predicted from those before it.

    Raises:
        DataError: A split has no text.
    """
    where = str(data.source)
    text = read_text(where, data)
    given = {
        split: read_text(named, data)
        for split, named in (("validation", data.validation), ("test", data.test))
        if isinstance(named, str)
    }
    is_lines = is_list_of_texts(text) if data.documents == "auto" else data.documents == "lines"
    texts, notes = cut_lines(text, given, data) if is_lines else cut_text(text, given, data)
    for split in SPLITS:
        check_split(split, len(texts[split]), sum(map(len, texts.values())), data)
    encoder = fit_symbols(
        [one for part in texts.values() for one in part], data.symbols, max_length=max_length, is_lines=is_lines
    )
    splits = {split: rows_of_texts(encoder, texts[split]) for split in SPLITS}
    notes = [*notes, *describe_symbols(encoder, splits)]
    return LabelledData(
        where, "language", splits, encoder, SymbolTarget(encoder.num_symbols), notes, RowReading(encoding=data.encoding)
    )


def read_text(source: str, data: BaselineData) -> str:
    """The text of a file in its encoding, or of whatever else documents are read from."""
    if source == "-" or Path(source).is_file():
        text = decode(read_bytes(source), source, data.encoding).replace("\r\n", "\n")
    else:
        text = "\n\n".join(document.text for document in read_documents([source]))
    if not text.strip():
        raise DataError("there is no text in it", where=source, fix="give a file with text")
    return text


def cut_lines(text: str, given: dict[str, str], data: BaselineData) -> tuple[dict[str, list[str]], list[str]]:
    """Lines by split; equal ones are in the same."""
    lines = [(line, "") for line in split_lines(text)]
    lines += [(line, split) for split, part in given.items() for line in split_lines(part)]
    filled = [(line, split) for line, split in lines if line.strip()]
    splits, told = assign_splits([line for line, _ in filled], [split for _, split in filled], data)
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for (line, _), split in zip(filled, splits, strict=True):
        texts[split].append(line)
    notes = [f"{len(filled):,} lines, each a text of its own (data.documents)"]
    notes += [f"{len(lines) - len(filled):,} blank lines are left out"] if len(filled) < len(lines) else []
    return texts, [*notes, *told]


def cut_text(text: str, given: dict[str, str], data: BaselineData) -> tuple[dict[str, list[str]], list[str]]:
    """One text as stretches: the end is the test."""
    stretches = cut_stretches(text, validation=share_of(data.validation), test=share_of(data.test))
    texts = {split: [given.get(split, stretch)] for split, stretch in zip(SPLITS, stretches, strict=True)}
    texts = {split: [one for one in part if one] for split, part in texts.items()}
    return texts, [f"one text of {len(text):,} characters; its end is the test (data.documents)"]


def rows_of_texts(encoder: SymbolEncoder, texts: list[str]) -> TensorRows:
    """Rows of ids, with the bytes that they stand for."""
    inputs, targets, lengths = encoder.encode(texts)
    return TensorRows(inputs, targets, lengths, num_bytes=encoder.count_bytes(texts))


def describe_symbols(encoder: SymbolEncoder, splits: dict[str, TensorRows]) -> list[str]:
    """What is predicted, and how long the rows are."""
    own = encoder.num_symbols - 3
    counts = {split: sum(rows.lengths or []) for split, rows in splits.items()}
    shown = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    what = f"{own:,} different characters" if encoder.kind == "characters" else f"{own:,} {encoder.kind}"
    sizes = ", ".join(f"{rows.num_bytes or 0:,} {split}" for split, rows in splits.items())
    return [f"symbols: {what}; to predict: {shown}", f"bytes: {sizes}; rows of at most {encoder.max_length} symbols"]
