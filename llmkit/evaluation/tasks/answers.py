"""Answers in words of one's own: GSM8K, SQuAD, TriviaQA, summaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from llmkit.evaluation.answers import UNANSWERABLE, plain_number
from llmkit.evaluation.columns import as_text
from llmkit.evaluation.task import Example, PlainRow, TaskRow
from llmkit.evaluation.task_file import TaskFile
from llmkit.evaluation.tasks.built_in import BuiltIn
from llmkit.evaluation.tasks.forms import Form, Said, read_examples

DOCUMENTS = ("document", "article", "dialogue", "text", "content", "source", "input")
SUMMARIES = ("summary", "highlights", "abstract", "target", "output")


def gsm8k(values: Mapping[str, Any]) -> Said:
    """A row of the release, whose answer ends in `#### 72`."""
    _, mark, number = values["answer"].rpartition("#### ")
    if not mark:
        raise ValueError("the answer does not end in '#### NUMBER'")
    return Said(fields={"question": values["question"]}, references=(plain_number(number),), worked=values["answer"])


def squad_examples(rows: Sequence[TaskRow]) -> list[Example]:
    """Articles with their paragraphs as in the release, or one question a row as on the hub."""
    questions = [question for row in rows for question in squad_questions(row)]
    return read_examples(questions, (Form(("context", "question", "answers"), squad),))


def squad_questions(row: TaskRow) -> Iterator[TaskRow]:
    """The questions of an article, or of a file that is one object; any other row as it is."""
    for article in row.values.get("data", [row.values]) if "paragraphs" not in row.values else [row.values]:
        if "paragraphs" not in article:
            yield row
            continue
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                shared = {"title": article.get("title", ""), "context": paragraph["context"]}
                yield PlainRow(f"{row.where}#{question.get('id', '')}", {**shared, **question})


def squad(values: Mapping[str, Any]) -> Said:
    """A question on a passage with its accepted answers; none of them means that there is no answer."""
    answers = values["answers"]
    texts = answers["text"] if isinstance(answers, Mapping) else [answer["text"] for answer in answers]
    title = as_text(values.get("title"))
    fields = {
        "question": values["question"],
        "context": values["context"],
        "title": title,
        "heading": f"Title: {title}\n\n" if title else "",
    }
    references = tuple(dict.fromkeys(texts))
    return Said(fields=fields, references=references or ("",), worked="" if references else UNANSWERABLE)


def trivia_examples(rows: Sequence[TaskRow]) -> list[Example]:
    """One question a row, or a file of the release, which is one object that holds all of them under `Data`."""
    inner = [
        PlainRow(f"{row.where}#{item.get('QuestionId', number)}", item)
        for row in rows
        for number, item in enumerate(row.values.get("Data", ()))
    ]
    forms = (
        Form(("Question", "Answer"), trivia_official),
        Form(("question", "answer"), trivia_hub),
        Form(("context", "answer", "aliases"), trivia_gauntlet),
    )
    return read_examples(inner or rows, forms)


def trivia_official(values: Mapping[str, Any]) -> Said:
    """A question of the release."""
    answer = values["Answer"]
    return trivia(values["Question"], [answer["Value"], *answer.get("Aliases", ())])


def trivia_hub(values: Mapping[str, Any]) -> Said:
    """A question of the hub."""
    answer = values["answer"]
    return trivia(values["question"], [answer["value"], *answer["aliases"]])


def trivia_gauntlet(values: Mapping[str, Any]) -> Said:
    """A question of MosaicML's form, its prompt taken off."""
    question = values["context"].removeprefix("Question: ").rpartition("\nAnswer:")[0] or values["context"]
    return trivia(question, [values["answer"], *values["aliases"]])


def trivia(question: str, answers: Sequence[str]) -> Said:
    """A question with its accepted answers."""
    return Said(fields={"question": question}, references=tuple(dict.fromkeys(answers)))


def summary_examples(rows: Sequence[TaskRow]) -> list[Example]:
    """A document with its summary, or with several under one name and a number."""
    forms = tuple(
        Form((document, column), partial(summary, document=document, column=name))
        for document in DOCUMENTS
        for name in SUMMARIES
        for column in (name, f"{name}1")
    )
    return read_examples(rows, forms)


def summary(values: Mapping[str, Any], *, document: str, column: str) -> Said:
    """A document and all its summaries."""
    numbered = (values.get(f"{column}{number or ''}") for number in range(10))
    references = tuple(as_text(text) for text in numbered if text is not None)
    return Said(fields={"question": as_text(values[document])}, references=references)


