from pathlib import Path

import pytest

from llmkit.data.documents import read_records
from llmkit.errors import RecipeError, UsageError
from llmkit.evaluation.task_file import TaskFile, build_task, relative_to
from llmkit.evaluation.tasks import BUILT_IN
from llmkit.evaluation.tasks.python_docs import ShapedRow, shape_description, shape_package
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


def test_description_rows_hold_the_right_answer_once_and_do_not_depend_on_order():
    rows = [
        ShapedRow(f"r:{n}", {"name": f"f{n}", "signature": f"f{n}()", "doc": f"Do the thing number {n}. More."})
        for n in range(9)
    ]
    shaped = {row.values["id"]: row.values for row in shape_description(rows)}
    assert shaped == {row.values["id"]: row.values for row in shape_description(rows[::-1])}
    for n in range(9):
        values = shaped[f"f{n}"]
        assert values["choices"][values["answer"]] == f"Do the thing number {n}."
        assert len(set(values["choices"])) == 4


def test_package_rows_are_cut_at_a_word():
    (row,) = shape_package([ShapedRow("r:1", {"text": "word " * 100, "label": "json"})])
    assert len(row.values["question"]) <= 160
    assert row.values["question"].endswith("word")
    assert row.values["answer"] == "json"


def test_built_in_tasks_call_themselves_by_their_names():
    assert all(task.spec.name == name for name, task in BUILT_IN.items())
