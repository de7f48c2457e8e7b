import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = [{"text": f"the model {word} {n}", "label": word} for n in range(6) for word in ("learns", "asks")]


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def evaluate(run_cli, tmp_path, folder, *arguments, name="out"):
    result = run_cli("evaluate", "--model", folder, "--output", tmp_path / name, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def read_items(result):
    return [json.loads(line) for line in Path(result["items_file"]).read_text(encoding="utf-8").splitlines()]


def test_a_file_of_labels_is_scored_with_and_without_shots(run_cli, tmp_path, tiny_model_folder, rows_file):
    found = evaluate(run_cli, tmp_path, tiny_model_folder, "--task", rows_file, "--shots", "0,2")
    assert [(r["task"], r["shots"], r["items"], r["chance"]) for r in found["results"]] == [
        ("rows", 0, 12, 0.5),
        ("rows", 2, 12, 0.5),
    ]
    for result in found["results"]:
        means = {"accuracy", "accuracy_bytes", "accuracy_characters", "accuracy_tokens"}
        assert set(result["metrics"]) == {*means, "macro_f1", "matthews", "log_loss", "calibration_error"}
        accuracy = result["metrics"]["accuracy"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        items = read_items(result)
        assert [item["id"] for item in items] == [str(n) for n in range(12)]
        about = {"id", "question_hash", "prompt", "prediction", "answer", "correct", "scores", "choices"}
        assert about == set(items[0])
        sizes = {"num_tokens", "num_bytes", "num_characters"}
        assert {"text", "log_likelihood", "is_greedy", *sizes} == set(items[0]["choices"][0])
        assert result["prompt_by"] == "llmkit"
        right = sum(item["correct"] for item in items) / len(items)
        assert result["metrics"]["accuracy"]["value"] == pytest.approx(right)


def test_scores_do_not_depend_on_the_batch_size(run_cli, tmp_path, tiny_model_folder, rows_file):
    def likelihoods(tokens):
        arguments = ("--task", rows_file, "--shots", "2", "--dtype", "fp32", "--batch-tokens", tokens)
        (result,) = evaluate(run_cli, tmp_path, tiny_model_folder, *arguments, name=f"b{tokens}")["results"]
        return [choice["log_likelihood"] for item in read_items(result) for choice in item["choices"]]

    assert likelihoods("1") == pytest.approx(likelihoods("4096"), abs=1e-4)


def test_a_csv_is_read_by_the_columns_that_were_named(run_cli, tmp_path, tiny_model_folder):
    path = tmp_path / "exam.csv"
    path.write_text("q,one,two,right\nthe model?,learns,asks,B\n", encoding="utf-8")
    columns = ("--question-column", "q", "--choices-column", "one,two", "--answer-column", "right")
    (result,) = evaluate(run_cli, tmp_path, tiny_model_folder, "--task", path, *columns)["results"]
    assert (result["kind"], result["items"], result["chance"]) == ("choice", 1, 0.5)


def test_free_answers_are_generated_and_compared(run_cli, tmp_path, tiny_model_folder):
    path = tmp_path / "facts.jsonl"
    path.write_text(
        '{"question": "the model", "answer": "learns"}\n{"question": "text", "answer": "token"}\n', encoding="utf-8"
    )
    (result,) = evaluate(run_cli, tmp_path, tiny_model_folder, "--task", path)["results"]
    assert set(result["metrics"]) == {"exact_match", "contains", "f1"}
    assert result["chance"] is None


def test_perplexity_of_a_text_agrees_with_the_measure_of_its_ids(
    run_cli, tmp_path, tiny_model_folder, tiny_tokenizer, texts
):
    import numpy as np

    from llmkit.evaluation.perplexity import measure_stream
    from llmkit.models.causal_lm import load_causal_lm
    from llmkit.tokenizer import encode_text, end_of_document_id

    (tmp_path / "t.txt").write_text(texts[0], encoding="utf-8")
    arguments = ("--task", "perplexity", "--data", tmp_path / "t.txt", "--dtype", "fp32")
    (result,) = evaluate(run_cli, tmp_path, tiny_model_folder, *arguments)["results"]
    stream = np.array([end_of_document_id(tiny_tokenizer), *encode_text(tiny_tokenizer, texts[0])])
    expected = measure_stream(
        load_causal_lm(tiny_model_folder), stream, len(texts[0].encode()), seq_len=128, batch_size=1
    )
    for name, value in expected.items():
        assert result["metrics"][name]["value"] == pytest.approx(value, abs=1e-4)


def test_without_json_the_table_is_on_stdout_and_all_else_on_stderr(run_cli, tmp_path, tiny_model_folder, rows_file):
    result = run_cli("evaluate", "--model", tiny_model_folder, "--task", rows_file, "--output", tmp_path / "o")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == [
        "task",
        "shots",
        "items",
        "metric",
        "value",
        "+-",
        "95%",
        "from",
        "to",
        "chance",
        "clean",
        "seconds",
    ]
    assert "read as kind label" in result.stderr
    assert (tmp_path / "o" / "results.json").is_file()


def test_a_model_that_says_one_label_to_everything_is_told_of(run_cli, tmp_path, tiny_model_folder):
    rows = [{"text": f"the text {number}", "label": "good" if number % 2 else "a bad one"} for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = ("evaluate", "--model", tiny_model_folder, "--kind", "label", "--task", tmp_path / "rows.jsonl")
    told = run_cli(*asked, "--output", tmp_path / "one").stderr
    assert "rows, 0 shots: 100% of its answers are 'good', and 50% of the rows; --calibrate" in told
    told = run_cli(*asked, "--calibrate", "--output", tmp_path / "two").stderr
    assert "50% of the rows\n" in told


def test_results_go_to_a_new_folder_of_evaluations_unless_another_is_named(
    run_cli, tmp_path, tiny_model_folder, rows_file, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for count in (1, 2):
        assert run_cli("evaluate", "--model", tiny_model_folder, "--task", rows_file, "--limit", "2").exit_code == 0
        assert len(list((tmp_path / "evaluations").glob("*/results.json"))) == count


def test_chance_stands_beside_the_spread_and_a_task_of_one_wording_is_told(
    run_cli, tmp_path, tiny_model_folder, rows_file
):
    file = tmp_path / "two.yaml"
    file.write_text("test: rows.jsonl\nprompt: '{text}'\nprompts: ['Text: {text}']\n", encoding="utf-8")
    asked = ("evaluate", "--model", tiny_model_folder, "--prompts", "all", "--output", tmp_path / "o")
    result = run_cli(*asked, file, rows_file)
    assert result.exit_code == 0, result.stderr
    heads = "task shots metric mean spread worst best chance clean prompts draws"
    table = [line.split() for line in result.stdout.splitlines()]
    (row,) = [line for line in table[table.index(heads.split()) :] if line[:3] == ["two", "0", "accuracy"]]
    assert row[7] == "0.5000"
    assert "rows: there is one wording of its prompt" in result.stderr
    assert "two: there is" not in result.stderr


def test_all_wordings_where_there_is_one_are_refused(run_cli, tiny_model_folder, rows_file):
    result = run_cli("evaluate", "--model", tiny_model_folder, "--task", rows_file, "--prompts", "all")
    assert result.exit_code == 2
    assert "--prompts all: no task here has more than one wording" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "python-docs-pakage"), "did you mean 'python-docs-package'"),
        (("--task", "nowhere.jsonl"), "no such file"),
        (("--task", "perplexity"), "--data"),
        (("--task", "python-docs-package", "--question-column", "q"), "--question-column"),
        (("--task", "python-docs-package", "--shots", "few"), "--shots"),
        ((), "--task"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_of_the_user(run_cli, tiny_model_folder, arguments, message):
    result = run_cli("evaluate", "--model", tiny_model_folder, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_model_that_is_nowhere_is_told_without_asking_the_hub(run_cli, tmp_path, rows_file, monkeypatch):
    from llmkit.models import vocabulary

    monkeypatch.delattr(vocabulary, "cached_file")
    result = run_cli("evaluate", "--model", "nowhere", "--task", rows_file, "--output", tmp_path / "o")
    assert result.exit_code == 2
    assert "there is no such folder" in result.stderr


def test_an_output_folder_that_is_taken_is_refused_before_the_work(run_cli, tmp_path, tiny_model_folder, rows_file):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "kept").write_text("")
    result = run_cli("evaluate", "--model", tiny_model_folder, "--task", rows_file, "--output", tmp_path / "o")
    assert result.exit_code == 2
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["kept"]


def test_the_built_in_tasks_are_listed_with_kind_metric_and_chance(run_cli):
    tasks = {task["task"]: task for task in json.loads(run_cli("evaluate", "--list", "--json").stdout)["tasks"]}
    assert tasks["python-docs-description"]["chance"] == 0.25
    assert tasks["python-docs-package"]["kind"] == "label"


@pytest.fixture
def three_kinds(tmp_path, rows_file):
    """A task of labels, one of free answers and one of texts to predict, each with rows that no two share evenly."""
    facts = [{"question": f"the model {n}", "answer": word} for n, word in enumerate(("learns", "asks", "token"))]
    pages = [{"text": f"the model learns to guess the next token {n}"} for n in range(3)]
    for name, rows in (("facts", facts), ("pages", pages)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "facts.yaml").write_text("test: facts.jsonl\nkind: generate\nmax_new_tokens: 6\n", encoding="utf-8")
    (tmp_path / "pages.yaml").write_text("test: pages.jsonl\nkind: perplexity\n", encoding="utf-8")
    rows_file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:-1]), encoding="utf-8")
    return [str(rows_file), str(tmp_path / "facts.yaml"), str(tmp_path / "pages.yaml")]


