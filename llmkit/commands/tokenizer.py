"""`llmkit tokenizer`: train one, measure several on the same text, see how one cuts a text."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from llmkit.commands.options import AsJson
from llmkit.console import (
    Progress,
    format_seconds,
    format_table,
    has_colors,
    paint,
    say,
    terminal_width,
    warn,
    write,
    write_json,
)
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmkit.data.documents import Document
    from llmkit.tokenizer import Algorithm

app = typer.Typer(help="Train a tokenizer, measure tokenizers, see how one cuts a text.", no_args_is_help=True)

DEFAULT_SIZE = 4096
"""Tokens of a vocabulary that is trained."""

MOST_FILES = 20
"""Files that the table of `evaluate` shows; --json has all of them."""

ColumnOption = Annotated[
    str | None, typer.Option("--text-column", help="Column that holds the text, where the data has columns.")
]


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Folder to write: a Hugging Face tokenizer.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Files, folders, globs, -, python-docs, hf:owner/name. None for bytes."),
    ] = None,
    algorithm: Annotated[
        Literal["bpe", "unigram", "wordpiece", "bytes", "chars"],
        typer.Option(
            help="How tokens are found; all of them are lossless. bytes and chars are there without training."
        ),
    ] = "bpe",
    vocab_size: Annotated[
        int | None,
        typer.Option(
            help="Tokens, the 256 bytes and 4 control tokens among them: 4096 unless given, with chars as many as the "
            "text needs. Small models want few."
        ),
    ] = None,
    max_bytes: Annotated[
        int,
        typer.Option(help="Learn from at most about this much text; of more, documents are left out evenly.", min=1),
    ] = 1_000_000_000,
    text_column: ColumnOption = None,
    as_json: AsJson = False,
) -> None:
    """Train a tokenizer on texts.

    \b
    Examples:
      llmkit tokenizer train python-docs --output tok
      llmkit tokenizer train books/ "notes/*.md" --output tok --vocab-size 8192
      zcat dump.jsonl.gz | llmkit tokenizer train - --text-column body --output tok
      llmkit tokenizer train shakespeare.txt --algorithm chars --output tok
      llmkit tokenizer train --algorithm bytes --output tok

    Byte-level: every text comes back exactly, whatever the algorithm, and nothing is unknown. It has the control tokens
    <|endoftext|> (end of a document), <|im_start|>, <|im_end|> (end of a turn), <|pad|>, and a ChatML chat template.
    With chars each character of the text is a token; those that it does not have are written as bytes.
    """
    from llmkit.data.budget import BudgetedTexts, Sample
    from llmkit.data.documents import read_documents
    from llmkit.files import check_output_free, new_folder

    check_output_free(output)
    begin = time.monotonic()
    sample = Sample()
    with Progress("reading", unit="documents") as progress:
        feed = BudgetedTexts(progress, sample, max_bytes)
        documents = read_documents(check_inputs(inputs or [], algorithm), text_column=text_column)
        tokenizer, num_characters = make_tokenizer(feed.texts(documents), algorithm, vocab_size)
    result = {
        "output": str(output),
        "algorithm": algorithm,
        "vocab_size": len(tokenizer),
        "characters": num_characters,
        "bytes_per_token": bytes_per_token(tokenizer, sample.texts),
        "documents": feed.num_documents,
        "bytes": feed.num_bytes,
        "bytes_learned_from": feed.num_kept,
        "seconds": time.monotonic() - begin,
    }
    with new_folder(output) as folder:
        tokenizer.save_pretrained(folder)
    tell_training(result)
    if as_json:
        write_json(result)


def check_inputs(inputs: list[str], algorithm: str) -> list[str]:
    """The inputs; an error if there are none and the algorithm reads some."""
    if not inputs and algorithm != "bytes":
        fix = "name files or folders: llmkit tokenizer train corpus/ --output tok"
        raise UsageError("there is no text to learn from", where="INPUT", fix=fix)
    if inputs and algorithm == "bytes":
        say("bytes are the same for every text: nothing is read")
    return inputs


def make_tokenizer(
    texts: Iterable[str], algorithm: Algorithm | Literal["bytes", "chars"], vocab_size: int | None
) -> tuple[PreTrainedTokenizerFast, int | None]:
    """A tokenizer, and with `chars` how many characters have a token of their own."""
    from llmkit.alphabet import bytes_tokenizer, chars_tokenizer, count_characters, keep_frequent
    from llmkit.tokenizer import train_tokenizer

    if algorithm == "bytes":
        if vocab_size is not None:
            raise UsageError("a tokenizer of bytes always has 260 tokens", where="--vocab-size", fix="leave it out")
        return bytes_tokenizer(), None
    if algorithm == "chars":
        counts = count_characters(texts)
        kept = list(counts) if vocab_size is None else keep_frequent(counts, vocab_size)
        if len(kept) < len(counts):
            say(f"the {len(counts) - len(kept):,} rarest of {len(counts):,} characters are written as bytes")
        return chars_tokenizer(kept), len(kept)
    tokenizer = train_tokenizer(texts, algorithm=algorithm, vocab_size=vocab_size or DEFAULT_SIZE)
    if len(tokenizer) < (vocab_size or DEFAULT_SIZE):
        asked = f"{vocab_size or DEFAULT_SIZE:,} tokens"
        warn(f"the text repeats too little for {asked}: the vocabulary has {len(tokenizer):,}")
    return tokenizer, None


def bytes_per_token(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """How many bytes a token of these texts stands for; of no text, a token of bytes stands for one."""
    from llmkit.evaluation.compression import measure_tokenizers

    (report,) = measure_tokenizers(((text, "sample") for text in texts), [tokenizer])
    return float(report["bytes_per_token"] or 1.0)


def tell_training(result: dict[str, Any]) -> None:
    """What was trained, and what to do next."""
    if result["bytes_learned_from"] < result["bytes"]:
        say(f"learned from {result['bytes_learned_from']:,} of {result['bytes']:,} bytes (--max-bytes)")
    about = f"{result['output']}: {result['algorithm']}, {result['vocab_size']:,} tokens"
    if result["characters"] is not None:
        about += f" ({result['characters']:,} characters, 4 control tokens, bytes for everything else)"
    if result["documents"]:
        about += (
            f", {result['bytes_per_token']:.2f} bytes per token on its training text "
            f"({result['documents']:,} documents, {result['bytes'] / 1e6:,.1f} MB, {format_seconds(result['seconds'])})"
        )
    say(about)
    say(f"next: llmkit data prepare INPUT... --tokenizer {result['output']} --output DIR")


class ManyInputs(TyperCommand):
    """A command that takes several values after one --data, as a shell writes them for `--data *.txt`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments with --data before each of its values."""
        return super().parse_args(ctx, spread_data(args))


def spread_data(args: Sequence[str]) -> list[str]:
    """`TOK --data a b` as `TOK --data a --data b`; where no tokenizer comes first, --data has one value as usual."""
    if not args or args[0].startswith("-"):
        return list(args)
    spread: list[str] = []
    is_data = False
    for arg in args:
        if arg.startswith("--"):
            is_data = arg == "--data"
        elif is_data and spread[-1] != "--data":
            spread.append("--data")
        spread.append(arg)
    return spread


@app.command(cls=ManyInputs)
def evaluate(
    tokenizers: Annotated[
        list[str], typer.Argument(metavar="TOKENIZER", help="Folders (of a tokenizer or model), or hub names.")
    ],
    data: Annotated[
        list[str],
        typer.Option(metavar="INPUT...", help="Text to measure on: files, folders, globs, -, python-docs@test."),
    ],
    text_column: ColumnOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure tokenizers on the same text, side by side.

    \b
    Examples:
      llmkit tokenizer evaluate tok --data python-docs@test
      llmkit tokenizer evaluate tok-4k tok-16k HuggingFaceTB/SmolLM2-135M --data books/ --data notes.jsonl

    bytes/token: higher is shorter. tokens/word: lower is shorter (words are what white space separates). round trip:
    the share of documents that come back to the letter. unused: the share of the vocabulary that this text never uses.
    Compare them on text that none was trained on. Plain bytes are the reference.
    """
    from llmkit.data.documents import read_documents
    from llmkit.evaluation.compression import measure_tokenizers
    from llmkit.tokenizer import load_tokenizer

    loaded = [load_tokenizer(name) for name in tokenizers]
    with Progress("measuring", unit="documents") as progress:
        documents = read_documents(data, text_column=text_column)
        *reports, reference = measure_tokenizers(watch(documents, progress), [*loaded, None])
    reports = [{"tokenizer": name, **report} for name, report in zip(tokenizers, reports, strict=True)]
    reference = {"tokenizer": "(plain bytes)", **reference}
    if as_json:
        write_json({"data": data, "tokenizers": reports, "reference": reference})
    else:
        show_reports(reports, reference)


