"""`llmkit chat`: a dialogue with a model, at the terminal or from a script."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.commands.generate import (
    DtypeOption,
    ModelOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    decode_utf8,
    end_note,
    load_speaker,
    speak,
)
from llmkit.console import for_terminal, has_colors, paint, say, warn, write, write_json
from llmkit.errors import LlmkitError, UsageError

if TYPE_CHECKING:
    from llmkit.commands.generate import Speaker
    from llmkit.data.dialogue import Message
    from llmkit.generation.decode import Memory
    from llmkit.generation.generate import Completion

HELP = """\
/reset         forget the dialogue; the system message stays
/system TEXT   begin anew with this system message (without TEXT: with none)
/save FILE     write the dialogue as a line of JSON, as `llmkit finetune` reads it
/help          this list
/quit          leave; so does Ctrl-D
Ctrl-C stops an answer. Anything else is said to the model; a space before a / makes it a message."""

ANSWER_SHARE = 4
"""One part in so many of the model's context is kept free for the answer when the history grows too long."""

HISTORY_LINES = 1000
"""Lines that are remembered from one dialogue to the next."""

Show = Callable[[str], None]


@dataclass
class Conversation:
    """What was said, and what it takes to go on."""

    source: str
    speaker: Speaker
    memory: Memory
    system: str | None = None
    is_live: bool = False
    """Whether a person sits at the terminal, whose Ctrl-C is for the answer and not for the program."""
    messages: list[Message] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    num_forgotten: int = 0
    """Messages from the beginning that no longer fit into the model's context."""
    num_asked: int = 0
    """Questions since the program began: each draws from random numbers of its own."""


def chat(
    model: ModelOption,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Ask this, print the answer and leave.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message before the dialogue.", show_default=False)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)] = 512,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.95,
    top_k: TopKOption = 0,
    seed: SeedOption = 0,
    stop: StopOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The whole dialogue as one document at its end.")] = False,
) -> None:
    """Talk with a model. /help shows what else can be typed.

    \b
    Examples:
      llmkit chat --model run/model
      llmkit chat --model run/model --prompt "What is a decorator?"
      llmkit chat --model run/model --system "Answer in one sentence." < questions.txt > answers.txt

    When stdin is not a terminal, each of its lines is one turn of the user; the answers go to stdout.
    """
    if prompt is None and sys.stdin is None:
        raise UsageError("there is nobody to talk with: stdin is closed", where="--prompt", fix="give --prompt TEXT")
    speaker = load_speaker(
        model,
        dtype=dtype,
        sampling=(temperature, top_k, top_p),
        max_new_tokens=max_new_tokens,
        stop_strings=stop,
        seed=seed,
        is_chat=True,
    )
    from llmkit.generation.decode import Memory

    dialogue = Conversation(model, speaker, Memory(), system, is_live=prompt is None and sys.stdin.isatty())
    # With --json stdout waits for the document; a person at a terminal reads the answers on stderr.
    show = no_show if as_json and not sys.stderr.isatty() else show_on_stderr if as_json else show_on_stdout
    if prompt is not None:
        answer(dialogue, prompt, show)
    elif dialogue.is_live:
        talk(dialogue, show)
    else:
        answer_lines(dialogue, show)
    if as_json:
        write_json(to_json(dialogue))


def show_on_stdout(text: str) -> None:
    """Data, as it is; where stdout is a terminal, without what would steer it."""
    write(for_terminal(text) if sys.stdout.isatty() else text, end="")


def show_on_stderr(text: str) -> None:
    """For the person at the terminal."""
    say(for_terminal(text), end="")


def no_show(text: str) -> None:
    """Nobody reads along."""


def talk(dialogue: Conversation, show: Show) -> None:
    """Take lines from the terminal until the user leaves. Errors are said, and the dialogue goes on."""
    model = dialogue.speaker.model
    say(f"{dialogue.source}: {type(model).__name__}, {str(model.dtype).removeprefix('torch.')} on {model.device}.")
    say("/help shows what can be typed; Ctrl-D leaves.")
    with line_history():
        while True:
            try:
                line = ask()
                if not take_line(dialogue, line, show, is_strict=True):
                    return
            except EOFError:
                say()
                return
            except KeyboardInterrupt:
                say("\n(Ctrl-D or /quit leaves)")
            except (LlmkitError, OSError) as error:
                say(f"{paint('error:', 'red', 'bold')} {error}")


def ask() -> str:
    """The next line from the terminal, without its line break. EOFError when there will be none."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        # readline takes what stands between \x01 and \x02 to be as wide as nothing.
        return input("\x01\x1b[1m\x02> \x01\x1b[0m\x02" if has_colors(sys.stdout) else "> ")
    say("> ", end="")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


@contextmanager
def line_history() -> Iterator[None]:
    """Arrow keys go through earlier lines, those of earlier dialogues too, where Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(state).expanduser() / "llmkit" / "chat-history"
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        # A home that cannot be written to costs the history, not the dialogue.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(HISTORY_LINES)
            readline.write_history_file(path)


