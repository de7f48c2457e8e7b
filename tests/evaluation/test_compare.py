import json
import math
from dataclasses import replace

import pytest

from llmkit.errors import DataError, UsageError
from llmkit.evaluation.compare import ItemRecord, TaskOutcome, compare, read_outcomes
from llmkit.evaluation.statistics import mcnemar_exact

ABOUT = {
    "task": "exam",
    "kind": "choice",
    "version": 1,
    "metric": "accuracy",
    "shots": 0,
    "draw": 0,
    "seed": 0,
    "prompt": "{question}",
}


def record(name, right, **changes):
    score = float(right)
    scores = {"accuracy": score, "accuracy_bytes": score}
    return replace(ItemRecord(name, f"hash {name}", bool(right), "said", "answer", "prompt", scores, 1), **changes)


def outcome(rights, label="a", **about):
    return TaskOutcome(label, {**ABOUT, **about}, {str(n): record(str(n), right) for n, right in enumerate(rights)})


def test_items_are_paired_by_id_and_what_flipped_is_named():
    a, b = outcome([1, 1, 0, 0, 1, 0]), outcome([1, 0, 1, 1, 1, 1], label="b")
    b = replace(b, items=dict(reversed(b.items.items())))
    (found,) = compare([[a], [b]])
    assert (found.lost, found.gained) == (["1"], ["2", "3", "5"])
    accuracy = found.differences[0]
    assert (accuracy.metric, accuracy.a, accuracy.b) == ("accuracy", 0.5, pytest.approx(5 / 6))
    assert accuracy.interval.value == pytest.approx(2 / 6)
    assert accuracy.p_value == mcnemar_exact(1, 3)
    assert found.notes == []


def test_holm_corrects_over_all_comparisons():
    wins = [[0] * 6, [1] * 6]
    first = [outcome(wins[0], task=name) for name in ("exam", "quiz")]
    second = [outcome(wins[1], task=name) for name in ("exam", "quiz")]
    found = compare([first, second])
    assert [c.differences[0].p_value for c in found] == [2 / 64, 2 / 64]
    assert [c.p_holm for c in found] == [4 / 64, 4 / 64]


def test_the_same_id_with_another_question_is_refused():
    a, b = outcome([1, 1]), outcome([1, 1])
    b.items["1"] = record("1", 1, question_hash="other")
    with pytest.raises(DataError, match="1 items of exam ask something else"):
        compare([[a], [b]])


def test_another_version_of_the_task_is_refused():
    with pytest.raises(DataError, match="version 1 in one result and 2"):
        compare([[outcome([1])], [outcome([1], version=2)]])


def test_other_shots_other_prompts_and_missing_items_are_told():
    (found,) = compare([[outcome([1, 0, 1])], [outcome([1, 0], shots=5)]])
    assert found.notes == ["shots 0 against 5", "2 items are in both, of 3 and 2"]
    b = outcome([1, 0, 1])
    b.items["0"] = record("0", 1, prompt="another")
    (found,) = compare([[outcome([1, 0, 1])], [b]])
    assert found.notes == ["the prompts differ (chat template, shots or system text)"]


def test_of_several_ways_to_ask_like_is_compared_with_like():
    first = [outcome([1, 0], shots=shots) for shots in (0, 5)]
    second = [outcome([1, 1], shots=5)]
    (found,) = compare([first, second])
    assert found.a.about["shots"] == 5


def test_results_without_a_task_in_common_are_told():
    with pytest.raises(UsageError, match="exam and quiz"):
        compare([[outcome([1])], [outcome([1], task="quiz")]])


def test_scores_that_are_not_right_or_wrong_are_compared_by_their_signs():
    a, b = ({str(n): record(str(n), 0, scores={"f1": base + n / 20}) for n in range(10)} for base in (0.1, 0.3))
    (found,) = compare(
        [[TaskOutcome("a", {**ABOUT, "metric": "f1"}, a)], [TaskOutcome("b", {**ABOUT, "metric": "f1"}, b)]]
    )
    assert found.differences[0].test == "sign flips"
    assert found.differences[0].interval == pytest.approx((0.2, 0.2, 0.2))
    # All of ten differences have one sign: two of 1,024 ways.
    assert found.differences[0].p_value == pytest.approx(2 / 1024, abs=2e-3)


