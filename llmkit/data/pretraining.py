"""What a model is pretrained on: prepared tokens, a mix of them, or text that is tokenized while training."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from llmkit.batch import Rows
from llmkit.data.mix import MixedTokens
from llmkit.data.prepared import PreparedData, TokenRows, open_prepared
from llmkit.data.stream import StreamedText
from llmkit.errors import RecipeError, UsageError
from llmkit.recipe.schema import PretrainData
from llmkit.tokenizer import load_tokenizer

HeldOut = tuple[NDArray[np.integer], int]
"""A stream of whole held-out documents, and how many bytes of text it is."""


class PretrainingData(Protocol):
    """A tokenizer, rows to train on, and text that is held out."""

    content_hash: str
    """Changes when anything that decides about the rows does."""
    tokenizer: PreTrainedTokenizerFast
    commit: str | None
    """Of a hub data set that is streamed: which of its commits is read, where that is known."""

    def rows(self, seq_len: int, *, folder: Path | None = None) -> Rows:
        """The training rows. `folder` is that of the run, where a stream keeps its bookmarks."""
        ...

    def validation(self, max_tokens: int) -> HeldOut | None:
        """Whole held-out documents of at most about this many tokens; None where nothing is held out."""
        ...

    def validation_parts(self, max_tokens: int) -> dict[str, HeldOut]:
        """What `validation` is put together from, where that is of several sources; else nothing."""
        ...

    def describe(self, seq_len: int) -> list[str]:
        """What the plan has to say about it."""
        ...


class PreparedTokens:
    """One prepared folder. With `document_mask` its rows tell where documents begin."""

    commit: str | None = None

    def __init__(self, prepared: PreparedData, *, document_mask: bool = False) -> None:
        self.prepared = prepared
        self.content_hash = prepared.content_hash
        self.tokenizer = prepared.tokenizer
        self.start_id = int(prepared.manifest["tokenizer"]["end_of_document"]) if document_mask else None

    def rows(self, seq_len: int, *, folder: Path | None = None) -> TokenRows:
        """Rows of the training split."""
        return TokenRows(self.prepared.split("train"), seq_len, start_id=self.start_id)

    def validation(self, max_tokens: int) -> HeldOut | None:
        """The first documents of the validation split."""
        if not self.prepared.has_split("validation"):
            return None
        return self.prepared.split("validation").first_documents(max_tokens)

    def validation_parts(self, max_tokens: int) -> dict[str, HeldOut]:
        """It is one source."""
        return {}

    def describe(self, seq_len: int) -> list[str]:
        """Its rows say it all."""
        return []


def open_pretraining(
    section: PretrainData, *, tokenizer_source: str | None = None, commit: str | None = None
) -> PretrainingData:
    """Open what the recipe names.

    Args:
        section: Names a prepared folder, a mix of them, or a stream.
        tokenizer_source: Where a stream's tokenizer comes from when the section names none: the model's folder.
        commit: That of a streamed hub data set to be read; None for the newest.

    Raises:
        UsageError: It names nothing.
        RecipeError: It says two things at once.
        DataError: What it names is not prepared data, or cannot be read.
    """
    check_section(section)
    if section.stream:
        return open_stream(section, tokenizer_source, commit)
    if not section.mix:
        assert section.source is not None
        return PreparedTokens(open_prepared(section.source), document_mask=section.document_mask)
    parts = {name: PreparedTokens(open_prepared(name), document_mask=section.document_mask) for name in section.mix}
    return MixedTokens(parts, section.mix)


def check_section(section: PretrainData) -> None:
    """Raise for a section that names nothing, or says what it does not mean."""
    if section.mix and (section.source is not None or section.stream):
        other = "data.source" if section.source is not None else "data.stream"
        raise RecipeError(f"data.mix and {other} are both given", where="data.mix", fix="take one of them out")
    if section.source is None and not section.mix:
        fix = "name a folder that `llmkit data prepare` wrote, or give data.mix"
        raise UsageError("there is nothing to train on", where="--data", fix=fix)
    for name in ("tokenizer", "text_column"):
        if getattr(section, name) is not None and not section.stream:
            message = f"data.{name} is for streams alone: prepared data has its own"
            raise RecipeError(message, where=f"data.{name}", fix="take it out, or set data.stream: true")


def open_stream(section: PretrainData, tokenizer_source: str | None, commit: str | None) -> StreamedText:
    """Open text that is tokenized while training."""
    tokenizer = section.tokenizer or tokenizer_source
    assert section.source is not None
    if tokenizer is None:
        fix = "set data.tokenizer to a tokenizer folder or a hub name"
        raise UsageError("a stream of text needs a tokenizer", where="data.tokenizer", fix=fix)
    return StreamedText(
        section.source,
        load_tokenizer(tokenizer),
        text_column=section.text_column,
        document_mask=section.document_mask,
        commit=commit,
    )
