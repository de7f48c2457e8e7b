"""Rows of jsonl, json, csv, tsv and parquet files, each with the place it stands at."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, BinaryIO, NoReturn, cast

from llmkit.data.document import Record
from llmkit.data.sources import Source, open_bytes, read_blocks, read_lines
from llmkit.errors import DataError

MOST_BAD_LINES = 20
LONGEST_FIELD = 2**31 - 1
"""Characters in one field of a csv file; Python's own bound is 131,072."""
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
SAMPLE_LINES = 200
WRAPPERS = ("data", "rows", "examples", "items", "records")
"""Names under which a single JSON object keeps rows."""


class BadLines:
    """Collects what is wrong with lines, up to a bound, and raises it as one error."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[str] = []

    def add(self, line: int, reason: str, *, column: int | None = None) -> None:
        """Note a bad line; the last that is collected raises."""
        place = f"{self.name}:{line}" if column is None else f"{self.name}:{line}:{column}"
        self.found.append(f"{place}: {reason}")
        if len(self.found) == MOST_BAD_LINES:
            self.throw(f"the first {MOST_BAD_LINES} bad lines")

    def check(self) -> None:
        """Raise if there was a bad line."""
        if self.found:
            self.throw("1 bad line" if len(self.found) == 1 else f"{len(self.found)} bad lines")

    def throw(self, head: str) -> NoReturn:
        """Raise what was collected."""
        raise DataError("\n  ".join([head, *self.found]), where=self.name, fix="mend or remove these lines")


def read_rows(source: Source) -> Iterator[Record]:
    """The rows of a source that is no plain text. Rows before a bad line may be yielded before the error comes."""
    with open_bytes(source) as file:
        if source.format == "parquet":
            rows = read_parquet(file, source.name)
        elif source.format in {"csv", "tsv"}:
            rows = read_table(file, source)
        else:
            rows = read_json_or_lines(read_lines(file, source.name), source)
        is_empty = True
        for row in rows:
            is_empty = False
            yield row
        if is_empty:
            raise DataError("there is no row in it", where=source.name)


def read_json_or_lines(lines: Iterator[tuple[int, str]], source: Source) -> Iterator[Record]:
    """A JSON array or JSON lines, told apart by their beginning: both names are used for both."""
    filled = ((number, line) for number, line in lines if line.strip())
    begin = list(islice(filled, 2))
    again = chain(begin, lines)
    first = begin[0][1].lstrip() if begin else ""
    is_one = source.format == "json" and not (len(begin) == 2 and is_object(first))
    if first.startswith("[") or is_one:
        yield from read_json(again, source.name)
    else:
        yield from read_json_lines(again, source.name)


def is_object(line: str) -> bool:
    """Whether a line alone is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_json_lines(lines: Iterator[tuple[int, str]], name: str) -> Iterator[Record]:
    """One object a line; blank lines are passed over."""
    bad = BadLines(name)
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = parse_json(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            bad.add(number, error.msg, column=error.pos + 1)
            continue
        except (ValueError, RecursionError) as error:
            bad.add(number, "nested too deep" if isinstance(error, RecursionError) else str(error))
            continue
        if not isinstance(values, dict):
            bad.add(number, f"a row must be an object, this is {kind_of(values)}", column=1)
        elif not bad.found:
            yield Record(f"{name}:{number}", values)
    bad.check()


def parse_json(text: str) -> Any:
    """JSON with every key once and nothing that is not Unicode text."""
    value = json.loads(text, object_pairs_hook=unique_keys)
    if SURROGATE.search(text):
        check_unicode(value)
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: the last of two equal ones would win silently."""
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' stands there twice")
    return values


def check_unicode(value: Any) -> None:
    """Raise for half a surrogate pair, which no encoding can write."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair (\\ud800 to \\udfff) is not text") from error


