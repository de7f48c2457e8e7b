"""Task prefer, from the command line to the files it leaves."""

from __future__ import annotations

import json
import math

import pytest

WORDS = ["the", "next", "token", "from", "text", "and", "then", "we", "ask", "it", "what", "comes", "after"]
QUICK = {"train.steps": 6, "train.batch_size": 4, "train.warmup_steps": 0, "train.precision": "fp32", "end_check": 0}


@pytest.fixture
def prefer(run_cli, tiny_model_folder, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"say {a} {b}", "chosen": f"{b} {a}", "rejected": "class def"} for a in WORDS for b in WORDS[:5]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run(output, **settings):
        sets = {**QUICK, "task": "prefer", "data.validation": 0.1, "train.lr": 1e-2, **settings}
        words = [word for k, v in sets.items() for word in ("--set", f"{k}={v}")]
        options = ["--model", tiny_model_folder, "--data", path, "--output", tmp_path / output, "--json", *words]
        return run_cli("finetune", *options)

    return run


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if "loss" in line]


@pytest.mark.parametrize("method", ["lora", "full", "last-layers"])
def test_dpo_starts_at_log_two_and_learns_to_prefer(prefer, tmp_path, method):
    result = prefer("run", method=method, last_layers=1)
    assert result.exit_code == 0, result.stderr
    steps = lines(tmp_path / "run")
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert steps[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["reward_margin"] > 0
    assert 0 <= steps[-1]["reward_accuracy"] <= 1
    assert steps[-1]["reward_margin"] == pytest.approx(
        steps[-1]["rewards_chosen"] - steps[-1]["rewards_rejected"], abs=1e-5
    )
    validation = json.loads(result.stdout)["validation"]
    assert validation["reward_accuracy"] > 0.5
    assert validation["loss"] < math.log(2)
    assert (tmp_path / "run/reference-train.npy").exists() == (method != "lora")


def test_orpo_needs_no_reference(prefer, tmp_path):
    result = prefer("run", **{"preference.loss": "orpo", "method": "full"})
    assert result.exit_code == 0, result.stderr
    steps = lines(tmp_path / "run")
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert not (tmp_path / "run/reference-train.npy").exists()


def test_how_pairs_are_split_changes_nothing(prefer, tmp_path):
    assert prefer("auto").exit_code == 0
    assert prefer("split", **{"train.micro_batch_size": 1}).exit_code == 0
    for one, two in zip(lines(tmp_path / "auto"), lines(tmp_path / "split"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert two["reward_margin"] == pytest.approx(one["reward_margin"], abs=1e-3)


def test_fields_of_trees_are_refused(prefer):
    result = prefer("run", **{"data.paths": "all"})
    assert result.exit_code == 2
    assert "the task prefer has no use for data.paths" in result.stderr


def test_what_became_of_the_pairs_is_said_first_and_kept(prefer, tmp_path):
    with (tmp_path / "pairs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"prompt": "the", "chosen": "a token<|end|>", "rejected": "a token"}) + "\n")
    result = prefer("run", **{"data.strip": "['<|end|>']", "data.validation": 0.0})
    assert result.exit_code == 0, result.stderr
    assert "1 rows dropped: both answers are the same" in result.stderr
    report = json.loads((tmp_path / "run/data-report.json").read_text())["train"]
    assert (report["read"], report["used"]) == (66, 65)
