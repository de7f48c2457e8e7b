"""csv and tsv files with and without a header, whatever separates their fields."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmkit.data.columns import as_number, is_missing, is_numeric
from llmkit.data.decoding import split_lines
from llmkit.data.records import LONGEST_FIELD, BadLines, checked_header
from llmkit.data.table import Table
from llmkit.errors import DataError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SAMPLE = 50
MOST_BROKEN = 0.01
"""Share of the lines of a tab-separated text that may be the rest of the line above."""

Header = Literal["auto"] | bool


@dataclass(frozen=True)
class Grid:
    """The fields of a file, the line on which each row begins, and what there is to tell."""

    rows: list[list[str]]
    lines: list[int]
    notes: tuple[str, ...] = ()


def read_delimited(text: str, name: str, *, header: Header = "auto", is_tsv: bool = False) -> Table:
    """A csv or tsv file as a table; columns without a name are called column-1, column-2 ...

    Args:
        text: The whole file.
        name: For messages.
        header: Whether the first row names the columns.
        is_tsv: Tabs separate the fields; else what does is found.

    Raises:
        DataError: Rows of different widths, or quotes that do not come in pairs; it names the lines.
    """
    grid = read_grid(text, name, is_tsv=is_tsv)
    if not grid.rows:
        raise DataError("there are no rows in it", where=name, fix="give a file with rows")
    named = has_header(grid.rows) if header == "auto" else header
    width = len(grid.rows[0])
    numbered = [f"column-{i}" for i in range(1, width + 1)]
    if named:
        first = [cell.strip() or new for cell, new in zip(grid.rows[0], numbered, strict=True)]
        names, body = checked_header(first, name), grid.rows[1:]
        told = ""
    else:
        names, body = numbered, grid.rows
        told = f"no header: the first line is a row, and the columns are called {names[0]} to {names[-1]} (data.header)"
    if not body:
        raise DataError("there are no rows below its header", where=name, fix="set data.header=false if it is a row")
    check_widths(grid, name)
    rows = [dict(zip(names, row, strict=True)) for row in body]
    return Table(rows, names, [""] * len(rows), notes=(*([told] if told else []), *grid.notes))


def read_grid(text: str, name: str, *, is_tsv: bool) -> Grid:
    """The fields of a text, by quoting rules where its quotes follow them."""
    csv.field_size_limit(LONGEST_FIELD)
    delimiter = "\t" if is_tsv else find_delimiter(text)
    told = () if is_tsv or delimiter == "," else (f"fields are separated by {DELIMITERS[delimiter]}",)
    lines = text.split("\n")
    if delimiter == "\t" and not has_paired_quotes(lines):
        grid = read_plain_tabs(text, name)
        return replace(grid, notes=(*told, *grid.notes))
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[list[str]] = []
    starts: list[int] = []
    line = 1
    try:
        for row in reader:
            if row and not (len(row) == 1 and not row[0].strip()):
                rows.append(row)
                starts.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(str(error), where=f"{name}:{line}", fix="check the quotes") from error
    return Grid(rows, starts, told)


def has_paired_quotes(lines: Sequence[str]) -> bool:
    """Whether quotes of a tab-separated text enclose fields: then all rows are equally wide, to the last line."""
    if not any(line.startswith('"') or '\t"' in line for line in lines):
        return False
    try:
        rows = csv.reader((f"{line}\n" for line in lines), delimiter="\t", strict=True)
        return len({len(row) for row in rows if row}) == 1
    except csv.Error:
        return False


def read_plain_tabs(text: str, name: str) -> Grid:
    """Fields between tabs, quotes being text. A line without a tab is the rest of the text above it, which is told."""
    lines = [(number, line) for number, line in enumerate(split_lines(text), start=1) if line.strip()]
    rows: list[list[str]] = []
    starts: list[int] = []
    broken: list[int] = []
    for number, line in lines:
        if "\t" not in line and rows and len(rows[-1]) > 1:
            rows[-1][-1] += f"\n{line}"
            broken.append(number)
        else:
            rows.append(line.split("\t"))
            starts.append(number)
    if len(broken) > max(1, MOST_BROKEN * len(lines)):
        bad = BadLines(name)
        for number in broken:
            bad.add(number, "there is no tab in this line")
        bad.check()
    told = f"line {shorten_numbers(broken)} has no tab: read as the rest of the text above" if broken else ""
    return Grid(rows, starts, (told,) if told else ())


def shorten_numbers(numbers: Sequence[int]) -> str:
    """A few numbers, and how many more."""
    shown = ", ".join(map(str, numbers[:5]))
    return shown + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def find_delimiter(text: str) -> str:
    """What separates the fields: that sign by which the first rows are equally wide, and widest."""
    sample = [f"{line}\n" for line in text[: 1 << 16].split("\n")[:SAMPLE]]
    widths: dict[str, int] = {}
    for delimiter in DELIMITERS:
        found = {len(row) for row in csv.reader(sample, delimiter=delimiter, skipinitialspace=True) if row}
        if len(found) == 1:
            widths[delimiter] = found.pop()
    best = max(widths, key=lambda delimiter: widths[delimiter], default=",")
    return best if widths.get(best, 0) > widths.get(",", 1) else ","


def check_widths(grid: Grid, name: str) -> None:
    """Raise for rows with more or fewer fields than the first."""
    width, bad = len(grid.rows[0]), BadLines(name)
    for row, line in zip(grid.rows, grid.lines, strict=True):
        if len(row) != width:
            bad.add(line, f"{len(row)} fields, the first row has {width}")
    bad.check()


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns.

    It does where a column of numbers begins with none. It does not where most of its cells are numbers, or a cell is
    found again below itself, as labels are: a number once, a word twice. Columns that are just counted, 0, 1, 2, ...,
    have names.
    """
    first, body = rows[0], rows[1:]
    if not body:
        return False
    cells = list(itertools.zip_longest(*(row[: len(first)] for row in body), fillvalue=""))
    for name, values in zip(first, cells, strict=False):
        is_name = not is_missing(name) and as_number(name) is None
        if is_name and any(not is_missing(value) for value in values) and is_numeric(values):
            return True
    numbers = [number for number in map(as_number, first) if number is not None]
    if len(numbers) > 1 and all(after - before == 1 for before, after in itertools.pairwise(numbers)):
        return True
    if len(numbers) * 2 > len(first):
        return False
    found = [(name, values.count(name)) for name, values in zip(first, cells, strict=False)]
    return not any(count > 1 or (count == 1 and as_number(name) is not None) for name, count in found)
