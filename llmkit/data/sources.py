"""Files, streams and globs as strictly decoded text: an invalid byte is an error that names its place."""

from __future__ import annotations

import codecs
import glob
import gzip
import importlib.util
import io
import lzma
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from llmkit.console import say
from llmkit.errors import DataError

BLOCK = 1 << 20
"""Bytes that are read at once."""
PACKED_BLOCK = 1 << 14
PROBE = 8192
LIKE_LATIN_1 = {
    "latin_1",
    "cp1250",
    "cp1252",
    "cp1254",
    "cp1257",
    "cp1258",
    "cp850",
    "cp858",
    "mac_roman",
    "cp437",
    "cp775",
}
FORMATS = {
    ".txt": "text", ".md": "text", ".markdown": "text", ".rst": "text",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
}  # fmt: skip
PACKED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".xz": b"\xfd7zXZ\x00"}
"""Suffixes of compressed files, and how such a file begins: what counts is the beginning."""
ARCHIVES = {".zip": b"PK\x03\x04", ".7z": b"7z\xbc\xaf", ".bz2": b"BZh"}
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Source:
    """A file or stdin (`-`), its name for messages, and its format: text, jsonl, json, csv, tsv, parquet."""

    name: str
    format: str
    path: Path | None = None

    @property
    def is_stdin(self) -> bool:
        """Whether this is standard input."""
        return self.path is None


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The files behind files, folders (all the way down), globs and `-`, folders and globs sorted.

    Raises:
        DataError: One of them is missing, or a folder or glob holds no file that can be read.
    """
    found: list[Source] = []
    for text in inputs:
        path = Path(text)
        if text == "-":
            found.append(Source("stdin", "text"))
        elif path.is_dir():
            found += folder_sources(path)
        elif path.exists():
            found.append(Source(text, format_of(path) or "text", path))
        else:
            found += glob_sources(text)
    return found


def folder_sources(folder: Path) -> list[Source]:
    """The files of known kinds below a folder, sorted; what is left out is told."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path, folder))
    known = without_empty(folder, [Source(str(path), kind, path) for path in files if (kind := format_of(path))])
    if not known:
        suffixes = ", ".join(FORMATS)
        raise DataError("no file here is of a kind that is read", where=str(folder), fix=f"known kinds: {suffixes}")
    others = [path.suffix or path.name for path in files if not format_of(path)]
    if others:
        say(f"{folder}: left out {len(others)} files of other kinds ({', '.join(sorted(set(others))[:8])})")
    return known


def without_empty(place: str | Path, sources: list[Source]) -> list[Source]:
    """Those of many files that hold a byte; how many do not is told. A file that is named alone must hold some."""
    empty = [source.name for source in sources if source.path is not None and source.path.stat().st_size == 0]
    if 0 < len(empty) < len(sources):
        more = ", ..." if len(empty) > 1 else ""
        say(f"{place}: left out {len(empty)} empty files ({empty[0]}{more})")
        return [source for source in sources if source.name not in empty]
    return sources


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether the file or a folder between is hidden."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def glob_sources(pattern: str) -> list[Source]:
    """The files that match a pattern, sorted, whatever their kind."""
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not files:
        is_pattern = any(sign in pattern for sign in "*?[")
        message = "no file matches this pattern" if is_pattern else "there is no such file or folder"
        raise DataError(message, where=pattern, fix="check the path; hub data sets are written hf:owner/name")
    return without_empty(pattern, [Source(str(path), format_of(path) or "text", path) for path in files])


