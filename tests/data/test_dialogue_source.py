"""What a recipe says about its rows: which answers are learned, several files, what is held out."""

from __future__ import annotations

import json

import pytest

from llmkit.data.dialogue_set import encode_set
from llmkit.data.dialogue_source import read_pair_sets, read_pairs, read_sets, read_source
from llmkit.data.messages import Message
from llmkit.errors import DataError, RecipeError
from llmkit.recipe.schema import FinetuneData


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(path, count, word="question"):
    return write_rows(path, [{"prompt": f"{word} {n}", "completion": f"answer {n}"} for n in range(count)])


@pytest.fixture
def dialogue(tmp_path):
    call = {"name": "f", "arguments": {}}
    turns = [("user", "u"), ("assistant", "<think>hm</think>a"), ("user", "v"), ("assistant", ""), ("tool", "t")]
    messages = [{"role": role, "content": text} for role, text in [*turns, ("assistant", "b"), ("user", "w")]]
    messages[3]["tool_calls"] = [call]
    return write_rows(tmp_path / "d.jsonl", [{"messages": messages}])


@pytest.mark.parametrize(("train_on", "learned"), [("all", [1, 3, 5]), ("last", [5]), ("completion", [3, 5])])
def test_which_answers_are_learned(train_on, learned, dialogue):
    [found] = read_source(dialogue, FinetuneData(train_on=train_on))
    assert [i for i, message in enumerate(found.messages) if message.is_answer] == learned


def test_thinking_is_trained_masked_or_dropped(dialogue, capsys):
    first = {
        mode: read_source(dialogue, FinetuneData(thinking=mode))[0].messages[1] for mode in ("train", "mask", "drop")
    }
    assert (first["train"].thinking, first["train"].trains_thinking) == ("hm", True)
    assert (first["mask"].thinking, first["mask"].trains_thinking) == ("hm", False)
    assert first["drop"].thinking == ""
    assert "1 answers think, which is left out" in capsys.readouterr().err


def test_texts_at_the_ends_of_answers_are_taken_off_and_counted(tmp_path, capsys):
    row = {"prompt": "p<|end|>", "completion": "c<|end|>\n<|end|>"}
    [found] = read_source(write_rows(tmp_path / "a.jsonl", [row]), FinetuneData(strip=["<|end|>"]))
    assert found.messages == (Message("user", "p<|end|>"), Message("assistant", "c"))
    assert "1 answers ended with a text of data.strip" in capsys.readouterr().err


def test_files_are_mixed_by_whole_repeats_that_are_said(tmp_path, tiny_tokenizer, capsys):
    big, small = pairs(tmp_path / "big.jsonl", 30), pairs(tmp_path / "small.jsonl", 4, "task")
    sets = read_sets(FinetuneData(mix={big: 3, small: 1}, validation=0.0))
    # 30 rows for weight 3 are 10 for each; 4 rows come nearest to 10 when they are seen 2 or 3 times (2.5 rounds to 2).
    assert "its 4 rows 2 times an epoch, 21.1% of the rows (asked for 25.0%)" in capsys.readouterr().err
    rows, account = encode_set(sets.train, tiny_tokenizer, name="train", max_length=64, overlong="drop")
    assert len(rows) == 30 + 8
    report = account.to_json()
    assert (report["read"], report["used"]) == (34, 34)
    assert report["sources"][small] == {"rows": 4, "times": 2, "share": 0.2105}
    assert report["duplicates"] == 0


def test_what_two_files_of_a_mix_ask_is_on_one_side(tmp_path):
    one, two = pairs(tmp_path / "one.jsonl", 60), pairs(tmp_path / "two.jsonl", 60)
    sets = read_sets(FinetuneData(mix={one: 1, two: 1}, validation=0.3))
    assert sets.validation
    assert not {d.opening for d in sets.train} & {d.opening for d in sets.validation}


def test_a_source_and_a_mix_together_are_an_error(tmp_path):
    with pytest.raises(RecipeError, match="both given"):
        read_sets(FinetuneData(source="a", mix={"b": 1}))


def test_validation_rows_that_ask_what_training_asks_are_counted(tmp_path, capsys):
    train = pairs(tmp_path / "train.jsonl", 5)
    rows = [
        {"prompt": "question 1", "completion": "another answer"},
        {"prompt": "question 2", "completion": "answer 2"},
    ]
    held_out = write_rows(tmp_path / "held.jsonl", rows)
    sets = read_sets(FinetuneData(source=train, validation=held_out))
    assert (len(sets.train), len(sets.shared), sets.num_same_questions) == (4, 1, 1)
    assert "1 of 2 validation rows ask what training rows ask as well" in capsys.readouterr().err


def test_the_answers_of_pairs_are_read_as_the_recipe_says(tmp_path, capsys):
    def turns(*texts):
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]

    row = {
        "prompt": "p",
        "chosen": turns("p", "<think>hm</think>a<|end|>", "q", "b"),
        "rejected": turns("p", "r<|end|>"),
    }
    path = write_rows(tmp_path / "pairs.jsonl", [row])
    [pair] = read_pairs(path, FinetuneData(strip=["<|end|>"], thinking="drop", train_on="last"))
    assert [(m.content, m.is_answer) for m in pair.chosen] == [("a", False), ("q", False), ("b", True)]
    assert [(m.content, m.is_answer) for m in pair.rejected] == [("r", True)]
    said = capsys.readouterr().err
    assert "2 answers ended with a text of data.strip" in said
    assert "1 answers think, which is left out" in said


def test_pairs_are_split_by_what_they_ask(tmp_path):
    rows = [{"prompt": f"q {n % 20}", "chosen": f"a {n}", "rejected": "b"} for n in range(60)]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    sets = read_pair_sets(FinetuneData(source=path, validation=0.3))
    assert len(sets.train) + len(sets.validation) == 60
    assert not {p.question for p in sets.train} & {p.question for p in sets.validation}
    held_out = write_rows(tmp_path / "held.jsonl", [rows[0], {**rows[1], "chosen": "c"}])
    sets = read_pair_sets(FinetuneData(source=path, validation=held_out))
    # Row 0 itself is left out of training; what rows 0 and 1 ask is asked there by rows 20, 40, 1, 21 and 41 still.
    assert (len(sets.train), len(sets.shared), sets.num_same_questions) == (59, 1, 2)


def test_to_hold_out_everything_is_an_error(tmp_path):
    path = pairs(tmp_path / "rows.jsonl", 5)
    for validation in (1.0, path):
        with pytest.raises(DataError, match="none of the 5 rows is left to learn from"):
            read_sets(FinetuneData(source=path, validation=validation))
