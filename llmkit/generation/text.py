"""Ids to text while they are made: whole characters only, spaces as the tokenizer means them, ended by stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTEXT_TOKENS = 16
"""How many tokens of the prompt are decoded along with the first new ones, so that a leading space is not lost."""

UNFINISHED = "\ufffd"
"""What a decoder shows for bytes that are no character yet."""


class RowText:
    r"""The text of one row, growing token by token.

    A token can be a part of a character, and what a token reads as can depend on the one before it (SentencePiece drops
    the first space, WordPiece joins with `##`). So text is the difference between two decodings that begin at the same
    token, and it is given out only up to a whole character.

    >>> text = RowText(tokenizer, prompt_ids, stop_strings=["\n\n"])
    >>> shown = text.push(317) + text.push(62) + text.finish()

    Args:
        tokenizer: Anything with the `decode` of a Hugging Face tokenizer. Control tokens are left out of the text.
        prompt: The ids before the first new one.
        stop_strings: The text ends before the first of these.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], *, stop_strings: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop_strings = [stop for stop in stop_strings if stop]
        self.text = ""
        self.is_stopped = False
        self.window = list(prompt[-CONTEXT_TOKENS:])
        self.num_read = len(self.window)
        self.held = ""

    def push(self, token: int) -> str:
        """Add one id; the text that is certain by now and was not given out before."""
        self.window.append(token)
        before, after = self.decode(self.window[: self.num_read]), self.decode(self.window)
        if len(after) <= len(before) or after.endswith(UNFINISHED):
            return ""
        # The tokens read last are all the next one can lean on.
        self.window, self.num_read = self.window[self.num_read :], len(self.window) - self.num_read
        return self.give(after[len(before) :])

    def finish(self) -> str:
        """The rest of the text: what was held back because it might have been the beginning of a stop string.

        Bytes that never became a character are left out.
        """
        if self.is_stopped:
            return ""
        rest = self.decode(self.window)[len(self.decode(self.window[: self.num_read])) :]
        self.num_read = len(self.window)
        piece = self.give(rest.rstrip(UNFINISHED))
        if not self.is_stopped:
            piece, self.text, self.held = piece + self.held, self.text + self.held, ""
        return piece

    def give(self, new: str) -> str:
        """Take in `new` text, stop at a stop string, hold back what may be the beginning of one."""
        pending = self.held + new
        ends = [pending.find(stop) for stop in self.stop_strings if stop in pending]
        if ends:
            self.is_stopped = True
            piece, self.held = pending[: min(ends)], ""
        else:
            num_held = max((overlap(pending, stop) for stop in self.stop_strings), default=0)
            piece, self.held = pending[: len(pending) - num_held], pending[len(pending) - num_held :]
        self.text += piece
        return piece

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text without control tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, the whole of `stop` apart."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
