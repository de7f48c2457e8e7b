from pathlib import Path

import pytest

from llmkit.data.documents import read_records
from llmkit.errors import DataError, RecipeError, UsageError
from llmkit.evaluation.prompts import render_pairs
from llmkit.evaluation.task import Example, first_examples
from llmkit.evaluation.task_file import TaskFile, build_task, relative_to
from llmkit.recipe.load import load_recipe


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_task_file_finds_its_rows_beside_it(tmp_path):
    write(tmp_path / "rows.jsonl", '{"t": "good", "y": "pos"}', '{"t": "bad", "y": "neg"}')
    file = write(
        tmp_path / "mine.yaml", "kind: label", "test: rows.jsonl", "question: t", "answer: y", 'prompt: "{t}:"'
    )
    task = build_task(relative_to(load_recipe(TaskFile, file), tmp_path), read_records)
    assert (task.kind, task.labels, task.prompt) == ("label", ("neg", "pos"), "{t}:")
    assert [example.solution for example in task.examples("test")] == ["pos", "neg"]


def test_an_unknown_key_names_its_line(tmp_path):
    with pytest.raises(RecipeError, match=r"mine.yaml:2.*questions") as caught:
        load_recipe(TaskFile, write(tmp_path / "mine.yaml", "kind: label", "questions: t"))
    assert "question" in (caught.value.fix or "")


def test_names_that_are_no_paths_stay_as_they_are():
    spec = relative_to(TaskFile(test="hf:owner/name", train="rows.csv"), Path("/x"))
    assert (spec.test, spec.train) == ("hf:owner/name", "/x/rows.csv")


def test_a_prompt_that_no_row_can_fill_is_an_error_before_any_model_is_loaded(tmp_path):
    file = write(tmp_path / "r.jsonl", '{"question": "a", "answer": "b"}')
    with pytest.raises(UsageError, match="nope"):
        build_task(TaskFile(test=str(file), prompt="{nope}"), read_records)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ('{"query": "Question: why?\\n", "choices": ["a", "b"], "gold": 0}', "{question}\nAnswer:"),
        ('{"query": "Because", "choices": ["a", "b"], "gold": 0}', "{question}"),
        ('{"question": "why?", "choices": ["a", "b"], "answer": 0}', "Question: {question}\nAnswer:"),
        ('{"context": "In the", "continuation": "end"}', "{question}"),
        ('{"context_options": ["a", "b"], "continuation": "c", "gold": 0}', "{choice}"),
    ],
)
def test_the_prompt_suits_the_columns(tmp_path, row, prompt):
    assert build_task(TaskFile(test=str(write(tmp_path / "r.jsonl", row))), read_records).prompt == prompt


def test_the_hash_of_a_task_moves_with_its_prompt(tmp_path):
    file = str(write(tmp_path / "r.jsonl", '{"question": "a", "answer": "b"}'))
    one, other = (build_task(TaskFile(test=file, prompt=p), read_records) for p in ("{question}", "Q: {question}"))
    assert one.content_hash != other.content_hash


EXAM = """
name: exam
kind: choice
test: rows.jsonl
train: shots.jsonl
question: q
choices: options
answer: right
prompt: "Question: {question}\\nAnswer:"
delimiter: " "
shots: random
"""


@pytest.mark.parametrize("right", ['"cold"', "1", '"B"', '"1"'])
def test_a_task_file_says_all_in_a_few_lines(tmp_path, right):
    write(tmp_path / "rows.jsonl", f'{{"q": "Ice is", "options": ["hot", "cold"], "right": {right}}}')
    write(tmp_path / "shots.jsonl", '{"q": "Fire is", "options": ["hot", "cold"], "right": "hot"}')
    spec = load_recipe(TaskFile, write(tmp_path / "exam.yaml", *EXAM.strip().split("\n")))
    task = build_task(relative_to(spec, tmp_path), read_records)
    (question,), (shot,) = task.examples("test"), task.examples("train")
    pairs = render_pairs(task, question, [shot])
    assert pairs[0].context == "Question: Fire is\nAnswer: hot\n\nQuestion: Ice is\nAnswer:"
    assert ([pair.continuation for pair in pairs], question.answer) == ([" hot", " cold"], 1)
    assert (task.name, task.shots) == ("exam", "random")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["kind: guess"], r"mine.yaml:1.*kind"),
        (["kind: choice", "shots: sorted"], r"mine.yaml:2.*shots"),
        (["test: r.jsonl", "test: r.jsonl"], r"mine.yaml:2"),
        (["grading: python"], r"mine.yaml:1.*grading"),
        (["prompts: 3"], r"mine.yaml:1.*prompts"),
    ],
)
def test_a_task_file_that_makes_no_sense_is_an_error_at_its_line(tmp_path, lines, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(TaskFile, write(tmp_path / "mine.yaml", *lines))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"question": "nope"}, "nope"),
        ({"answer": "nope"}, "nope"),
        ({"worked": "nope"}, "nope"),
        ({"group": "nope"}, "nope"),
        ({"prompts": ("{question}", "{nope}")}, "nope"),
        ({"system": "{nope}"}, "nope"),
        ({"metric": "rouge1", "kind": "label"}, "rouge1"),
        ({"metric": "rouge1", "kind": "generate"}, r"kind generate with grading answer has no metric 'rouge1'"),
        ({"metric": "exact_match_flexible", "kind": "generate", "grading": "squad"}, "f1, exact_match"),
        ({"metric": "accuracy", "kind": "perplexity"}, "bits_per_byte"),
        ({"test": ""}, "rows to score"),
    ],
)
def test_what_no_row_has_is_an_error_when_the_task_is_opened(tmp_path, settings, message):
    rows = ('{"question": "a", "answer": "b", "text": "a"}', '{"question": "c", "answer": "b", "text": "c"}')
    file = write(tmp_path / "r.jsonl", *rows)
    with pytest.raises((UsageError, DataError), match=message):
        build_task(TaskFile(**{"test": str(file), **settings}), read_records)


