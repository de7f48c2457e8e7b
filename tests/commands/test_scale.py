"""`llmkit scale`, through the command line: ladders of models that train in a moment."""

from __future__ import annotations

import json
import os
import shlex
import signal

import pytest

from llmkit.errors import StoppedError
from llmkit.evaluation.scaling_law import Law

CHINCHILLA = Law(1.7, (400.0, 410.0), (0.34, 0.28))
FIELDS = ("train.seq_len=32", "train.precision=fp32", "train.compile=false", "data.validation_tokens=2000")
SETS = [x for field in FIELDS for x in ("--set", field)]
SIZES = ["--sizes", "22k,28k,36k,46k", "--tokens", "0.2x"]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory, prepared_folder):
    """A ladder of four sizes, stopped at once and continued: its folder, its command, the result, the first end."""
    from typer.testing import CliRunner

    from llmkit.cli import app

    output = tmp_path_factory.mktemp("ladder") / "out"
    command = ["scale", "--data", str(prepared_folder), "--output", str(output), *SIZES, *SETS]
    # The time counts from the start of the process, which is that of the tests: it is over at once.
    stopped = CliRunner().invoke(app, [*command, "--time-limit", "1s"])
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.stderr
    return output, command, json.loads(result.stdout), stopped


def test_a_ladder_whose_time_is_over_goes_on_with_the_same_command(ladder):
    output, _, _, stopped = ladder
    assert stopped.exit_code == 75
    assert "stopped with 0 of 4 models trained" in stopped.stderr
    parts = json.loads((output / "rungs" / "22k-0.2x" / "environment.json").read_text())["parts"]
    assert [part["step"] for part in parts] == [0, 1]


def test_a_signal_in_the_last_step_of_a_model_ends_the_ladder(tmp_path, monkeypatch):
    from llmkit.commands import ladder
    from llmkit.training.signals import StopRequest

    base = ladder.Base("pretrain", None, "data", (), tmp_path)
    rungs = [ladder.Rung(name, {}) for name in ("one", "two")]

    def train(rung, base, *, time_limit):
        with StopRequest():  # as a run has it, which has nothing left to stop
            os.kill(os.getpid(), signal.SIGINT)
        rung.folder(base).mkdir(parents=True)
        (rung.folder(base) / "summary.json").write_text("{}")

    monkeypatch.setattr(ladder, "train", train)
    with pytest.raises(StoppedError, match="stopped with 1 of 2 models trained"):
        ladder.climb(rungs, base, time_limit=None)


def test_each_model_is_a_run_and_the_law_is_fitted_to_them(ladder):
    output, _, document, _ = ladder
    assert [rung["size"] for rung in document["rungs"]] == ["22k", "28k", "36k", "46k"]
    for rung in document["rungs"]:
        run = output / "rungs" / rung["name"]
        summary, plan = (json.loads((run / name).read_text()) for name in ("summary.json", "plan.json"))
        assert summary["status"] == "finished"
        assert rung["loss"] == summary["validation"]["nats_per_token"]
        assert rung["parameters"] == plan["parameters"]
        assert rung["tokens"] == plan["tokens"] == pytest.approx(0.2 * rung["parameters"], rel=0.1)
    assert document["dials"] == ["parameters"]
    assert document["note"] == "0.2 tokens per parameter"
    assert json.loads((output / "scaling.json").read_text()) == document
    assert document["law"]["terms"][0]["dial"] == "parameters"
    assert document["prediction"]["parameters"] > document["rungs"][-1]["parameters"]
    assert document["is_supported"] == (not document["doubts"])


def test_the_picture_and_the_page_are_there(ladder):
    output, _, document, _ = ladder
    assert (output / "scaling.png").read_bytes().startswith(b"\x89PNG")
    page = (output / "scaling.html").read_text()
    assert page.count("<svg") == 1
    assert "http" not in page
    assert f"{document['rungs'][0]['loss']:.4f}" in page


def test_the_same_command_trains_nothing_again_and_another_one_is_refused(ladder, run_cli):
    output, command, document, _ = ladder
    times = {path: path.stat().st_mtime_ns for path in output.glob("rungs/*/summary.json")}
    again = run_cli(*command, "--json")
    assert json.loads(again.stdout) == document, again.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    other = run_cli(*command, "--set", "train.lr=0.5")
    assert other.exit_code == 2
    assert "this folder holds another ladder; not the same: recipe" in other.stderr


def test_the_table_says_what_was_counted_and_how_far_off_the_law_each_model_lies(ladder, capsys):
    from llmkit.commands.scale_show import show_document

    _, _, document, stopped = ladder
    show_document(document)
    table = capsys.readouterr().out
    assert "N counts all parameters, embeddings included, 0.2 tokens per parameter" in table
    rung = document["rungs"][0]
    assert f"{rung['parameters']:,}" in table
    assert f"{rung['parameters_without_embeddings']:,}" in table
    assert f"{rung['loss']:.4f}  {document['residuals'][rung['name']]:.4f}" in table
    assert "lr 0.3118 C^-0.125 and at most 0.006, batch 0.2920 C^0.3271 tokens (DeepSeek LLM 2024" in stopped.stderr


