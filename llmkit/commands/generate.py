"""`llmkit generate`: what a model writes after a prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from llmkit.commands.options import AsJson
from llmkit.console import Progress, for_terminal, paint, say, write, write_json
from llmkit.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from llmkit.generation.decode import Memory
    from llmkit.generation.generate import CompletionStream
    from llmkit.generation.sampling import SamplingConfig

Precision = Literal["auto", "fp32", "bf16"]

ModelOption = Annotated[
    str, typer.Option("--model", help="Model folder, adapter folder, or hub name.", show_default=False)
]
TemperatureOption = Annotated[float, typer.Option(help="0: always the likeliest token. Higher: more varied.")]
TopPOption = Annotated[
    float, typer.Option("--top-p", help="Draw among the likeliest tokens with this much probability.")
]
TopKOption = Annotated[int, typer.Option("--top-k", help="Draw among this many of the likeliest tokens; 0: all.")]
SeedOption = Annotated[int, typer.Option(help="The same seed gives the same text.", min=0)]
StopOption = Annotated[list[str] | None, typer.Option("--stop", help="End before this text; several may be given.")]
DtypeOption = Annotated[Precision, typer.Option("--dtype", help="auto: bf16 where the hardware has it, else fp32.")]

MAX_LINES = 64
"""Prompts of --jsonl that are taken up together."""


@dataclass(frozen=True)
class Speaker:
    """A model with its tokenizer, on the device where it runs, and how it is to speak."""

    model: Any
    tokenizer: Any
    stop_ids: frozenset[int]
    sampling: SamplingConfig
    max_new_tokens: int
    stop_strings: list[str]
    seed: int


Encode = Callable[[str], list[int]]


def generate(
    model: ModelOption,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", help="Text to go on from; several may be given; - reads all of stdin.", show_default=False
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="At most this many tokens per prompt.", min=0)] = 256,
    temperature: TemperatureOption = 0.8,
    top_p: TopPOption = 0.95,
    top_k: TopKOption = 0,
    seed: SeedOption = 0,
    stop: StopOption = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Each prompt is a user's message, in the model's template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System message, with --chat.", show_default=False)] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="One prompt a line from stdin, a JSON line out for each.")
    ] = False,
    dtype: DtypeOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Write on from a prompt.

    \b
    Examples:
      llmkit generate --model run/model --prompt "def fibonacci("
      llmkit generate --model run/model --prompt ""            (a document from its beginning)
      llmkit generate --model tuned/model --chat --prompt "What is a decorator?"
      cat letter.txt | llmkit generate --model run/model --stop "Yours"
      llmkit generate --model run/model --jsonl < prompts.txt > completions.jsonl

    Without --prompt, the prompt is what comes in on stdin, without the line break at its end. A line of --jsonl is the
    prompt itself, or {"prompt": "..."} for one with line breaks. Only what the model wrote goes to stdout.
    """
    if system is not None and not chat:
        raise UsageError("a system message belongs to a dialogue", where="--system", fix="add --chat")
    if jsonl and prompt:
        raise UsageError("with --jsonl the prompts come from stdin", where="--prompt", fix="give one of the two")
    prompts = [] if jsonl else read_prompts(prompt)
    speaker = load_speaker(
        model,
        dtype=dtype,
        sampling=(temperature, top_k, top_p),
        max_new_tokens=max_new_tokens,
        stop_strings=stop,
        seed=seed,
        is_chat=chat,
    )
    encode = message_encoder(speaker, system) if chat else prompt_encoder(speaker)
    if jsonl:
        answer_lines(speaker, encode, as_json=as_json)
    elif as_json:
        write_json({"completions": complete(speaker, prompts, encode)})
    else:
        show_all(speaker, prompts, encode)


def read_prompts(given: list[str] | None) -> list[str]:
    """The prompts of the command line; `-`, or nothing at all, stands for the whole of stdin."""
    if not given:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "there is no prompt", where="--prompt", fix='give one: --prompt "Once upon", or pipe it in'
            )
        given = ["-"]
    if given.count("-") > 1:
        raise UsageError("stdin can be read once", where="--prompt -", fix="give - once")
    return [read_stdin() if text == "-" else text for text in given]


