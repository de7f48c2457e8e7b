"""The texts that a model was trained on: those of its run, as far as they are at hand, or those that were named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.console import Progress, say

if TYPE_CHECKING:
    from llmkit.evaluation.contamination import Overlap
    from llmkit.evaluation.task import Task

FARTHEST = 2
"""Folders between a model and its run: RUN/checkpoints/step-00000500."""


def look_for_items(
    tasks: Sequence[Task], model: str, named: Sequence[str], limit: int | None = None
) -> dict[str, Overlap]:
    """What of each task stands in the data that was named, or else in that of the model's run; empty without data."""
    from llmkit.evaluation.contamination import find_overlaps
    from llmkit.evaluation.task import first_examples

    sources = list(named) or [source for source in training_sources(model) if is_at_hand(source)]
    if not sources:
        return {}
    examples = {task.name: first_examples(task.examples("test"), limit) for task in tasks}
    with Progress("looking for the test items in the training data", unit="texts") as progress:

        def watched() -> Iterator[str]:
            for source in sources:
                for text in texts_of(source):
                    progress.update()
                    yield text

        return find_overlaps(examples, watched(), sources)


def training_sources(model: str) -> list[str]:
    """What the recipe of a model's run names as its data, and that of the model which it began with, and so on."""
    from llmkit.recipe.load import read_layer

    folder = Path(model).resolve()
    for place in [folder, *folder.parents][: FARTHEST + 1]:
        if (place / "recipe.yaml").is_file() and (place / "metrics.jsonl").is_file():
            recipe = read_layer(place / "recipe.yaml").values
            return [*sources_in(recipe.get("data") or {}), *training_sources_of_base(recipe)]
    return []


def sources_in(data: Mapping[str, Any]) -> list[str]:
    """The sources that the section `data` of a recipe names."""
    return [str(source) for source in (data.get("source"), *(data.get("mix") or {})) if source]


def training_sources_of_base(recipe: Mapping[str, Any]) -> list[str]:
    """The data of the model that a run began with."""
    base = (recipe.get("model") or {}).get("source")
    return training_sources(str(base)) if base else []


def is_at_hand(source: str) -> bool:
    """Whether data of a run can be read here and now; the hub is not asked behind anybody's back."""
    is_there = source.partition(":")[0].partition("@")[0] == "python-docs" or Path(source).exists()
    if not is_there:
        say(f"the model was trained on {source}, which is not here: its items are not looked for (or use --train-data)")
    return is_there


def texts_of(source: str) -> Iterator[str]:
    """The texts of prepared data, of rows or of documents."""
    from llmkit.data.documents import parse_python_docs, read_documents, read_records
    from llmkit.data.sources import find_sources

    is_docs = source.startswith("python-docs")
    if (Path(source) / "manifest.json").is_file():
        yield from prepared_texts(source)
    elif source.startswith("hf:") or (is_docs and parse_python_docs(source)[0]):
        for record in read_records(source):
            yield from texts_in(record.values)
    elif is_docs:
        yield from (document.text for document in read_documents([source]))
    else:
        for found in find_sources([source]):
            if found.format == "text":
                yield from (document.text for document in read_documents([found.name]))
            else:
                for record in read_records(found.name):
                    yield from texts_in(record.values)


def prepared_texts(folder: str) -> Iterator[str]:
    """The documents of the training split of prepared data."""
    from llmkit.data.prepared import open_prepared
    from llmkit.tokenizer import decode_ids

    prepared = open_prepared(folder)
    split = prepared.split("train")
    for start, end in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        yield decode_ids(prepared.tokenizer, split.tokens[start : end - 1].tolist())


def texts_in(values: Mapping[str, Any]) -> Iterator[str]:
    """Each text of a row, and all of them as one: an item may be a cell, or stand across several."""
    texts = list(strings_in(values))
    yield from texts
    if len(texts) > 1:
        yield " ".join(texts)


def strings_in(value: Any) -> Iterator[str]:
    """All texts in what JSON can hold, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from strings_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from strings_in(part)