def test_two_processes_give_the_numbers_of_one_whatever_the_kinds_of_task(
    run_cli, tmp_path, tiny_model_folder, three_kinds
):
    arguments = [*three_kinds, "--shots", "2", "--dtype", "fp32"]
    alone = evaluate(run_cli, tmp_path, tiny_model_folder, *arguments, name="alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llmkit", "evaluate", "--model", str(tiny_model_folder), *arguments, "--json"]
    command += ["--output", str(tmp_path / "both")]
    job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **job, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=200) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    together = json.loads(outputs[0][0])
    assert outputs[1][0] == ""
    assert [result["kind"] for result in alone["results"]] == ["label", "generate", "perplexity"]
    for one, other in zip(alone["results"], together["results"], strict=True):
        assert_same_result(one, other)


def assert_same_result(alone, together):
    """The same metrics, and the same said of each item."""
    assert together["prompts_hash"] == alone["prompts_hash"]
    assert together["metrics"].keys() == alone["metrics"].keys()
    for name, estimate in alone["metrics"].items():
        assert together["metrics"][name] == pytest.approx(estimate, abs=1e-4)
    for one, other in zip(read_items(alone), read_items(together), strict=True):
        assert (one["id"], one["prediction"]) == (other["id"], other["prediction"])
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)
        for a, b in zip(one["choices"], other["choices"], strict=True):
            assert a["log_likelihood"] == pytest.approx(b["log_likelihood"], abs=1e-4)
