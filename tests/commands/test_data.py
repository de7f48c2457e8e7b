"""`llmkit data` as it is typed."""

from __future__ import annotations

import gzip
import io
import json
import sys

import pytest

from llmkit.commands.data import format_row
from llmkit.data.show import ShownRow


@pytest.fixture
def tokenizer_folder(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tok")
    return tmp_path / "tok"


@pytest.fixture
def prepared_folder(tmp_path, tokenizer_folder, texts, run_cli):
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts))
    result = run_cli(
        "data", "prepare", tmp_path / "corpus.txt", "--tokenizer", tokenizer_folder, "--output", tmp_path / "data"
    )
    assert result.exit_code == 0, result.stderr
    return tmp_path / "data"


def test_prepare_prints_one_json_document(tmp_path, tokenizer_folder, run_cli):
    (tmp_path / "a.csv").write_text("review,stars\n" + "".join(f"the model learns to guess {i},5\n" for i in range(50)))
    result = run_cli(
        *("data", "prepare", tmp_path / "a.csv", "--text-column", "review", "--validation", "0.2"),
        *("--tokenizer", tokenizer_folder, "--output", tmp_path / "data", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["output"] == str(tmp_path / "data")
    assert sum(split["documents"] for split in document["splits"].values()) == 50
    assert set(document["splits"]["train"]) == {"documents", "tokens", "bytes"}
    assert document["seconds"] >= 0
    assert document["bytes_per_token"] > 1


def test_prepare_leaves_out_what_it_is_asked_to_and_tells_it(tmp_path, tokenizer_folder, run_cli):
    texts = ["the model learns to guess", "short", "the model learns to guess", "and then we ask it what comes"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    arguments = ("data", "prepare", tmp_path / "a.jsonl", "--tokenizer", tokenizer_folder, "--validation", "0")
    result = run_cli(*arguments, "--min-length", "10", "--dedupe", "exact", "--output", tmp_path / "data")
    assert result.exit_code == 0, result.stderr
    assert f"left out, too short: 1 documents, 5 bytes (first: {tmp_path}/a.jsonl:2)" in result.stderr
    assert "left out, exact duplicate: 1 documents, 25 bytes" in result.stderr
    assert "of 2 documents: 2 shorter than 100 characters" in result.stderr
    result = run_cli(*arguments, "--output", tmp_path / "all")
    assert "left out" not in result.stderr
    assert "1 equal to one before" in result.stderr
    assert "--dedupe exact leaves out" in result.stderr
    shown = run_cli("data", "show", tmp_path / "data", "--seq-len", "4")
    assert "left out, too short: 1 documents" in shown.stdout
    document = json.loads(run_cli("data", "show", tmp_path / "data", "--seq-len", "4", "--json").stdout)
    assert document["dropped"]["exact duplicate"]["documents"] == 1
    assert document["quality"]["documents"] == 2


def test_a_folder_of_an_older_llmkit_can_be_shown(prepared_folder, run_cli):
    path = prepared_folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["quality"], manifest["selection"]
    for source in manifest["sources"]:
        del source["dropped"]
    path.write_text(json.dumps(manifest))
    assert run_cli("data", "show", prepared_folder).exit_code == 0


def test_prepare_refuses_an_unknown_way_to_find_duplicates(tmp_path, tokenizer_folder, run_cli):
    result = run_cli(
        *("data", "prepare", tmp_path, "--tokenizer", tokenizer_folder, "--output", tmp_path / "d", "--dedupe", "fuzzy")
    )
    assert result.exit_code == 2
    assert "near" in result.stderr


def test_prepare_tells_people_on_stderr_alone(prepared_folder, tmp_path, tokenizer_folder, run_cli):
    result = run_cli(
        "data", "prepare", tmp_path / "corpus.txt", "--tokenizer", tokenizer_folder, "--output", tmp_path / "b"
    )
    assert result.stdout == ""
    assert "bytes per token" in result.stderr


def test_prepare_reads_compressed_stdin(tmp_path, tokenizer_folder, run_cli):
    data = gzip.compress(b"the model learns to guess\n" * 100)
    result = run_cli(
        "data", "prepare", "-", "--tokenizer", tokenizer_folder, "--output", tmp_path / "d", "--json", input=data
    )
    assert result.exit_code == 0, result.stderr
    assert sum(split["bytes"] for split in json.loads(result.stdout)["splits"].values()) == 2600


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", "schön\nGröße".encode("latin-1"), "a.txt:1: byte 0xf6 at offset 3 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2:10: Expecting value"),
        ("a.jsonl", b'{"body": "x"}\n', "there is no column 'text'"),
        ("a.jsonl", b'{"text": 3}\n', "holds a number, not text"),
        ("a.csv", b"text,b\nx\n", "a.csv:2: 1 fields, the header has 2"),
        (None, b"", "no such file or folder"),
    ],
)
def test_wrong_input_is_a_clear_error_and_leaves_nothing(tmp_path, tokenizer_folder, run_cli, name, content, message):
    path = tmp_path / (name or "absent.txt")
    if name:
        path.write_bytes(content)
    columns = () if path.suffix == ".txt" else ("--text-column", "text")
    result = run_cli("data", "prepare", path, *columns, "--tokenizer", tokenizer_folder, "--output", tmp_path / "data")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert {entry.name for entry in tmp_path.iterdir()} <= {"tok", path.name}


def test_errors_are_json_when_asked_for(tmp_path, tokenizer_folder, run_cli):
    result = run_cli(
        "data", "prepare", tmp_path / "no", "--tokenizer", tokenizer_folder, "--output", tmp_path / "d", "--json"
    )
    assert result.exit_code == 2
    assert result.stdout == ""
    assert set(json.loads(result.stderr)["error"]) == {"where", "message", "fix"}


def test_an_output_that_is_taken_is_refused_before_anything_is_read(prepared_folder, tokenizer_folder, run_cli):
    before = {path.name: path.stat().st_mtime_ns for path in prepared_folder.iterdir()}
    result = run_cli("data", "prepare", "absent.txt", "--tokenizer", tokenizer_folder, "--output", prepared_folder)
    assert result.exit_code == 2
    assert "not empty" in result.stderr
    assert {path.name: path.stat().st_mtime_ns for path in prepared_folder.iterdir()} == before


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path, run_cli):
    (tmp_path / "a.txt").write_text("x")
    result = run_cli("data", "prepare", tmp_path / "a.txt", "--tokenizer", tmp_path, "--output", tmp_path / "d")
    assert result.exit_code == 2
    assert not (tmp_path / "d").exists()


