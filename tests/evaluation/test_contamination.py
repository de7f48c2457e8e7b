import pytest

from llmkit.evaluation.contamination import find_overlaps
from llmkit.evaluation.task import Example

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def example(question, *, name="0", answer="yes"):
    return Example(name, "", {"question": question}, (answer, "no"), 0)


def overlap(examples, texts):
    return find_overlaps({"task": examples}, texts, ["data"])["task"]


def test_thirteen_words_in_a_row_are_found_whatever_their_case_and_punctuation():
    # 16 words with the answer: four sequences of thirteen, of which the text has the first.
    found = overlap(
        [example(LONG)], ["Before. One, two, three, four, five, six, seven - eight nine ten eleven twelve THIRTEEN"]
    )
    assert found.shares == {"0": pytest.approx(0.25)}
    assert found.wholes == set()


def test_twelve_words_in_a_row_are_not_enough():
    assert overlap([example(LONG)], [" ".join(LONG.split()[:12]), " ".join(LONG.split()[3:])]).shares == {}


def test_a_training_text_that_is_the_item_is_found_however_short_it_is():
    for text in ("Who am I?", "who am i: yes"):
        found = overlap([example("Who am I"), example("Who are you", name="1")], ["Where", text])
        assert (found.shares, found.wholes) == ({"0": 1.0}, {"0"})


def test_a_short_item_inside_a_longer_text_is_not_it():
    assert overlap([example("Who am I")], ["They asked: who am I, then?"]).shares == {}


def test_what_was_found_is_counted_over_the_items_that_were_scored():
    found = overlap([example(LONG), example("else", name="1")], [LONG])
    counts = found.to_json(["0", "1"])
    assert (counts["seen_items"], counts["whole_items"], counts["clean_items"]) == (1, 1, 1)
    assert found.to_json(["1"])["seen_items"] == 0


def test_nothing_is_found_where_there_is_nothing():
    assert overlap([example("")], ["", "text"]).shares == {}
    assert overlap([], ["text"]).shares == {}


def test_what_any_process_finds_all_processes_have(monkeypatch):
    from llmkit.evaluation import contamination

    examples, texts = [example(LONG), example("Who am I", name="1")], [" ".join(LONG.split()[:13]), "Who am I"]
    rest = contamination.search([contamination.seek("task", e) for e in examples], texts[1:])
    monkeypatch.setattr(contamination, "gather_object", lambda found: [*found, rest])
    found = find_overlaps({"task": examples}, texts[:1], ["data"], num_processes=2)
    assert found == find_overlaps({"task": examples}, texts, ["data"])
    assert (found["task"].shares, found["task"].wholes) == ({"0": pytest.approx(0.25), "1": 1.0}, {"1"})


def test_tasks_are_looked_for_in_one_pass():
    texts = iter([LONG])
    found = find_overlaps({"a": [example(LONG)], "b": [example("else")]}, texts, [])
    assert (len(found["a"].shares), len(found["b"].shares)) == (1, 0)
