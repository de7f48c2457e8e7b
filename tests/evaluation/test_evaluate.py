import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from llmkit.errors import DataError, UsageError
from llmkit.evaluation import answering
from llmkit.evaluation.answering import SAY_NOTHING, check_task
from llmkit.evaluation.calibration import contextual_calibration
from llmkit.evaluation.contamination import Overlap
from llmkit.evaluation.encoding import encode_pairs
from llmkit.evaluation.evaluate import Setting, Subject, evaluate_task
from llmkit.evaluation.journal import Journal
from llmkit.evaluation.prompts import Chat, Pair
from llmkit.evaluation.scoring import score_continuations
from llmkit.evaluation.task import Example, Task
from llmkit.tokenizer import encode_text, encode_texts, end_of_document_id, stop_ids

LABELS = ("learns", "asks")


def make_task(kind="label", texts=("the model", "then we", "token from", "def class")):
    examples = [Example(str(n), f"rows:{n}", {"question": text}, LABELS, n % 2) for n, text in enumerate(texts)]
    return Task("rows", kind, lambda split: examples, prompt="text {question} then", labels=LABELS, shots="fixed")


@pytest.fixture
def subject(tiny_model, tiny_tokenizer):
    return Subject(tiny_model, tiny_tokenizer, 128)


def likelihood(subject, context, continuation):
    (request,) = encode_pairs(subject.tokenizer, [Pair(context, continuation)], 128).requests
    return score_continuations(subject.model, [request])[0].log_likelihood


def test_every_item_says_what_the_model_saw_and_said(subject):
    result = evaluate_task(subject, make_task(), Setting(shots=1))
    item = result.items[1]
    assert item.prompt == "text the model then learns\n\ntext then we then"
    assert [choice.text for choice in item.choices] == list(LABELS)
    expected = [likelihood(subject, item.prompt, f" {label}") for label in LABELS]
    assert [choice.log_likelihood for choice in item.choices] == pytest.approx(expected, abs=1e-4)
    assert item.scores["accuracy"] == float(item.correct)
    assert item.answer == "asks"


def test_an_item_is_right_by_the_metric_of_its_task(subject):
    task = replace(make_task("choice"), chosen_metric="accuracy_bytes")
    items = evaluate_task(subject, task).items
    assert [item.correct for item in items] == [item.scores["accuracy_bytes"] == 1 for item in items]
    for item in items:
        best = max(item.choices, key=lambda choice: choice.log_likelihood / choice.num_bytes)
        assert item.prediction == best.text


def test_pmi_subtracts_the_likelihood_of_a_choice_where_nothing_is_asked(subject):
    result = evaluate_task(subject, make_task("choice"), Setting(pmi=True))
    for choice in result.items[0].choices:
        assert choice.unconditional == pytest.approx(likelihood(subject, "", f" {choice.text}"), abs=1e-4)
    assert "accuracy_pmi" in result.metrics


def test_calibration_divides_out_what_the_prompt_says_to_nothing(subject):
    result = evaluate_task(subject, make_task(), Setting(calibrate=True))
    item = result.items[2]
    free = [[likelihood(subject, f"text {text} then", f" {label}") for label in LABELS] for text in SAY_NOTHING]
    own = [choice.log_likelihood for choice in item.choices]
    expected = contextual_calibration([own], free)[0]
    assert [choice.calibrated for choice in item.choices] == pytest.approx(list(expected), abs=1e-4)
    assert {"accuracy_calibrated", "macro_f1_calibrated", "log_loss_calibrated"} <= set(result.metrics)


def test_calibration_and_pmi_change_none_of_the_other_scores(subject):
    plain = evaluate_task(subject, make_task())
    both = evaluate_task(subject, make_task(), Setting(calibrate=True, pmi=True))
    for name in plain.metrics:
        assert both.metrics[name].value == pytest.approx(plain.metrics[name].value, abs=1e-4)


