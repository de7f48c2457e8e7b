"""How a text goes on: HellaSwag, PIQA, WinoGrande, COPA, Social IQa, LAMBADA."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from llmkit.errors import DataError
from llmkit.evaluation.columns import as_text
from llmkit.evaluation.task import PlainRow
from llmkit.evaluation.task_file import TaskFile
from llmkit.evaluation.tasks.built_in import BuiltIn
from llmkit.evaluation.tasks.forms import (
    GAUNTLET,
    SCHEMA,
    Form,
    Lines,
    Said,
    choices_of,
    gauntlet,
    listed_options,
    number_of,
    read_examples,
    schema_row,
)

LINES_PER_HELLASWAG = 6
"""In the text form of llama.cpp: the context, the number of the right ending, four endings."""


def clean(text: str) -> str:
    """HellaSwag without the marks that WikiHow left in it, as lm-evaluation-harness cleans it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag_official(values: Mapping[str, Any]) -> Said:
    """The rows of the release: two parts of a context, and endings, all with marks in them."""
    context = f"{values['ctx_a']} {values['ctx_b'].capitalize()}"
    return Said(
        fields={"question": clean(f"{values['activity_label']}: {context}")},
        choices=tuple(clean(ending) for ending in values["endings"]),
        answer=number_of(values["label"]),
    )


def hellaswag_lines(lines: Lines) -> Iterator[PlainRow]:
    """The text form: six lines a row."""
    numbered = [(where, line) for where, line in lines if line.strip()]
    for first in range(0, len(numbered), LINES_PER_HELLASWAG):
        where = numbered[first][0]
        texts = [line.strip() for _, line in numbered[first : first + LINES_PER_HELLASWAG]]
        if len(texts) < LINES_PER_HELLASWAG or not texts[1].isdecimal():
            message = "a row is six lines here: the context, the number of the right ending, four endings"
            raise DataError(message, where=where, fix="mend the lines, or give the jsonl file of the release")
        yield PlainRow(where, {"query": texts[0], "choices": texts[2:], "gold": int(texts[1])})


def piqa_official(values: Mapping[str, Any]) -> Said:
    """A row of the release, its label joined from the file beside it."""
    choices = choices_of([values["sol1"], values["sol2"]])
    return Said(fields={"question": values["goal"]}, choices=choices, answer=number_of(values["label"]))


def winogrande_official(values: Mapping[str, Any]) -> Said:
    """A sentence with a gap: what fills it stands in the prompt, and the rest of the sentence is compared."""
    before, _, rest = values["sentence"].partition("_")
    return Said(
        fields={"question": values["sentence"]},
        choices=(before + values["option1"], before + values["option2"]),
        answer=number_of(values["answer"]) - 1,
        continuation=rest.strip(),
    )


def copa_official(values: Mapping[str, Any]) -> Said:
    """A row of SuperGLUE: a premise without its full stop, and what comes before or after it."""
    connector = {"cause": "because", "effect": "therefore"}[values["question"]]
    choices = choices_of([values["choice1"], values["choice2"]])
    return Said(
        fields={"question": f"{values['premise'].strip()[:-1]} {connector}"},
        choices=tuple(choice[0].lower() + choice[1:] for choice in choices),
        answer=number_of(values["label"]),
    )


def siqa_official(values: Mapping[str, Any]) -> Said:
    """A row of the release, its label (from 1) joined from the file beside it."""
    return Said(
        fields={"context": as_text(values["context"]), "question": as_text(values["question"])},
        choices=choices_of([values[f"answer{letter}"] for letter in "ABC"]),
        answer=number_of(values["label"]) - 1,
    )


def siqa_gauntlet(values: Mapping[str, Any]) -> Said:
    """A row whose query holds the context, the question and the texts of the choices."""
    context, _, rest = values["query"].removeprefix("Context: ").partition("\nQuestion: ")
    return Said(
        fields={"context": context, "question": rest.partition("\nChoices:\n")[0]},
        choices=listed_options(values["query"]),
        answer=number_of(values["gold"]),
    )


def lambada_official(values: Mapping[str, Any]) -> Said:
    """A passage whose last word is to be said."""
    context, _, word = values["text"].rpartition(" ")
    return Said(fields={"question": context}, choices=(word,), answer=0)


def lambada_gauntlet(values: Mapping[str, Any]) -> Said:
    """The same, cut already."""
    return Said(fields={"question": values["context"]}, choices=(values["continuation"].strip(),), answer=0)


def passage_lines(lines: Lines) -> Iterator[PlainRow]:
    """One passage a line."""
    for where, line in lines:
        if line.strip():
            yield PlainRow(where, {"text": line.rstrip()})


