"""Folders and archives alike; an archive that reaches outside of itself is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from llmkit.data.file_tree import open_tree
from llmkit.errors import DataError

FILES = {"data/a/1.txt": b"one", "data/b/2.txt": b"two", "__MACOSX/data/a/._1.txt": b"x", "data/.DS_Store": b"x"}


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tar.xz"])
def test_files_are_the_same_however_they_are_packed(tmp_path, kind):
    if kind == "folder":
        path = tmp_path / "folder"
        for name, data in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif kind == "zip":
        path = write_zip(tmp_path / "x.zip", FILES)
    else:
        path = write_tar(tmp_path / f"x.{kind}", FILES, f"w:{kind[4:]}")
    tree = open_tree(str(path))
    assert tree.names == ["data/a/1.txt", "data/b/2.txt"]
    assert tree.read("data/b/2.txt") == b"two"


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_compressed_file_is_unpacked_within_an_archive_as_in_a_folder(tmp_path, kind):
    write = write_zip if kind == "zip" else lambda path, files: write_tar(path, files, "w:gz")
    packed = gzip.compress(b"text,label\na,b\n")
    tree = open_tree(str(write(tmp_path / f"x.{kind}", {"train.csv.gz": packed, "cut.csv.gz": packed[:-9]})))
    assert tree.read("train.csv.gz") == b"text,label\na,b\n"
    with pytest.raises(DataError, match="damaged or cut short"):
        tree.read("cut.csv.gz")


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt"])
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_name_that_leads_out_of_the_archive_is_an_error(tmp_path, name, write):
    path = write(tmp_path / ("x.zip" if write is write_zip else "x.tar"), {name: b"x"})
    with pytest.raises(DataError, match="outside of itself"):
        open_tree(str(path))
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_in_an_archive_are_not_followed(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("passwords.txt")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DataError, match="no file in it"):
        open_tree(str(path))


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_damaged_archive_is_an_error(tmp_path, name):
    write = write_zip if name.endswith("zip") else lambda path, files: write_tar(path, files, "w:gz")
    path = write(tmp_path / name, {"a/1.txt": bytes(range(256)) * 50})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be read"):
        open_tree(str(path))
