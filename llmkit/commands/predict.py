"""`llmkit baseline predict`: what a trained baseline says of new rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.commands.options import AsJson
from llmkit.console import say, warn, write, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from llmkit.data.document import Document

FORMATS = ("jsonl", "csv")


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or its model folder.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Rows as training had them, without what is to be predicted; - reads stdin."
        ),
    ],
    format_: Annotated[
        str, typer.Option("--format", metavar="jsonl|csv", help="How rows are written: a JSON object each, or a table.")
    ] = "jsonl",
    text_column: Annotated[
        str | None, typer.Option(help="Of a classifier from finetune: the column with the text, where it is not plain.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Label new rows with what was trained: a line each on stdout, with the probability of every class.

    \b
    Examples:
      llmkit baseline predict run new-people.csv
      llmkit baseline predict run photos/ --format csv
      echo "What a wonderful film" | llmkit baseline predict run -
      llmkit baseline predict tuned reviews.jsonl --text-column review

    RUN is of baseline, or of finetune with task=classify. Tables (csv, tsv, jsonl, parquet) need the columns of
    training; texts may also stand one a line; pictures are a file, a folder, an archive, idx or npz. A series is
    forecast from its end. A language model says how many bits each byte of a text takes.
    """
    from llmkit.models.baselines import load_baseline
    from llmkit.models.classify import names_of_classes

    if format_ not in FORMATS:
        raise UsageError(f"{format_!r} is not known", where="--format", fix=f"use {' or '.join(FORMATS)}")
    folder = run / "model" if (run / "model").is_dir() else run
    if names_of_classes(folder):
        rows = classify_texts(folder, source, text_column)
    elif text_column is not None:
        fix = "leave it out: a baseline knows its columns"
        raise UsageError("this is for a classifier from finetune", where="--text-column", fix=fix)
    else:
        model, stored = load_baseline(folder)
        rows = (measure_texts if stored["task"] == "language" else answer_rows)(model, stored, source)
    write_rows(rows, format_=format_, as_json=as_json)


def classify_texts(folder: Path, source: str, text_column: str | None) -> list[dict[str, Any]]:
    """What a tuned language model says of each text: a label with its probability and those of all classes."""
    from llmkit.device import pick_device
    from llmkit.errors import DataError
    from llmkit.models.classify import load_classifier
    from llmkit.models.classify import predict as answer
    from llmkit.tokenizer import encode_texts

    classifier = load_classifier(folder)
    texts = list(read_texts(source, text_column))
    if not texts:
        raise DataError("there is no text in it", where=source, fix="give a file with text")
    classifier.model.to(pick_device())
    limit = getattr(classifier.model.config, "max_position_embeddings", None)
    if limit is not None:
        # No token is less than a byte: only texts of more bytes than positions need to be counted.
        large = [text.text for text in texts if len(text.text.encode()) > limit]
        if num_cut := sum(len(ids) > limit for ids in encode_texts(classifier.tokenizer, large)):
            warn(f"{num_cut:,} of {len(texts):,} texts lose their end: the model takes {limit:,} tokens")
    chances = answer(classifier, [text.text for text in texts], max_length=limit).tolist()
    return [
        {"row": text.source, **name_classes(row, classifier.labels)} for text, row in zip(texts, chances, strict=True)
    ]


def read_texts(source: str, text_column: str | None) -> Iterator[Document]:
    """The texts of files of rows, by their column, and the lines of plain text that are not blank."""
    from llmkit.data.document import Document
    from llmkit.data.documents import texts_of
    from llmkit.data.records import read_rows
    from llmkit.data.sources import find_sources, open_bytes, read_lines

    for found in find_sources([source]):
        if found.format != "text":
            yield from texts_of(read_rows(found), found.name, text_column)
            continue
        with open_bytes(found) as file:
            for number, line in read_lines(file, found.name):
                if line.strip():
                    yield Document(line.strip(), f"{found.name}:{number}")


