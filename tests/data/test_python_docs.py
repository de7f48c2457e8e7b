"""The built-in data: enough of it, the same each time, and no text in two splits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from llmkit.data import python_docs
from llmkit.data.python_docs import LABELS, SPLITS, split_of
from llmkit.data.python_questions import trim
from llmkit.data.python_source import COMPILED, read_modules, read_topics
from llmkit.errors import UsageError


def test_there_are_about_thirteen_megabytes_of_documents():
    sizes = {split: sum(len(d.text.encode()) for d in python_docs.documents(split)) for split in SPLITS}
    assert 9e6 < sum(sizes.values()) < 18e6
    assert all(0.02 < sizes[split] / sum(sizes.values()) < 0.08 for split in ("validation", "test"))


def test_topics_documentation_and_source_are_all_there():
    sources = {document.source for document in python_docs.documents()}
    assert {
        "python-docs:topics/lambda",
        "python-docs:help/json",
        "python-docs:source/json",
        "python-docs:help/math",
    } <= sources
    assert not any("/test." in source or ".tests" in source for source in sources)


def test_documents_are_named_once_and_said_once():
    documents = list(python_docs.documents())
    assert len({d.source for d in documents}) == len({d.text for d in documents}) == len(documents)


def test_there_are_over_five_thousand_instructions_in_several_phrasings():
    rows = python_docs.instructions("train")
    assert len(rows) > 5000
    starts = Counter(" ".join(row["instruction"].split()[:2]) for row in rows)
    assert sum(count > 100 for count in starts.values()) >= 8
    assert any(row["input"] for row in rows)
    assert not all(row["input"] for row in rows)


def test_the_answer_is_the_real_documentation():
    answers = {row["output"] for split in SPLITS for row in python_docs.instructions(split)}
    assert "Return the number of items in a container." in answers  # len
    assert max(map(len, answers)) <= 600


def test_questions_and_answers_are_in_one_split_each():
    for kind, column in (("instructions", "output"), ("labelled", "text")):
        seen: dict[str, str] = {}
        for split in SPLITS:
            for row in getattr(python_docs, kind)(split):
                assert seen.setdefault(row[column], split) == split


def test_no_module_is_in_two_splits():
    modules = {split: {item.module for item in python_docs.items(split)} for split in SPLITS}
    assert not modules["train"] & modules["validation"]
    assert not modules["train"] & modules["test"]
    assert not modules["validation"] & modules["test"]
    for document in python_docs.documents("test"):
        kind, _, name = document.source.removeprefix("python-docs:").partition("/")
        assert kind == "topics" or name not in modules["train"]


def test_sections_of_a_chapter_are_in_its_split():
    topics = read_topics()
    assert topics["if"].split("\n\n")[-1].strip() in topics["compound"]
    assert python_docs.topic_group("if") == python_docs.topic_group("while") == python_docs.topic_group("compound")


def test_splits_do_not_move_when_there_are_more_modules():
    names = [module.name for module in read_modules()]
    before = {name: split_of(name) for name in names[::2]}
    assert {name: split_of(name) for name in names} | before == {name: split_of(name) for name in names}


def test_dialogues_have_three_turns_about_one_thing():
    rows = python_docs.dialogues("train")
    assert len(rows) > 2000
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles[-6:] == ["user", "assistant"] * 3
        assert roles[:-6] in ([], ["system"])
        assert all(message["content"].strip() for message in row["messages"])


def test_every_package_has_labelled_rows_in_every_split():
    assert 8 <= len(LABELS) <= 12
    for split in SPLITS:
        counts = Counter(row["label"] for row in python_docs.labelled(split))
        assert set(counts) == set(LABELS)
        assert max(counts.values()) <= 5 * min(counts.values())


def test_labelled_texts_do_not_name_a_package():
    for split in SPLITS:
        words = {word for row in python_docs.labelled(split) for word in row["text"].lower().replace(".", " ").split()}
        assert not words & set(LABELS)


IN_ANOTHER_PROCESS = """
import json, sys
from llmkit.data import python_docs
before = set(sys.modules)
texts = [document.text for document in python_docs.documents("test")]
imported = sorted(set(sys.modules) - before)
rows = [python_docs.instructions("test"), python_docs.dialogues("test"), python_docs.labelled("test")]
print(json.dumps([imported, texts, rows]))
"""


@pytest.fixture(scope="module")
def another_process():
    """What another process imported while it read, and the data it made."""
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_every_process_makes_the_same_data(another_process):
    _, texts, rows = another_process
    assert texts == [document.text for document in python_docs.documents("test")]
    assert rows == [python_docs.instructions("test"), python_docs.dialogues("test"), python_docs.labelled("test")]


def test_reading_runs_nothing_of_the_library(another_process):
    imported, _, _ = another_process
    assert [name for name in imported if name not in COMPILED and not name.startswith(("_", "encodings."))] == []


def test_an_unknown_split_is_an_error():
    with pytest.raises(UsageError, match="no split 'dev'"):
        python_docs.instructions("dev")


def test_answers_are_cut_after_whole_paragraphs_or_sentences():
    assert trim("One. Two.\n\nThree.", 12) == "One. Two."
    assert trim("One. Two three four.", 12) == "One."
    assert trim("  short  ", 12) == "short"