def read_stdin() -> str:
    """All of stdin as one prompt, without the line break that `echo` and editors put at the end."""
    data = sys.stdin.buffer.read() if sys.stdin is not None else b""
    if not data:
        raise DataError("nothing came in", where="stdin", fix='pipe a text in; --prompt "" begins from nothing')
    return decode_utf8(data, where="stdin").removesuffix("\n").removesuffix("\r")


def decode_utf8(data: bytes, *, where: str) -> str:
    """Bytes as text, or an error that says which byte is at fault."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        fix = "convert it, for example with `iconv -f latin1 -t utf-8`"
        raise DataError(f"not UTF-8 at byte {error.start}", where=where, fix=fix) from error


def read_lines() -> Iterator[list[str]]:
    """The lines of stdin as they come, up to MAX_LINES at once: whoever writes one line and waits gets its answer."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("--jsonl reads prompts from stdin", where="--jsonl", fix="pipe them in: --jsonl < prompts.txt")
    stdin = cast(BufferedReader, sys.stdin.buffer)
    rest, number = b"", 0
    while True:
        data = stdin.read1(1 << 16)
        *whole, rest = (rest + data).split(b"\n")
        lines = whole if data or not rest else [rest]
        for start in range(0, len(lines), MAX_LINES):
            part = lines[start : start + MAX_LINES]
            yield [read_line(line.removesuffix(b"\r"), number + index) for index, line in enumerate(part, start=1)]
            number += len(part)
        if not data:
            return


def read_line(line: bytes, number: int) -> str:
    """A line as a prompt: its text, or the value of "prompt" where it is a JSON object."""
    where = f"stdin:{number}"
    text = decode_utf8(line, where=where)
    if not text.lstrip().startswith("{"):
        return text
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        return text
    if not isinstance(values.get("prompt"), str):
        there = ", ".join(map(repr, values)) or "none"
        raise DataError(f'there is no text under "prompt"; keys: {there}', where=where, fix='write {"prompt": "..."}')
    return str(values["prompt"])


def load_speaker(
    source: str,
    *,
    dtype: Precision,
    sampling: tuple[float, int, float],
    max_new_tokens: int,
    stop_strings: list[str] | None,
    seed: int,
    is_chat: bool = False,
) -> Speaker:
    """Load a model and its tokenizer, and put the model on the best device there is.

    Args:
        source: Model folder, adapter folder or hub name.
        dtype: Number format of the weights.
        sampling: Temperature, top-k, top-p.
        max_new_tokens: Longest answer.
        stop_strings: Texts that end an answer.
        seed: Seed of the samples.
        is_chat: Whether it holds dialogues, which takes a chat template.

    Raises:
        ModelError: There is no such model, or it has no chat template where one is needed.
    """
    from llmkit.data.dialogue import end_of_turn_ids
    from llmkit.device import pick_device, pick_dtype
    from llmkit.generation.sampling import SamplingConfig
    from llmkit.models.causal_lm import load_causal_lm
    from llmkit.tokenizer import load_tokenizer, stop_ids

    config = SamplingConfig(*sampling)
    device = pick_device()
    tokenizer = load_tokenizer(source)
    if is_chat:
        check_chat_template(tokenizer, source)
    model = load_causal_lm(source, dtype=pick_dtype(dtype, device)).to(device)
    own = getattr(model.generation_config, "eos_token_id", None)
    stops = {*stop_ids(tokenizer), *([own] if isinstance(own, int) else own or [])}
    stops.update(end_of_turn_ids(tokenizer) if is_chat else [])
    return Speaker(model, tokenizer, frozenset(stops), config, max_new_tokens, stop_strings or [], seed)


def prompt_encoder(speaker: Speaker) -> Encode:
    """Plain text to ids: what the tokenizer puts before every text (Llama's <s>), then the text; nothing after it.

    No text at all begins with the end-of-document token, which is what a document comes after in training.
    """
    from itertools import takewhile

    from llmkit.tokenizer import encode_text, end_of_document_id

    backend = speaker.tokenizer.backend_tokenizer
    sample = backend.encode("a", add_special_tokens=True)
    marks = takewhile(lambda pair: pair[1], zip(sample.ids, sample.special_tokens_mask, strict=True))
    prefix = [token for token, _ in marks]

    def encode(text: str) -> list[int]:
        return prefix + encode_text(speaker.tokenizer, text) or [end_of_document_id(speaker.tokenizer)]

    return encode


