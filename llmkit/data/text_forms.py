"""Labelled texts that are no tables: label and text in a line, a file per class, a label file beside the texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from llmkit.data.decoding import decode, read_bytes, split_lines
from llmkit.data.delimited import read_delimited
from llmkit.data.records import BadLines
from llmkit.data.sources import FORMATS, PACKED
from llmkit.data.splits import split_in_name
from llmkit.data.table import Table
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData

LABEL_COLON = re.compile(r"(?P<label>[^\s:]{1,40}):(?P<fine>[^\s:]*)\s+(?P<text>.*\S)\s*")
MOSTLY = 0.95
"""Share of the lines that must have a form for a file to be of this form; the others are errors."""
MOST_LABELS = 200
FORMS = (
    "label TAB text, LABEL:text, one text a line with a file of labels beside it (data.labels), or one file per class"
)


def bare_name(name: str) -> str:
    """A file's name without the ending of a compression."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in PACKED else path.name


def has_known_ending(name: str) -> bool:
    """Whether a name ends like a table, JSON, or plain text."""
    return PurePosixPath(bare_name(name)).suffix.lower() in FORMATS


def read_lines_of_text(text: str, path: str, data: BaselineData) -> Table:
    """A plain file of labelled texts in whatever form it has: tabs, labels before a colon, files beside it.

    Raises:
        DataError: It is of no known form; the forms are named.
    """
    lines = split_lines(text)
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise DataError("there is no text in it", where=path, fix="give a file with texts")
    labels = find_labels(path, data)
    if labels is not None:
        return join_labels(lines, path, labels, data)
    if sum("\t" in line for line in filled) >= MOSTLY * len(filled):
        return read_delimited(text, path, header=data.header, is_tsv=True)
    if has_labels_before_colons(filled):
        return read_label_colon(lines, path)
    siblings = class_files_beside(path)
    if len(siblings) > 1:
        names = [Path(name).name for name in siblings]
        return texts_of_class_files(
            {class_of_file(name, names): decode(read_bytes(name), name, data.encoding) for name in siblings}
        )
    fix = f"known: {FORMS}; to learn to write such a text: --set data.task=language"
    raise DataError("this is plain text, and it is not plain where its labels are", where=path, fix=fix)


