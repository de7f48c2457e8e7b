from __future__ import annotations

import json
import os

import pytest

from llmkit.errors import UsageError
from llmkit.reporting.collect import collect


def test_everything_below_a_folder_is_found(results):
    found = collect([results])
    assert {run.name: run.kind for run in found.runs} == {"small": "pretrain", "cnn": "baseline"}
    assert [evaluation.model for evaluation in found.evaluations] == ["all/small/model"]
    assert [document["tokenizers"][0]["tokenizer"] for document in found.tokenizers] == ["all/tok"]
    assert {given.name for given in found.answers} == {"before", "after"}


def test_results_stand_in_the_order_in_which_they_were_made(results):
    os.utime(results / "after.json", (1, 1))
    assert [given.name for given in collect([results]).answers] == ["after", "before"]


def test_steps_and_validations_are_told_apart_and_a_half_written_line_is_left_out(results):
    run = next(run for run in collect([results]).runs if run.name == "small")
    assert [line["step"] for line in run.steps] == [1, 2, 3, 4, 5, 6]
    assert [(line["step"], line["bits_per_byte"]) for line in run.validations] == [(3, 2.0), (6, 1.25)]


def test_a_run_may_be_named_itself(results):
    (run,) = collect([results / "small"]).runs
    assert run.name == "small"


def test_a_run_that_is_not_finished_is_read_as_far_as_it_is(results):
    for name in ("summary.json", "samples.jsonl", "environment.json"):
        (results / "small" / name).unlink()
    run = next(run for run in collect([results]).runs if run.name == "small")
    assert (run.summary, run.samples, run.environment) == ({}, [], {})


def test_a_run_that_cannot_be_read_is_told_and_does_not_hide_the_others(results, capsys):
    (results / "small" / "recipe.yaml").write_text("kind: [pre\n")
    assert {run.name: run.kind for run in collect([results]).runs} == {"small": "run", "cnn": "baseline"}
    assert "small: recipe.yaml is not YAML (line 2:" in capsys.readouterr().err


def test_characters_that_end_lines_for_python_stay_in_samples(results):
    line = json.dumps({"step": 9, "prompt": "", "text": "one\u2028two\x85three"}, ensure_ascii=False)
    (results / "small" / "samples.jsonl").write_text(line + "\n", encoding="utf-8")
    run = next(run for run in collect([results]).runs if run.name == "small")
    assert [sample["text"] for sample in run.samples] == ["one\u2028two\x85three"]


def test_json_that_is_no_result_is_left_out(results, capsys):
    before = collect([results])
    (results / "notes.json").write_text('{"a": 1}')
    (results / "list.json").write_text("[1]")
    (results / "broken.json").write_text("{")
    (results / "model").mkdir()
    (results / "model" / "config.json").write_text('{"tokenizers": []}')
    assert collect([results]) == before
    assert "broken.json is left out" in capsys.readouterr().err


def test_a_folder_with_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no run and no result"):
        collect([tmp_path])
    with pytest.raises(UsageError, match="no such folder"):
        collect([tmp_path / "none"])


def test_a_comparison_is_found_with_its_page(compared, results, document):
    (found,) = collect([results]).comparisons
    assert (found.name, found.document, found.page) == ("compared here", document, compared / "comparison.html")
    (compared / "comparison.html").unlink()
    (alone,) = collect([compared]).comparisons
    assert (alone.name, alone.page) == ("compared here", None)


def test_what_evaluate_writes_of_several_models_is_no_comparison_of_methods(results):
    before = collect([results])
    lines = [{"task": "quiz", "a": "small", "b": "large", "differences": {}, "p_holm": 1.0}]
    (results / "evaluations" / "comparison.json").write_text(json.dumps(lines))
    assert collect([results]) == before


def test_a_tuned_run_is_read_with_what_it_was_asked_in_the_end(tuned):
    (run,) = collect([tuned]).runs
    assert (run.ends["ended"], run.ends["asked"]) == (48, 50)
    assert set(run.forgotten) == {"before", "after", "step"}


def test_an_answer_to_the_end_that_cannot_be_read_is_told(tuned, capsys):
    (tuned / "ends.json").write_text("{")
    (run,) = collect([tuned]).runs
    assert run.ends == {}
    assert "tuned: ends.json cannot be read" in capsys.readouterr().err