def test_show_gives_rows_as_training_sees_them(prepared_folder, tiny_tokenizer, run_cli):
    result = run_cli("data", "show", prepared_folder, "-n", "2", "--seq-len", "16", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    first, second = document["rows"]
    assert len(first["input_ids"]) == len(first["trained"]) == 17
    assert first["trained"] == [False] + [True] * 16
    assert first["input_ids"][-1] == second["input_ids"][0]
    assert first["text"].startswith("<|endoftext|>the ")
    assert document["statistics"]["train"]["documents"] == 1


def test_show_marks_trained_tokens_with_brackets_when_piped(prepared_folder, run_cli):
    result = run_cli("data", "show", prepared_folder, "-n", "1", "--seq-len", "4")
    assert result.exit_code == 0, result.stderr
    assert "<|endoftext|>|[" in result.stdout
    assert "\x1b" not in result.stdout


def test_show_paints_trained_tokens_green_on_a_terminal(tiny_tokenizer, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    row = ShownRow(tiny_tokenizer.convert_tokens_to_ids(["<|im_start|>", "t", "h"]), [False, True, False])
    dim, green, end = "\x1b[2m", "\x1b[32m", "\x1b[0m"
    assert format_row(row, tiny_tokenizer) == f"{dim}<|im_start|>{end}{green}t{end}{dim}h{end}"
    monkeypatch.setenv("NO_COLOR", "1")
    assert format_row(row, tiny_tokenizer) == "<|im_start|>|[t]h|"


def test_show_marks_what_the_assistant_says(tmp_path, tokenizer_folder, run_cli):
    path = tmp_path / "chat.jsonl"
    messages = [{"role": "user", "content": "the model"}, {"role": "assistant", "content": "learns"}]
    path.write_text(json.dumps({"messages": messages}))
    result = run_cli("data", "show", path, "--model", tokenizer_folder, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    (row,) = document["rows"]
    result = run_cli("data", "show", path, "--model", tokenizer_folder)
    trained = "".join(piece.split("]")[0] for piece in result.stdout.split("row 1")[1].split("[")[1:])
    assert trained == "learns<|im_end|>"
    assert "user" in row["text"]
    assert document["statistics"]["dialogues"]["trained_tokens"] == sum(row["trained"])


def test_show_of_documents_needs_a_tokenizer(tmp_path, tokenizer_folder, run_cli):
    (tmp_path / "a.txt").write_text("the model\nlearns")
    result = run_cli("data", "show", tmp_path / "a.txt")
    assert result.exit_code == 2
    assert "--tokenizer" in result.stderr
    result = run_cli("data", "show", tmp_path / "a.txt", "--tokenizer", tokenizer_folder, "--json")
    (row,) = json.loads(result.stdout)["rows"]
    assert row["text"] == "<|endoftext|>the model\nlearns<|endoftext|>"


def test_show_of_dialogues_needs_a_model(tmp_path, run_cli):
    (tmp_path / "a.jsonl").write_text('{"instruction": "the", "output": "model"}')
    result = run_cli("data", "show", tmp_path / "a.jsonl")
    assert result.exit_code == 2
    assert "--model" in result.stderr


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_show_of_what_is_not_there_is_an_error(tmp_path, run_cli, name):
    (tmp_path / "empty").mkdir()
    result = run_cli("data", "show", tmp_path / name)
    assert result.exit_code == 2


def test_bytes_and_chars_are_tokenizers_without_a_folder(tmp_path, run_cli):
    (tmp_path / "a.txt").write_text("wörter und\n\nmehr wörter\n", encoding="utf-8")
    for name, num_tokens in (("bytes", 4 + 256), ("chars", 4 + 256 + 1)):
        arguments = (tmp_path / "a.txt", "--tokenizer", name, "--output", tmp_path / name, "--json")
        result = run_cli("data", "prepare", *arguments)
        assert json.loads(result.stdout)["vocab_size"] == num_tokens, result.stderr
    assert "12 characters, a token for each" in result.stderr


def test_chars_of_stdin_are_refused_before_it_is_read(tmp_path, run_cli):
    result = run_cli("data", "prepare", "-", "--tokenizer", "chars", "--output", tmp_path / "d", input="abc")
    assert result.exit_code == 2
    assert "stdin is read once" in result.stderr
    assert not (tmp_path / "d").exists()


def test_a_folder_named_bytes_is_the_tokenizer_in_it(tmp_path, tokenizer_folder, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer_folder.rename("bytes")
    (tmp_path / "a.txt").write_text("the model\n\nlearns")
    result = run_cli("data", "prepare", "a.txt", "--tokenizer", "bytes", "--output", "d", "--json")
    assert json.loads(result.stdout)["vocab_size"] == 300
    assert "not llmkit's own tokenizer of bytes" in result.stderr
