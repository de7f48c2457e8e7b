"""`llmkit data`: text to memory-mapped tokens, and a look at the rows that a model will see."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmkit.commands.data_dialogues import check_data, show_dialogues
from llmkit.commands.options import AsJson, Overrides
from llmkit.console import Progress, format_seconds, format_table, has_colors, paint, say, write, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmkit.data.document import Document
    from llmkit.data.show import ShownRow

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Prepare text for training, and look at it.")


@app.command("prepare")
def prepare_data(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="What to read, as below.")],
    tokenizer: Annotated[str, typer.Option(help="Tokenizer or model folder, or a hub name; or: bytes, chars.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    text_column: Annotated[
        str | None, typer.Option(metavar="C", help="Column that holds the text; found by its name unless given.")
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the documents that is held out, chosen by their content.")
    ] = 0.01,
    dedupe: Annotated[
        Literal["none", "exact", "near"],
        typer.Option(help="Leave out texts that were there before: exact to the letter, near with some words changed."),
    ] = "none",
    min_length: Annotated[
        int, typer.Option(metavar="N", min=0, help="Leave out documents of fewer than N characters.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Tokenize text into memory-mapped arrays, with all cores and flat memory.

    \b
    Examples:
      llmkit data prepare python-docs --tokenizer tok --output data
      llmkit data prepare corpus/ more/*.jsonl.gz --tokenizer tok --output data
      llmkit data prepare reviews.csv --text-column review --tokenizer tok --output data
      zcat dump.txt.gz | llmkit data prepare - --tokenizer tok --output data --validation 0.05
      llmkit data prepare hf:roneneldan/TinyStories@train --tokenizer tok --output data
      llmkit data prepare crawl/ --dedupe near --min-length 200 --tokenizer tok --output data
      llmkit data prepare shakespeare.txt --tokenizer chars --output data

    \b
    INPUT is any number of
      files     .txt .md (one document; a large text is cut at blank lines), .jsonl .json .csv .tsv .parquet (one
                document a row); each also as .gz, .zst or .xz
      folders   all such files below it; globs in quotes
      -         standard input: plain text, or JSON lines with --text-column
      python-docs                       the built-in data, with its own train, validation and test split
      hf:owner/name[:config][@split]    a data set of the hub

    --tokenizer bytes has a token for each byte, and chars for each character of INPUT, which is read twice then; both
    give every text back exactly.

    Nothing is left out unless asked for, but documents without text; all that is left out is counted by reason. Of
    duplicates the first one stays. Memory grows with the number of documents then: by 100 bytes for each with exact, by
    2.5 KB with near (which needs `pip install "llmkit[dedupe]"`).
    """
    from llmkit.data.prepare import prepare
    from llmkit.files import check_output_free

    check_output_free(output)
    result = prepare(
        inputs,
        find_tokenizer(tokenizer, inputs, text_column),
        output,
        text_column=text_column,
        validation=validation,
        dedupe=dedupe,
        min_length=min_length,
    )
    if as_json:
        write_json(result)
        return
    counts = result["splits"].items()
    rows = [[name, f"{s['documents']:,}", f"{s['tokens']:,}", f"{s['bytes']:,}"] for name, s in counts]
    say(format_table(["split", "documents", "tokens", "bytes"], rows))
    for line in describe_documents(result["dropped"], result["quality"]):
        say(line)
    if result["quality"]["documents_with"]["copies"] and dedupe == "none":
        say("--dedupe exact leaves out what is equal to one before")
    say(f"{result['bytes_per_token']:.2f} bytes per token, {format_seconds(result['seconds'])}: {output}")