def watch(documents: Iterable[Document], progress: Progress) -> Iterator[tuple[str, str]]:
    """The texts and sources of documents, counted as they pass."""
    for document in documents:
        progress.update()
        yield document.text, document.source


def show_reports(reports: Sequence[dict[str, Any]], reference: dict[str, Any]) -> None:
    """A table of all tokenizers, one by file if there are several, and what did not come back."""
    columns = ("vocabulary", "tokens", "bytes/token", "chars/token", "tokens/word", "round trip", "unused", "MB/s")
    write(format_table(("tokenizer", *columns), [table_row(report) for report in [*reports, reference]]))
    files = reports[0]["files"]
    if len(files) > 1:
        write("\nbytes/token by file")
        order = sorted(range(len(files)), key=lambda i: -files[i]["bytes"])
        rows = [
            (files[i]["file"], f"{files[i]['bytes']:,}", *(report["files"][i]["bytes_per_token"] for report in reports))
            for i in order[:MOST_FILES]
        ]
        write(format_table(("file", "bytes", *(report["tokenizer"] for report in reports)), rows))
        if len(files) > MOST_FILES:
            say(f"the {MOST_FILES} largest of {len(files):,} files; --json has all of them")
    for report in reports:
        if report["mismatch"]:
            tell_mismatch(report)


