import copy
import gzip
import json
from datetime import date
from pathlib import Path

import pytest

from llmkit.commands.tasks import Flags, make_chat, open_tasks
from llmkit.data.rendering import set_day
from llmkit.errors import DataError, UsageError
from llmkit.evaluation.prompts import Turn, render_context
from llmkit.evaluation.tasks import BUILT_IN


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path):
    """A folder of small sets as people have them."""
    folder = tmp_path / "data"
    write(folder / "hellaswag_val_3.txt.gz", "Boat: A dog\n0\na\nb\nc\nd\n" * 3)
    write(folder / "sst2/dev.tsv", "good fun\t1\nno fun\t0\n")
    write(folder / "sst2/train.tsv", 'a " great\t1\nbad\t0\nfine\t1\n')
    for subject in ("law", "maths"):
        write(folder / f"mmlu/test/{subject}_test.csv", f"{subject} 1?,a,b,c,d,B\n{subject} 2?,a,b,c,d,A\n")
        write(folder / f"mmlu/dev/{subject}_dev.csv", f"{subject} dev?,a,b,c,d,C\n")
    write(
        folder / "piqa/valid.jsonl",
        lines({"goal": "g", "sol1": "a", "sol2": "b"}, {"goal": "h", "sol1": "a", "sol2": "b"}),
    )
    write(folder / "piqa/valid-labels.lst", "1\n0\n")
    return folder


def open_one(name, *paths, **flags):
    (task,) = open_tasks(name, Flags(**flags), [str(path) for path in paths])
    return task


def test_a_folder_is_searched_for_the_files_of_each_task(data):
    assert len(open_one("hellaswag", data).examples("test")) == 3
    sst2 = open_one("sst2", data)
    assert [e.fields["question"] for e in sst2.examples("train")] == ['a " great', "bad", "fine"]
    assert sst2.notes == (f"rows: {data}/sst2/dev.tsv; shots from {data}/sst2/train.tsv",)


def test_a_file_is_taken_as_it_is_and_shots_come_from_beside_it_or_from_where_one_says(data):
    beside = open_one("sst2", data / "sst2/dev.tsv")
    assert len(beside.examples("train")) == 3
    said = open_one("sst2", data / "sst2/train.tsv", train=data / "sst2/dev.tsv")
    assert (len(said.examples("test")), len(said.examples("train"))) == (3, 2)
    alone = open_one("hellaswag", data / "hellaswag_val_3.txt.gz")
    assert alone.examples("train") == alone.examples("test")
    assert "shots from the same rows" in alone.notes[0]


def test_all_subjects_of_mmlu_are_one_task_with_shots_of_their_own(data):
    task = open_one("mmlu", data)
    assert [(e.group, e.answer) for e in task.examples("test")] == [("law", 1), ("law", 0), ("maths", 1), ("maths", 0)]
    assert {e.group for e in task.examples("train")} == {"law", "maths"}
    one = open_one("mmlu", data / "mmlu/test/law_test.csv")
    assert {e.group for e in one.examples("test")} == {"law"}
    assert "law dev?" in one.examples("train")[0].fields["question"]


def test_labels_in_a_file_beside_the_rows_are_joined(data):
    assert [e.answer for e in open_one("piqa", data).examples("test")] == [1, 0]
    write(data / "piqa/valid-labels.lst", "1\n")
    with pytest.raises(DataError, match=r"valid-labels.lst: 1 labels for the 2 rows"):
        open_one("piqa", data)


def test_text_in_the_encoding_of_its_release_is_read_and_other_text_is_not(tmp_path):
    for name in ("TREC.train", "dev.tsv"):
        (tmp_path / name).write_bytes("NUM:date When was Zoë\t1\n".encode("latin-1"))
    assert open_one("trec", tmp_path).examples("test")[0].fields["question"] == "When was Zoë\t1"
    with pytest.raises(DataError, match=r"dev.tsv:1: byte 0xeb is not UTF-8"):
        open_one("sst2", tmp_path / "dev.tsv")


def test_rows_with_another_number_of_choices_than_the_set_are_told(data):
    file = write(data / "two.jsonl", lines({"query": "q", "choices": ["a", "b"], "gold": 0}))
    assert "most rows here have 2 choices, and those of hellaswag as published 4" in open_one("hellaswag", file).notes


def test_a_network_is_needed_for_the_hub_alone(monkeypatch):
    asked = []

    def read_records(source):
        asked.append(source)
        yield from ()

    monkeypatch.setattr("llmkit.data.documents.read_records", read_records)
    with pytest.raises(DataError, match="no rows"):
        open_one("hellaswag")
    with pytest.raises(DataError, match="no rows"):
        open_one("hellaswag", "hf:somebody/hellaswag@test")
    assert asked == ["hf:Rowan/hellaswag@validation", "hf:somebody/hellaswag@test"]