def answer_lines(dialogue: Conversation, show: Show) -> None:
    """Each line of a stdin that is no terminal as one turn of the user; the questions are told on stderr."""
    for number, data in enumerate(sys.stdin.buffer, start=1):
        line = decode_utf8(data, where=f"stdin:{number}").rstrip("\r\n")
        if line.strip():
            say(paint(f"> {for_terminal(line)}", "bold"))
        if not take_line(dialogue, line, show):
            return


def take_line(dialogue: Conversation, line: str, show: Show, *, is_strict: bool = False) -> bool:
    """Do what a line says: a command or a message. False when the dialogue is over.

    Args:
        dialogue: Goes on with the line.
        line: As it was typed.
        show: Takes the answer piece by piece.
        is_strict: Whether an unknown word after / is an error (a person's slip) or text (a script's data).
    """
    word, _, rest = line.partition(" ")
    if word == "/quit":
        return False
    if word in COMMANDS:
        COMMANDS[word](dialogue, rest.strip())
    elif is_strict and re.fullmatch(r"/\w+", word):
        say(f"there is no {word}; /help lists what there is, and a space before the / makes it a message")
    elif line.strip():
        answer(dialogue, line.strip(), show)
    return True


def reset(dialogue: Conversation, _: str = "") -> None:
    """Forget what was said."""
    dialogue.messages.clear()
    dialogue.completions.clear()
    dialogue.num_forgotten = 0
    say("(a new dialogue)")


def set_system(dialogue: Conversation, text: str) -> None:
    """Begin anew with another system message, or with none."""
    dialogue.system = text or None
    reset(dialogue)


def save(dialogue: Conversation, name: str) -> None:
    """Write the dialogue as one line of JSON that finetune reads."""
    from llmkit.files import write_file

    if not name:
        raise UsageError("there is no file name", where="/save", fix="for example /save dialogue.jsonl")
    path = Path(name).expanduser()
    if path.exists():
        raise UsageError("this file exists, and nothing is overwritten", where=str(path), fix="choose another name")
    write_file(path, json.dumps({"messages": plain_messages(dialogue)}, ensure_ascii=False) + "\n")
    say(f"(written to {path})")


def show_help(_: Conversation, __: str) -> None:
    """What can be typed."""
    say(HELP)


COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "/reset": reset,
    "/system": set_system,
    "/save": save,
    "/help": show_help,
}


def answer(dialogue: Conversation, text: str, show: Show) -> None:
    """One turn: the user's text, and the model's answer as it comes. Ctrl-C ends the answer; what was said stays.

    Raises:
        LlmkitError: The message does not fit the model or its template; the dialogue is as it was before.
    """
    from llmkit.data.dialogue import Message

    question = Message("user", text)
    ids = fit_context(dialogue, question)
    stream = speak(dialogue.speaker, ids, row=dialogue.num_asked, memory=dialogue.memory)
    dialogue.num_asked += 1
    try:
        for piece in stream:
            show(piece)
    except KeyboardInterrupt:
        if not dialogue.is_live:
            raise
        show(stream.stop())
    show("\n")
    completion = stream.completion
    if completion.finish_reason == "interrupted" and not completion.text:
        say("(stopped before anything was said)")
        return
    dialogue.messages += [question, Message("assistant", completion.text)]
    dialogue.completions.append(completion)
    if completion.finish_reason != "stop" and sys.stderr.isatty():
        say(paint(f"({end_note(completion.finish_reason, dialogue.speaker)})", "dim"))


def fit_context(dialogue: Conversation, question: Message) -> list[int]:
    """The ids of the dialogue with `question` at its end. Grown too long, it loses its oldest turns, and says so."""
    from llmkit.data.dialogue import Message, render_prompt
    from llmkit.generation.decode import longest_sequence

    speaker = dialogue.speaker
    first = [Message("system", dialogue.system)] if dialogue.system is not None else []
    longest = longest_sequence(speaker.model)
    room = float("inf") if longest is None else longest - min(speaker.max_new_tokens, longest // ANSWER_SHARE)
    forgotten = dialogue.num_forgotten
    while True:
        ids = render_prompt([*first, *dialogue.messages[forgotten:], question], speaker.tokenizer)
        if len(ids) <= room or forgotten >= len(dialogue.messages):
            break
        # A question goes together with its answer: templates want turns in order.
        forgotten += 2
    if longest is not None and len(ids) >= longest:
        message = f"it has {len(ids):,} tokens, and the model takes at most {longest:,} with the answer"
        raise UsageError(message, where="the message", fix="say it in fewer words, or in parts")
    if forgotten > dialogue.num_forgotten:
        warn(f"the model's context of {longest:,} tokens is full: the {forgotten // 2} oldest turns are left out of it")
    dialogue.num_forgotten = forgotten
    return ids


def plain_messages(dialogue: Conversation) -> list[dict[str, str]]:
    """All that was said, the system message first, as other programs read it."""
    first = [{"role": "system", "content": dialogue.system}] if dialogue.system is not None else []
    return [*first, *({"role": m.role, "content": m.content} for m in dialogue.messages)]


def to_json(dialogue: Conversation) -> dict[str, Any]:
    """The dialogue as a document: its messages, and how each answer ended."""
    answers = [{"finish_reason": c.finish_reason, "num_tokens": c.num_tokens} for c in dialogue.completions]
    return {"model": dialogue.source, "messages": plain_messages(dialogue), "answers": answers}
