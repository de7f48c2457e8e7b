"""Where the rows of built-in tasks lie, on this machine or on the hub, and how their files are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from llmkit.evaluation.task import TaskRow
    from llmkit.evaluation.tasks import BuiltIn

HUB = "hf:"
PERPLEXITY = "perplexity"
FUNCTIONS = "python-docs:functions@"
ROWS = ("jsonl", "json", "parquet")
"""Formats whose rows name their columns."""
PACKED = ("", ".gz", ".xz", ".zst")
LABELS = "-labels.lst"
"""What a file of labels beside rows is called: valid-labels.lst beside valid.jsonl."""


@dataclass(frozen=True)
class TaskData:
    """What is read for a task: names of the hub, or files."""

    test: str
    train: str | None
    files: dict[str, list[Path]]
    """Files by the name that stands for them."""
    notes: tuple[str, ...] = ()


def find_data(task: BuiltIn, data: Sequence[str], train: str | None) -> TaskData:
    """The rows of a built-in task: in a folder, a file, or on the hub where nothing was named.

    Raises:
        UsageError: The folder holds no file of this task, or several that could be meant.
    """
    if len(data) > 1:
        raise UsageError(f"{task.spec.name} takes one file or folder", where="--data", fix="give --data once")
    if data and not data[0].startswith(HUB):
        return find_local(task, Path(data[0]), train)
    test = data[0] if data else task.spec.test
    shots = train or (None if data else task.spec.train)
    note = f"rows: {test}" + (f"; shots from {shots}" if shots else "")
    return TaskData(test, shots, {} if train is None else {train: [Path(train)]}, (note,))


def find_local(task: BuiltIn, path: Path, train: str | None) -> TaskData:
    """The rows in a file, or in a folder of data sets; shots from the file that belongs to it."""
    if not path.exists():
        raise UsageError("there is no such file or folder", where=f"--data {path}", fix="check the path")
    found = [path] if path.is_file() else find_files(path, task.test_files, task)
    if not found:
        fix = f"name the file; looked for {', '.join(task.test_files)}"
        raise UsageError(f"no file of task {task.spec.name} is in it", where=f"--data {path}", fix=fix)
    folder = path if path.is_dir() else path.parent
    near = [Path(train)] if train else find_files(folder, task.train_files, task)
    shots = [file for file in near if train or file not in found]
    files = {str(group[0]): group for group in (found, shots) if group}
    source = describe(shots) if shots else "the same rows"
    note = f"rows: {describe(found)}" + ("" if task.spec.kind == PERPLEXITY else f"; shots from {source}")
    return TaskData(str(found[0]), str(shots[0]) if shots else None, files, (note,))


def find_files(folder: Path, patterns: Sequence[str], task: BuiltIn) -> list[Path]:
    """The files of the first pattern that fits, compressed or not.

    Raises:
        UsageError: Several fit, and the task has one.
    """
    for pattern in patterns:
        found = sorted({file for suffix in PACKED for file in folder.glob(pattern + suffix) if file.is_file()})
        if len(found) > 1 and not task.is_many_files:
            names = ", ".join(str(file.relative_to(folder)) for file in found)
            message = f"several files could be those of task {task.spec.name}: {names}"
            raise UsageError(message, where=f"--data {folder}", fix="name one of them with --data")
        if found:
            return found
    return []


def describe(files: Sequence[Path]) -> str:
    """A file, or the first of several."""
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def read_built_in_rows(task: BuiltIn, data: TaskData, source: str) -> Iterator[TaskRow]:
    """The rows of a built-in task, from all files that a source stands for."""
    files = data.files.get(source)
    if files is None:
        try:
            yield from read_rows(source)
        except DataError as error:
            fix = "check the name and the network, or name rows on this machine with --data FILE"
            raise DataError(error.message, where=error.where, fix=fix) from error
        return
    for file in files:
        yield from read_file(task, file)


def read_file(task: BuiltIn, path: Path) -> Iterator[TaskRow]:
    """The rows of one file: by its lines where the task has such a form, with labels from the file beside it."""
    from llmkit.data.sources import format_of

    if task.lines is not None and format_of(path) not in ROWS:
        yield from task.lines(decoded_lines(path, task.encoding))
        return
    labels = path.with_name(path.name.partition(".")[0] + LABELS)
    if labels.is_file():
        yield from join_labels(path, labels)
    else:
        yield from read_rows(str(path))


def decoded_lines(path: Path, encoding: str) -> Iterator[tuple[str, str]]:
    """(place, line) of a text file in UTF-8, or in the encoding that its set was published in."""
    from llmkit.data.decoding import read_bytes, split_lines

    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            line = len(content[: error.start].split(b"\n"))
            message = f"byte 0x{content[error.start]:02x} is not UTF-8"
            raise DataError(message, where=f"{path}:{line}", fix="check that this is the right file") from error
        text = content.decode(encoding)
    for number, found in enumerate(split_lines(text), start=1):
        yield f"{path}:{number}", found


def join_labels(path: Path, labels: Path) -> Iterator[TaskRow]:
    """Rows with their labels from the file beside them, one a line.

    Raises:
        DataError: There are not as many labels as rows.
    """
    from llmkit.evaluation.task import PlainRow

    marks = [line.strip() for _, line in decoded_lines(labels, "utf-8") if line.strip()]
    rows = list(read_rows(str(path)))
    if len(marks) != len(rows):
        message = f"{len(marks):,} labels for the {len(rows):,} rows of {path.name}"
        raise DataError(message, where=str(labels), fix="take both files from the same release")
    for row, mark in zip(rows, marks, strict=True):
        yield PlainRow(row.where, {**row.values, "label": mark})


def read_rows(source: str) -> Iterator[TaskRow]:
    """The rows of a file, or of what a name stands for."""
    from llmkit.data import python_docs
    from llmkit.data.documents import read_records
    from llmkit.evaluation.task import PlainRow

    if not source.startswith(FUNCTIONS):
        yield from read_records(source)
        return
    for item in python_docs.items(source.removeprefix(FUNCTIONS)):
        if item.kind in ("function", "method") and item.is_public and item.signature:
            signature = python_docs.headline(item)
            yield PlainRow(f"{source}:{item.name}", {"name": item.name, "signature": signature, "doc": item.doc})