def has_labels_before_colons(lines: Sequence[str]) -> bool:
    """Whether lines begin with a label and a colon, few labels for many lines."""
    found = [match["label"] for line in lines if (match := LABEL_COLON.fullmatch(line))]
    counts = Counter(found)
    return len(found) >= MOSTLY * len(lines) and len(counts) <= min(MOST_LABELS, max(2, len(found) // 3))


def read_label_colon(lines: Sequence[str], path: str) -> Table:
    """Lines as `LABEL:text`, or `LABEL:fine text` with a finer label of its own column."""
    bad, rows = BadLines(path), []
    for number, line in enumerate(lines, start=1):
        match = LABEL_COLON.fullmatch(line)
        if match is None:
            if line.strip():
                bad.add(number, "there is no label with a colon before the text")
            continue
        rows.append({"label": match["label"], "fine": f"{match['label']}:{match['fine']}", "text": match["text"]})
    bad.check()
    notes = ["form: a label and a colon before each text"]
    if all(row["fine"].endswith(":") for row in rows):
        rows = [{"label": row["label"], "text": row["text"]} for row in rows]
    else:
        count = len({row["fine"] for row in rows})
        notes.append(f"behind the colon stand {count} finer labels: --set data.target=fine for these")
    return Table(rows, list(rows[0]), [""] * len(rows), target="label", texts=("text",), notes=tuple(notes))


def class_files_beside(path: str) -> list[str]:
    """The files of the same name with other endings, none of them a known format or a split: rt-polarity.pos, .neg."""
    own = Path(path)
    if not own.suffix or not own.is_file():
        return []
    names = [file.name for file in own.parent.iterdir() if file.is_file()]
    return [str(own.parent / name) for name in one_file_per_class(names) if PurePosixPath(name).stem == own.stem]


def one_file_per_class(names: Sequence[str]) -> list[str]:
    """Those of these names that differ from another in nothing but an ending which may be a class, sorted."""
    able = [name for name in names if not has_known_ending(name) and PurePosixPath(name).suffix]
    able = [name for name in able if not split_in_name(PurePosixPath(name).suffix) and bare_name(name) == name]
    stems = Counter(PurePosixPath(name).stem for name in able)
    return sorted(name for name in able if stems[PurePosixPath(name).stem] > 1)


def class_of_file(name: str, names: Sequence[str]) -> str:
    """What a file's class is called: its ending where the stems are all alike, else its stem."""
    path = PurePosixPath(bare_name(name))
    is_alike = len({PurePosixPath(bare_name(other)).stem for other in names}) == 1
    return path.suffix[1:] if is_alike else path.stem


def texts_of_class_files(files: Mapping[str, str], *, split: str = "") -> Table:
    """Class -> the text of its file, one row a line."""
    rows = [
        {"label": label, "text": line} for label, text in files.items() for line in split_lines(text) if line.strip()
    ]
    note = f"form: a file per class ({', '.join(files)}), a text per line"
    return Table(rows, ["label", "text"], [split] * len(rows), target="label", texts=("text",), notes=(note,))


def beside(path: str, words: Sequence[str]) -> Path | None:
    """The file beside one whose name speaks of texts, that is named alike but with one of these words for `text`."""
    own = Path(path)
    names = {bare_name(file.name): file for file in sorted(own.parent.glob("*")) if file.is_file()}
    bare = bare_name(own.name)
    wanted = [re.sub("texts?", word, bare) for word in words if "text" in bare]
    return next((names[name] for name in wanted if name in names), None)


def find_labels(path: str, data: BaselineData) -> Path | None:
    """The file with the labels of a file of texts: the one named, or the one beside it."""
    if data.labels is not None and path == str(data.source):
        return Path(data.labels)
    return beside(path, ("labels", "label"))


def join_labels(lines: Sequence[str], path: str, labels: Path, data: BaselineData) -> Table:
    """Texts and labels, line by line.

    Raises:
        DataError: They are not equally many.
    """
    found = [line.strip() for line in split_lines(decode(read_bytes(labels), str(labels), data.encoding))]
    if len(found) != len(lines):
        raise DataError(
            f"{len(found):,} labels for {len(lines):,} texts",
            where=str(labels),
            fix=f"give one label for each line of {path}",
        )
    rows = [{"label": label, "text": line} for label, line in zip(found, lines, strict=True)]
    notes = (f"form: a text per line, the labels in {labels.name}",)
    return Table(rows, ["label", "text"], [""] * len(rows), target="label", texts=("text",), notes=notes)


def find_class_names(path: str, data: BaselineData) -> Path | None:
    """The file with the names of classes: the one named, classes.txt beside a file, or a mapping beside a text."""
    if data.class_names is not None:
        return Path(data.class_names)
    known = [Path(path).parent / name for name in ("classes.txt", "class_names.txt", "mapping.txt")]
    return beside(path, ("mapping", "classes")) or next((file for file in known if file.is_file()), None)


def read_class_names(text: str, labels: set[str]) -> dict[str, str] | None:
    """Label -> name, from lines `number TAB name` or from names in the order of labels 0, 1 ... or 1, 2 ...

    None where the labels are other ones, or two names are the same.
    """
    lines = [line.strip() for line in split_lines(text) if line.strip()]
    pairs = [re.split(r"\s+", line) for line in lines]
    if all(len(pair) > 1 and pair[0].lstrip("-").isdigit() for pair in pairs):
        # tweets: number, sign, name: the last says most.
        names = {pair[0]: pair[-1].strip("_") or pair[1] for pair in pairs}
        return names if is_naming(names, labels) else None
    if not all(label.isdigit() for label in labels):
        return None
    start = 0 if "0" in labels else 1
    names = {str(i): line for i, line in enumerate(lines, start=start)}
    return names if is_naming(names, labels) else None


def is_naming(names: Mapping[str, str], labels: set[str]) -> bool:
    """Whether each label has a name, and each its own."""
    return labels <= set(names) and len(set(names.values())) == len(names)
