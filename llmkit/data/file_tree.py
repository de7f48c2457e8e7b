"""The files of a folder or an archive by their names in it. An archive is read in memory: nothing goes to disk."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmkit.data.decoding import read_bytes
from llmkit.data.sources import PACKED, Source, unpack
from llmkit.errors import DataError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
MOST_BYTES = 8 << 30
"""An archive of more bytes, unpacked, is read from a folder."""
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip whose method of compression Python does not know
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    OSError,
)
CLUTTER = {"Thumbs.db", "desktop.ini"}
OUTER = ("", ".", "..")


@dataclass(frozen=True)
class FileTree:
    """The files below a folder, or of an archive, sorted by name. `folder` is None for an archive.

    Args:
        where: The folder or archive, for messages.
        names: `train/cat/1.png` ..., slashes between the parts.
        folder: Where the files lie on disk.
        contents: What an archive holds.
    """

    where: str
    names: list[str]
    folder: Path | None
    contents: dict[str, bytes]

    def read(self, name: str) -> bytes:
        """The bytes of a file, unpacked where they are gzip, say."""
        return read_bytes(self.folder / name) if self.folder else unpack_member(self.contents[name], self.place(name))

    def describe_left_out(self, names: Sequence[str]) -> list[str]:
        """That files were not read, where there are any."""
        shown = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
        return [f"left out: {len(names):,} other files ({shown})"] if names else []

    def place(self, name: str) -> str:
        """A file for messages: the path, or the archive and the name in it."""
        return f"{self.where}:{name}" if self.folder is None else str(self.folder / name)


def is_archive(source: str) -> bool:
    """Whether a name is that of an archive of files."""
    return source.lower().endswith(ARCHIVES)


def open_tree(source: str) -> FileTree:
    """A folder or an archive.

    Raises:
        DataError: It holds no file, is damaged, or names files outside of itself.
    """
    path = Path(source)
    if path.is_dir():
        names = sorted(
            file.relative_to(path).as_posix()
            for file in path.rglob("*")
            if file.is_file() and not is_clutter(file.relative_to(path).as_posix())
        )
        tree = FileTree(source, names, path, {})
    else:
        try:
            members = read_zip(path) if source.lower().endswith(".zip") else read_tar(path)
            contents = dict(sorted(members))
        except DAMAGED as error:
            fix = "check the file; it must be a .zip or .tar archive"
            raise DataError(f"this archive cannot be read ({error})", where=source, fix=fix) from error
        tree = FileTree(source, list(contents), None, contents)
    if not tree.names:
        raise DataError("there is no file in it", where=source, fix="give a folder or archive with files")
    return tree


def read_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a tar archive in one pass; links and devices are none."""
    total = 0
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile() or is_clutter(member.name):
                continue
            check_inside(member.name, path)
            total = add_size(total, member.size, path)
            file = archive.extractfile(member)
            yield str(PurePosixPath(member.name)), file.read() if file else b""


def read_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a zip archive."""
    total = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir() or is_clutter(member.filename):
                continue
            check_inside(member.filename, path)
            if member.flag_bits & 1:
                raise DataError("this archive is locked with a password", where=str(path), fix="unpack it first")
            total = add_size(total, member.file_size, path)
            yield str(PurePosixPath(member.filename)), archive.read(member)


def unpack_member(data: bytes, place: str) -> bytes:
    """The bytes of a file of an archive, through the decompressor that its first bytes ask for.

    Raises:
        DataError: The compressed data is damaged.
    """
    if not data.startswith(tuple(PACKED.values())):
        return data
    try:
        return unpack(io.BufferedReader(io.BytesIO(data)), Source(place, "text", None)).read()
    except DAMAGED as error:
        fix = "check this file of the archive"
        raise DataError(f"the compressed data is damaged or cut short ({error})", where=place, fix=fix) from error


def is_clutter(name: str) -> bool:
    """Whether a file is one that systems leave behind, or hidden."""
    parts = PurePosixPath(name).parts
    is_hidden = any(part.startswith(".") and part not in OUTER for part in parts)
    return is_hidden or "__MACOSX" in parts or parts[-1] in CLUTTER


def check_inside(name: str, path: Path) -> None:
    """Raise for a name that leads out of the archive: no archive of data has one."""
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise DataError(f"it names a file outside of itself, {name!r}", where=str(path), fix="do not use this archive")


def add_size(total: int, size: int, path: Path) -> int:
    """The bytes read so far, with this file's; raise where memory would not hold them."""
    if total + size > MOST_BYTES:
        raise DataError(f"it holds over {MOST_BYTES >> 30} GiB", where=str(path), fix="unpack it and give the folder")
    return total + size