def test_an_evaluation_goes_on_where_it_was_stopped(subject, tmp_path, monkeypatch):
    expected = evaluate_task(subject, make_task(), Setting(calibrate=True)).items
    whole = answering.score_continuations

    def stopped(model, requests, **options):
        whole(model, requests[:9], **options)
        raise KeyboardInterrupt

    def asked(count):
        def score(model, requests, **options):
            assert len(requests) == count
            return whole(model, requests, **options)

        return score

    # Nine requests are the first row with its eight, and one of the second: what says nothing is asked once for all.
    for score in (stopped, asked(1 + 2 + 2)):
        monkeypatch.setattr(answering, "score_continuations", score)
        again = Subject(subject.model, subject.tokenizer, 128, journal=Journal(tmp_path / "j"))
        try:
            found = evaluate_task(again, make_task(), Setting(calibrate=True)).items
        except KeyboardInterrupt:
            continue
    for item, wanted in zip(found, expected, strict=True):
        assert [c.log_likelihood for c in item.choices] == pytest.approx(
            [c.log_likelihood for c in wanted.choices], abs=1e-4
        )
    with_all = Subject(None, subject.tokenizer, 128, journal=Journal(tmp_path / "j"))
    monkeypatch.setattr(answering, "score_continuations", asked(0))
    assert evaluate_task(with_all, make_task(), Setting(calibrate=True)).items == found


def test_items_are_counted_whose_context_was_cut_however_often_they_are_asked(tiny_model, tiny_tokenizer):
    task = make_task(texts=("the model " * 20, "then we " * 20, "def"))
    subject = Subject(tiny_model, tiny_tokenizer, 16)
    assert evaluate_task(subject, task).num_cut == 2
    assert evaluate_task(subject, task, Setting(calibrate=True, pmi=True, limit=2)).num_cut == 2


def test_progress_goes_by_work_for_the_longest_come_first(subject):
    # One row is as long as the other nine together.
    task = make_task(texts=("the model " * 40, *("the model " * n for n in (4, 4, 4, 4, 4, 4, 4, 4, 5))))
    told = []
    evaluate_task(replace(subject, batch_tokens=1), task, on_progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 10)
    assert told[1] == (pytest.approx(4, abs=1), 10)
    assert told[-1] == (10, 10)
    assert told == sorted(told)


def test_written_answers_are_kept_too(subject, tmp_path):
    examples = [
        Example(str(n), f"rows:{n}", {"question": t}, references=("x",)) for n, t in enumerate(("the", "a model"))
    ]
    task = Task("free", "generate", lambda split: examples, max_new_tokens=4)
    journal = Journal(tmp_path / "j")
    first = evaluate_task(Subject(subject.model, subject.tokenizer, 128, journal=journal), task)
    again = evaluate_task(Subject(None, subject.tokenizer, 128, journal=Journal(tmp_path / "j")), task)
    assert again.items == first.items
    assert first.items[0].prompt == "the"


def test_answers_end_with_the_turn_in_a_dialogue(subject):
    task = Task("free", "generate", lambda split: [Example("0", "r:0", {"question": "the model"}, references=("x",))])
    (said,) = evaluate_task(subject, replace(task, max_new_tokens=3, stop=())).items
    first = encode_text(subject.tokenizer, said.prediction)[0]
    assert first not in stop_ids(subject.tokenizer)
    chat = Chat(lambda turns: turns[-1].content, partial(encode_texts, subject.tokenizer), str, frozenset([first]))
    (item,) = evaluate_task(replace(subject, chat=chat), replace(task, max_new_tokens=3)).items
    assert (said.prediction != "", item.prediction) == (True, "")