def kind_of(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def read_json(lines: Iterator[tuple[int, str]], name: str) -> Iterator[Record]:
    """The objects of an array; of one object those that it keeps under a name like data, or else itself."""
    text = join_lines(lines)
    if not text.strip():
        return
    decoder = json.JSONDecoder(object_pairs_hook=unique_keys)
    start = re.compile(r"\s*\[").match(text)
    begin = 0 if start is None else start.end()
    if start is None:
        value = parse_object(text, name)
        key = next((key for key in WRAPPERS if is_rows(value.get(key))), None)
        if key is None:
            yield Record(f"{name}:1", value)
            return
        del value  # the rows are decoded again, one by one, each with its line
        begin = start_of_array(key, text, decoder)
    position, line, counted = skip_space(text, begin), 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        values, position = decode_item(decoder, text, position, name)
        if not isinstance(values, dict):
            raise DataError(f"a row must be an object, this is {kind_of(values)}", where=f"{name}:{line}")
        yield Record(f"{name}:{line}", values)
        position = skip_space(text, position)
        if text[position : position + 1] == ",":
            position = skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise json_error(json.JSONDecodeError("Expecting ',' or ']'", text, position), name)


def start_of_array(key: str, text: str, decoder: json.JSONDecoder) -> int:
    """Where the array under a key of the one object begins, behind its bracket; the text is known to be sound.

    What stands before it is decoded: a key of the same name may lie deeper, or in a text.
    """
    position = text.index("{") + 1
    while True:
        name, position = decoder.raw_decode(text, skip_space(text, position))
        position = skip_space(text, skip_space(text, position) + 1)  # behind the colon
        if name == key:
            return position + 1
        position = skip_space(text, decoder.raw_decode(text, position)[1]) + 1  # behind the comma


def join_lines(lines: Iterator[tuple[int, str]]) -> str:
    """The whole text, blank lines that were passed over put back, so that places in it are those in the file."""
    parts: list[str] = []
    for number, line in lines:
        parts += ["\n"] * (number - 1 - len(parts))
        parts.append(line)
    return "".join(parts)


def parse_object(text: str, name: str) -> dict[str, Any]:
    """A text that is one JSON object."""
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        raise json_error(error, name) from error
    except (ValueError, RecursionError) as error:
        raise DataError(str(error), where=name) from error
    if not isinstance(value, dict):
        fix = "give an array of objects, or one object a line"
        raise DataError(f"this is {kind_of(value)}, not an array of objects", where=name, fix=fix)
    return value


def is_rows(value: Any) -> bool:
    """Whether a value is an array of objects."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def decode_item(decoder: json.JSONDecoder, text: str, position: int, name: str) -> tuple[Any, int]:
    """The value at a position, and where it ends."""
    try:
        value, end = decoder.raw_decode(text, position)
        if SURROGATE.search(text, position, end):
            check_unicode(value)
    except json.JSONDecodeError as error:
        raise json_error(error, name) from error
    except (ValueError, RecursionError) as error:
        raise DataError(str(error), where=f"{name}:{text.count(chr(10), 0, position) + 1}") from error
    return value, end


def json_error(error: json.JSONDecodeError, name: str) -> DataError:
    """The error for text that is not JSON, with line and column."""
    return DataError(f"this is not JSON: {error.msg}", where=f"{name}:{error.lineno}:{error.colno}")


def skip_space(text: str, position: int) -> int:
    """The position of the next character that is not white space."""
    while text[position : position + 1] and text[position] in " \t\r\n":
        position += 1
    return position


def read_table(file: BinaryIO, source: Source) -> Iterator[Record]:
    """Rows of csv with a header; tsv the same, its quotes being text where they do not come in pairs."""
    csv.field_size_limit(LONGEST_FIELD)
    lines = (line for _, line in read_lines(file, source.name))
    sample = [line for _, line in zip(range(SAMPLE_LINES), lines, strict=False)]
    again = chain(sample, lines)
    if source.format == "csv":
        reader = csv.reader(again, strict=True)
    else:
        is_quoted = has_paired_quotes(sample)
        if is_quoted:
            reader = csv.reader(again, delimiter="\t", strict=True)
        else:
            reader = csv.reader(again, delimiter="\t", quoting=csv.QUOTE_NONE)
    yield from table_rows(reader, source.name)


def has_paired_quotes(sample: list[str]) -> bool:
    """Whether quotes in a tsv file enclose fields: then every row has as many fields as the header."""
    try:
        widths = {len(row) for row in csv.reader(sample, delimiter="\t", strict=True) if row}
    except csv.Error:
        return False
    return len(widths) == 1


def table_rows(reader: Any, name: str) -> Iterator[Record]:
    """The rows below the header, by the header's names."""
    bad = BadLines(name)
    header: list[str] = []
    line = 1  # where the row begins: a field may hold line ends
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(str(error), where=f"{name}:{line}", fix="check the quotes") from error
        if row is None:
            break
        if not header and row:
            header = checked_header(row, name)
        elif row and len(row) != len(header):
            bad.add(line, f"{len(row)} fields, the header has {len(header)}")
        elif row and not bad.found:
            yield Record(f"{name}:{line}", dict(zip(header, row, strict=True)))
        line = reader.line_num + 1
    bad.check()


def checked_header(row: list[str], name: str) -> list[str]:
    """The names of the columns, each there once."""
    doubled = next((column for column in row if row.count(column) > 1), None)
    if doubled is not None:
        fix = "the first line must name the columns, each once"
        raise DataError(f"column '{doubled}' is named twice in the first line", where=f"{name}:1", fix=fix)
    return row


def read_parquet(file: BinaryIO, name: str) -> Iterator[Record]:
    """The rows of a parquet file, in batches; a row's place is its number from 1."""
    import pyarrow as pa  # noqa: PLC0415 - takes 30 MB, and is needed for such files alone
    import pyarrow.parquet as pq  # noqa: PLC0415

    number = 0
    try:
        for batch in pq.ParquetFile(cast(Any, file)).iter_batches(batch_size=256):
            for values in batch.to_pylist():
                number += 1
                yield Record(f"{name}:{number}", values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"this is not a parquet file that can be read ({error})", where=name) from error


def decode_file(source: Source) -> Iterator[str]:
    """The text of a source in blocks."""
    with open_bytes(source) as file:
        yield from read_blocks(file, source.name)