def answer_rows(model: nn.Module, stored: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """What the network says of each row: a label with its probability and those of all classes, or numbers."""
    from llmkit.data.new_rows import read_new_rows
    from llmkit.data.targets import ClassTarget, NumberTarget, read_target
    from llmkit.models.baselines import predict as answer

    new, target = read_new_rows(stored, source), read_target(stored["target"])
    for note in new.notes:
        say(note)
    outputs = answer(model, new.rows)
    if isinstance(target, ClassTarget):
        answers = [name_classes(chances, target.names) for chances in outputs.double().softmax(1).tolist()]
        if new.answers is not None:
            compare_answers(new.answers, answers, stored["reading"])
    else:
        assert isinstance(target, NumberTarget), "a language model does not come here"
        answers = [dict(zip(target.names, row, strict=True)) for row in target.decode(outputs, new.last).tolist()]
    return [{"row": name, **found} for name, found in zip(new.names, answers, strict=True)]


def compare_answers(given: list[Any], answers: list[dict[str, Any]], reading: dict[str, Any]) -> None:
    """Tell how many of the labels that the rows came with were predicted."""
    from llmkit.data.targets import class_name

    named = [
        (reading["class_names"].get(class_name(value), class_name(value)), found)
        for value, found in zip(given, answers, strict=True)
        if value is not None
    ]
    right = sum(name == found["label"] for name, found in named)
    say(f"the rows have {reading['targets'][0]!r} too: {right:,} of {len(named):,} are as predicted")


def name_classes(chances: list[float], names: list[str]) -> dict[str, Any]:
    """The likeliest class, its probability, and the probabilities of all."""
    best = max(range(len(names)), key=lambda k: chances[k])
    shown = {name: round(chance, 6) for name, chance in zip(names, chances, strict=True)}
    return {"label": names[best], "probability": round(chances[best], 6), "probabilities": shown}


def measure_texts(model: nn.Module, stored: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """How well a language model predicts each line, or the whole text where it was trained on one."""
    import math

    from llmkit.data.decoding import decode, read_bytes, split_lines
    from llmkit.data.labelled_set import TensorRows, read_encoder
    from llmkit.data.language import SymbolEncoder
    from llmkit.errors import DataError
    from llmkit.models.baselines import measure_language

    encoder = read_encoder(stored["encoder"])
    assert isinstance(encoder, SymbolEncoder), "only called for language models"
    text = decode(read_bytes(source), source, stored["reading"]["encoding"]).replace("\r\n", "\n")
    lines = list(enumerate(split_lines(text), start=1)) if encoder.is_lines else [(1, text)]
    texts = [(number, line) for number, line in lines if line.strip()]
    if not texts:
        raise DataError("there is no text in it", where=source, fix="give a file with text")
    found = []
    for number, line in texts:
        rows = TensorRows(*encoder.encode([line]))
        bits, size = float(measure_language(model, rows).nats.sum()) / math.log(2), encoder.count_bytes([line])
        name = f"{'stdin' if source == '-' else source}:{number}"
        found.append({"row": name, "bytes": size, "bits": round(bits, 3), "bits_per_byte": round(bits / size, 6)})
    return found


def write_rows(rows: list[dict[str, Any]], *, format_: str, as_json: bool) -> None:
    """One JSON document, a JSON object a line, or a csv table."""
    import csv
    import io
    import json

    if as_json:
        write_json({"predictions": rows})
    elif format_ == "jsonl":
        for row in rows:
            write(json.dumps(row, ensure_ascii=False))
    else:
        file = io.StringIO()
        flat = [flatten_chances(row) for row in rows]
        table = csv.DictWriter(file, list(flat[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(flat)
        write(file.getvalue(), end="")


def flatten_chances(row: dict[str, Any]) -> dict[str, Any]:
    """A row with a column for the probability of each class."""
    chances = row.get("probabilities", {})
    return {k: v for k, v in row.items() if k != "probabilities"} | {f"p({k})": v for k, v in chances.items()}