SENTENCES = (
    BuiltIn(
        TaskFile(
            name="hellaswag",
            kind="choice",
            test="hf:Rowan/hellaswag@validation",
            train="hf:Rowan/hellaswag@train",
            prompt="{question}",
            metric="accuracy_bytes",
        ),
        prompt_by="lm-evaluation-harness",
        about="which of four endings goes on with what happens",
        num_choices=4,
        examples=partial(
            read_examples,
            forms=(
                Form(("activity_label", "ctx_a", "ctx_b", "endings", "label"), hellaswag_official),
                Form(GAUNTLET, gauntlet),
            ),
        ),
        lines=hellaswag_lines,
        test_files=("hellaswag_val.jsonl", "hellaswag_val*.jsonl", "hellaswag_val*.txt", "hellaswag.jsonl"),
        train_files=("hellaswag_train.jsonl",),
    ),
    BuiltIn(
        TaskFile(
            name="piqa",
            kind="choice",
            test="hf:baber/piqa@validation",
            train="hf:baber/piqa@train",
            prompt="Question: {question}\nAnswer:",
            prompts=("Goal: {question}\nSolution:", "{question}\n"),
        ),
        prompt_by="lm-evaluation-harness",
        about="which of two ways to reach an everyday goal works",
        num_choices=2,
        examples=partial(
            read_examples, forms=(Form(("goal", "sol1", "sol2", "label"), piqa_official), Form(GAUNTLET, gauntlet))
        ),
        test_files=("piqa.jsonl", "piqa/valid.jsonl", "piqa*valid*.jsonl", "valid.jsonl"),
        train_files=("piqa/train.jsonl", "piqa*train*.jsonl", "train.jsonl"),
    ),
    BuiltIn(
        TaskFile(
            name="winogrande",
            kind="choice",
            test="hf:allenai/winogrande:winogrande_xl@validation",
            train="hf:allenai/winogrande:winogrande_xl@train",
            prompt="{choice}",
        ),
        prompt_by="lm-evaluation-harness",
        about="whom a pronoun's sentence is about; the rest of the sentence is compared, each name in its place",
        num_choices=2,
        examples=partial(
            read_examples,
            forms=(
                Form(("sentence", "option1", "option2", "answer"), winogrande_official),
                Form(SCHEMA, schema_row),
            ),
        ),
        test_files=("winogrande.jsonl", "winogrande*/dev.jsonl", "winogrande*dev*.jsonl", "dev.jsonl"),
        train_files=("winogrande*/train_xl.jsonl", "winogrande*train*.jsonl", "train_xl.jsonl"),
    ),
    BuiltIn(
        TaskFile(
            name="copa",
            kind="choice",
            test="hf:aps/super_glue:copa@validation",
            train="hf:aps/super_glue:copa@train",
            prompt="{question}",
            prompts=("Complete the sentence: {question}",),
            # Two spaces, as lm-evaluation-harness has them here.
            delimiter="  ",
        ),
        prompt_by="lm-evaluation-harness",
        about="which of two sentences is the cause, or the effect",
        num_choices=2,
        examples=partial(
            read_examples,
            forms=(
                Form(("premise", "question", "choice1", "choice2", "label"), copa_official),
                Form(GAUNTLET, gauntlet),
            ),
        ),
        test_files=("copa.jsonl", "COPA/val.jsonl", "copa/val.jsonl", "copa*val*.jsonl", "val.jsonl"),
        train_files=("COPA/train.jsonl", "copa/train.jsonl", "copa*train*.jsonl", "train.jsonl"),
    ),
    BuiltIn(
        TaskFile(
            name="siqa",
            kind="choice",
            test="hf:lighteval/siqa@validation",
            train="hf:lighteval/siqa@train",
            prompt="Q: {context} {question}\nA:",
            prompts=("{context}\nQuestion: {question}\nAnswer:", "{context} {question}"),
        ),
        prompt_by="lm-evaluation-harness",
        about="what people feel, want or do next; three answers in the release",
        num_choices=3,
        examples=partial(
            read_examples,
            forms=(
                Form(("context", "question", "answerA", "answerB", "answerC", "label"), siqa_official),
                Form(GAUNTLET, siqa_gauntlet),
            ),
        ),
        test_files=("siqa.jsonl", "socialiqa*/dev.jsonl", "siqa*/dev.jsonl", "dev.jsonl"),
        train_files=("socialiqa*/train.jsonl", "siqa*/train.jsonl", "train.jsonl"),
    ),
    BuiltIn(
        TaskFile(
            name="lambada",
            kind="choice",
            test="hf:EleutherAI/lambada_openai:default@test",
            prompt="{question}",
            prompts=("Complete the passage with its last word:\n\n{question}",),
        ),
        prompt_by="lm-evaluation-harness",
        about="the last word of a passage, said greedily; its perplexity too",
        examples=partial(
            read_examples,
            forms=(Form(("text",), lambada_official), Form(("context", "continuation"), lambada_gauntlet)),
        ),
        lines=passage_lines,
        test_files=("lambada_openai.jsonl", "lambada_test*.jsonl", "lambada*.jsonl", "lambada_test*.txt"),
    ),
)