ANSWERS = (
    BuiltIn(
        TaskFile(
            name="gsm8k",
            kind="generate",
            test="hf:openai/gsm8k:main@test",
            train="hf:openai/gsm8k:main@train",
            prompt="Question: {question}\nAnswer:",
            # It begins as the first does: what stops an answer is the next question.
            prompts=("Question: {question}\nWork it out step by step, and end with #### and the number.\nAnswer:",),
            stop=("Question:", "</s>", "<|im_end|>"),
            max_new_tokens=256,
            grading="number",
        ),
        prompt_by="lm-evaluation-harness",
        about="sums in words, worked out step by step; the number after ####, and the last number there is",
        examples=partial(read_examples, forms=(Form(("question", "answer"), gsm8k),)),
        test_files=("gsm8k_test.jsonl", "gsm8k/test.jsonl", "test.jsonl", "gsm8k*.jsonl"),
        train_files=("gsm8k_train.jsonl", "gsm8k/train.jsonl", "train.jsonl"),
    ),
    BuiltIn(
        TaskFile(
            name="squad",
            kind="generate",
            test="hf:rajpurkar/squad@validation",
            train="hf:rajpurkar/squad@train",
            prompt="{heading}Background: {context}\n\nQuestion: {question}\n\nAnswer:",
            prompts=("{context}\nQuestion: {question}\nAnswer:",),
            grading="squad",
        ),
        prompt_by="lm-evaluation-harness",
        about="a question whose answer stands in a passage, or in none (SQuAD 2); any file of that form",
        examples=squad_examples,
        test_files=("dev-v1.1.json", "squad/dev-v1.1.json", "dev-v2.0.json", "squad*dev*.json", "xquad.en.json"),
        train_files=("train-v1.1.json", "squad/train-v1.1.json", "train-v2.0.json", "squad*train*.json"),
    ),
    BuiltIn(
        TaskFile(
            name="triviaqa",
            kind="generate",
            test="hf:mandarjoshi/trivia_qa:rc.nocontext@validation",
            train="hf:mandarjoshi/trivia_qa:rc.nocontext@train",
            # Most questions end in a question mark already; lm-evaluation-harness adds another, so this does too.
            prompt="Question: {question}?\nAnswer:",
            prompts=("Question: {question}\nAnswer:", "Q: {question}\nA:"),
            stop=("\n", ".", ","),
        ),
        prompt_by="lm-evaluation-harness",
        about="general knowledge; any of the known names of the answer counts",
        examples=trivia_examples,
        test_files=("triviaqa*.jsonl", "*wikipedia-dev.json", "qa/wikipedia-dev.json", "triviaqa*dev*.json"),
        train_files=("qa/wikipedia-train.json", "*wikipedia-train.json", "triviaqa*train*.json"),
    ),
    BuiltIn(
        TaskFile(
            name="dialogsum",
            kind="generate",
            test="hf:knkarthick/dialogsum@test",
            train="hf:knkarthick/dialogsum@train",
            prompt="Summarize the following dialogue:\n\n{question}\n\nSummary:",
            prompts=("{question}\n\nTL;DR:",),
            stop=("\n\n",),
            max_new_tokens=128,
            grading="rouge",
        ),
        about="the summary of a dialogue",
        examples=summary_examples,
        test_files=("dialogsum.test.jsonl", "dialogsum.dev.jsonl", "*/dialogsum.test.jsonl", "*/dialogsum.dev.jsonl"),
        train_files=("dialogsum.train.jsonl", "*/dialogsum.train.jsonl"),
    ),
    BuiltIn(
        TaskFile(
            name="summary",
            kind="generate",
            test="hf:abisee/cnn_dailymail:3.0.0@test",
            train="hf:abisee/cnn_dailymail:3.0.0@train",
            prompt="Summarize the following article:\n\n{question}\n\nSummary:",
            prompts=("{question}\n\nTL;DR:",),
            stop=("\n\n",),
            max_new_tokens=128,
            grading="rouge",
        ),
        prompt_by="lm-evaluation-harness",
        about="the summary of a text: any rows with a document and its summary; CNN/DailyMail where none are given",
        examples=summary_examples,
        test_files=("test.jsonl", "test.csv", "validation.jsonl"),
        train_files=("train.jsonl", "train.csv"),
    ),
)
