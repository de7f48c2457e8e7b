"""`llmkit compare` from the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

GOOD = ["the model learns", "next token from text", "we ask it"]
BAD = ["what comes after", "def class return", "a guess to that"]
QUICK = [
    *("mlp.train.steps=10", "cnn.train.steps=10", "cnn.model.hidden_size=8", "rnn.train.steps=10"),
    *("lora.train.steps=3", "lora.train.precision=fp32", "full.train.steps=3", "full.train.precision=fp32"),
]


@pytest.fixture
def rows_file(tmp_path):
    """Ninety labelled texts."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {
            "text": f"{(GOOD if i % 2 else BAD)[i % 3]} {'and then' if i % 5 else 'from text'} {i}",
            "label": "good" if i % 2 else "bad",
        }
        for i in range(90)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def compare(run_cli, tmp_path):
    """Run the verb on something: its result."""

    def run(source, *arguments, output="o"):
        sets = [word for text in QUICK for word in ("--set", text)]
        return run_cli("compare", source, "--output", tmp_path / output, "--json", *sets, *arguments)

    return run


def document(result):
    assert result.exit_code == 0, result.output + str(result.exception)
    return json.loads(result.stdout)


def read_items(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def lines_of(found):
    return {line["method"]: line for line in found["methods"]}


def test_every_method_answers_the_same_rows_with_probabilities(compare, rows_file, tiny_model_folder, tmp_path):
    found = document(compare(rows_file, "--model", tiny_model_folder, "--dtype", "fp32"))
    lines = lines_of(found)
    names = ["majority", "tfidf", "mlp", "cnn", "rnn", "zero-shot", "few-shot", "lora", "full", "cascade"]
    assert [line["method"] for line in found["methods"]] == names
    assert all(line["reason"] is None for line in lines.values())
    assert found["best"] in lines
    train, held, tested = (found["rows"][name] for name in ("train", "validation", "test"))
    assert train + held + tested == 90
    assert min(train, held, tested) > 0
    items = {}
    for name, line in lines.items():
        records = read_items(f"{line['folder']}/items.jsonl")
        items[name] = [(record["id"], record["answer"]) for record in records]
        assert all(sum(record["probabilities"]) == pytest.approx(1) for record in records)
        right = sum(record["correct"] for record in records) / tested
        assert line["metric"]["value"] == pytest.approx(right)
        assert line["peak_memory_bytes"] > 0
        assert line["milliseconds_per_item"] > 0 or name == "majority"
    assert len({tuple(rows) for rows in items.values()}) == 1
    used = {name: line["labelled_examples"] for name, line in lines.items()}
    assert (used["zero-shot"], used["few-shot"], used["lora"], used["cnn"]) == (0, 4, train, train + held)
    assert lines["zero-shot"]["trained_parameters"] == 0
    assert 0 < lines["lora"]["trained_parameters"] < lines["full"]["trained_parameters"]
    assert lines["tfidf"]["metric"]["value"] > lines["majority"]["metric"]["value"]
    assert (tmp_path / "o" / "comparison.json").is_file()
    page = (tmp_path / "o" / "comparison.html").read_text(encoding="utf-8")
    assert "full fine-tuning" in page
    assert "http" not in page


def test_language_models_choose_what_evaluate_says_they_choose(
    compare, run_cli, rows_file, tiny_model_folder, tmp_path
):
    found = document(compare(rows_file, "--model", tiny_model_folder, "--dtype", "fp32", "--methods", "zero-shot"))
    (line,) = found["methods"]
    mine = {r["id"]: r for r in read_items(f"{line['folder']}/items.jsonl")}
    arguments = ("--task", rows_file, "--dtype", "fp32", "--output", tmp_path / "e", "--json")
    told = json.loads(run_cli("evaluate", "--model", tiny_model_folder, *arguments).stdout)["results"][0]
    theirs = {r["id"]: r for r in read_items(told["items_file"])}
    assert set(mine) < set(theirs)
    assert {name: r["prediction"] for name, r in mine.items()} == {name: theirs[name]["prediction"] for name in mine}


def test_texts_that_say_nothing_stop_no_method(compare, tiny_model_folder, tmp_path):
    path = tmp_path / "empty.jsonl"
    texts = [" " if i % 6 == 0 else f"the model {i}" for i in range(40)]
    rows = [{"text": text, "label": "good" if i % 2 else "bad"} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = compare(path, "--methods", "tfidf,cnn,zero-shot,lora", "--model", tiny_model_folder)
    assert all(line["reason"] is None for line in document(result)["methods"])
    assert "no text" in result.stderr


def test_finished_methods_are_kept_and_more_may_come(compare, rows_file):
    first = document(compare(rows_file, "--methods", "majority,mlp"))
    result = compare(rows_file, "--methods", "majority,mlp,tfidf")
    second = document(result)
    assert "MLP: finished before" in result.stderr
    assert lines_of(first)["mlp"] == {
        **lines_of(second)["mlp"],
        **{k: lines_of(first)["mlp"][k] for k in ("difference", "p_value", "p_holm")},
    }
    other = compare(rows_file, "--methods", "mlp", "--set", "mlp.model.hidden_size=8")
    assert "finished before" not in other.stderr


def test_a_folder_of_other_rows_is_refused(compare, rows_file):
    document(compare(rows_file, "--methods", "majority"))
    result = compare(rows_file, "--methods", "majority", "--limit", "3")
    assert result.exit_code == 2
    assert "other rows" in result.stderr


def test_a_stop_leaves_what_is_finished_and_the_same_command_goes_on(compare, rows_file, tmp_path, monkeypatch):
    from llmkit.commands import compare_run

    real = compare_run.RUNS["mlp"]

    def stopped_in_training(method, contest, job, folder):
        from llmkit.training import signals

        class Stopped(signals.StopRequest):
            def __enter__(self):
                found = super().__enter__()
                os.kill(os.getpid(), signal.SIGTERM)
                return found

        with monkeypatch.context() as patch:
            patch.setattr("llmkit.training.loop.StopRequest", Stopped)
            return real(method, contest, job, folder)

    monkeypatch.setitem(compare_run.RUNS, "mlp", stopped_in_training)
    result = compare(rows_file, "--methods", "majority,mlp")
    assert result.exit_code == 75
    assert [path.name.partition("-")[0] for path in (tmp_path / "o" / "methods").iterdir()] == ["majority"]
    assert len(list((tmp_path / "o" / ".unfinished").glob("mlp-*/checkpoints/*"))) == 1
    monkeypatch.setitem(compare_run.RUNS, "mlp", real)
    result = compare(rows_file, "--methods", "majority,mlp")
    assert "majority class: finished before" in result.stderr
    assert lines_of(document(result))["mlp"]["reason"] is None
    assert not (tmp_path / "o" / ".unfinished").exists()


def test_what_a_language_model_answered_before_a_stop_is_kept(
    compare, rows_file, tiny_model_folder, tmp_path, monkeypatch
):
    from llmkit.commands.compare_language import Asking

    real = Asking.answer

    def stopped_at_once(self, part):
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, part)

    arguments = ("--model", tiny_model_folder, "--methods", "zero-shot")
    with monkeypatch.context() as patch:
        patch.setattr(Asking, "answer", stopped_at_once)
        assert compare(rows_file, *arguments).exit_code == 75
    assert list((tmp_path / "o" / ".unfinished").glob("zero-shot-*/test/answers-0.jsonl"))
    assert document(compare(rows_file, *arguments))["methods"][0]["reason"] is None


def test_the_curve_uses_nested_examples_and_says_who_is_best(compare, rows_file, tiny_model_folder, tmp_path):
    methods = ("--methods", "majority,tfidf,zero-shot,few-shot", "--model", tiny_model_folder, "--limit", "10")
    drawn = ("--curve", "0,1,2,8,all", "--draws", "2", "--curve-methods", "tfidf,zero-shot,few-shot")
    asked = (*methods, *drawn, "--shots", "2")
    found = document(compare(rows_file, *asked))
    curves = found["curve"]["curves"]
    whole = found["rows"]["train"] + found["rows"]["validation"]
    assert {name: [p["examples"] for p in points] for name, points in curves.items()} == {
        "tfidf": [2, 8, whole],
        "zero-shot": [0, 1, 2, 8, whole],
        "few-shot": [1, 2, 8, whole],
    }
    assert [p["draws"] for p in curves["tfidf"]] == [2, 2, 1]
    # A prompt of two shots holds no more with eight examples.
    assert curves["few-shot"][1]["value"] == curves["few-shot"][2]["value"]
    assert curves["tfidf"][-1]["value"] == lines_of(found)["tfidf"]["metric"]["value"]
    assert found["curve"]["words"]
    assert "polygon" in (tmp_path / "o" / "comparison.html").read_text(encoding="utf-8")
    again = compare(rows_file, *asked)
    assert document(again)["curve"] == found["curve"]
    assert "labelled examples, draw" not in again.stderr


@pytest.mark.parametrize(
    ("text", "counts"),
    [("0,1,2,4,...,all", [0, 1, 2, 4, 8, 16, 32, 70]), ("8,2,all", [2, 8, 70]), ("4,65,90", [4])],
)
def test_the_numbers_of_a_curve_double_behind_dots(text, counts):
    from llmkit.commands.compare_curve import parse_counts
    from llmkit.commands.compare_rows import Contest, Part

    parts = {name: Part([""] * n, [0] * n) for name, n in (("train", 60), ("validation", 10))}
    assert parse_counts(text, Contest("t", "t", "accuracy", ["a", "b"], parts, [])) == counts


def test_pictures_have_classical_methods_and_a_line_for_the_others(compare, tiny_model_folder):
    arguments = ("--methods", "majority,tfidf,cnn,zero-shot,cascade", "--limit-train", "200", "--limit", "50")
    found = document(compare("digits", *arguments, "--model", tiny_model_folder))
    lines = lines_of(found)
    assert found["rows"] == {"train": 180, "validation": 20, "test": 50}
    assert "these are pictures" in lines["zero-shot"]["reason"]
    assert "language model" in lines["cascade"]["reason"]
    assert lines["tfidf"]["title"] == "logistic regression"
    assert lines["tfidf"]["metric"]["value"] > 0.8


def test_a_table_has_no_neighbours_for_a_cnn(compare):
    lines = lines_of(document(compare("wine", "--methods", "majority,tfidf,mlp,cnn")))
    assert "neighbours" in lines["cnn"]["reason"]
    assert lines["tfidf"]["metric"]["value"] > lines["majority"]["metric"]["value"]
    assert lines["mlp"]["reason"] is None


def test_rows_with_choices_of_their_own_are_for_language_models(compare, tiny_model_folder, tmp_path):
    path = tmp_path / "quiz.jsonl"
    rows = [
        {"query": f"the model {i}", "choices": ["learns", f"asks {i}", "text"][: 2 + i % 2], "gold": i % 2}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = lines_of(document(compare(path, "--methods", "majority,mlp,few-shot", "--model", tiny_model_folder)))
    assert "choices of its own" in lines["majority"]["reason"]
    assert "choices of its own" in lines["mlp"]["reason"]
    assert lines["few-shot"]["reason"] is None


def test_training_rows_that_are_tested_are_left_out_and_counted(compare, rows_file, tmp_path):
    rows = rows_file.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "test.jsonl").write_text("".join(rows[:30]), encoding="utf-8")
    arguments = ("--train", rows_file, "--methods", "majority")
    found = document(compare(tmp_path / "test.jsonl", *arguments))
    assert found["rows"]["test"] == 30
    assert found["rows"]["train"] + found["rows"]["validation"] == 60
    assert any("they are tested: 30" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits", "--methods", "svm"), "there is no method 'svm'"),
        (("digits", "--methods", "mlp", "--set", "train.steps=3"), "whose setting"),
        (("digits", "--methods", "mlp", "--set", "mlp.train.stepps=3"), "stepps"),
        (("nowhere.csv",), "no such file"),
        (("diabetes",), "regression"),
        (("digits", "--methods", "zero-shot"), "none of the methods can run"),
        (("digits", "--model", "nowhere"), "nowhere"),
        (("digits", "--methods", "majority", "--curve", "few"), "no number of examples"),
    ],
)
def test_what_cannot_be_compared_is_an_error_of_the_user(run_cli, tmp_path, arguments, message):
    result = run_cli("compare", *arguments, "--output", tmp_path / "o")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "o" / "comparison.json").exists()


def test_a_task_without_labels_has_no_probabilities_to_compare(compare, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a story"}\n', encoding="utf-8")
    (tmp_path / "texts.yaml").write_text("kind: perplexity\ntest: texts.jsonl\n", encoding="utf-8")
    result = compare(tmp_path / "texts.yaml")
    assert result.exit_code == 2
    assert "kind perplexity" in result.stderr


@pytest.mark.parametrize(("rows", "share"), [(100, 0.2), (800, 0.125), (2000, 0.1), (50_000, 0.01)])
def test_of_few_rows_more_are_held_out_and_of_many_no_more_than_enough(rows, share):
    from llmkit.commands.compare_rows import share_held_out

    assert share_held_out(rows) == pytest.approx(share)
