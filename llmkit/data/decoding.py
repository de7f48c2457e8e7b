"""Files as a whole: their bytes, unpacked, and their text in the encoding that was asked for."""

from __future__ import annotations

import codecs
from pathlib import Path

from llmkit.data.sources import Source, check_is_text, find_sources, guess_encoding, open_bytes
from llmkit.errors import DataError

COMMON = "--set data.encoding=cp1252 (Windows, Western Europe), or latin-1"


def read_bytes(path: str | Path) -> bytes:
    """The unpacked bytes of a file, or of standard input for `-`.

    Raises:
        DataError: There is no such file, it is empty, or damaged.
    """
    if str(path) != "-" and not Path(path).is_file():
        found = find_sources([str(path)])  # raises where there is nothing
        raise DataError(f"this is {len(found)} files, and one is needed", where=str(path), fix="name one file")
    with open_bytes(Source(str(path), "text", None if str(path) == "-" else Path(path))) as file:
        return file.read()


def check_encoding(encoding: str) -> None:
    """Raise for an encoding that there is not."""
    try:
        codecs.lookup(encoding)
        "".encode(encoding)
    except (LookupError, ValueError) as error:
        raise DataError(
            f"there is no encoding {encoding!r} of texts", where="data.encoding", fix="use utf-8, latin-1 or cp1252"
        ) from error


def decode(data: bytes, name: str, encoding: str) -> str:
    """Bytes as text, without a byte order mark.

    Raises:
        DataError: A byte that this encoding does not have, with its line and an encoding that may be meant; or a text
            in UTF-8 that another encoding would turn into other signs.
    """
    check_encoding(encoding)
    check_not_utf8(data, name, encoding)
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        guess = guess_encoding(data[max(0, error.start - 2000) : error.start + 20000])
        fix = COMMON if guess in (None, "cp1252", encoding) else f"--set data.encoding={guess}, or cp1252, or latin-1"
        raise DataError(
            f"byte 0x{data[error.start]:02x} at offset {error.start} is not {encoding} ({error.reason})",
            where=f"{name}:{line}",
            fix=fix if codecs.lookup(encoding).name == "utf-8" else f"{fix}; or leave data.encoding at utf-8",
        ) from error
    check_is_text(text, name)
    return text


def check_not_utf8(data: bytes, name: str, encoding: str) -> None:
    """Raise where one byte a sign was asked for, and the bytes are UTF-8: each sign beyond ASCII would become two."""
    if len("é".encode(encoding, "ignore")) != 1 or data.isascii():
        return
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return
    raise DataError(f"this is UTF-8, not {encoding}", where=name, fix="leave data.encoding at utf-8")


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, which end at \n or \r\n alone: other signs of a line's end are text."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines
