from llmkit.evaluation.journal import Journal, key_of


def test_answers_are_there_again_after_a_kill(tmp_path):
    Journal(tmp_path / "j").add({"a": [-1.25, True, 2], "b": ["text"]})
    again = Journal(tmp_path / "j")
    assert again.get("a") == [-1.25, True, 2]
    assert again.get("b") == ["text"]
    assert again.get("c") is None


def test_a_line_that_was_torn_does_not_count_and_the_next_one_is_whole(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.add({"a": [1.0]})
    with journal.path.open("ab") as file:
        file.write(b'[["b", [2.0')
    again = Journal(tmp_path / "j")
    assert (again.get("a"), again.get("b")) == ([1.0], None)
    again.add({"c": [3.0]})
    assert {key: Journal(tmp_path / "j").get(key) for key in "abc"} == {"a": [1.0], "b": None, "c": [3.0]}


def test_a_line_that_is_not_json_does_not_count(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.add({"a": [1.0]})
    with journal.path.open("ab") as file:
        file.write(b"\0\0\0\n")
    assert list(Journal(tmp_path / "j").known) == ["a"]


def test_every_process_sees_the_answers_of_all(tmp_path):
    Journal(tmp_path / "j", rank=0).add({"a": [1.0]})
    Journal(tmp_path / "j", rank=3).add({"b": [2.0]})
    assert list(Journal(tmp_path / "j", rank=1).known) == ["a", "b"]


def test_nothing_is_left_when_the_results_are_written(tmp_path):
    one, other = Journal(tmp_path / "unfinished" / "1"), Journal(tmp_path / "unfinished" / "2")
    one.add({"a": [1.0]})
    other.add({"a": [1.0]})
    one.remove()
    assert [path.name for path in (tmp_path / "unfinished").iterdir()] == ["2"]
    other.remove()
    assert list(tmp_path.iterdir()) == []


def test_keys_tell_where_one_part_ends_and_the_next_begins():
    assert key_of((1, 2), (3,)) == key_of((1, 2), (3,))
    assert len({key_of((1, 2), (3,)), key_of((1,), (2, 3)), key_of((1, 2, 3), ()), key_of((1, 2), "3")}) == 4
