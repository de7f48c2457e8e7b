"""School and common knowledge: ARC, OpenBookQA, CommonsenseQA, MMLU, BoolQ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

from llmkit.evaluation.columns import as_text
from llmkit.evaluation.task import Example, PlainRow, TaskRow
from llmkit.evaluation.task_file import TaskFile
from llmkit.evaluation.tasks.built_in import BuiltIn
from llmkit.evaluation.tasks.forms import (
    GAUNTLET,
    Form,
    Lines,
    Said,
    choice_texts,
    choices_of,
    gauntlet,
    index_of,
    letters,
    listed_options,
    number_of,
    options,
    read_examples,
    table_rows,
)

ASKS = "Question: {question}\nAnswer:"
OTHER_WAYS = ("Q: {question}\nA:", "{question}\nThe answer is")
WITH_OPTIONS = "{question}\n{options}\nAnswer:"
MMLU_COLUMNS = ("question", "choice0", "choice1", "choice2", "choice3", "answer")
SPLIT_IN_NAME = re.compile(r"_(?:test|dev|val)$")


def nested(values: Mapping[str, Any]) -> Said:
    """A row of the releases of AI2: a question that holds its stem and its choices, and the label of the answer."""
    texts, labels = choice_texts(values["question"]["choices"])
    return Said(
        fields={"question": values["question"]["stem"]}, choices=texts, answer=index_of(values["answerKey"], labels)
    )


def flat(values: Mapping[str, Any]) -> Said:
    """The same as the hub has it, in columns of their own."""
    texts, labels = choice_texts(values["choices"])
    question = as_text(values["question_stem"] if "question_stem" in values else values["question"])
    return Said(fields={"question": question}, choices=texts, answer=index_of(values["answerKey"], labels))


AI2_FORMS = (
    Form(("question", "choices", "answerKey"), flat),
    Form(("question_stem", "choices", "answerKey"), flat),
    Form(("question", "answerKey"), nested),
    Form(GAUNTLET, gauntlet),
)


def with_letters(found: Said) -> Said:
    """A row whose texts stand in the prompt, and whose choices are their letters."""
    texts, fields = found["choices"], found["fields"]
    fields = {**fields, "question": fields["question"].strip(), "options": options(texts)}
    return Said(fields=fields, choices=letters(len(texts)), answer=found["answer"])


def listed(values: Mapping[str, Any]) -> Said:
    """A row of MosaicML's form that lists the texts in its query already."""
    question = values["query"].removeprefix("Question: ").partition("\nChoices:\n")[0]
    found = Said(
        fields={"question": question}, choices=listed_options(values["query"]), answer=number_of(values["gold"])
    )
    return with_letters(found)


CSQA_FORMS = (
    Form(("question", "choices", "answerKey"), lambda values: with_letters(flat(values))),
    Form(("question", "answerKey"), lambda values: with_letters(nested(values))),
    Form(GAUNTLET, listed),
)


def mmlu_lines(lines: Lines) -> Iterator[PlainRow]:
    """A csv file of one subject: without a header and with letters in the release, with both or neither elsewhere."""
    return table_rows(lines, MMLU_COLUMNS)


def mmlu_table(values: Mapping[str, Any]) -> Said:
    """A row of a csv file; the subject comes from the file's name."""
    return mmlu_hub({**values, "choices": [values[f"choice{number}"] for number in range(4)]})


def mmlu_hub(values: Mapping[str, Any]) -> Said:
    """A row of the hub."""
    answer, subject = as_text(values["answer"]).strip(), as_text(values["subject"])
    names = letters(4) if answer.isalpha() else tuple("0123")
    fields = {"question": as_text(values["question"]), "subject": subject.replace("_", " ")}
    found = Said(fields=fields, choices=choices_of(values["choices"]), answer=index_of(answer, names))
    return Said(**with_letters(found), group=subject)


def mmlu_examples(rows: Sequence[TaskRow]) -> list[Example]:
    """Rows with their subject, which is the name of their file where no column says it."""
    named = [
        row if "subject" in row.values else PlainRow(row.where, {**row.values, "subject": subject_of(row.where)})
        for row in rows
    ]
    forms = (
        Form(("question", "choices", "answer", "subject"), mmlu_hub),
        Form((*MMLU_COLUMNS, "subject"), mmlu_table),
    )
    return read_examples(named, forms)


def subject_of(where: str) -> str:
    """`abstract_algebra` of `mmlu/test/abstract_algebra_test.csv:12`."""
    name = PurePath(where.rpartition(":")[0]).name.partition(".")[0]
    return SPLIT_IN_NAME.sub("", name)


def boolq_official(values: Mapping[str, Any]) -> Said:
    """A row of the release (answer: true or false) or of SuperGLUE (label: true, false, 1 or 0)."""
    answer = values["answer"] if "answer" in values else values["label"]
    return boolq(as_text(values["passage"]), as_text(values["question"]), int(as_text(answer) in ("true", "1")))


