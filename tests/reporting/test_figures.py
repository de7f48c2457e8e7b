from __future__ import annotations

import pytest

from llmkit.reporting.collect import collect
from llmkit.reporting.figures import Figure, by_task, figures_of, format_value, model_name


@pytest.fixture
def figures(results):
    """All figures, by what they are of."""
    return {figure.what: figure for figure in figures_of(collect([results]))}


def test_bytes_per_token_stand_beside_plain_bytes(figures):
    assert figures["tok"].value == 3.5
    assert figures["tok"].beside == (("plain bytes", 1.0),)


def test_bits_per_byte_stand_beside_the_compressors(figures):
    figure = figures["held-out, small"]
    assert (figure.measure, figure.value) == ("bits per byte", 1.5)
    assert figure.beside == (("gzip -9", 2.0), ("xz -9", 1.7))
    assert figure.is_better


def test_accuracy_stands_beside_chance(figures):
    figure = figures["quiz, small, 5 shots"]
    assert (figure.value, figure.stderr, figure.beside) == (0.3, 0.07, (("chance", 0.25),))


def test_a_baseline_stands_beside_the_simplest_answer(figures):
    figure = figures["CNN on digits"]
    assert (figure.value, figure.beside) == (0.97, (("majority class", 0.1),))


def test_the_last_validation_of_a_run_is_its_figure(figures):
    assert figures["small, validation"].value == 1.25


def test_less_is_better_where_it_is():
    assert Figure("", "", "rmse", 1.0, beside=(("naive", 2.0),)).is_better
    assert not Figure("", "", "accuracy", 1.0, beside=(("naive", 2.0),)).is_better
    assert not Figure("", "", "bits per byte", 1.9, beside=(("gzip -9", 2.0), ("xz -9", 1.7))).is_better
    assert Figure("", "", "accuracy", 1.0).is_better is None


def test_what_may_be_chance_is_not_better():
    assert Figure("", "", "accuracy", 0.4, stderr=0.05, beside=(("chance", 0.25),)).is_better
    assert not Figure("", "", "accuracy", 0.3, stderr=0.05, beside=(("chance", 0.25),)).is_better


def test_results_of_a_task_stand_together():
    figures = [Figure("Tasks", what, "accuracy", 0.5) for what in ("a, x", "b, x", "a, y")]
    assert [figure.what for figure in by_task(figures)] == ["a, x", "a, y", "b, x"]


def test_a_model_is_called_by_its_run():
    assert model_name("runs/tuned/model") == "tuned"
    assert model_name("smollm2") == "smollm2"
    assert model_name("owner/name") == "name"


def test_values_have_the_digits_that_one_reads():
    values = {0.12345: "0.123", 0.00334: "0.0033", 0.0: "0.000", 36543942.6: "36,543,942.6", -3.0: "-3.000"}
    assert {value: format_value(value) for value in values} == values
