"""Dialogues to rows: the ids that a model sees, with targets on what the assistant says and on the end of its turn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding

from llmkit.batch import IGNORE_INDEX, Batch
from llmkit.data.rendering import Message, Renderer, Rendering, renderer_of
from llmkit.tokenizer import decode_ids

__all__ = [
    "DialogueRows",
    "Message",
    "PackedRows",
    "Row",
    "encode_dialogue",
    "encode_renderings",
    "end_of_turn_ids",
    "render_prompt",
    "show_row",
    "template_ids",
]

DIALOGUES_AT_ONCE = 512
"""Dialogues that are encoded in one go, on all cores."""


IdsAndTargets = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Of one document: input ids and shifted targets, (T,) each."""


class Row(NamedTuple):
    """One dialogue as a model sees it.

    Attributes:
        input_ids: (T,) int32.
        targets: (T,) int32, shifted: what the logits at each position must predict, or IGNORE_INDEX.
        num_bytes: UTF-8 bytes of the text that is trained.
        num_tokens: T, before anything was cut.
    """

    input_ids: NDArray[np.int32]
    targets: NDArray[np.int32]
    num_bytes: int
    num_tokens: int

    @property
    def num_targets(self) -> int:
        """How many tokens of the row are trained."""
        return int((self.targets != IGNORE_INDEX).sum())

    @property
    def is_cut(self) -> bool:
        """Whether the row lost its end to max_length."""
        return self.num_tokens > len(self.input_ids)


def encode_dialogue(messages: Sequence[Message], tokenizer: Any, *, max_length: int | None = None) -> Row:
    """Render a dialogue and mark what is trained: answers and the tokens that end them. A longer row loses its end.

    Raises:
        RenderError: The chat template refuses the dialogue, or would change what it says.
        ModelError: The tokenizer has no chat template.
    """
    renderer = renderer_of(tokenizer)
    rendering = renderer.render(messages)
    return make_row(renderer.backend.encode(rendering.text, add_special_tokens=False), rendering, renderer, max_length)


def encode_renderings(renderings: Iterator[Rendering], tokenizer: Any, *, max_length: int | None) -> Iterator[Row]:
    """`encode_dialogue` of dialogues that are rendered already, many at a time."""
    renderer = renderer_of(tokenizer)
    while part := list(islice(renderings, DIALOGUES_AT_ONCE)):
        encodings = renderer.backend.encode_batch([rendering.text for rendering in part], add_special_tokens=False)
        for rendering, encoding in zip(part, encodings, strict=True):
            yield make_row(encoding, rendering, renderer, max_length)


def make_row(encoding: Encoding, rendering: Rendering, renderer: Renderer, max_length: int | None) -> Row:
    """Ids and targets of an encoded rendering."""
    ids = np.array(encoding.ids, dtype=np.int32)
    is_trained = np.zeros(len(ids), dtype=bool)
    length = len(ids) if max_length is None else min(len(ids), max_length)
    shown = chars_of(encoding, length - 1)[1] if length else 0
    num_bytes = 0
    for answer in rendering.answers:
        first, last = find_tokens(encoding, answer.start, answer.end, renderer.control_ids)
        is_trained[first : last + 1] = True
        num_bytes += len(rendering.text[answer.start : min(answer.content_end, shown)].encode())
        num_bytes -= answer.num_hidden if answer.content_end <= shown else 0
    targets = np.full(length, IGNORE_INDEX, dtype=np.int32)
    targets[:-1] = np.where(is_trained[1:length], ids[1:length], IGNORE_INDEX)
    return Row(ids[:length], targets, num_bytes, len(ids))


def chars_of(encoding: Encoding, token: int) -> tuple[int, int]:
    """The characters that a token stands for: [start, end)."""
    return encoding.token_to_chars(token) or (0, 0)


def find_tokens(encoding: Encoding, start: int, end: int, control_ids: frozenset[int]) -> tuple[int, int]:
    """The first and the last token of the characters [start, end), whose last ones are a control token.

    A token that holds a piece of the header and of the answer counts as answer: the model has to say it.
    """
    # Some tokenizers drop white space: those characters belong to no token.
    first = next(t for position in range(start, end) if (t := encoding.char_to_token(position)) is not None)
    last = encoding.char_to_token(end - 1) or first
    # A control token may swallow the white space behind it, and so reach into the answer.
    while first < last and encoding.ids[first] in control_ids and chars_of(encoding, first)[0] < start:
        first += 1
    return first, last


def render_prompt(messages: Sequence[Message], tokenizer: Any, *, tools: str = "") -> list[int]:
    """The ids with which a model is asked for the assistant's next turn: as in training, up to the end of the header.

    Raises:
        RenderError: The chat template refuses the dialogue, or would change what it says.
        ModelError: The tokenizer has no chat template.
    """
    renderer = renderer_of(tokenizer)
    rendering = renderer.render(messages, tools=tools, wants_answer=True)
    return list(renderer.backend.encode(rendering.text, add_special_tokens=False).ids)


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """The ids with which the assistant's turns end in this tokenizer's template: where generation stops."""
    row = encode_dialogue([Message("user", "Hello"), Message("assistant", "Hello")], tokenizer)
    return [int(row.targets[row.targets != IGNORE_INDEX][-1])]