def boolq_gauntlet(values: Mapping[str, Any]) -> Said:
    """A row of MosaicML's form: passage and question in one text."""
    passage, mark, question = values["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
    if not mark:
        raise ValueError("there is no line that begins with 'Question: '")
    return boolq(passage, question.strip(), number_of(values["gold"]))


def boolq(passage: str, question: str, answer: int) -> Said:
    """A passage with a question, which gets its question mark in the prompt."""
    fields = {"passage": passage, "question": question.removesuffix("?")}
    return Said(fields=fields, choices=("no", "yes"), answer=answer)


def arc(name: str, config: str, about: str, *, metric: str = "") -> BuiltIn:
    """One of the two sets of ARC."""
    return BuiltIn(
        TaskFile(
            name=name,
            kind="choice",
            test=f"hf:allenai/ai2_arc:{config}@test",
            train=f"hf:allenai/ai2_arc:{config}@train",
            prompt=ASKS,
            prompts=OTHER_WAYS,
            metric=metric,
        ),
        prompt_by="lm-evaluation-harness",
        about=about,
        num_choices=4,
        examples=partial(read_examples, forms=AI2_FORMS),
        test_files=(
            f"{name}.jsonl",
            f"{config}-Test.jsonl",
            f"{config}/{config}-Test.jsonl",
            f"*/{config}/{config}-Test.jsonl",
        ),
        train_files=(f"{config}-Train.jsonl", f"{config}/{config}-Train.jsonl", f"*/{config}/{config}-Train.jsonl"),
    )


KNOWLEDGE = (
    arc("arc_easy", "ARC-Easy", "science questions of school, the easier ones"),
    arc("arc_challenge", "ARC-Challenge", "science questions of school, the harder ones", metric="accuracy_bytes"),
    BuiltIn(
        TaskFile(
            name="openbookqa",
            kind="choice",
            test="hf:allenai/openbookqa:main@test",
            train="hf:allenai/openbookqa:main@train",
            prompt="{question}",
            prompts=(ASKS, "{question}\nThe answer is"),
            metric="accuracy_bytes",
        ),
        prompt_by="lm-evaluation-harness",
        about="elementary science; the question goes on with one of four answers",
        num_choices=4,
        examples=partial(read_examples, forms=AI2_FORMS),
        test_files=("openbook_qa.jsonl", "openbookqa.jsonl", "*/Main/test.jsonl", "*/*/Main/test.jsonl", "test.jsonl"),
        train_files=("*/Main/train.jsonl", "*/*/Main/train.jsonl", "train.jsonl"),
    ),
    BuiltIn(
        TaskFile(
            name="commonsense_qa",
            kind="choice",
            test="hf:tau/commonsense_qa@validation",
            train="hf:tau/commonsense_qa@train",
            prompt="Question: {question}\n{options}\nAnswer:",
            prompts=("{question}\n{options}\nThe right letter is",),
        ),
        prompt_by="lm-evaluation-harness",
        about="everyday knowledge; the letter of one of five answers",
        num_choices=5,
        examples=partial(read_examples, forms=CSQA_FORMS),
        test_files=("commonsense_qa.jsonl", "dev_rand_split.jsonl", "*/dev_rand_split.jsonl"),
        train_files=("train_rand_split.jsonl", "*/train_rand_split.jsonl"),
    ),
    BuiltIn(
        TaskFile(
            name="mmlu",
            kind="choice",
            test="hf:cais/mmlu:all@test",
            train="hf:cais/mmlu:all@dev",
            prompt=WITH_OPTIONS,
            prompts=("Question: {question}\n{options}\nAnswer:",),
            system="The following are multiple choice questions (with answers) about {subject}.\n\n",
        ),
        prompt_by="lm-evaluation-harness",
        about="57 subjects of school and profession; the letter of one of four answers, shots of the same subject",
        num_choices=4,
        examples=mmlu_examples,
        lines=mmlu_lines,
        test_files=("mmlu/test/*_test.csv", "data/test/*_test.csv", "test/*_test.csv", "*_test.csv"),
        train_files=("mmlu/dev/*_dev.csv", "data/dev/*_dev.csv", "dev/*_dev.csv", "../dev/*_dev.csv"),
        is_many_files=True,
    ),
    BuiltIn(
        TaskFile(
            name="boolq",
            kind="choice",
            test="hf:aps/super_glue:boolq@validation",
            train="hf:aps/super_glue:boolq@train",
            prompt="{passage}\nQuestion: {question}?\nAnswer:",
            prompts=("Passage: {passage}\nQuestion: {question}?\nAnswer, yes or no:",),
        ),
        prompt_by="lm-evaluation-harness",
        about="a yes or no question on a passage",
        num_choices=2,
        examples=partial(
            read_examples,
            forms=(
                Form(("passage", "question", "answer"), boolq_official),
                Form(("passage", "question", "label"), boolq_official),
                Form(GAUNTLET, boolq_gauntlet),
            ),
        ),
        test_files=("boolq.jsonl", "BoolQ/val.jsonl", "boolq/dev.jsonl", "boolq*dev*.jsonl", "dev.jsonl"),
        train_files=("BoolQ/train.jsonl", "boolq/train.jsonl", "boolq*train*.jsonl", "train.jsonl"),
    ),
)
