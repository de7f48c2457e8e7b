"""A run has one day, which its rows are told however often it is resumed."""

from __future__ import annotations

import json
from datetime import date

import pytest

from llmkit.commands.day import day_of_run

QUICK = {"train.steps": 4, "train.batch_size": 2, "train.warmup_steps": 0, "end_check": 0, "train.save_every": 2}


@pytest.fixture
def tune(run_cli, tiny_model, tiny_tokenizer, tmp_path):
    from llmkit.models.causal_lm import save_causal_lm

    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text("<|im_start|>system\n{{ strftime_now('%Y-%m-%d') }}<|im_end|>\n" + template.read_text())
    rows = [{"prompt": f"the {n}", "completion": "next token"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(**settings):
        words = [word for k, v in {**QUICK, **settings}.items() for word in ("--set", f"{k}={v}")]
        paths = ["--model", tmp_path / "model", "--data", tmp_path / "rows.jsonl", "--output", tmp_path / "run"]
        return run_cli("finetune", *paths, *words)

    return run


def test_a_run_that_goes_on_another_day_has_the_rows_of_its_first(tune, tmp_path):
    assert tune(**{"data.date": "2020-01-02"}).exit_code == 0
    report = json.loads((tmp_path / "run/data-report.json").read_text())["train"]
    assert any("it is told 2020-01-02" in note for note in report["notes"])
    (tmp_path / "run/summary.json").unlink()
    result = tune()  # the same command on another day: nothing says which
    assert result.exit_code == 0, result.stderr
    assert "it is told 2020-01-02" in result.stderr


def test_a_new_run_has_the_day_on_which_it_begins(tune, tmp_path):
    assert day_of_run(tmp_path / "absent") == str(date.today())
    assert day_of_run(None) == str(date.today())
    assert tune().exit_code == 0
    assert day_of_run(tmp_path / "run") == str(date.today())
