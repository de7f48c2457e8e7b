"""Draws and wordings, training data, and commands that go on where they were stopped."""

import json
import shutil

import pytest

ROWS = [{"text": f"the model {word} {n} " * 8, "label": word} for n in range(5) for word in ("learns", "asks")]


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def evaluate(run_cli, tmp_path, tiny_model_folder, rows_file):
    def run(*arguments, name="out", code=0):
        command = ("evaluate", "--model", tiny_model_folder, "--task", rows_file, "--output", tmp_path / name)
        result = run_cli(*command, *arguments)
        assert result.exit_code == code, result.output
        return result

    return run


def test_shots_are_drawn_several_times_and_the_spread_is_shown(evaluate, tmp_path):
    result = evaluate("--shots", "0,2", "--shot-draws", "3", "--items")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(r["shots"], r["draw"]) for r in document["results"]] == [(0, 0), (2, 0), (2, 1), (2, 2)]
    assert len({r["prompts_hash"] for r in document["results"]}) == 4
    spread = next(s for s in document["spreads"] if s["metric"] == "accuracy")
    values = [r["metrics"]["accuracy"]["value"] for r in document["results"][1:]]
    assert (spread["worst"], spread["best"]) == (min(values), max(values))
    assert spread["mean"] == pytest.approx(sum(values) / 3)
    assert "worst" in result.stdout
    assert "rows, 2 shots, draw 3: the worst items" in result.stderr


def test_all_wordings_of_the_prompt_are_asked(evaluate, tmp_path, rows_file):
    (tmp_path / "task.yaml").write_text(
        "kind: label\ntest: rows.jsonl\nquestion: text\nanswer: label\n"
        'prompt: "{question} is:"\nprompts: ["{question} is:", "Text: {question}\\nLabel:"]\n'
    )
    result = evaluate("--prompts", "all", "--task", tmp_path / "task.yaml", "--json")
    document = json.loads(result.stdout)
    asked = [r["prompt"] for r in document["results"] if r["task"] == "task"]
    assert asked == ["{question} is:", "Text: {question}\nLabel:"]
    assert {s["task"] for s in document["spreads"]} == {"task"}


def test_items_that_stand_in_the_training_data_are_counted_and_left_out(evaluate, tmp_path):
    (tmp_path / "train.txt").write_text(ROWS[0]["text"] * 2, encoding="utf-8")
    result = evaluate("--train-data", tmp_path / "train.txt", "--json")
    (found,) = json.loads(result.stdout)["results"]
    assert found["contamination"]["seen_items"] == 1
    assert found["contamination"]["clean_items"] == 9
    assert "1 of 10 items stand in the training data" in result.stderr


def test_rows_and_prepared_data_are_looked_through_too(evaluate, run_cli, tmp_path, tiny_model_folder):
    rows = tmp_path / "train.jsonl"
    rows.write_text(json.dumps({"messages": [{"role": "user", "content": ROWS[3]["text"]}]}) + "\n")
    (tmp_path / "more.txt").write_text(ROWS[4]["text"] * 3 + "\n" + "other words " * 200)
    prepare = ("data", "prepare", tmp_path / "more.txt", "--tokenizer", tiny_model_folder)
    assert run_cli(*prepare, "--output", tmp_path / "prepared", "--validation", "0").exit_code == 0
    result = evaluate("--train-data", rows, "--train-data", tmp_path / "prepared", "--json")
    (found,) = json.loads(result.stdout)["results"]
    seen = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert [item["id"] for item in seen if item["seen_in_training"]] == ["3", "4"]
    assert found["contamination"]["whole_items"] == 1


def test_the_data_of_the_models_own_run_is_looked_through(run_cli, tmp_path, tiny_model_folder, rows_file):
    run = tmp_path / "run"
    shutil.copytree(tiny_model_folder, run / "model")
    (tmp_path / "train.txt").write_text(ROWS[1]["text"] * 2)
    (run / "metrics.jsonl").write_text("")
    (run / "recipe.yaml").write_text(f"kind: pretrain\ndata:\n  mix: {{{tmp_path / 'train.txt'}: 1, gone: 2}}\n")
    command = ("evaluate", "--model", run / "model", "--task", rows_file, "--output", tmp_path / "o", "--json")
    result = run_cli(*command)
    (found,) = json.loads(result.stdout)["results"]
    assert found["contamination"]["training_data"] == [str(tmp_path / "train.txt")]
    assert found["contamination"]["seen_items"] == 1
    assert "trained on gone, which is not here" in result.stderr


