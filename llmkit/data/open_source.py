"""Whatever a source is, a table or pictures: files by endings and contents, folders and archives by their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmkit.data import hub, saved_set
from llmkit.data.arrays import idx_pair, is_idx, read_idx_tree, read_npz
from llmkit.data.decoding import decode, read_bytes
from llmkit.data.delimited import read_delimited
from llmkit.data.document import Record
from llmkit.data.documents import read_records
from llmkit.data.file_tree import FileTree, is_archive, open_tree
from llmkit.data.pictures import (
    Pictures,
    class_and_split,
    describe_resizing,
    find_picture_column,
    is_picture,
    join_pictures,
    picture_of_value,
    read_picture_tree,
    stack_pictures,
)
from llmkit.data.sources import find_sources, format_of
from llmkit.data.splits import SPLITS, split_in_name
from llmkit.data.table import Table, find_target, join_tables, table_of_records
from llmkit.data.text_forms import (
    bare_name,
    class_of_file,
    find_class_names,
    has_known_ending,
    one_file_per_class,
    read_class_names,
    read_lines_of_text,
    texts_of_class_files,
)
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData

PARQUET = ".parquet"
KNOWN = "pictures or .txt files in a folder per class, a file per class, idx files, or tables named train and test"


def open_source(data: BaselineData) -> Table | Pictures:
    """The rows of a source, and of files that were named for validation and test.

    Raises:
        DataError: There is nothing, or nothing that is known; it says what there is.
    """
    where = str(data.source)
    parts: list[Table | Pictures] = [read_source(where, data)]
    alike = same_header(parts[0], data)
    for split, named in (("validation", data.validation), ("test", data.test)):
        if isinstance(named, str):
            parts.append(read_source(named, alike).in_split(split))
    whole = join_parts(parts, where)
    if isinstance(whole, Table):
        whole = name_classes(whole, data)
    return whole


def same_header(first: Table | Pictures, data: BaselineData) -> BaselineData:
    """The section by which further files of a set are read: with a header where the first had one."""
    if data.header != "auto" or not isinstance(first, Table):
        return data
    return data.model_copy(update={"header": first.has_names})


def join_parts(parts: Sequence[Table | Pictures], where: str) -> Table | Pictures:
    """Parts of one source as one.

    Raises:
        DataError: Some are pictures and some rows, or a split is there twice.
    """
    tables = [part for part in parts if isinstance(part, Table)]
    pictures = [part for part in parts if isinstance(part, Pictures)]
    if tables and pictures:
        raise DataError("some of it are pictures, some rows", where=where, fix="give one of them")
    if len(parts) == 1:
        return parts[0]
    named = {split for part in parts[1:] for split in part.splits}
    clash = next((split for split in parts[0].splits if split in named), None)
    if clash:
        raise DataError(
            f"it has a {clash} split of its own", where=where, fix=f"leave data.{clash} out, or name the training file"
        )
    return join_tables(tables, where=where) if tables else join_pictures(pictures, where=where)


def read_source(source: str, data: BaselineData) -> Table | Pictures:
    """The rows of one source."""
    if hub.is_hub_name(source) or source.startswith("python-docs"):
        return read_rows_of(source, data)
    if saved_set.is_saved(source):
        return read_saved_set(source, data)
    path = Path(source)
    if not path.exists() and any(sign in source for sign in "*?["):
        return read_glob(source, data)
    if path.is_dir() or (is_archive(source) and path.is_file()):
        return read_tree(open_tree(source), data)
    if path.suffix.lower() == ".npz":
        return read_npz(source, data.image_size)
    if path.is_file() and is_idx(source):
        return read_idx_tree(idx_pair(source), data.image_size)
    if is_picture(source):
        fix = "give the folder that holds a folder of pictures for each class"
        raise DataError("this is a single picture", where=source, fix=fix)
    return read_file(source, data)


def read_saved_set(source: str, data: BaselineData) -> Table | Pictures:
    """The rows of a set that `datasets` has saved, its splits kept apart."""
    folders = saved_set.folders_of_splits(source)
    if not folders:
        return read_rows_of(source, data)
    parts = [read_rows_of(folder, data).in_split(split_in_name(name)) for name, folder in folders.items()]
    return join_parts_of_set(parts, source)


def read_glob(pattern: str, data: BaselineData) -> Table | Pictures:
    """The files that match a pattern: one per class, or parts of one table."""
    paths = [str(found.path) for found in find_sources([pattern])]
    names = {Path(path).name: path for path in paths}
    if len(paths) > 1 and one_file_per_class(list(names)) == sorted(names):
        return texts_of_class_files(
            {
                class_of_file(name, list(names)): decode(read_bytes(path), path, data.encoding)
                for name, path in names.items()
            }
        )
    return join_parts([read_file(path, data) for path in paths], pattern)


def read_file(source: str, data: BaselineData) -> Table | Pictures:
    """The rows of one file, by its ending, and by its content where that says nothing."""
    form = format_of(Path(source))
    if form in {"csv", "tsv"}:
        text = decode(read_bytes(source), source, data.encoding)
        return read_delimited(text, source, header=data.header, is_tsv=form == "tsv")
    if form in {"jsonl", "json", "parquet"} or not Path(source).is_file():
        return read_rows_of(source, data)
    content = read_bytes(source)
    if content.lstrip()[:1] in (b"{", b"["):
        return read_rows_of(source, data)
    return read_lines_of_text(decode(content, source, data.encoding), source, data)


def read_rows_of(source: str, data: BaselineData) -> Table | Pictures:
    """The rows of JSON, parquet, `datasets` or the built-in documentation; pictures where a column holds some."""
    if data.encoding.lower().replace("-", "") != "utf8":
        fix = "leave data.encoding out: JSON and parquet are always UTF-8"
        raise DataError(f"this is no file in {data.encoding}", where=source, fix=fix)
    records = list(read_records(source))
    if not records:
        raise DataError("there are no rows in it", where=source, fix="name a file with rows")
    names = label_names(source)
    column = find_picture_column(records)
    if column is not None:
        return pictures_of_records(records, column, source, data, names)
    table = table_of_records(records)
    return replace(table, class_names=names.get(find_target(table, data), {})) if names else table


def pictures_of_records(
    records: Sequence[Record], column: str, source: str, data: BaselineData, names: dict[str, dict[str, str]]
) -> Pictures:
    """The pictures in a column, and the label beside each."""
    table = table_of_records(records)
    others = replace(table, names=[name for name in table.names if name != column])
    if not others.names:
        raise DataError("there is no column of labels beside the pictures", where=source, fix="add a column `label`")
    target = find_target(others, data)
    size = (data.image_size, data.image_size) if data.image_size else None
    arrays = ((record.where, picture_of_value(record.values.get(column), record.where, size)) for record in records)
    pixels = stack_pictures(arrays, where=source)
    notes = [f"pictures: column {column}; classes: column {target}", *describe_resizing(data.image_size)]
    unused = [name for name in others.names if name != target]
    notes += [f"not used: {', '.join(unused)}"] if unused else []
    labels = others.column(target)
    return Pictures(pixels, labels, [""] * len(labels), tuple(notes), names.get(target, {}))


def label_names(source: str) -> dict[str, dict[str, str]]:
    """Column -> number -> name, as `datasets` keeps them for classes in parquet files and on the hub."""
    if hub.is_hub_name(source):
        with hub.hub_errors(source):
            found = class_names_of(hub.open_hub(source).features or {})
    elif saved_set.is_saved(source):
        found = class_names_of(saved_set.open_saved(source).features)
    elif source.lower().endswith(PARQUET):
        import pyarrow.parquet as pq  # noqa: PLC0415 - see read_parquet

        metadata = pq.read_schema(source).metadata or {}
        stored = json.loads(metadata.get(b"huggingface", b"{}"))
        features = stored.get("info", {}).get("features", {})
        found = {name: feature.get("names") for name, feature in features.items() if isinstance(feature, dict)}
    else:
        return {}
    return {column: {str(i): str(name) for i, name in enumerate(names)} for column, names in found.items() if names}


def class_names_of(features: Mapping[str, Any]) -> dict[str, Any]:
    """Column -> the names of its classes, or None, by what `datasets` knows of the columns."""
    return {name: getattr(feature, "names", None) for name, feature in features.items()}


def read_tree(tree: FileTree, data: BaselineData) -> Table | Pictures:
    """The rows of a folder or archive, by what is in it."""
    if any(is_idx(name) for name in tree.names):
        return read_idx_tree(tree, data.image_size)
    if any(is_picture(name) for name in tree.names):
        return read_picture_tree(tree, data.image_size)
    split_files = [name for name in tree.names if split_in_name(bare_name(name)) and is_rows_file(name)]
    if split_files:
        return read_split_files(tree, split_files, data)
    texts = [name for name in tree.names if name.lower().endswith(".txt") and class_and_split(name)[0]]
    if len({class_and_split(name)[0] for name in texts}) > 1:
        return read_class_folders(tree, texts, data)
    top = [name for name in tree.names if "/" not in name]
    per_class = one_file_per_class(top) or [name for name in top if name.lower().endswith(".txt")]
    if len(per_class) > 1:
        files = {class_of_file(name, per_class): decode_member(tree, name, data) for name in per_class}
        table = texts_of_class_files(files)
        others = [name for name in tree.names if name not in per_class]
        return replace(table, notes=(*table.notes, *tree.describe_left_out(others)))
    rows = [name for name in tree.names if is_rows_file(name)]
    if rows:
        whole = join_parts_of_set([read_member(tree, name, data) for name in rows], tree.where)
        return replace(whole, notes=(f"files: {', '.join(rows)}", *whole.notes))
    shown = ", ".join(tree.names[:6]) + (" ..." if len(tree.names) > 6 else "")
    raise DataError(f"it is not plain what its files are: {shown}", where=tree.where, fix=f"known: {KNOWN}")


def is_rows_file(name: str) -> bool:
    """Whether a file may hold labelled rows: a table, JSON, or a text that is not about the labels of another."""
    bare = bare_name(name).lower()
    is_beside = any(word in bare for word in ("labels", "mapping", "classes", "readme", "license"))
    return not is_beside and (has_known_ending(name) or split_in_name(bare) != "")


def read_split_files(tree: FileTree, names: Sequence[str], data: BaselineData) -> Table | Pictures:
    """Files named train, dev or test, each a split."""
    # Training files first: they are the largest, and what is recognised in them holds for all.
    ordered = sorted(names, key=lambda name: SPLITS.index(split_in_name(bare_name(name))))
    first = read_member(tree, ordered[0], data)
    others = [read_member(tree, name, same_header(first, data)) for name in ordered[1:]]
    parts = [
        part.in_split(split_in_name(bare_name(name))) for part, name in zip([first, *others], ordered, strict=True)
    ]
    whole = join_parts_of_set(parts, tree.where)
    unread = [name for name in tree.names if name not in names and is_rows_file(name)]
    return replace(whole, notes=(f"files: {', '.join(ordered)}", *whole.notes, *tree.describe_left_out(unread)))


def join_parts_of_set(parts: Sequence[Table | Pictures], where: str) -> Table | Pictures:
    """Files of one folder as one set."""
    tables = [part for part in parts if isinstance(part, Table)]
    if len(tables) == len(parts):
        return join_tables(tables, where=where)
    return join_pictures([part for part in parts if isinstance(part, Pictures)], where=where)


def read_member(tree: FileTree, name: str, data: BaselineData) -> Table | Pictures:
    """The rows of one file of a folder or archive; of an archive csv, tsv and plain texts."""
    if tree.folder is not None:
        return read_file(str(tree.folder / name), data)
    form, place = format_of(Path(name)), tree.place(name)
    if form in {"jsonl", "json", "parquet"}:
        fix = "unpack it and give the folder"
        raise DataError("JSON and parquet are not read from archives", where=place, fix=fix)
    text = decode_member(tree, name, data)
    if form in {"csv", "tsv"}:
        return read_delimited(text, place, header=data.header, is_tsv=form == "tsv")
    return read_lines_of_text(text, place, data)


def decode_member(tree: FileTree, name: str, data: BaselineData) -> str:
    """The text of a file of a folder or archive."""
    return decode(tree.read(name), tree.place(name), data.encoding)


def read_class_folders(tree: FileTree, names: Sequence[str], data: BaselineData) -> Table:
    """A text per file, the folder it lies in its class."""
    places = [class_and_split(name) for name in names]
    rows = [
        {"label": label, "text": decode_member(tree, name, data)}
        for name, (label, _) in zip(names, places, strict=True)
    ]
    others = sorted(set(tree.names) - set(names))
    notes = ("form: a folder per class, a text per file", *tree.describe_left_out(others))
    splits = [split for _, split in places]
    return Table(rows, ["label", "text"], splits, target="label", texts=("text",), notes=notes)


def name_classes(table: Table, data: BaselineData) -> Table:
    """The table with the names of its classes, from the file that was named or one beside the source."""
    source = str(data.source)
    path = Path(source)
    beside = str(path / "rows") if path.is_dir() else source
    file = find_class_names(beside, data)
    if file is None or (data.class_names is None and not path.exists()):
        return table
    target = find_target(table, data)
    labels = {str(value).strip() for value in table.column(target)}
    names = read_class_names(decode(read_bytes(file), str(file), data.encoding), labels)
    if names is None:
        if data.class_names is None:
            return table
        raise DataError(
            f"these are no names for the classes {', '.join(sorted(labels)[:8])}",
            where=str(file),
            fix="give one name a line, in the order of the numbers, or a number and a name in each line",
        )
    return replace(table, class_names=names, notes=(*table.notes, f"names of the classes: {file.name}"))