def test_answers_that_do_not_fit_into_memory_side_by_side_are_written_in_halves(subject, monkeypatch):
    texts = ("the", "a model", "then we", "ask it what", "token")
    examples = [Example(str(n), f"rows:{n}", {"question": t}, references=("x",)) for n, t in enumerate(texts)]
    task = Task("free", "generate", lambda split: examples, max_new_tokens=4)
    whole, sizes = answering.generate_ids, []

    def generate_ids(model, prompts, **options):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError
        return whole(model, prompts, **options)

    expected = evaluate_task(subject, task).items
    monkeypatch.setattr(answering, "generate_ids", generate_ids)
    assert evaluate_task(subject, task).items == expected
    assert sizes == [5, 2, 3, 1, 2]
    sizes.clear()
    # Prompts of at most 3 tokens and answers of 4: two rows are 14 positions at most.
    assert evaluate_task(replace(subject, batch_tokens=14), task).items == expected
    assert max(sizes) == 2


def test_an_empty_prompt_changes_no_other(subject):
    def prompts(*texts):
        examples = [Example(str(n), f"rows:{n}", {"question": t}, references=("x",)) for n, t in enumerate(texts)]
        task = Task("free", "generate", lambda split: examples, max_new_tokens=4)
        return [item.prediction for item in evaluate_task(subject, task).items]

    assert prompts("the", "")[0] == prompts("the")[0]
    assert answering.encode_prompts(subject, ["the", ""])[0] == answering.encode_prompts(subject, ["the"])[0]


def test_a_model_that_takes_no_more_than_an_answer_is_refused(subject):
    examples = [Example("0", "r:0", {"question": "the"}, references=("x",))]
    task = Task("free", "generate", lambda split: examples, max_new_tokens=128)
    with pytest.raises(UsageError, match="128 tokens, and the model takes 128"):
        evaluate_task(subject, task)


def test_a_choice_that_tokenises_to_nothing_is_found_when_the_task_loads(tiny_tokenizer):
    examples = [Example("0", "rows:1", {"question": "the"}, ("a", "b"), 0), Example("1", "rows:2", {}, ("a", ""), 0)]
    task = Task("rows", "choice", lambda split: examples, delimiter="")
    with pytest.raises(DataError, match=r"rows:2.*nothing to score"):
        check_task(tiny_tokenizer, task)
    check_task(tiny_tokenizer, make_task())


def test_other_draws_of_shots_are_other_prompts_and_the_same_draw_the_same(subject):
    hashes = [
        evaluate_task(subject, make_task(), Setting(shots=2, draw=draw, seed=1)).prompts_hash for draw in (0, 1, 1, 2)
    ]
    assert hashes[1] == hashes[2]
    assert len(set(hashes)) == 3


def test_the_score_on_the_clean_part_leaves_out_what_was_seen(subject):
    overlap = Overlap(("data",), {"1": 1.0, "3": 0.2}, {"1"})
    result = evaluate_task(subject, make_task(), overlap=overlap)
    clean = [item.correct for item in result.items if item.id in ("0", "2")]
    assert result.clean["accuracy"].value == pytest.approx(sum(clean) / 2)
    found = result.to_json(None)["contamination"]
    assert (found["seen_items"], found["whole_items"], found["clean_items"]) == (2, 1, 2)
    assert found["clean_metrics"]["accuracy"]["value"] == result.clean["accuracy"].value


def test_each_metric_stands_beside_what_guessing_would_reach(subject):
    metrics = evaluate_task(subject, make_task()).to_json(None)["metrics"]
    assert metrics["accuracy"]["chance"] == 0.5
    assert metrics["log_loss"]["chance"] == pytest.approx(math.log(2))
    assert metrics["matthews"]["chance"] == 0.0
    assert metrics["macro_f1"]["chance"] is None


def test_texts_begin_with_what_precedes_a_text(subject, texts):
    task = Task("texts", "perplexity", lambda split: [Example("0", "t", {"question": texts[0]})], prompt="")
    (item,) = evaluate_task(subject, task).items
    ids = encode_text(subject.tokenizer, texts[0])
    assert item.choices[0].num_tokens == len(ids)
    start = subject.tokenizer.bos_token_id
    assert start in (None, end_of_document_id(subject.tokenizer))
    assert item.scores["bits_per_byte"] == pytest.approx(
        -item.choices[0].log_likelihood / math.log(2) / len(texts[0].encode())
    )