def table_row(report: dict[str, Any]) -> tuple[object, ...]:
    """One tokenizer's line in the table."""
    return (
        report["tokenizer"],
        f"{report['vocab_size']:,}",
        f"{report['tokens']:,}",
        report["bytes_per_token"],
        report["chars_per_token"],
        report["tokens_per_word"],
        f"{floor_percent(report['round_trip'])}%",
        f"{100 * report['unused']:.1f}%",
        None if report["tokenizer"] == "(plain bytes)" else f"{report['megabytes_per_second']:.1f}",
    )


def floor_percent(share: float) -> str:
    """A share in percent, rounded down: 100 only if nothing is missing."""
    return "100" if share == 1 else f"{int(share * 1000) / 10:.1f}"


def tell_mismatch(report: dict[str, Any]) -> None:
    """The first document that a tokenizer does not give back."""
    found = report["mismatch"]
    warn(
        f"{report['tokenizer']} loses something in {(1 - report['round_trip']) * report['documents']:,.0f} of "
        f"{report['documents']:,} documents, first in {found['source']} at character {found['position']:,}:\n"
        f"  text     {json.dumps(found['text'], ensure_ascii=False)}\n"
        f"  decoded  {json.dumps(found['decoded'], ensure_ascii=False)}"
    )


@app.command()
def show(
    tokenizer: Annotated[
        str, typer.Argument(metavar="TOKENIZER", help="Folder (of a tokenizer or model), or hub name.")
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="The text; - reads it from stdin.")],
    as_json: AsJson = False,
) -> None:
    """Show the tokens of a text, each with its id.

    \b
    Examples:
      llmkit tokenizer show tok "def hello(name): return name"
      llmkit tokenizer show tok - < letter.txt
      llmkit tokenizer show tok "Grüße" --json

    On a terminal: tokens in colours above their ids, · for a space, ⏎ for a line break. Elsewhere: a line for each
    token, its id, a tab, and the token as a JSON string. A byte that is no character without its neighbours is shown as
    \\xc3. What looks like a control token in the text is text here, as everywhere in llmkit.
    """
    from llmkit.evaluation.compression import token_texts
    from llmkit.tokenizer import encode_text, load_tokenizer

    loaded = load_tokenizer(tokenizer)
    text = read_stdin() if text == "-" else text
    ids = encode_text(loaded, text)
    tokens = token_texts(loaded, ids)
    num_bytes = len(text.encode())
    if as_json:
        pairs = [{"id": index, "text": token} for index, token in zip(ids, tokens, strict=True)]
        rate = num_bytes / len(ids) if ids else None
        write_json(
            {"ids": ids, "tokens": pairs, "num_tokens": len(ids), "num_bytes": num_bytes, "bytes_per_token": rate}
        )
        return
    if has_colors(sys.stdout):
        write("\n".join(interlinear(ids, tokens, width=terminal_width())))
    else:
        write("".join(f"{i}\t{json.dumps(t, ensure_ascii=False)}\n" for i, t in zip(ids, tokens, strict=True)), end="")
    rate_text = f", {num_bytes / len(ids):.2f} bytes per token" if ids else ""
    say(f"{len(ids):,} tokens, {len(text):,} characters, {num_bytes:,} bytes{rate_text}")


def read_stdin() -> str:
    """All of stdin, strictly decoded."""
    from llmkit.data.sources import read_blocks

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("nothing comes in on stdin", where="TEXT", fix="pipe a text in, or give it in the place of -")
    return "".join(read_blocks(sys.stdin.buffer, "stdin"))


def interlinear(ids: Sequence[int], tokens: Sequence[str], *, width: int) -> Iterator[str]:
    """Lines of tokens in alternating colours, each above its id, broken at the width and after line breaks."""
    above = below = ""
    used = 0
    for n, (index, token) in enumerate(zip(ids, tokens, strict=True)):
        shown = make_visible(token)
        cell = max(columns_of(shown), len(str(index)))
        if used and used + cell > width:
            yield from (above, below)
            above, below, used = "", "", 0
        style = ("cyan", "yellow", "magenta", "green")[n % 4]
        above += paint(shown, style, stream=sys.stdout) + " " * (cell - columns_of(shown) + 1)
        below += paint(str(index).ljust(cell + 1), "dim", stream=sys.stdout)
        used += cell + 1
        if "\n" in token:
            yield from (above, below)
            above, below, used = "", "", 0
    if used:
        yield from (above, below)


def make_visible(token: str) -> str:
    """A token without anything that a terminal would not show, or would obey."""
    signs = {" ": "·", "\n": "⏎", "\t": "⇥"}
    return "".join(signs.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token)


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)