def test_prompts_are_variants_of_the_task_the_main_one_first(tmp_path):
    file = str(write(tmp_path / "r.jsonl", '{"question": "a", "answer": "b"}'))
    task = build_task(TaskFile(test=file, prompt="{question}", prompts=("Q: {question}", "{question}")), read_records)
    assert [variant.prompt for variant in task.variants()] == ["{question}", "Q: {question}"]
    assert len({variant.content_hash for variant in task.variants()}) == 2
    alone = build_task(TaskFile(test=file, prompt="{question}"), read_records)
    assert [variant.prompt for variant in alone.variants()] == ["{question}"]


def test_one_label_for_all_rows_is_nothing_to_choose_among(tmp_path):
    file = str(write(tmp_path / "r.jsonl", *['{"text": "a", "label": "yes"}'] * 9))
    with pytest.raises(DataError, match="all rows have one label: yes"):
        build_task(TaskFile(test=file), read_records)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "generate", "choices": "question"},
        {"kind": "generate", "labels": ("a", "b")},
        {"kind": "label", "grading": "squad"},
        {"kind": "perplexity", "prompt": "{question}"},
        {"kind": "perplexity", "shots": "random"},
    ],
)
def test_a_setting_that_the_kind_does_not_read_is_refused(tmp_path, settings):
    file = str(write(tmp_path / "r.jsonl", '{"question": "a", "answer": "b", "text": "c"}'))
    with pytest.raises(UsageError, match=f"does not read `{list(settings)[1]}`"):
        build_task(TaskFile(test=file, **settings), read_records)


@pytest.mark.parametrize(
    ("row", "metric"),
    [
        ('{"context": "In the", "continuation": "end"}', "accuracy_bytes"),
        ('{"question": "why?", "choices": ["a", "b"], "answer": 0}', "perplexity"),
    ],
)
def test_one_continuation_and_several_choices_have_other_metrics(tmp_path, row, metric):
    with pytest.raises(UsageError, match=metric):
        build_task(TaskFile(test=str(write(tmp_path / "r.jsonl", row)), metric=metric), read_records)


def test_who_worded_a_prompt_is_known_and_moves_no_number(tmp_path):
    file = str(write(tmp_path / "r.jsonl", '{"question": "a", "answer": "b"}'))
    asked, plain = (
        build_task(TaskFile(test=file, prompt=p), read_records) for p in ("Question: {question}\nAnswer:", None)
    )
    assert (asked.prompt, asked.prompt_by) == (plain.prompt, "user")
    assert plain.prompt_by == "llmkit"
    assert asked.content_hash == plain.content_hash


def test_a_way_to_the_answer_and_a_group_are_columns(tmp_path):
    rows = [f'{{"question": "{n}?", "answer": "{n}", "way": "it is {n}", "part": "{n % 2}"}}' for n in range(3)]
    file = str(write(tmp_path / "r.jsonl", *rows))
    task = build_task(TaskFile(test=file, kind="generate", worked="way", group="part", grading="number"), read_records)
    assert [example.solution for example in task.examples("test")] == ["it is 0", "it is 1", "it is 2"]
    assert [example.group for example in task.examples("test")] == ["0", "1", "0"]
    assert task.grade(task.examples("test")[2], "#### 2")["exact_match"] == 1
    assert "answer in shots: 'way', group: 'part'" in task.notes[0]


def test_a_limit_takes_equally_many_of_each_group():
    examples = [Example(str(n), f"r:{n}", {}, group="a" if n < 5 else "b") for n in range(8)]
    assert [example.id for example in first_examples(examples, 3)] == ["0", "1", "5"]
    assert [example.id for example in first_examples(examples, None)] == [str(n) for n in range(8)]
    plain = [Example(str(n), f"r:{n}", {}) for n in range(4)]
    assert [example.id for example in first_examples(plain, 2)] == ["0", "1"]