def find_tokenizer(name: str, inputs: list[str], text_column: str | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or of the hub, or that of bytes, or of the characters of the inputs."""
    from llmkit.alphabet import bytes_tokenizer, chars_tokenizer, count_characters, is_named
    from llmkit.data.documents import read_documents
    from llmkit.tokenizer import load_tokenizer

    if not is_named(name):
        return load_tokenizer(name)
    if name == "bytes":
        return bytes_tokenizer()
    if "-" in inputs:
        fix = "write it to a file first, or make the tokenizer with `llmkit tokenizer train --algorithm chars`"
        raise UsageError("stdin is read once, and the characters are found in a first pass", where="-", fix=fix)
    with Progress("finding the characters", unit="documents") as progress:
        characters = list(count_characters(watch(read_documents(inputs, text_column=text_column), progress)))
    say(f"{len(characters):,} characters, a token for each")
    return chars_tokenizer(characters)


def watch(documents: Iterable[Document], progress: Progress) -> Iterator[str]:
    """The texts of documents, counted as they pass."""
    for document in documents:
        progress.update()
        yield document.text


def describe_documents(dropped: dict[str, dict[str, Any]], quality: dict[str, Any]) -> list[str]:
    """What was left out of the documents, and what the others are like."""
    from llmkit.data.quality import describe_quality
    from llmkit.data.selection import describe_dropped

    return [*describe_dropped(dropped), *describe_quality(quality)]


@app.command("show")
def show_data(
    data: Annotated[str, typer.Argument(metavar="DIR|FILE", help="Prepared folder, or dialogues, or documents.")],
    number: Annotated[int, typer.Option("--limit", "-n", min=0, help="Rows to show.")] = 3,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer folder, to look at documents with.")] = None,
    model: Annotated[str | None, typer.Option(help="Model folder, to look at instructions and dialogues with.")] = None,
    split: Annotated[str, typer.Option(help="Split of a prepared folder whose rows are shown.")] = "train",
    seq_len: Annotated[int, typer.Option(min=1, help="Positions per row of a prepared folder.")] = 256,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Statistics, and rows as the model will see them: token by token, trained ones marked.

    \b
    Examples:
      llmkit data show data                                  a folder that `data prepare` wrote
      llmkit data show chats.jsonl --model run/model         instructions or dialogues, in the model's chat template
      llmkit data show python-docs:dialogues --model run/model -n 1
      llmkit data show pairs.jsonl --model run/model          preference pairs: the chosen answer, then the rejected one
      llmkit data show rows.jsonl --model run/model --set data.columns.prompt=q --set data.columns.completion=a
      llmkit data show corpus.txt --tokenizer tok            documents
      llmkit data show data -n 1 --json | jq .statistics

    --set takes the fields of `llmkit finetune` (data.train_on, data.thinking, data.max_length, data.overlong ...).
    Trained tokens are green on a terminal and [in brackets] elsewhere; the others are dim, and divided by |.
    """
    about: dict[str, Any] = {}
    if is_prepared_folder(data):
        shown = show_prepared(Path(data), split=split, seq_len=seq_len, limit=number)
        about = preparation_of(Path(data))
    elif overrides or is_dialogue(data, or_unknown=model is not None):
        shown = show_dialogues(data, model or tokenizer, overrides, limit=number)
    else:
        shown = show_documents(data, tokenizer or model, limit=number)
    rows, statistics, used = shown
    if as_json:
        write_json({"rows": [row.to_json(used) for row in rows], "statistics": statistics, **about})
        return
    write("\n".join([format_statistics(statistics), *(describe_documents(**about) if about else [])]))
    for count, row in enumerate(rows, 1):
        trained = sum(row.trained)
        write(f"\n{paint(f'row {count}', 'bold', stream=sys.stdout)}: {len(row.input_ids)} tokens, {trained} trained")
        write(format_row(row, used))


app.command("check")(check_data)

Shown = tuple[list["ShownRow"], dict[str, Any], "PreTrainedTokenizerFast"]
"""Rows, statistics, and the tokenizer they were made with."""


def is_prepared_folder(data: str) -> bool:
    """Whether this is meant to be prepared data: a folder with its manifest."""
    return (Path(data) / "manifest.json").is_file()


def is_dialogue(data: str, *, or_unknown: bool) -> bool:
    """Whether the first row is in a form of instructions, dialogues or preference pairs, or in no form of documents."""
    from itertools import islice

    from llmkit.data.dialogue_forms import is_dialogue as is_in_a_form
    from llmkit.data.documents import TEXT_COLUMNS, is_python_docs, read_records
    from llmkit.data.other_forms import is_pair
    from llmkit.data.sources import find_sources

    if data == "-":
        raise UsageError("stdin cannot be looked at twice", where="-", fix="write it to a file first")
    if is_python_docs(data):
        return ":" in data
    if not data.startswith("hf:") and all(source.format == "text" for source in find_sources([data])):
        return False
    first = next(islice(read_records(data), 1), None)
    if first is None or is_in_a_form(first.values) or is_pair(first.values):
        return first is not None
    # A model is named to look at dialogues with: of rows in no form it is said which columns could be named.
    return or_unknown and not any(isinstance(first.values.get(name), str) for name in TEXT_COLUMNS)


def show_prepared(folder: Path, *, split: str, seq_len: int, limit: int) -> Shown:
    """Of a prepared folder: the first rows of a split, and the statistics of all."""
    from llmkit.data.prepared import open_prepared
    from llmkit.data.show import prepared_rows, prepared_statistics

    prepared = open_prepared(folder)
    if split not in prepared.splits and split == "train":
        split = prepared.splits[0]
    rows = prepared_rows(prepared, split, seq_len=seq_len, limit=limit)
    return rows, prepared_statistics(prepared), prepared.tokenizer


def preparation_of(folder: Path) -> dict[str, Any]:
    """{"dropped", "quality"} of a prepared folder; nothing of one that an older llmkit wrote."""
    from llmkit.data.prepared import open_prepared
    from llmkit.data.selection import add_up

    manifest = open_prepared(folder).manifest
    if "quality" not in manifest:
        return {}
    return {"dropped": add_up([source["dropped"] for source in manifest["sources"]]), "quality": manifest["quality"]}


def show_documents(source: str, tokenizer_source: str | None, *, limit: int) -> Shown:
    """Of documents: the first ones as they stand in the stream, and the statistics of all."""
    from llmkit.data.documents import read_documents
    from llmkit.data.show import document_rows
    from llmkit.tokenizer import load_tokenizer

    if tokenizer_source is None:
        raise UsageError("text has no tokens yet", where=source, fix="add --tokenizer DIR")
    tokenizer = load_tokenizer(tokenizer_source)
    rows, statistics = document_rows(read_documents([source]), tokenizer, limit=limit)
    return rows, {"documents": statistics}, tokenizer


def format_statistics(statistics: dict[str, Any]) -> str:
    """A table with a row for each split."""
    first = next(iter(statistics.values()))
    names = [name for name in first if not isinstance(first[name], dict)]
    headers = ["", *(name.replace("_", " ") for name in names), *(f"length {key}" for key in first["lengths"])]
    rows = []
    for split, values in statistics.items():
        cells = [values[name] for name in names]
        cells = [f"{cell:,}" if isinstance(cell, int) else f"{cell:.3g}" for cell in cells]
        rows.append([split, *cells, *(f"{length:,}" for length in values["lengths"].values())])
    dropped = [f"{reason}: {about['rows']:,}" for reason, about in first.get("dropped", {}).items()]
    return "\n".join([format_table(headers, rows), *(f"left out, {reason}" for reason in dropped)])


def format_row(row: ShownRow, tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokens of a row: trained ones green or in brackets, others dim and divided by |."""
    from llmkit.data.show import token_texts

    texts = [text.replace("\r", "\\r") for text in token_texts(tokenizer, row.input_ids)]
    if has_colors(sys.stdout):
        styles = ("dim", "green")
        tokens = zip(texts, row.trained, strict=True)
        return "".join(paint(text, styles[trained], stream=sys.stdout) for text, trained in tokens)
    return "".join(
        f"[{text}]" if trained else f"{text}|" for text, trained in zip(texts, row.trained, strict=True)
    ).replace("\n", "\\n\n")