def test_the_same_command_goes_on_where_it_was_stopped(evaluate, tmp_path, monkeypatch):
    from llmkit.evaluation import scoring

    expected = json.loads(evaluate("--json", "--batch-tokens", "1", name="whole").stdout)
    whole, forwards = scoring.score_batch, []

    def score_batch(*arguments):
        if len(forwards) == 9:
            raise RuntimeError("the power went")
        forwards.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(scoring, "score_batch", score_batch)
    command = ("--json", "--batch-tokens", "1")
    evaluate(*command, code=1)
    assert not (tmp_path / "out").exists()
    done = len(forwards)
    forwards.clear()
    result = evaluate(*command)
    assert "going on where this command stopped" in result.stderr
    assert len(forwards) < 9 + done
    found = json.loads(result.stdout)["results"][0]["metrics"]
    assert found["accuracy"] == expected["results"][0]["metrics"]["accuracy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl", "whole"]


def test_answers_that_were_there_are_no_part_of_the_speed(evaluate, tmp_path, monkeypatch):
    from llmkit.commands import evaluation_job
    from llmkit.evaluation.journal import Journal

    monkeypatch.setattr(Journal, "remove", lambda self: None)
    evaluate(name="first")
    bars = []

    class Watched(evaluation_job.Progress):
        def __exit__(self, *exception):
            bars.append(self)
            super().__exit__(*exception)

    monkeypatch.setattr(evaluation_job, "Progress", Watched)
    evaluate(name="again")
    assert [(bar.start, bar.done, bar.total, bar.note) for bar in bars] == [(10, 10, 10, "0.0 rows/s")]


def test_too_few_rows_for_the_shots_are_told_before_the_model_is_loaded(evaluate, tmp_path, monkeypatch):
    from llmkit.models import causal_lm

    monkeypatch.delattr(causal_lm, "load_causal_lm")
    assert "only 9 rows for 10 shots" in evaluate("--shots", "0,10", code=2).stderr


def test_a_gate_on_what_no_task_has_is_told_before_the_model_is_loaded(evaluate, tmp_path, monkeypatch):
    from llmkit.models import causal_lm

    monkeypatch.delattr(causal_lm, "load_causal_lm")
    assert "rows:macro_f1" in evaluate("--gate", "f1 >= 0.5", code=2).stderr
    assert "no interval" in evaluate("--gate", "calibration_error.high <= 0.1", code=2).stderr
    assert "no interval" in evaluate("--gate", "accuracy.low >= 0.5", "--limit", "1", code=2).stderr
    # Of two models what is measured is the difference, and none of log-losses is made.
    result = evaluate("--model", "other", "--gate", "log_loss <= 0", code=2)
    assert "rows:log_loss" not in result.stderr
    assert "rows:matthews" in result.stderr


def test_two_tasks_of_one_name_are_refused(evaluate, tmp_path, rows_file):
    other = tmp_path / "other" / "rows.jsonl"
    other.parent.mkdir()
    shutil.copy(rows_file, other)
    assert "two of the tasks are called rows" in evaluate("--task", other, code=2).stderr


@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_the_worst_of_single_continuations_are_the_least_likely(evaluate, tmp_path, metric):
    rows = "".join(json.dumps({"context": "the", "continuation": word}) + "\n" for word in ("model", "learns", "asks"))
    (tmp_path / "said.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "said.yaml").write_text(f"test: said.jsonl\nmetric: {metric}\n", encoding="utf-8")
    result = evaluate("--items", "--task", tmp_path / "said.yaml")
    items = [json.loads(line) for line in (tmp_path / "out" / "items-said-0shot.jsonl").read_text().splitlines()]
    order = sorted(items, key=lambda item: -item["scores"]["nats"])
    shown = result.stdout.partition("margin")[2].partition("margin")[2].splitlines()[2:]
    assert [line.split()[0] for line in shown if line.strip()] == [item["id"] for item in order]


def test_the_worst_items_are_shown_where_they_are_wanted(evaluate):
    assert "margin" in evaluate("--items").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--one-turn",), "add --chat"),
        (("--shot-draws", "3"), "there are no shots to draw"),
        (("--kind", "generate", "--calibrate"), "no task here is of kind label"),
        (("--kind", "generate", "--pmi"), "no task here has choices"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(evaluate, arguments, message):
    assert message in evaluate(*arguments, code=2).stderr
