"""Data sets of the Hugging Face hub, streamed: the only reader that touches the network, and only when asked to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from llmkit.console import say
from llmkit.data.document import Record
from llmkit.errors import DataError

PREFIX = "hf:"
TIMEOUT_SECONDS = 30.0
"""How long the hub may take to say which commit is the newest."""
NAME = re.compile(r"hf:(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<config>[^@]+))?(?:@(?P<split>.+))?")


class HubName(NamedTuple):
    """`hf:owner/name[:config][@split]`, taken apart."""

    name: str
    config: str | None
    split: str | None


def is_hub_name(text: str) -> bool:
    """Whether an input names a data set of the hub."""
    return text.startswith(PREFIX)


def parse_hub_name(text: str) -> HubName:
    """Take `hf:owner/name[:config][@split]` apart."""
    match = NAME.fullmatch(text)
    if match is None:
        raise DataError("this is not a name of the hub", where=text, fix="write hf:owner/name[:config][@split]")
    return HubName(match["name"], match["config"], match["split"])


def read_hub(text: str, *, shard: int | None = None, commit: str | None = None) -> Iterator[Record]:
    """The rows of a data set, or of one of its shards, as they arrive; of its newest commit where none is given.

    Without a split its `train`, or the only one there is.
    """
    with hub_errors(text):
        rows = open_hub(text, commit)
        where = text if shard is None else f"{text} shard {shard}"
        if shard is not None:
            rows = rows.shard(rows.num_shards, shard)
        for number, values in enumerate(rows, 1):
            yield Record(f"{where}:{number}", dict(values))


def num_shards(text: str, commit: str | None = None) -> int:
    """How many shards a data set has; each can be read without those before it."""
    with hub_errors(text):
        return int(open_hub(text, commit).num_shards)


def commit_of(text: str, wanted: str | None = None) -> str | None:
    """The newest commit of a data set, or the one that is wanted.

    Where the hub cannot be asked, as without a network, the wanted one is taken on trust, and any other is not known:
    that is told, and what lies in the cache may be read all the same.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415

    name = parse_hub_name(text).name
    try:
        commit: str | None = HfApi().dataset_info(name, revision=wanted, timeout=TIMEOUT_SECONDS).sha
    except Exception as error:  # which library speaks HTTP, and so what it raises, is the hub library's own affair
        unsure = (
            f"that it is still {wanted} is not checked"
            if wanted
            else "a run that goes on cannot tell whether it changed"
        )
        reason = str(error).strip().partition("\n")[0]
        say(f"{text}: the hub does not say which commit this is ({reason}): {unsure}")
        return wanted
    return commit


def open_hub(text: str, commit: str | None = None) -> Any:
    """The split of a data set that a name means, streamed."""
    import datasets  # noqa: PLC0415 - takes a second to import, and is needed for hub names alone

    name, config, split = parse_hub_name(text)
    found = datasets.load_dataset(name, config, split=split, revision=commit, streaming=True)
    return found if split else pick_split(found, text)


@contextmanager
def hub_errors(text: str) -> Iterator[None]:
    """Turn what the hub and its library raise within the block into a DataError."""
    import datasets  # noqa: PLC0415

    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first_line = str(error).strip().partition("\n")[0]
        fix = "check the name, the configuration and the split, and that the hub can be reached"
        raise DataError(first_line or type(error).__name__, where=text, fix=fix) from error


def pick_split(splits: Any, text: str) -> Any:
    """`train`, or the only split."""
    if "train" in splits:
        return splits["train"]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(
        "there is no split 'train'", where=text, fix=f"add one of: {', '.join('@' + name for name in splits)}"
    )
