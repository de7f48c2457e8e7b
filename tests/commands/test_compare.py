"""`llmkit compare` from the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
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


def test_a_prompt_that_leans_to_one_label_is_told_and_can_be_calibrated(
    compare, run_cli, rows_file, tiny_model_folder, tmp_path
):
    asked = (rows_file, "--model", tiny_model_folder, "--dtype", "fp32", "--methods", "zero-shot,few-shot")
    plain, calibrated = (lines_of(document(compare(*asked, *more))) for more in ((), ("--calibrate",)))
    assert plain["few-shot"]["leaning"].startswith("100% of its answers are ")
    assert "--calibrate" in plain["few-shot"]["leaning"]
    assert calibrated["few-shot"]["title"] == "4-shot, calibrated"
    mine = {r["id"]: r for r in read_items(f"{calibrated['zero-shot']['folder']}/items.jsonl")}
    arguments = ("--task", rows_file, "--dtype", "fp32", "--calibrate", "--output", tmp_path / "e", "--json")
    told = json.loads(run_cli("evaluate", "--model", tiny_model_folder, *arguments).stdout)["results"][0]
    for record in read_items(told["items_file"]):
        if record["id"] in mine:
            chances = np.exp([choice["calibrated"] for choice in record["choices"]])
            assert sorted(mine[record["id"]]["probabilities"]) == pytest.approx(sorted(chances), abs=1e-4)


def test_calibration_of_what_cannot_be_calibrated_is_refused_or_told(compare, rows_file, tiny_model_folder, tmp_path):
    assert "not among the methods" in compare(rows_file, "--methods", "majority", "--calibrate").stderr
    quiz = tmp_path / "quiz.jsonl"
    rows = [{"question": f"is it {i}?", "choices": [f"no {i}", f"yes {i}"], "answer": i % 2} for i in range(12)]
    quiz.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = compare(quiz, "--model", tiny_model_folder, "--methods", "zero-shot", "--calibrate", output="quiz")
    assert result.exit_code == 2
    assert "choices of its own" in result.stderr


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
    from llmkit.commands.contest import run as contest_run

    real = contest_run.RUNS["mlp"]

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

    monkeypatch.setitem(contest_run.RUNS, "mlp", stopped_in_training)
    result = compare(rows_file, "--methods", "majority,mlp")
    assert result.exit_code == 75
    assert [path.name.partition("-")[0] for path in (tmp_path / "o" / "methods").iterdir()] == ["majority"]
    assert len(list((tmp_path / "o" / ".unfinished").glob("mlp-*/checkpoints/*"))) == 1
    monkeypatch.setitem(contest_run.RUNS, "mlp", real)
    result = compare(rows_file, "--methods", "majority,mlp")
    assert "majority class: finished before" in result.stderr
    assert lines_of(document(result))["mlp"]["reason"] is None
    assert not (tmp_path / "o" / ".unfinished").exists()


def test_what_a_language_model_answered_before_a_stop_is_kept(
    compare, rows_file, tiny_model_folder, tmp_path, monkeypatch
):
    from llmkit.evaluation.journal import Journal

    real = Journal.add

    def stopped_behind_it(self, answers):
        real(self, answers)
        os.kill(os.getpid(), signal.SIGINT)

    arguments = ("--model", tiny_model_folder, "--methods", "zero-shot")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stopped_behind_it)
        assert compare(rows_file, *arguments).exit_code == 75
    assert list((tmp_path / "o" / ".unfinished").glob("zero-shot-*/test/answers-0.jsonl"))
    assert document(compare(rows_file, *arguments))["methods"][0]["reason"] is None


def test_the_curve_uses_nested_examples_and_says_who_is_best(compare, rows_file, tiny_model_folder, tmp_path):
    methods = ("--methods", "majority,tfidf,zero-shot,few-shot", "--model", tiny_model_folder, "--limit", "10")
    drawn = ("--curve", "0,1,2,8,all", "--draws", "2", "--curve-methods", "tfidf,zero-shot,few-shot")
    asked = (*methods, *drawn, "--shots", "2")
    found = document(compare(rows_file, *asked))
    curves = found["curve"]["curves"]
    train = found["rows"]["train"]
    # Each stands at the examples that it uses: a prompt of two shots holds two, and what is held out tfidf never sees.
    assert {name: [p["examples"] for p in points] for name, points in curves.items()} == {
        "tfidf": [2, 8, train],
        "zero-shot": [0],
        "few-shot": [1, 2],
    }
    assert found["curve"]["all"] == train + found["rows"]["validation"]
    assert [p["draws"] for p in curves["tfidf"]] == [2, 2, 1]
    assert curves["tfidf"][-1]["value"] == lines_of(found)["tfidf"]["metric"]["value"]
    assert found["curve"]["words"]
    assert "polygon" in (tmp_path / "o" / "comparison.html").read_text(encoding="utf-8")
    again = compare(rows_file, *asked)
    assert document(again)["curve"] == found["curve"]
    assert "labelled examples, draw" not in again.stderr


def test_pictures_have_classical_methods_and_a_line_for_the_others(compare, tiny_model_folder):
    arguments = ("--methods", "majority,tfidf,cnn,zero-shot,cascade", "--limit-train", "200", "--limit", "50")
    found = document(compare("digits", *arguments, "--model", tiny_model_folder))
    lines = lines_of(found)
    assert found["rows"] == {"train": 180, "validation": 20, "test": 50}
    assert any(note.startswith("learned from: 200 of 1,4") for note in found["notes"])
    assert any(note.startswith("tested: the first 50 of ") for note in found["notes"])
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


def test_pictures_that_are_tested_are_not_learned_from(compare, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 4, 4), dtype=np.uint8), np.arange(60) % 2
    # Ten of the forty training pictures are test pictures too.
    np.savez(
        tmp_path / "x.npz", x_train=np.concatenate([x[:30], x[40:50]]), y_train=y[:40], x_test=x[40:], y_test=y[40:]
    )
    found = document(compare(tmp_path / "x.npz", "--methods", "majority"))
    assert found["rows"]["test"] == 20
    assert found["rows"]["train"] + found["rows"]["validation"] == 30
    assert any("they are tested: 10" in note for note in found["notes"])
    assert not any("too good" in note for note in found["notes"])


def test_rows_of_a_table_that_are_tested_are_not_learned_from(compare, tmp_path):
    rows = [f"{i * 37 % 101},{i % 7},{'ab'[i % 2]}\n" for i in range(60)]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("size,count,label\n" + "".join(rows[:50]))
    (tmp_path / "set" / "test.csv").write_text("size,count,label\n" + "".join(rows[40:]))
    found = document(compare(tmp_path / "set", "--methods", "majority"))
    assert found["rows"]["test"] == 20
    assert found["rows"]["train"] + found["rows"]["validation"] == 40
    assert any("they are tested: 10" in note for note in found["notes"])


def test_a_task_is_judged_by_its_own_metric(compare, tiny_model_folder, tmp_path):
    rows = [
        {"query": f"the model {i}", "choices": ["a", "to guess next token from text"], "gold": i % 2} for i in range(40)
    ]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "quiz.yaml").write_text("test: quiz.jsonl\nmetric: accuracy_bytes\n", encoding="utf-8")
    arguments = ("--methods", "zero-shot", "--model", tiny_model_folder, "--dtype", "fp32")
    found = document(compare(tmp_path / "quiz.yaml", *arguments))
    other = document(compare(tmp_path / "quiz.jsonl", *arguments, output="o2"))
    assert (found["metric"], other["metric"]) == ("accuracy_bytes", "accuracy")
    assert found["chance"] == 0.5
    said = [[r["prediction"] for r in read_items(f"{d['methods'][0]['folder']}/items.jsonl")] for d in (found, other)]
    # As likelihoods the short choice is likelier, for each byte the long one.
    assert set(said[1]) == {"a"}
    assert set(said[0]) == {"to guess next token from text"}


def test_other_shots_for_each_question_are_all_counted_as_labelled(compare, rows_file, tiny_model_folder, tmp_path):
    rows = [{"query": f"the model {i}", "choices": ["learns", f"asks {i}"], "gold": i % 2} for i in range(40)]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "quiz.yaml").write_text("test: quiz.jsonl\nshots: random\n", encoding="utf-8")
    arguments = ("--methods", "few-shot", "--shots", "2", "--model", tiny_model_folder)
    found = document(compare(tmp_path / "quiz.yaml", *arguments))
    assert found["methods"][0]["labelled_examples"] > 2


def test_a_wrong_row_of_a_quiz_is_an_error_and_no_other_reading_of_it(compare, tmp_path):
    rows = [{"query": f"the model {i}", "choices": ["learns", f"asks {i}"], "gold": i % 2} for i in range(40)]
    rows[7]["gold"] = 5
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = compare(tmp_path / "quiz.jsonl", "--methods", "tfidf")
    assert result.exit_code == 2
    assert "quiz.jsonl:8" in result.stderr
    assert "none of the choices" in result.stderr


def test_rows_of_another_file_are_not_left_aside(compare, rows_file):
    result = compare(rows_file, "--data", rows_file, "--methods", "majority")
    assert result.exit_code == 2
    assert "--data is for built-in tasks" in result.stderr


def test_settings_of_a_method_that_is_not_compared_are_told(compare, rows_file):
    result = compare(rows_file, "--methods", "majority")
    assert "--set rnn.train.steps=10: rnn is not among the methods" in result.stderr


def test_why_rows_are_not_read_as_evaluate_reads_them_is_told(compare, tmp_path):
    lines = [f"the model learns {i},{'good' if i % 2 else 'bad'}\n" for i in range(60)]
    lines[4] = "the model learns,\n"
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
    found = document(compare(tmp_path / "rows.csv", "--methods", "majority"))
    assert any("column 'label' is empty" in note and "rows.csv:6" in note for note in found["notes"])
    assert any("1 rows without a value in label" in note for note in found["notes"])
    (tmp_path / "rows.csv").write_text("text,label\n" + "the model learns,\n" * 9, encoding="utf-8")
    result = compare(tmp_path / "rows.csv", "--methods", "majority", output="o2")
    assert result.exit_code == 2
    assert "as a task of `llmkit evaluate`" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits", "--methods", "svm"), "there is no method 'svm'"),
        (("digits", "--methods", "mlp", "--set", "train.steps=3"), "whose setting"),
        (("digits", "--methods", "mlp", "--set", "mlp.train.stepps=3"), "stepps"),
        (("nowhere.csv",), "error: nowhere.csv: there is no task of this name and no such file"),
        (("digitz", "--methods", "mlp"), "did you mean 'digits'"),
        (("diabetes",), "regression"),
        (("digits", "--methods", "zero-shot"), "none of the methods can run"),
        (("digits", "--model", "nowhere"), "nowhere"),
        (("digits", "--methods", "majority", "--curve", "few"), "no number of examples"),
        (("digits", "--methods", "majority", "--curve-methods", "majority"), "there is no curve to draw"),
        (("digits", "--methods", "majority", "--curve", "2", "--curve-methods", "cnn"), "not among the methods"),
        (("digits", "--question-column", "text"), "rows and columns of its own"),
        (("python-docs-package", "--set", "data.test=0.5"), "they are a task's"),
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
