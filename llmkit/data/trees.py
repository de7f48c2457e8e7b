"""Trees of messages, as OpenAssistant keeps them, as dialogues: the best ranked path, or all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmkit.console import warn
from llmkit.data.columns import as_number, is_missing
from llmkit.data.document import Record
from llmkit.data.messages import Message
from llmkit.data.turns import DialogueReading, read_turn

Node = Mapping[str, Any]

DELETED = "deleted messages of trees are left out, and what answers them"
NOT_BEST = "messages of trees are beside the best ranked path (data.paths: all takes them too)"
FLAT_COLUMNS = ("message_id", "parent_id", "text", "role")
WORST_RANK = 1 << 30


def read_tree(values: Mapping[str, Any], reading: DialogueReading) -> list[list[Message]]:
    """The dialogues of a tree: one along the best answers, or one to each last answer.

    An answer that several paths share is learned in the first of them alone: else it would count as often as it is
    answered.
    """
    root = values["prompt"]
    if is_true(root.get("deleted")):
        reading.notes[DELETED] += 1
        return []
    paths = list(walk(root, (), reading))
    if reading.paths == "best":
        reading.notes[NOT_BEST] += len({id(node) for path in paths for node in path}) - len(paths[0])
        paths = paths[:1]
    learned: set[int] = set()
    dialogues: list[list[Message]] = []
    for path in paths:
        messages = [read_turn(node, number, reading) for number, node in enumerate(path, start=1)]
        new = [
            message._replace(is_trained=False) if message.is_answer and id(node) in learned else message
            for message, node in zip(messages, path, strict=True)
        ]
        while len(new) > 1 and not new[-1].is_answer:
            new.pop()  # what nobody answered
        if any(message.is_answer for message in new) or not dialogues:
            dialogues.append(new)
        learned |= {id(node) for node in path}
    return dialogues


def walk(node: Node, before: tuple[Node, ...], reading: DialogueReading) -> Iterator[tuple[Node, ...]]:
    """All paths from the root to a leaf, the best ranked first."""
    path = (*before, node)
    replies = [reply for reply in node.get("replies") or () if not is_true(reply.get("deleted"))]
    reading.notes[DELETED] += len(node.get("replies") or ()) - len(replies)
    # Sorting is stable: messages without a rank stay in their order behind those that have one.
    for reply in sorted(replies, key=rank_of):
        yield from walk(reply, path, reading)
    if not replies:
        yield path


def rank_of(node: Node) -> float:
    """The place of a reply among its siblings, 0 for the best."""
    rank = as_number(node.get("rank"))
    return WORST_RANK if rank is None else rank


def is_true(value: Any) -> bool:
    """Whether a field says yes; tables hold it as text."""
    return value.strip().lower() in ("true", "1") if isinstance(value, str) else bool(value)


def is_flat(values: Mapping[str, Any]) -> bool:
    """Whether a row is one message of a tree, which names the message that it answers."""
    return all(column in values for column in FLAT_COLUMNS)


def gather_trees(records: Iterable[Record]) -> Iterator[Record]:
    """Rows of one message each as one record a tree, where its first message stood."""
    roots: list[Record] = []
    replies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        node = dict(record.values)
        if is_missing(node["parent_id"]):  # which tables write as an empty text
            roots.append(Record(record.where, {"prompt": node}))
        else:
            replies[str(node["parent_id"])].append(node)
    for root in roots:
        stack = [root.values["prompt"]]
        while stack:
            node = stack.pop()
            node["replies"] = replies.pop(str(node["message_id"]), [])
            stack += node["replies"]
        yield root
    if replies:
        count = sum(map(len, replies.values()))
        warn(f"{count:,} messages answer one that is not there (the first: {next(iter(replies))}): they are left out")