def format_of(path: Path) -> str | None:
    """The format by the name's ending, that of the compression aside; None when it is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


@contextmanager
def open_bytes(source: Source) -> Iterator[BinaryIO]:
    """The unpacked bytes of a source. What a damaged archive raises while being read becomes a DataError.

    Raises:
        DataError: The file is empty, an archive of files, or needs a package that is not installed.
    """
    raw = sys.stdin.buffer if source.path is None else source.path.open("rb")
    try:
        file = raw if hasattr(raw, "peek") else io.BufferedReader(cast(io.RawIOBase, raw))
        yield unpack(file, source)
    except Exception as error:
        if not isinstance(error, (*DAMAGED, *zstd_errors())):
            raise
        raise DataError(f"the compressed data is damaged or cut short ({error})", where=source.name) from error
    finally:
        if source.path is not None:
            raw.close()


def zstd_errors() -> tuple[type[Exception], ...]:
    """What zstandard raises at damaged data, once it is in use."""
    return (sys.modules["zstandard"].ZstdError,) if "zstandard" in sys.modules else ()


def unpack(file: IO[bytes], source: Source) -> BinaryIO:
    """The file, through the decompressor that its first bytes ask for."""
    begin = cast(io.BufferedReader, file).peek(8)[:8]
    if not begin:
        raise DataError("this is empty", where=source.name, fix="give a file with text in it")
    for suffix, magic in ARCHIVES.items():
        if begin.startswith(magic):
            raise DataError(f"this is a {suffix} archive", where=source.name, fix="unpack it and give the folder")
    if begin.startswith(PACKED[".gz"]):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if begin.startswith(PACKED[".xz"]):
        return cast(BinaryIO, lzma.LZMAFile(file))
    if begin.startswith(PACKED[".zst"]):
        if importlib.util.find_spec("zstandard") is None:
            raise DataError("reading .zst needs zstandard", where=source.name, fix='pip install "llmkit[zstd]"')
        return cast(BinaryIO, io.BufferedReader(ZstdFrames(file)))
    return cast(BinaryIO, file)


class ZstdFrames(io.RawIOBase):
    """The unpacked bytes of all frames of a .zst file; zstandard's own reader takes one that is cut short for whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.pieces = self.unpack()
        self.piece = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.piece:
            piece = next(self.pieces, None)
            if piece is None:
                return 0
            self.piece = piece
        count = min(len(buffer), len(self.piece))
        buffer[:count], self.piece = self.piece[:count], self.piece[count:]
        return count

    def unpack(self) -> Iterator[bytes]:
        """The frames' contents, piece by piece."""
        zstandard = importlib.import_module("zstandard")
        data = self.file.read(PACKED_BLOCK)
        while data:
            frame = zstandard.ZstdDecompressor().decompressobj()
            while not frame.eof:
                if not data:
                    raise EOFError("the last frame has no end")
                yield frame.decompress(data)
                data = frame.unused_data if frame.eof else self.file.read(PACKED_BLOCK)
            data = data or self.file.read(PACKED_BLOCK)


def read_blocks(file: BinaryIO, name: str) -> Iterator[str]:
    """The text in blocks of about a mebibyte, without a byte order mark.

    Raises:
        DataError: A byte that is not UTF-8, with its offset and line, and the likely encoding.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset = 0  # of the next byte to be read
    lines = 1
    while True:
        block = file.read(BLOCK)
        if offset == 0 and block.startswith(codecs.BOM_UTF8):
            block, offset = block[3:], 3
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            pending = len(error.object) - len(block)  # the beginning of a character at the end of the block before
            raise not_utf8(error, offset - pending, lines, name) from error
        offset += len(block)
        lines += text.count("\n")
        if text:
            check_is_text(text, name)
            yield text
        if not block:
            return


def check_is_text(text: str, name: str) -> None:
    """Raise for what no text has near its beginning: NUL."""
    place = text.find("\0", 0, PROBE)
    if place >= 0:
        raise DataError(f"this is not text (a NUL at character {place})", where=name, fix="give text in UTF-8")


def not_utf8(error: UnicodeDecodeError, offset: int, lines: int, name: str) -> DataError:
    """The error for bytes that are not UTF-8. `offset` is where the bytes that were being decoded begin."""
    data = error.object
    line = lines + data.count(b"\n", 0, error.start)
    encoding = guess_encoding(data[max(0, error.start - 2000) : error.start + 20000])
    hint = f"it looks like {encoding}: iconv -f {encoding} -t utf-8 FILE > NEW" if encoding else "this is no text"
    message = f"byte 0x{data[error.start]:02x} at offset {offset + error.start} is not UTF-8 ({error.reason})"
    return DataError(message, where=f"{name}:{line}", fix=hint)


def guess_encoding(data: bytes) -> str | None:
    """The likely encoding of bytes that are not UTF-8; None for what does not look like text."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\x00" in data[:1000]:
        return None
    if importlib.util.find_spec("charset_normalizer") is None:
        return "cp1252"
    best = importlib.import_module("charset_normalizer").from_bytes(data).best()
    if best is None or best.encoding in {"utf_8", "ascii", *LIKE_LATIN_1}:
        return "cp1252"  # how Western text is mostly written; the others of its family are rare, and look the same
    return str(best.encoding).replace("_", "-")


def read_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    r"""(line number from 1, line with its ending); lines end at \n alone: others, like U+2028, are text."""
    number = 0
    rest: list[str] = []
    for block in read_blocks(file, name):
        pieces = block.split("\n")
        for piece in pieces[:-1]:
            number += 1
            yield number, "".join([*rest, piece, "\n"])
            rest = []
        if pieces[-1]:
            rest.append(pieces[-1])
    if rest:
        yield number + 1, "".join(rest)
