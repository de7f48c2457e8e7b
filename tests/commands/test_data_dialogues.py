"""`llmkit data check`, and what `llmkit data show` takes besides."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def tokenizer_folder(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tok")
    return tmp_path / "tok"


@pytest.fixture
def check(tmp_path, tokenizer_folder, run_cli):
    def run(rows, *arguments):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return run_cli("data", "check", path, "--model", tokenizer_folder, *arguments)

    return run


def rows_of(*answers):
    return [{"prompt": f"the question {n}", "completion": answer} for n, answer in enumerate(answers)]


def pairs_of(*answers):
    return [{"prompt": f"the {n}", "chosen": answer, "rejected": "a token"} for n, answer in enumerate(answers)]


def test_rows_without_fault_pass(check):
    result = check(rows_of("the next token", "text after that"))
    assert result.exit_code == 0, result.stderr
    assert "2 rows read, 2 used, 0 dropped" in result.stdout
    assert "nothing was found" in result.stdout


FAULTS = {
    "written-end": (rows_of("text<|endoftext|>", "that<|endoftext|>"), "serious", 2),
    "control-like-text": (rows_of("the <|im_start|> token", "text after"), "warning", 1),
    "empty-answer": (rows_of("", "text after"), "serious", 1),
    "too-long": (rows_of("the next token " * 400, *["text after"] * 19), "warning", 1),
    "duplicates": (rows_of("text after") * 3, "warning", 2),
    "near-empty-answer": (rows_of("7", "text after"), "note", 1),
    "placeholder": (rows_of("I am {{name}}.", "text after"), "warning", 1),
    "idle-pair": (pairs_of("a token", *["the text"] * 19), "warning", 1),
    "unusable": ([{"text": "the next token"}], "serious", 0),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_with_its_level_and_serious_ones_fail(name, check):
    rows, level, count = FAULTS[name]
    result = check(rows, "--json")
    document = json.loads(result.stdout)
    found = {finding["name"]: finding for finding in document["findings"]}
    assert (found[name]["level"], found[name]["rows"]) == (level, count)
    assert result.exit_code == (3 if level == "serious" else 0)
    assert document["ok"] == (level != "serious")


def test_what_is_serious_comes_first_and_says_what_to_do(check):
    result = check(rows_of("7", "that<|endoftext|>"))
    assert result.exit_code == 3
    assert result.stdout.index("written-end") < result.stdout.index("near-empty")
    assert "data.strip" in result.stderr
    mended = check(rows_of("7", "that<|endoftext|>"), "--set", 'data.strip=["<|endoftext|>"]')
    assert mended.exit_code == 0, mended.stderr


def test_what_a_template_adds_by_itself_is_told(tmp_path, tiny_tokenizer, run_cli):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(rows_of("text after")[0]))
    tiny_tokenizer.save_pretrained(tmp_path / "tok")
    template = "<|im_start|>system\nYou help the user.<|im_end|>\n" + (tiny_tokenizer.chat_template)
    (tmp_path / "tok" / "chat_template.jinja").write_text(template)
    result = run_cli("data", "check", path, "--model", tmp_path / "tok")
    assert "begins every dialogue with its own: You help the user." in result.stdout


def test_show_takes_the_fields_of_a_tuning(tmp_path, tokenizer_folder, run_cli):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"q": "the model", "a": "learns"}))
    columns = ["--set", "data.columns.prompt=q", "--set", "data.columns.completion=a"]
    result = run_cli("data", "show", path, "--model", tokenizer_folder, "--json", *columns)
    assert result.exit_code == 0, result.stderr
    [row] = json.loads(result.stdout)["rows"]
    assert set(row) == {"input_ids", "trained", "text"}
    assert len(row["input_ids"]) == len(row["trained"])
    assert row["text"] == "<|im_start|>user\nthe model<|im_end|>\n<|im_start|>assistant\nlearns<|im_end|>\n"


def test_show_tells_of_rows_that_a_tuning_would_leave_out(tmp_path, tokenizer_folder, run_cli):
    path = tmp_path / "long.jsonl"
    rows = [{"prompt": "q", "completion": answer} for answer in ("short", "a long answer " * 900)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = "1 rows are longer than 1,024 tokens"
    shown = run_cli("data", "show", path, "--model", tokenizer_folder, "--json")
    assert told in shown.stderr
    assert len(json.loads(shown.stdout)["rows"]) == 2
    limit = ("--set", "data.max_length=2000")
    assert told not in run_cli("data", "show", path, "--model", tokenizer_folder, *limit).stderr


def test_rows_are_measured_by_the_length_that_the_model_takes(tmp_path, tiny_model_folder, run_cli):
    path = tmp_path / "rows.jsonl"  # of which the model takes 128 tokens
    rows = [{"prompt": f"q {n}", "completion": "what comes next " * (60 if n % 2 else 2)} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    checked = run_cli("data", "check", path, "--model", tiny_model_folder, "--json")
    account = json.loads(checked.stdout)["account"]
    assert (account["read"], account["used"]) == (6, 3)
    assert "3 rows are longer than 128 tokens" in run_cli("data", "show", path, "--model", tiny_model_folder).stderr


def test_show_of_pairs_has_the_chosen_answer_first(tmp_path, tokenizer_folder, run_cli):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "the model", "chosen": "learns", "rejected": "guesses"}))
    result = run_cli("data", "show", path, "--model", tokenizer_folder, "--json")
    texts = [row["text"].split("assistant\n")[1] for row in json.loads(result.stdout)["rows"]]
    assert texts == ["learns<|im_end|>\n", "guesses<|im_end|>\n"]
    assert "1 pairs, whose answers are shown one after the other" in result.stderr


def test_pairs_are_counted_as_pairs_and_read_as_the_recipe_says(check):
    rows = pairs_of("the text<|endoftext|>", "the token<|endoftext|>", "a token<|endoftext|>")
    result = check(rows, "--json", "--set", 'data.strip=["<|endoftext|>"]')
    account = json.loads(result.stdout)["account"]
    assert (account["read"], account["used"]) == (3, 2)
    assert account["dropped"]["both answers are the same"]["rows"] == 1


def test_pairs_cannot_be_cut_at_their_beginning(check):
    result = check(pairs_of("the text"), "--set", "data.overlong=cut-left")
    assert result.exit_code == 3
    assert "pairs of answers are not cut at their beginning" in result.stdout


def test_a_file_that_is_not_there_is_no_finding(tmp_path, tokenizer_folder, run_cli):
    result = run_cli("data", "check", tmp_path / "absent.jsonl", "--model", tokenizer_folder)
    assert result.exit_code == 2
    assert "no such file" in result.stderr


def test_plain_text_is_sent_to_pretraining(tmp_path, tokenizer_folder, run_cli):
    (tmp_path / "corpus.txt").write_text("the next token")
    result = run_cli("data", "check", tmp_path / "corpus.txt", "--model", tokenizer_folder)
    assert result.exit_code == 3
    assert "llmkit pretrain --model MODEL" in result.stderr


def test_show_says_of_rows_in_no_form_which_columns_could_be_named(tmp_path, tokenizer_folder, run_cli):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "1", "turns_en": ["a", "b"]}))
    result = run_cli("data", "show", path, "--model", tokenizer_folder)
    assert result.exit_code == 2
    assert "--set data.columns.turns=COLUMN" in result.stderr