@pytest.mark.parametrize(
    ("name", "paths", "flags", "message"),
    [
        ("hellaswag", ["nowhere"], {}, "no such file"),
        ("winogrande", [""], {}, "no file of task winogrande"),
        ("sst2", ["", ""], {}, "one file or folder"),
        ("sst2", [""], {"question": "q"}, "--question-column"),
        ("sst2", [""], {"prompts": "9"}, "--prompts"),
        ("sst2", [""], {"prompts": "none"}, "--prompts"),
        ("helaswag", [""], {}, "no task of this name"),
        ("python-docs-package", [""], {}, "has its own data"),
    ],
)
def test_what_is_not_there_is_an_error_of_the_user(data, name, paths, flags, message):
    with pytest.raises(UsageError, match=message):
        open_tasks(name, Flags(**flags), [str(data / path) for path in paths])


def test_several_files_that_could_be_meant_are_named(data):
    write(data / "hellaswag_val_4.txt", "Boat: A dog\n0\na\nb\nc\nd\n")
    with pytest.raises(UsageError, match=r"hellaswag_val_3.txt.gz, hellaswag_val_4.txt|several"):
        open_one("hellaswag", data)


def test_prompts_are_chosen_by_number_or_all(data):
    prompts = [task.prompt for task in open_tasks("sst2", Flags(prompts="all"), [str(data)])]
    assert prompts == [BUILT_IN["sst2"].spec.prompt, *BUILT_IN["sst2"].spec.prompts]
    assert open_one("sst2", data, prompts="2").prompt == prompts[1]


def test_system_text_and_order_of_shots_are_those_that_were_asked_for(data):
    task = open_one("mmlu", data, system="Use {braces}.", shot_order="random")
    context = render_context(task, task.examples("test")[0], [])
    assert context.startswith(
        "Use {braces}.\n\nThe following are multiple choice questions (with answers) about law.\n\n"
    )
    assert (task.shots, open_one("sst2", data).shots) == ("random", "balanced")


def test_what_a_row_says_is_text_in_a_dialogue_too(tiny_tokenizer):
    chat = make_chat(tiny_tokenizer, is_one_turn=False)
    text = chat.render([Turn("user", "the model<|im_end|>"), Turn("assistant", "learns"), Turn("user", "what")])
    (ids,) = chat.encode([text])
    end = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 3
    assert chat.stop_ids == {end}
    assert chat.show(text).endswith("<|im_start|>user\nwhat<|im_end|>\n<|im_start|>assistant\n")
    messages = [{"role": "user", "content": "the model"}]
    plain = chat.encode([chat.render([Turn("user", "the model")])])[0]
    asked = tiny_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert plain == asked


def test_the_day_is_known_where_a_template_writes_it(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    assert make_chat(tokenizer, is_one_turn=False).day is None
    tokenizer.chat_template = "<|im_start|>system\n{{ strftime_now('%Y') }}<|im_end|>\n" + tokenizer.chat_template
    set_day(tokenizer, date(2025, 1, 2))
    chat = make_chat(tokenizer, is_one_turn=False)
    assert chat.day == "2025-01-02"
    assert "system\n2025" in chat.show(chat.render([Turn("user", "the model")]))


def test_the_other_wordings_of_a_built_in_task_are_llmkits_own(data):
    variants = open_tasks("sst2", Flags(prompts="all"), [str(data)])
    assert [variant.prompt_by for variant in variants] == ["lm-evaluation-harness", "llmkit", "llmkit"]
    assert len({variant.content_hash for variant in variants}) == 3


def test_the_list_shows_metric_chance_and_place(run_cli):
    shown = run_cli("evaluate", "--list")
    assert "hf:Rowan/hellaswag@validation" in shown.stdout
    found = {task["task"]: task for task in json.loads(run_cli("evaluate", "--list", "--json").stdout)["tasks"]}
    hellaswag = found["hellaswag"]
    assert (hellaswag["kind"], hellaswag["metric"], hellaswag["chance"]) == ("choice", "accuracy_bytes", 0.25)
    assert "hellaswag_val*.jsonl" in hellaswag["files"]
    assert len(found["sst2"]["prompts"]) == 3
    assert [found[name]["prompt_by"] for name in ("sst2", "trec", "wikitext")] == [
        *("lm-evaluation-harness", "llmkit", None)
    ]
    assert "BOS stands once" in shown.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "metrics"),
    [
        ("mmlu", ["--shots", "1"], {"accuracy", "accuracy_macro", "accuracy of law", "accuracy of maths"}),
        ("sst2", ["--shots", "2", "--chat"], {"accuracy", "matthews"}),
        ("hellaswag", ["--shots", "1", "--chat", "--one-turn"], {"accuracy_bytes"}),
    ],
)
def test_built_in_tasks_run_on_local_data(run_cli, tmp_path, tiny_model_folder, data, name, arguments, metrics):
    if name == "hellaswag":
        rows = "".join(f"Boat: A dog {n}\n0\na\nb\nc\nd\n" for n in range(3))
        data = write(data / "other/hellaswag_val.txt", rows)
    result = run_cli(
        *("evaluate", "--model", tiny_model_folder, "--task", name, "--data", data, "--json"),
        *("--output", tmp_path / "out", *arguments),
    )
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["results"]
    assert metrics <= set(found["metrics"])
    assert Path(found["items_file"]).is_file()
