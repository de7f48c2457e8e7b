"""Sentences and news with a label each: SST-2, AG News, TREC, CoLA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from llmkit.evaluation.columns import as_text
from llmkit.evaluation.task import PlainRow
from llmkit.evaluation.task_file import TaskFile
from llmkit.evaluation.tasks.built_in import BuiltIn
from llmkit.evaluation.tasks.forms import Form, Lines, Said, number_of, read_examples, table_rows

SENTIMENTS = ("negative", "positive")
TOPICS = ("World", "Sports", "Business", "Technology")
TREC_TYPES = {
    "ABBR": "abbreviation",
    "ENTY": "entity",
    "DESC": "description",
    "HUM": "person",
    "LOC": "location",
    "NUM": "number",
}
"""Coarse types by the marks of the release, in the order of the hub's numbers."""
TREC_LABELS = tuple(TREC_TYPES.values())
YES_NO = ("no", "yes")


def labelled(labels: Sequence[str], text: str, label: str, first: int = 0) -> Form:
    """Rows with a text and the number of its label, counted from `first`."""

    def read(values: Mapping[str, Any]) -> Said:
        return Said(
            fields={"question": as_text(values[text])}, choices=tuple(labels), answer=number_of(values[label]) - first
        )

    return Form((text, label), read)


def sst2_lines(lines: Lines) -> Iterator[PlainRow]:
    """Sentence, tab, label; with a header in GLUE."""
    return table_rows(lines, ("sentence", "label"), delimiter="\t")


def cola_lines(lines: Lines) -> Iterator[PlainRow]:
    """Source, label, the author's mark (or nothing), sentence, with tabs between them."""
    return table_rows(lines, ("source", "label", "mark", "sentence"), delimiter="\t")


def ag_news_lines(lines: Lines) -> Iterator[PlainRow]:
    """Number of the topic from 1, title, description."""
    for row in table_rows(lines, ("class index", "title", "description")):
        # A backslash stands for a line end in the release.
        values = {name: text.replace("\\", " ").strip() for name, text in row.values.items()}
        yield PlainRow(row.where, values)


def ag_news_table(values: Mapping[str, Any]) -> Said:
    """A row of the release: title and description together, as the hub has them."""
    text = f"{values['title']} {values['description']}"
    return Said(fields={"question": text}, choices=TOPICS, answer=number_of(values["class index"]) - 1)


def trec_lines(lines: Lines) -> Iterator[PlainRow]:
    """`COARSE:fine question` in each line."""
    for where, line in lines:
        if line.strip():
            label, _, text = line.strip().partition(" ")
            yield PlainRow(where, {"type": label.partition(":")[0], "text": text})


def trec_line(values: Mapping[str, Any]) -> Said:
    """A row of the release."""
    return Said(fields={"question": values["text"]}, choices=TREC_LABELS, answer=list(TREC_TYPES).index(values["type"]))


LABELS = (
    BuiltIn(
        TaskFile(
            name="sst2",
            kind="label",
            test="hf:nyu-mll/glue:sst2@validation",
            train="hf:nyu-mll/glue:sst2@train",
            labels=SENTIMENTS,
            prompt="{question}\nQuestion: Is this sentence positive or negative?\nAnswer:",
            prompts=("Review: {question}\nSentiment:", "{question}\nThe sentiment of this review is"),
            shots="balanced",
        ),
        prompt_by="lm-evaluation-harness",
        about="whether a sentence of a film review is positive",
        num_choices=2,
        examples=partial(read_examples, forms=(labelled(SENTIMENTS, "sentence", "label"),)),
        lines=sst2_lines,
        test_files=("sst2/dev.tsv", "SST-2/dev.tsv", "SST2/dev.tsv", "sst2*dev*.tsv", "dev.tsv"),
        train_files=("sst2/train.tsv", "SST-2/train.tsv", "SST2/train.tsv", "sst2*train*.tsv", "train.tsv"),
    ),
    BuiltIn(
        TaskFile(
            name="ag_news",
            kind="label",
            test="hf:fancyzhx/ag_news@test",
            train="hf:fancyzhx/ag_news@train",
            labels=TOPICS,
            prompt="Article: {question}\nTopic:",
            prompts=("{question}\nQuestion: Is this about World, Sports, Business or Technology?\nAnswer:",),
            shots="balanced",
        ),
        about="the topic of a news item, one of four",
        num_choices=4,
        examples=partial(
            read_examples,
            forms=(
                Form(("class index", "title", "description"), ag_news_table),
                labelled(TOPICS, "text", "label"),
            ),
        ),
        lines=ag_news_lines,
        test_files=("ag_news/test.csv", "ag_news_csv/test.csv", "ag_news*test*.csv", "ag_news/train.csv", "test.csv"),
        train_files=("ag_news/train.csv", "ag_news_csv/train.csv", "ag_news*train*.csv", "train.csv"),
    ),
    BuiltIn(
        TaskFile(
            name="trec",
            kind="label",
            test="hf:SetFit/TREC-QC@test",
            train="hf:SetFit/TREC-QC@train",
            labels=TREC_LABELS,
            prompt="Question: {question}\nThe answer is of the type:",
            prompts=("{question}\nThis question asks for a",),
            shots="balanced",
        ),
        about="what kind of answer a question asks for, one of six",
        num_choices=6,
        examples=partial(
            read_examples,
            forms=(
                Form(("type", "text"), trec_line),
                labelled(TREC_LABELS, "text", "coarse_label"),
                labelled(TREC_LABELS, "text", "label_coarse"),
            ),
        ),
        lines=trec_lines,
        encoding="latin-1",
        test_files=("TREC.test", "TREC_10.label", "trec/TREC.test", "TREC.train", "trec*"),
        train_files=("TREC.train", "train_5500.label", "trec/TREC.train"),
    ),
    BuiltIn(
        TaskFile(
            name="cola",
            kind="label",
            test="hf:nyu-mll/glue:cola@validation",
            train="hf:nyu-mll/glue:cola@train",
            labels=YES_NO,
            prompt="{question}\nQuestion: Does this sentence make sense?\nAnswer:",
            prompts=("{question}\nQuestion: Is this sentence grammatical?\nAnswer:",),
            shots="balanced",
            metric="matthews",
        ),
        prompt_by="lm-evaluation-harness",
        about="whether a sentence is acceptable English",
        num_choices=2,
        examples=partial(read_examples, forms=(labelled(YES_NO, "sentence", "label"),)),
        lines=cola_lines,
        test_files=(
            *("cola/in_domain_dev.tsv", "CoLA/dev.tsv", "cola_public/raw/in_domain_dev.tsv", "in_domain_dev.tsv"),
            *("raw/in_domain_dev.tsv", "dev.tsv"),
        ),
        train_files=(
            *("cola/in_domain_train.tsv", "CoLA/train.tsv", "cola_public/raw/in_domain_train.tsv"),
            *("in_domain_train.tsv", "raw/in_domain_train.tsv", "train.tsv"),
        ),
    ),
)