def template_ids(tokenizer: Any) -> list[int]:
    """The ids of the control tokens that the template puts around a question and its answer."""
    row = encode_dialogue([Message("user", "Hello"), Message("assistant", "Hello")], tokenizer)
    return sorted({int(i) for i in row.input_ids} & renderer_of(tokenizer).control_ids)


def show_row(input_ids: Sequence[int], targets: Sequence[int], tokenizer: Any) -> str:
    """A row as text, with [[ ]] around what is trained. The last token is a target only, and stands at the end."""
    ids = [int(i) for i in input_ids]
    if targets[-1] != IGNORE_INDEX:
        ids.append(int(targets[-1]))
    is_trained = [False, *(int(target) != IGNORE_INDEX for target in targets)][: len(ids)]
    pieces = []
    for trained, group in groupby(zip(is_trained, ids, strict=True), key=lambda pair: pair[0]):
        text = decode_ids(tokenizer, [token for _, token in group])
        pieces.append(f"[[{text}]]" if trained else text)
    return "".join(pieces)


def until_last_target(row: Row) -> IdsAndTargets:
    """Ids and targets up to the last one: what follows adds nothing to the loss."""
    end = int(np.flatnonzero(row.targets != IGNORE_INDEX)[-1]) + 1
    return row.input_ids[:end], row.targets[:end]


def hash_rows(rows: Sequence[IdsAndTargets]) -> str:
    """SHA-256 over all ids and targets, in their order."""
    digest = hashlib.sha256()
    for ids, targets in rows:
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes() + targets.tobytes())
    return digest.hexdigest()


class DialogueRows:
    """Rows of dialogues, stacked by index.

    Flat rows are laid end to end, (1, T), with `position_ids` that begin again with each, for a model that keeps such
    documents apart: there is no padding. Others are padded on the right, where a causal model needs no attention mask.
    """

    def __init__(self, rows: Sequence[Row], *, is_flat: bool = False) -> None:
        self.rows = [until_last_target(row) for row in rows]
        self.num_bytes = [row.num_bytes for row in rows]
        self.is_stream = False
        self.is_flat = is_flat
        self.lengths: Sequence[int] | None = [len(ids) for ids, _ in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def content_hash(self) -> str:
        """SHA-256 over all ids and targets, in their order."""
        return hash_rows(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Stack the rows with these indices.

        Two rows, the first with a question of 3 ids and an answer of 2, whose last is its end of turn, 9:
        input_ids [[5, 6, 7, 8], [5, 7, 7, 7]], targets [[-100, -100, 8, 9], [-100, 9, -100, -100]].
        Flat: input_ids [[5, 6, 7, 8, 5, 7]], targets [[-100, -100, 8, 9, -100, 9]], position_ids [[0, 1, 2, 3, 0, 1]].
        """
        rows = [self.rows[i] for i in indices]
        return lay_end_to_end(rows) if self.is_flat else pad(rows)


def lay_end_to_end(rows: Sequence[IdsAndTargets]) -> Batch:
    """Rows as documents of one long row, (1, T)."""
    ids, targets = (torch.from_numpy(np.concatenate(part).astype(np.int64))[None] for part in zip(*rows, strict=True))
    positions = torch.from_numpy(np.concatenate([np.arange(len(row)) for row, _ in rows]))[None]
    return {"input_ids": ids, "targets": targets, "position_ids": positions}


def pad(rows: Sequence[IdsAndTargets]) -> Batch:
    """Rows below one another, (B, T), padded on the right."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    input_ids, targets = np.empty(shape, np.int64), np.full(shape, IGNORE_INDEX, np.int64)
    for i, (ids, wanted) in enumerate(rows):
        # Any id may stand behind the end: nothing looks there. The pad token would make transformers warn.
        input_ids[i] = np.pad(ids, (0, shape[1] - len(ids)), mode="edge")
        targets[i, : len(ids)] = wanted
    return {"input_ids": torch.from_numpy(input_ids), "targets": torch.from_numpy(targets)}


class PackedRows:
    """Whole rows packed into long ones of at most `seq_len` positions; a packed row is one row of a batch.

    The rows stay documents of their own: none sees another, and each has its own positions, so that the loss is the
    sum of the rows' own losses. The longest come first, each to where it leaves the least room.
    """

    def __init__(self, rows: DialogueRows, *, seq_len: int) -> None:
        assert rows.is_flat, "rows that are padded cannot be packed"
        lengths = list(rows.lengths or ())
        self.rows = rows
        self.packs: list[list[int]] = []
        packs_with: list[list[int]] = [[] for _ in range(seq_len + 1)]  # by the room that they have left
        for index in sorted(range(len(rows)), key=lambda i: -lengths[i]):
            room = next((room for room in range(lengths[index], seq_len) if packs_with[room]), seq_len)
            if room == seq_len:
                packs_with[room].append(len(self.packs))
                self.packs.append([])
            pack = packs_with[room].pop()
            packs_with[room - lengths[index]].append(pack)
            self.packs[pack].append(index)
        self.is_stream = False
        self.is_flat = True
        self.lengths: Sequence[int] | None = [sum(lengths[i] for i in pack) for pack in self.packs]

    def __len__(self) -> int:
        return len(self.packs)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows in these packs, end to end."""
        return self.rows.batch([row for index in indices for row in self.packs[index]])
