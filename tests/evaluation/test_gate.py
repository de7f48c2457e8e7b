import pytest

from llmkit.errors import UsageError
from llmkit.evaluation.gate import Measured, check_gates, check_names, parse_gate

FOUND = [
    Measured("exam", "accuracy", "model", 0.6, 0.5, 0.7),
    Measured("texts:book.txt", "bits_per_byte", "model", 1.5, None, None),
    Measured("quiz", "accuracy", "model", 0.8, 0.7, 0.9),
]


def values(text):
    return [(verdict.value, verdict.is_met) for verdict in check_gates([parse_gate(text)], FOUND)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("accuracy >= 0.6", [(0.6, True), (0.8, True)]),
        ("accuracy > .6", [(0.6, False), (0.8, True)]),
        ("exam:accuracy<=6e-1", [(0.6, True)]),
        ("quiz:accuracy.low >= 0.75", [(0.7, False)]),
        ("exam:accuracy.high < +1", [(0.7, True)]),
        ("texts:book.txt:bits_per_byte < 2", [(1.5, True)]),
    ],
)
def test_a_condition_is_about_every_task_that_has_the_metric_or_the_one_that_is_named(text, found):
    assert values(text) == found


@pytest.mark.parametrize("text", ["accuracy", "accuracy = 1", ">= 0.5", "accuracy >= many", "accuracy >= 1 or 2", ""])
def test_what_is_no_condition_is_told(text):
    with pytest.raises(UsageError, match="is not a condition"):
        parse_gate(text)


def test_a_condition_about_no_metric_of_its_task_is_told_before_anything_is_measured():
    names = {"exam": ["accuracy", "log_loss"], "book": ["bits_per_byte"]}
    for text in ("accuracy >= 0.5", "bits_per_byte < 2", "exam:log_loss.high < 1"):
        check_names([parse_gate(text)], names, {})
    for text in ("acuracy >= 0.5", "book:accuracy > 0", "exams:accuracy > 0"):
        with pytest.raises(UsageError, match="exam:accuracy, exam:log_loss, book:bits_per_byte"):
            check_names([parse_gate(text)], names, {})


def test_the_end_of_an_interval_that_will_not_be_there_is_told_before_anything_is_measured():
    names, bare = {"exam": ["accuracy"], "book": ["accuracy"]}, {"book": ["accuracy"]}
    for text in ("exam:accuracy.low > 0", "accuracy > 0"):
        check_names([parse_gate(text)], names, bare)
    for text in ("accuracy.low > 0", "book:accuracy.high < 1"):
        with pytest.raises(UsageError, match="book:accuracy has no interval"):
            check_names([parse_gate(text)], names, bare)


def test_a_condition_about_nothing_that_was_measured_is_told_with_what_there_is():
    with pytest.raises(UsageError, match="exam:accuracy, texts:book"):
        values("f1 > 0")
    with pytest.raises(UsageError, match=r"book\.txt:bits_per_byte has no interval"):
        values("bits_per_byte.low > 0")