def test_a_dry_run_prints_the_command_of_each_model_and_writes_nothing(run_cli, prepared_folder, tmp_path):
    output = tmp_path / "dry"
    result = run_cli("scale", "--data", prepared_folder, "--output", output, *SIZES, *SETS, "--dry-run")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert not output.exists()
    words = shlex.split(lines[0])
    assert words[:2] == ["llmkit", "pretrain"]
    assert "model.size=22k" in words
    trained = run_cli(*words[1:], "--json")
    assert json.loads(trained.stdout)["status"] == "finished", trained.stderr
    plan = run_cli("scale", "--data", prepared_folder, "--output", output, *SIZES, *SETS, "--dry-run")
    assert plan.stderr.count("trained") == 1


def test_a_budget_chooses_sizes_that_take_about_as_much(run_cli, prepared_folder, tmp_path):
    arguments = ["scale", "--data", prepared_folder, "--output", tmp_path, "--flops", "1e13", *SETS]
    result = run_cli(*arguments, "--dry-run", "--json")
    rungs = json.loads(result.stdout)["rungs"]
    assert len(rungs) == 6
    assert sum(rung["flops"] for rung in rungs) == pytest.approx(1e13, rel=0.25)
    assert all(rung["tokens"] == pytest.approx(20 * rung["parameters"], rel=0.02) for rung in rungs)
    assert "the same ladder, named: --sizes" in result.stderr
    small = run_cli(*arguments[:6], "1e8", *SETS, "--dry-run")
    assert small.exit_code == 2
    assert "no ladder" in small.stderr


def test_the_best_of_some_learning_rates_is_taken_for_all_models(run_cli, prepared_folder, tmp_path):
    command = ["scale", "--data", prepared_folder, "--output", tmp_path, *SIZES, *SETS, "--search-lr"]
    first = run_cli(*command, "--dry-run")
    lines = first.stdout.splitlines()
    assert len(lines) == 5
    assert all("/search/lr-" in line for line in lines)
    assert "when these are trained, the same command prints those of the ladder" in first.stderr
    assert run_cli(*command, "--time-limit", "1s").exit_code == 75
    document = json.loads(run_cli(*command, "--json").stdout)
    tried = document["search"]
    assert [found["factor"] for found in tried] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert [found["lr"] for found in tried] == [0.0015, 0.003, 0.006, 0.012, 0.024]
    for found in tried:
        summary = json.loads((tmp_path / "search" / found["name"] / "summary.json").read_text())
        assert summary["validation"]["nats_per_token"] == found["loss"]
    best = min(tried, key=lambda found: found["loss"])
    assert {rung["lr"] for rung in document["rungs"]} == {best["lr"]}
    assert document["rule"].startswith(f"all learning rates times {best['factor']:g}, which was best for 22k-0.2x")
    whole = document["rungs"][0]["steps"]
    plan = json.loads((tmp_path / "search" / "lr-0.006" / "plan.json").read_text())
    assert plan["steps"] == max(10, round(0.3 * whole))
    known = run_cli(*command, "--dry-run").stdout.splitlines()
    assert len(known) == 4
    assert all(f"train.lr={best['lr']:g}" in line for line in known)
    assert "not the same: searches_lr" in run_cli(*command[:-1]).stderr


def test_the_width_of_a_baseline_has_its_law_and_its_check(run_cli, tmp_path):
    fields = ["train.steps=40", "train.validate_every=0", "train.warmup_steps=5", "data.validation=0.3"]
    sets = [x for field in fields for x in ("--set", field)]
    command = ["scale", "--kind", "mlp", "--data", "wine", "--output", tmp_path, "--sizes", "2,4,8,16", *sets]
    result = run_cli(*command, "--check", "--json")
    document = json.loads((tmp_path / "scaling.json").read_text())
    assert document["dials"] == ["width"]
    assert [rung["width"] for rung in document["rungs"]] == [2, 4, 8, 16]
    assert document["rungs"][0]["parameters"] < document["rungs"][1]["parameters"]
    assert document["prediction"]["width"] == 32
    if document["is_supported"]:
        check = json.loads(result.stdout)["check"]
        assert check["error"] == pytest.approx(document["prediction"]["loss"] - check["loss"])
    else:
        assert result.exit_code == 3
        assert "the points support no law" in result.stderr
        assert not (tmp_path / "check").exists()
    other = run_cli(*["breast-cancer" if word == "wine" else word for word in command])
    assert other.exit_code == 2
    assert "data.source is wine, not breast-cancer" in other.stderr


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--sizes", "1m,2m", "--minutes", "3"], "each decide about the sizes"),
        (["--sizes", "big"], "'big' is no number"),
        (["--sizes", "1m,1m"], "names something twice"),
        (["--sizes", "30k", "--tokens", "20"], "too few to learn from"),
        (["--sizes", "30k", "--count", "some"], "neither all nor without-embeddings"),
        (["--sizes", "30k", "--budget", "much"], "no number of FLOPs"),
        ([], "how large the models are to be is not said"),
        (["--sizes", "30k", "--set", "model.num_layers=7"], "model.size sets the sizes"),
    ],
)
def test_wrong_input_is_told_before_anything_is_trained(run_cli, prepared_folder, tmp_path, extra, message):
    result = run_cli("scale", "--data", prepared_folder, "--output", tmp_path / "out", *SETS, *extra)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out" / "rungs").exists()