def message_encoder(speaker: Speaker, system: str | None) -> Encode:
    """A user's message to the ids of a dialogue that waits for the answer."""
    from llmkit.data.dialogue import Message, render_prompt

    first = [Message("system", system)] if system is not None else []
    return lambda text: render_prompt([*first, Message("user", text)], speaker.tokenizer)


def check_chat_template(tokenizer: Any, source: str) -> None:
    """Raise when a model was never taught what a dialogue looks like."""
    if not tokenizer.chat_template:
        raise ModelError(
            "its tokenizer has no chat template: this model was not tuned on dialogues",
            where=source,
            fix="use `llmkit generate`, or tune the model with `llmkit finetune` first",
        )


def complete(speaker: Speaker, prompts: list[str], encode: Encode, first_row: int = 0) -> list[dict[str, Any]]:
    """The completions of all prompts, side by side, as JSON."""
    from llmkit.generation.generate import generate_ids

    completions = generate_ids(
        speaker.model,
        [encode(text) for text in prompts],
        sampling=speaker.sampling,
        max_new_tokens=speaker.max_new_tokens,
        stop_ids=speaker.stop_ids,
        seed=speaker.seed,
        first_row=first_row,
        tokenizer=speaker.tokenizer,
        stop_strings=speaker.stop_strings,
    )
    return [
        {"prompt": text, "text": c.text, "finish_reason": c.finish_reason, "num_tokens": c.num_tokens}
        for text, c in zip(prompts, completions, strict=True)
    ]


def answer_lines(speaker: Speaker, encode: Encode, *, as_json: bool) -> None:
    """One completion for each line of stdin, in order: a JSON line each as soon as it is there, or one document."""
    documents: list[dict[str, Any]] = []
    number = 0
    with Progress("generating", unit="prompts") as progress:
        for prompts in read_lines():
            completions = complete(speaker, prompts, encode, first_row=number)
            number += len(prompts)
            if as_json:
                documents += completions
            else:
                for completion in completions:
                    write_json(completion)
            # Where the lines themselves go by on the screen, a bar would only get among them.
            if as_json or not sys.stdout.isatty():
                progress.update(len(prompts))
    if as_json:
        write_json({"completions": documents})


def show_all(speaker: Speaker, prompts: list[str], encode: Encode) -> None:
    """Each completion as text on stdout while it is made; on a terminal its prompt stands before it."""
    for row, text in enumerate(prompts):
        if len(prompts) > 1:
            say(paint(f"{'' if row == 0 else chr(10)}--- prompt {row + 1} of {len(prompts)}", "dim"))
        if sys.stdout.isatty():
            say(paint(for_terminal(text), "dim"), end="")
        answer = speak(speaker, encode(text), row=row)
        for piece in answer:
            write(for_terminal(piece) if sys.stdout.isatty() else piece, end="")
        write("")
        if answer.completion.finish_reason in ("length", "context") and sys.stdout.isatty():
            say(paint(f"({end_note(answer.completion.finish_reason, speaker)})", "dim"))


def speak(speaker: Speaker, ids: list[int], *, row: int = 0, memory: Memory | None = None) -> CompletionStream:
    """The stream of what the model says after `ids`."""
    from llmkit.generation.generate import stream

    return stream(
        speaker.model,
        speaker.tokenizer,
        ids,
        sampling=speaker.sampling,
        max_new_tokens=speaker.max_new_tokens,
        stop_ids=speaker.stop_ids,
        stop_strings=speaker.stop_strings,
        seed=speaker.seed,
        row=row,
        memory=memory,
    )


def end_note(reason: str, speaker: Speaker) -> str:
    """Why a text ended that the model did not end itself."""
    if reason == "context":
        return "the model's longest sequence is reached"
    if reason == "interrupted":
        return "stopped"
    return f"cut at --max-new-tokens {speaker.max_new_tokens}"
