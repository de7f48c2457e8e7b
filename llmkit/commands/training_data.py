"""The texts that a model was trained on: those of its run, as far as they are at hand, or those that were named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmkit.console import Progress, format_seconds, say
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.evaluation.contamination import Overlap
    from llmkit.evaluation.task import Task

FARTHEST = 2
"""Folders between a model and its run: RUN/checkpoints/step-00000500."""

NONE = "none"
"""In the place of training data: it is not looked through."""

PROBE_SECONDS, WORTH_TELLING_SECONDS = 1.0, 5.0
"""After so much reading the rest is estimated, and told where it takes longer than that."""

PACKED = {".gz", ".zst", ".xz", ".parquet"}
PACKED_TIMES = 3
"""Text is about so many times as large as such a file of it."""


class Share(NamedTuple):
    """Which rows a process of a job reads: every `num_processes`-th, from the one of its rank on."""

    rank: int
    num_processes: int


class TextSource(NamedTuple):
    """Prepared data, a file, or a set that is no file."""

    name: str
    read: Callable[[str, Share], Iterator[list[str]]]
    """The texts of each row or document: of a row its cells, and last all of them as one."""
    num_bytes: int | None
    """Of text, about; None where that is not known before it has been read."""


def look_for_items(
    tasks: Sequence[Task], model: str, named: Sequence[str], limit: int | None, share: Share
) -> dict[str, Overlap]:
    """What of each task stands in the data that was named, or else in that of the model's run; empty without data.

    Each process of a job reads its share, and all get what is in the whole.

    Raises:
        UsageError: Data are named, and that none are to be read.
    """
    from llmkit.evaluation.contamination import find_overlaps
    from llmkit.evaluation.task import first_examples

    if NONE in named:
        if len(named) > 1:
            raise UsageError("none stands beside other data", where="--train-data", fix="leave one of them out")
        return {}
    sources = list(named) or [source for source in training_sources(model) if is_at_hand(source)]
    if not sources:
        return {}
    examples = {task.name: first_examples(task.examples("test"), limit) for task in tasks}
    found = [one for source in sources for one in text_sources(source)]
    return find_overlaps(examples, watched(found, share), sources, num_processes=share.num_processes)


def watched(sources: Sequence[TextSource], share: Share) -> Iterator[str]:
    """The texts of a share of some data, with a bar; how long it takes is told as soon as that can be said."""
    sizes = [source.num_bytes for source in sources]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    read, begin, is_told = 0, time.monotonic(), total is None
    whole = None if total is None else total // 1_000_000
    with Progress("looking for the test items in the training data", total=whole, unit="MB") as progress:
        for number, source in enumerate(sources):
            # Turn about, so that files of one document each are not all read by the first process.
            turn = share._replace(rank=(share.rank + number) % share.num_processes)
            for texts in source.read(source.name, turn):
                yield from texts
                read += share.num_processes * len("".join(texts[-1:]).encode(errors="surrogatepass"))
                progress.update(read // 1_000_000 - progress.done)
                spent = time.monotonic() - begin
                if not is_told and read and spent >= PROBE_SECONDS:
                    is_told = True
                    tell_rest(total or 0, spent * ((total or 0) / read - 1))


def tell_rest(total: int, seconds: float) -> None:
    """Say how long the rest of so many bytes takes, where that is worth it, and how to do without."""
    if seconds >= WORTH_TELLING_SECONDS:
        say(
            f"looking for the test items in {total / 1e6:,.0f} MB of training data takes about "
            f"{format_seconds(seconds)}; --train-data none leaves it out"
        )


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


def text_sources(source: str) -> list[TextSource]:
    """Prepared data, a set, or the files of a folder or pattern."""
    from llmkit.data.documents import parse_python_docs
    from llmkit.data.prepared import open_prepared
    from llmkit.data.sources import find_sources

    is_docs = source.startswith("python-docs")
    if (Path(source) / "manifest.json").is_file():
        return [TextSource(source, prepared_texts, int(open_prepared(source).split("train").num_bytes.sum()))]
    if source.startswith("hf:") or is_docs:
        has_rows = not is_docs or parse_python_docs(source)[0]
        return [TextSource(source, row_texts if has_rows else document_texts, None)]
    return [
        TextSource(found.name, document_texts if found.format == "text" else row_texts, text_bytes(found.path))
        for found in find_sources([source])
    ]


def text_bytes(path: Path | None) -> int | None:
    """About how much text a file holds."""
    if path is None:
        return None
    return path.stat().st_size * (PACKED_TIMES if path.suffix in PACKED else 1)


def row_texts(source: str, share: Share) -> Iterator[list[str]]:
    """The texts of each row of a share."""
    from llmkit.data.documents import read_records

    for record in islice(read_records(source), share.rank, None, share.num_processes):
        yield list(texts_in(record.values))


def document_texts(source: str, share: Share) -> Iterator[list[str]]:
    """The text of each document of a share."""
    from llmkit.data.documents import read_documents

    for document in islice(read_documents([source]), share.rank, None, share.num_processes):
        yield [document.text]


def prepared_texts(folder: str, share: Share) -> Iterator[list[str]]:
    """The text of each document of a share of the training split of prepared data."""
    from llmkit.data.prepared import open_prepared
    from llmkit.tokenizer import decode_ids

    prepared = open_prepared(folder)
    split = prepared.split("train")
    for number in range(share.rank, split.num_documents, share.num_processes):
        start, end = split.offsets[number], split.offsets[number + 1]
        yield [decode_ids(prepared.tokenizer, split.tokens[start : end - 1].tolist())]


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