def labelled(right, chosen, **about):
    """Results of labels: which is right, and which was chosen."""
    items = {}
    for n, (label, said) in enumerate(zip(right, chosen, strict=True)):
        items[str(n)] = record(str(n), label == said, label=label, chosen={"": said})
    return TaskOutcome("a", {**ABOUT, "kind": "label", "metric": "matthews", **about}, items)


def test_labels_are_compared_by_macro_f1_and_matthews_too():
    right = [0, 0, 0, 1, 1, 1]
    one, other = [0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1]
    (found,) = compare([[labelled(right, one)], [labelled(right, other)]])
    assert [d.metric for d in found.differences] == ["matthews", "accuracy", "accuracy_bytes", "macro_f1"]
    gaps = {d.metric: d.interval.value for d in found.differences}
    # F1 is 2 * 3 / (3 + 5) and 2 * 1 / (3 + 1); Matthews is (1 * 3 - 0) over the root of 1 * 3 * 3 * 5.
    assert gaps["macro_f1"] == pytest.approx(1 - (3 / 4 + 1 / 2) / 2)
    assert gaps["matthews"] == pytest.approx(1 - 3 / math.sqrt(45))
    # Both said of items 3 and 4 decide: as far apart as this are they in two of four ways to change sides.
    assert found.differences[0].p_value == pytest.approx(1 / 2, abs=0.02)
    assert found.p_holm == found.differences[0].p_value
    low, high = found.differences[0].interval[1:]
    assert low <= gaps["matthews"] <= high
    (same,) = compare([[labelled(right, one)], [labelled(right, one)]])
    assert same.differences[0].p_value == 1.0


def test_texts_count_by_their_bytes():
    about = {**ABOUT, "metric": "bits_per_byte"}
    a = {
        n: record(n, 0, scores={"bits_per_byte": 2.0}, num_bytes=size, correct=None) for n, size in (("0", 1), ("1", 9))
    }
    b = {**a, "1": record("1", 0, scores={"bits_per_byte": 1.0}, num_bytes=9, correct=None)}
    (found,) = compare([[TaskOutcome("a", about, a)], [TaskOutcome("b", about, b)]])
    assert found.differences[0].interval.value == pytest.approx(-0.9)


def test_a_metric_that_items_do_not_have_is_stood_for_and_that_is_told():
    about = {**ABOUT, "metric": "word_perplexity"}
    items = {"0": record("0", 0, scores={"bits_per_byte": 2.0}, correct=None)}
    (found,) = compare([[TaskOutcome("a", about, items)], [TaskOutcome("b", about, items)]])
    assert found.notes == ["items have no word_perplexity: bits_per_byte stands for it here"]


def test_one_text_has_a_difference_and_no_interval():
    about = {**ABOUT, "metric": "bits_per_byte"}
    a, b = ({"0": record("0", 0, scores={"bits_per_byte": x}, correct=None)} for x in (2.0, 1.0))
    (found,) = compare([[TaskOutcome("a", about, a)], [TaskOutcome("b", about, b)]])
    assert found.differences[0].interval == (-1.0, None, None)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_folder_that_holds_no_results_is_told(tmp_path):
    with pytest.raises(DataError, match="no results"):
        read_outcomes(tmp_path)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "results.json").write_text("{}")
    with pytest.raises(DataError, match="one of its models: tuned"):
        read_outcomes(tmp_path)
    (tmp_path / "results.json").write_text('{"results": [{"task": "old", "items_file": "items.jsonl"}]}')
    with pytest.raises(DataError, match="file of items is missing"):
        read_outcomes(tmp_path)
    (tmp_path / "items.jsonl").write_text('{"id": "0"}\n')
    with pytest.raises(DataError, match="cannot be compared"):
        read_outcomes(tmp_path)
    # An entry that a comparison could not read is told here, and not in its midst.
    (tmp_path / "items.jsonl").write_text("")
    with pytest.raises(DataError, match=r"cannot be compared.*kind"):
        read_outcomes(tmp_path)


def test_a_line_separator_within_a_text_ends_no_item(tmp_path):
    item = {"id": "1", "question_hash": "h", "correct": True, "prediction": "a\u2028b", "answer": "a", "prompt": "p"}
    text = json.dumps({**item, "scores": {"accuracy": 1.0}, "choices": []}, ensure_ascii=False)
    (tmp_path / "items.jsonl").write_text(f"{text}\n", encoding="utf-8")
    (tmp_path / "results.json").write_text(json.dumps({"results": [{**ABOUT, "items_file": "items.jsonl"}]}))
    assert read_outcomes(tmp_path)[0].items["1"].prediction == "a\u2028b"
