"""A text to learn to write: what comes next, symbol by symbol. Symbols are characters, bytes, or a tokenizer's tokens.

Id 0 is padding, 1 the edge of a text (before its first symbol and after its last), 2 a character that is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llmkit.batch import IGNORE_INDEX
from llmkit.tokenizer import decode_ids, encode_texts, load_tokenizer, wrap_tokenizer

PAD_ID, EDGE_ID, UNKNOWN_ID = 0, 1, 2
NUM_SPECIAL = 3
UNKNOWN = "\ufffd"
LONGEST_LINE = 100
"""Characters. A source of no longer lines, none of them blank, is a list of texts."""
SHORT_LINE = 40
"""Characters that the lines of such a list have at most on average."""

Kind = Literal["characters", "bytes", "tokens"]


@dataclass(frozen=True)
class SymbolEncoder:
    """Texts as rows of ids, each to be predicted from those before it.

    Args:
        kind: What a symbol is.
        characters: Those there are, in order; id 3 is the first (kind characters).
        tokenizer: A tokenizer.json (kind tokens).
        num_tokens: The size of its vocabulary.
        max_length: Longest row; a longer text continues in the next row.
        is_lines: Each line is a text of its own.
    """

    kind: Kind
    max_length: int
    is_lines: bool
    characters: str = ""
    tokenizer: str = ""
    num_tokens: int = 0
    form = "language"

    @property
    def num_symbols(self) -> int:
        """How many ids there are, the three special ones included."""
        sizes = {"characters": len(self.characters), "bytes": 256, "tokens": self.num_tokens}
        return NUM_SPECIAL + sizes[self.kind]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Character -> id."""
        return {character: i for i, character in enumerate(self.characters, start=NUM_SPECIAL)}

    @cached_property
    def loaded(self) -> Any:
        """The tokenizer, from its text."""
        return wrap_tokenizer(Tokenizer.from_str(self.tokenizer))

    def ids_of(self, text: str) -> list[int]:
        """A text as ids, without its edges."""
        if self.kind == "characters":
            return [self.ids.get(character, UNKNOWN_ID) for character in text]
        if self.kind == "bytes":
            return [byte + NUM_SPECIAL for byte in text.encode()]
        return [token + NUM_SPECIAL for token in encode_texts(self.loaded, [text])[0]]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids as a text; edges and padding are left out, an unknown character is a sign for it."""
        symbols = [int(i) for i in ids if i not in (PAD_ID, EDGE_ID)]
        if self.kind == "characters":
            known = {i: character for character, i in self.ids.items()}
            return "".join(known.get(i, UNKNOWN) for i in symbols)
        own = [i - NUM_SPECIAL for i in symbols if i >= NUM_SPECIAL]
        return bytes(own).decode("utf-8", "replace") if self.kind == "bytes" else decode_ids(self.loaded, own)

    def prompt(self, text: str) -> Tensor:
        """What a text is continued from: (1, T) int64, its beginning edge and its symbols, the last that fit."""
        return torch.tensor([[EDGE_ID, *self.ids_of(text)][-self.max_length :]])

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[int]]:
        """Rows (N, T) of inputs and of the ids that follow, int32 and padded on the right, and their lengths.

        Every symbol of every text is predicted once, and of lines the edge behind them too: it stands for the line's
        end. A text longer than a row goes on in the next, which begins with the last symbol of the one before.
        """
        rows: list[list[int]] = []
        for text in texts:
            ids = [EDGE_ID, *self.ids_of(text), *([EDGE_ID] * self.is_lines)]
            starts = range(0, len(ids) - 1, self.max_length)
            rows += [ids[start : start + self.max_length + 1] for start in starts]
        lengths = [len(row) - 1 for row in rows]
        longest = max(lengths, default=0)
        inputs = torch.full((len(rows), longest), PAD_ID, dtype=torch.int32)
        targets = torch.full((len(rows), longest), IGNORE_INDEX, dtype=torch.int32)
        for i, row in enumerate(rows):
            ids_of_row = torch.tensor(row, dtype=torch.int32)
            inputs[i, : lengths[i]], targets[i, : lengths[i]] = ids_of_row[:-1], ids_of_row[1:]
        return inputs, targets, lengths

    def count_bytes(self, texts: Sequence[str]) -> int:
        """Bytes of UTF-8 that the targets of texts stand for, the ends of lines included."""
        return sum(len(text.encode()) + self.is_lines for text in texts)

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, **asdict(self)}


def fit_symbols(texts: Sequence[str], symbols: str, *, max_length: int, is_lines: bool) -> SymbolEncoder:
    """The encoder for `data.symbols`. Characters are those of all texts: bits per byte count what each one costs."""
    if symbols == "characters":
        found = "".join(sorted(set().union(*map(set, texts))))
        return SymbolEncoder("characters", max_length, is_lines, characters=found)
    if symbols == "bytes":
        return SymbolEncoder("bytes", max_length, is_lines)
    tokenizer = load_tokenizer(symbols)
    text = tokenizer.backend_tokenizer.to_str()
    # What wraps a stored tokenizer adds its own control tokens where there are none: ids count from what is there.
    return SymbolEncoder("tokens", max_length, is_lines, tokenizer=text, num_tokens=len(tokenizer))


def is_list_of_texts(text: str) -> bool:
    """Whether a source looks like a list, as of names: short lines, none of them blank."""
    lines = text.removesuffix("\n").split("\n")
    lengths = [len(line.strip()) for line in lines]
    return (
        len(lines) > 1 and min(lengths) > 0 and max(lengths) <= LONGEST_LINE and sum(lengths) <= SHORT_LINE * len(lines)
    )


def cut_stretches(text: str, *, validation: float, test: float) -> list[str]:
    """A text as three stretches, train, validation and test, at the ends of lines where there are any near."""
    size = len(text)
    ends = [
        0,
        place_near(text, round(size * (1 - test - validation))),
        place_near(text, round(size * (1 - test))),
        size,
    ]
    return [text[start:end] for start, end in pairwise(ends)]


def place_near(text: str, place: int) -> int:
    """Behind the first line that ends at this place or a little later."""
    end = text.find("\n", place, place + 2000) if 0 < place < len(text) else -1
    return place if end < 0 else end + 1