def test_a_baseline_has_widths_alone(run_cli, tmp_path):
    result = run_cli("scale", "--kind", "mlp", "--data", "digits", "--output", tmp_path, "--tokens", "20x")
    assert result.exit_code == 2
    assert "one of widths alone" in result.stderr


def results_of(law, sizes, amounts):
    """What a ladder would come to that lies on a law."""
    settings = [(n, d) for n in sizes for d in amounts]
    names = ("name", "size", "amount", "parameters", "tokens", "flops", "loss")
    rows = [(f"{n:g}-{d:g}", f"{n:g}", f"{d:g}", n, d, 6 * n * d, law.loss((n, d))) for n, d in settings]
    return [dict(zip(names, row, strict=True)) for row in rows]


def lines_about(results, budgets):
    """What is told of these models and the next larger one, and the document behind it."""
    from llmkit.commands.ladder_law import describe
    from llmkit.reporting.scaling_words import tell

    following = {**results[-1], "name": "next", "parameters": 2 * results[-1]["parameters"]}
    document = describe(results, following, size_dial="parameters", budgets=budgets)
    return list(tell({**document, "measure": "nats_per_token", "check": None})), document


def test_a_ladder_of_sizes_and_tokens_tells_the_best_model_for_a_budget():
    from llmkit.evaluation.scaling_law import cheapest

    lines, document = lines_about(results_of(CHINCHILLA, (1e6, 2e6, 4e6), (2e7, 4e7, 8e7)), [1e15, 1e21])
    near, far = document["optima"]
    assert (near["parameters"], near["tokens"]) == pytest.approx(cheapest(CHINCHILLA, 1e15), rel=0.01)
    assert (near["is_within_reach"], far["is_within_reach"]) == (True, False)
    assert [curve["name"] for curve in document["curves"]] == ["2e+07 tokens", "4e+07 tokens", "8e+07 tokens"]
    assert any(line.startswith("best for 1e+15 FLOPs:") for line in lines)
    assert any("too far from this ladder to be believed" in line for line in lines)


def test_a_model_far_behind_the_ladder_is_predicted_with_a_warning():
    from llmkit.commands.ladder_law import describe
    from llmkit.reporting.scaling_words import tell

    results = results_of(CHINCHILLA, (1e6, 1e7, 1e8, 1e9), (2e7,))
    following = {**results[-1], "name": "next", "parameters": 1e10}
    document = describe(results, following, size_dial="parameters", budgets=[])
    lines = list(tell({**document, "measure": "nats_per_token", "check": None}))
    assert lines[-1].startswith("next, next: loss")
    assert lines[-1].endswith("further from this ladder than a law should be asked")


def test_two_amounts_of_tokens_leave_a_law_of_size_alone_and_no_best_model():
    lines, document = lines_about(results_of(CHINCHILLA, (1e6, 2e6, 4e6, 8e6), (2e7, 8e7)), [1e15])
    assert document["dials"] == ["parameters"]
    assert document["law"]["terms"][0]["exponent"] == pytest.approx(0.34, rel=1e-3)
    assert "at 8e+07 tokens; two amounts tell no exponent" in lines[0]
    assert lines[-1].startswith("the best size for a budget takes a law of both")


def test_points_that_support_no_law_are_said_to_in_place_of_a_prediction():
    results = results_of(CHINCHILLA, (1e6, 2e6, 4e6), (2e7,))
    lines, document = lines_about(results, [])
    assert (document["law"], document["prediction"]) == (None, None)
    assert lines[1:] == [
        "these points do not support a law:",
        "  3 points are too few for 3 unknowns and their uncertainty: it takes 4",
    ]
    bent = [{**result, "loss": 9.0 if result["size"] == "4e+06" else result["loss"]} for result in results]
    bent.append({**bent[-1], "name": "8e6", "size": "8e+06", "parameters": 8e6, "loss": 3.0})
    lines, document = lines_about(bent, [])
    assert not document["is_supported"]
    assert any(line.startswith("  the loss rises from") for line in lines)
    assert not any(line.startswith("next") for line in lines)
