"""`llmkit peek`: what a model sees in a text, and what it expects at each token."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.commands.generate import (
    DtypeOption,
    ModelOption,
    Precision,
    TemperatureOption,
    TopKOption,
    TopPOption,
    check_chat_template,
    read_stdin,
)
from llmkit.commands.options import AsJson
from llmkit.commands.replace import check_replaceable, is_page
from llmkit.console import Progress, say, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.evaluation.peek import TextReading
    from llmkit.generation.sampling import SamplingConfig

LONGEST_INSIDE = 512
"""Tokens of a text of which --layers and --attention keep a number for each layer or each pair."""

NUM_NEXT = 20
"""Tokens that --next keeps."""


@dataclass(frozen=True)
class Reader:
    """A model with its tokenizer, ready to read."""

    name: str
    model: Any
    tokenizer: Any
    max_length: int | None


def peek(
    model: ModelOption,
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT|-]", help="The text; - or nothing: stdin.", show_default=False)
    ] = None,
    next_token: Annotated[
        bool, typer.Option("--next", help="What comes after the text, and how sampling sees it.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="What each layer would guess (logit lens).")] = False,
    attention: Annotated[
        str | None,
        typer.Option(metavar="LAYER:HEAD", help="Where a head looks; both from 0.", show_default=False),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Show which of the two found each token easier.", show_default=False),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The text is a user's message, in the model's template.")
    ] = False,
    alternatives: Annotated[int, typer.Option(help="Likeliest tokens at each place.", min=1, max=50)] = 5,
    places: Annotated[int, typer.Option(help="Hardest places shown below a coloured text.", min=1)] = 10,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.95,
    dtype: DtypeOption = "auto",
    html: Annotated[
        Path | None, typer.Option(help="Write it all as one page to explore with the mouse.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """See what a model expects at each token of a text, and how surprised it is.

    \b
    Examples:
      llmkit peek --model run/model "The capital of France is Paris."
      llmkit peek --model run/model "The capital of France is" --next
      llmkit peek --model run/model --layers --attention 3:0 --html peek.html "To be or not to be"
      llmkit peek --model run/model --compare tuned/model "What is a decorator?"
      llmkit peek --model tuned/model --chat --next "What is a decorator?"
      cat page.txt | llmkit peek --model run/model

    Surprise is counted in bits: 1 bit is a guess of 50 %, 10 bits one of 0.1 %. On a terminal the text is coloured by
    it; piped, each token has a line. The bits per byte are those of `llmkit evaluate --task perplexity`.
    """
    from llmkit.commands.peek_view import show
    from llmkit.generation.sampling import SamplingConfig

    sampling = SamplingConfig(temperature, top_k, top_p)
    place = None if attention is None else parse_place(attention)
    if html is not None:
        check_replaceable(html, "--html", "page", is_page)
    given = read_given(text)
    reader = load_reader(model, dtype)
    reading = read(reader, given, chat=chat, top=alternatives)
    document = describe(reader, reading, chat=chat)
    if next_token:
        document["next"] = describe_next(reader, reading, sampling)
    if layers:
        document["layers"] = describe_layers(reader, reading)
    if place is not None:
        document["attention"] = describe_attention(reader, reading, place)
    if compare is not None:
        other = read(load_reader(compare, dtype), given, chat=chat, top=1)
        document["compare"] = describe_comparison(reading, other, compare)
    if html is not None:
        save_page(html, document, reader, reading)
    if as_json:
        write_json(document)
    elif html is None:
        show(document, places)


def parse_place(text: str) -> tuple[int, int]:
    """The numbers in `3:1`."""
    layer, _, head = text.partition(":")
    if not (layer.isdecimal() and head.isdecimal()):
        raise UsageError(
            f"{text!r} is not LAYER:HEAD", where="--attention", fix="two numbers from 0, for example --attention 3:1"
        )
    return int(layer), int(head)


def read_given(text: str | None) -> str:
    """The text of the command line, or stdin without the line break at its end."""
    if text not in (None, "-"):
        return str(text)
    if text is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("there is no text", where="TEXT", fix='give one: llmkit peek --model DIR "Hello"')
    return read_stdin()


def load_reader(source: str, dtype: Precision) -> Reader:
    """A model on the best device there is, with its tokenizer."""
    from llmkit.device import pick_device, pick_dtype
    from llmkit.generation.decode import longest_sequence
    from llmkit.models.causal_lm import load_causal_lm
    from llmkit.tokenizer import load_tokenizer

    device = pick_device()
    tokenizer = load_tokenizer(source)
    model = load_causal_lm(source, dtype=pick_dtype(dtype, device)).to(device).eval()
    return Reader(source, model, tokenizer, longest_sequence(model))


def read(reader: Reader, text: str, *, chat: bool, top: int) -> TextReading:
    """What the model expects at each token of the text, or of the dialogue that the text begins."""
    from llmkit.data.dialogue import Message, render_prompt
    from llmkit.evaluation.peek import read_dialogue, read_text

    with Progress("reading", unit="tokens") as progress:
        if not chat:
            return read_text(
                reader.model,
                reader.tokenizer,
                text,
                max_length=reader.max_length,
                top=top,
                on_read=progress.update,
            )
        check_chat_template(reader.tokenizer, reader.name)
        ids = render_prompt([Message("user", text)], reader.tokenizer)
        return read_dialogue(
            reader.model, reader.tokenizer, ids, max_length=reader.max_length, top=top, on_read=progress.update
        )


def describe(reader: Reader, reading: TextReading, *, chat: bool) -> dict[str, Any]:
    """The reading as JSON; the other parts of the document are added to it where they were asked for."""
    from llmkit.evaluation.peek import token_text

    tokens = [
        {
            "text": piece,
            "token": token_text(reader.tokenizer, guess.token),
            "id": guess.token,
            "probability": guess.probability,
            "rank": guess.rank,
            "surprise": guess.surprise,
            "entropy": guess.entropy,
            "counted": counted,
            "alternatives": [
                {"id": token, "token": token_text(reader.tokenizer, token), "probability": probability}
                for token, probability in guess.alternatives
            ],
        }
        for piece, guess, counted in zip(reading.pieces, reading.guesses, reading.is_counted, strict=True)
    ]
    context = token_text(reader.tokenizer, reading.context)
    return {
        "model": reader.name,
        "chat": chat,
        "text": reading.text,
        "context": context,
        "summary": reading.summary(),
        "tokens": tokens,
    }


def describe_next(reader: Reader, reading: TextReading, sampling: SamplingConfig) -> dict[str, Any]:
    """The likeliest tokens after the text, with their probability after each stage of sampling."""
    from llmkit.evaluation.peek import entropy_of, next_logits, reshape, token_text

    logits = next_logits(reader.model, reading, reader.max_length)
    shapes = reshape(logits, sampling)
    best = logits.topk(min(NUM_NEXT, len(logits))).indices.tolist()
    return {
        "entropy": entropy_of(logits),
        "stages": [{"name": name, "kept": int((shares > 0).sum())} for name, shares in shapes],
        "tokens": [
            {
                "id": token,
                "token": token_text(reader.tokenizer, token),
                "probabilities": [float(shares[token]) for _, shares in shapes],
            }
            for token in best
        ],
    }


def describe_layers(reader: Reader, reading: TextReading) -> list[list[dict[str, Any]]]:
    """For each depth (the embeddings, then each layer) its guess at each token, and at what comes after the text."""
    from llmkit.evaluation.lens import read_layers
    from llmkit.evaluation.peek import token_text

    ids = ids_inside(reader, reading, "--layers")
    return [
        [
            {
                "id": guess.token,
                "token": token_text(reader.tokenizer, guess.token),
                "probability": guess.probability,
                "own": guess.own,
            }
            for guess in depth
        ]
        for depth in read_layers(reader.model, ids)
    ]


def describe_attention(reader: Reader, reading: TextReading, place: tuple[int, int]) -> dict[str, Any]:
    """How much each token takes from each; the first row and column are what stands before the text."""
    from llmkit.evaluation.lens import attention_map

    weights = attention_map(reader.model, ids_inside(reader, reading, "--attention"), *place)
    rows = [[round(value, 4) for value in row[: i + 1]] for i, row in enumerate(weights.tolist())]
    return {"layer": place[0], "head": place[1], "weights": rows}


def ids_inside(reader: Reader, reading: TextReading, flag: str) -> list[int]:
    """The ids of the text and the one before it, for what looks at all of them at once."""
    ids = [reading.context, *reading.ids]
    most = min(LONGEST_INSIDE, reader.max_length or LONGEST_INSIDE)
    if len(ids) > most:
        raise UsageError(
            f"the text has {len(ids) - 1:,} tokens, and {flag} shows at most {most - 1:,}",
            where=flag,
            fix="give a shorter text",
        )
    return ids


def describe_comparison(reading: TextReading, other: TextReading, name: str) -> dict[str, Any]:
    """Where the two models differ, in the shortest stretches of text that both have."""
    from llmkit.evaluation.peek import compare_readings

    if reading.text != other.text:
        raise UsageError(
            "the templates of the two models make different texts of the message",
            where="--compare",
            fix="leave out --chat",
        )
    stretches = compare_readings(reading, other)
    return {
        "model": name,
        "summary": other.summary(),
        "stretches": [{"text": s.text, "bits": s.bits, "other_bits": s.other_bits} for s in stretches],
    }


def save_page(path: Path, document: dict[str, Any], reader: Reader, reading: TextReading) -> None:
    """Write the page, with the whole distribution after the text where --next was asked for."""
    from llmkit.evaluation.peek import next_logits
    from llmkit.files import write_file
    from llmkit.reporting.peek_page import pack_logits, render_peek

    packed = None
    if "next" in document:
        packed = pack_logits(next_logits(reader.model, reading, reader.max_length).tolist())
    write_file(path, render_peek(document, packed))
    say(f"page: {path}")
