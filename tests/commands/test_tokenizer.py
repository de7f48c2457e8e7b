"""`llmkit tokenizer train`, `evaluate` and `show` as a user runs them."""

import json

import pytest

from llmkit.commands.tokenizer import interlinear, make_visible, spread_data
from llmkit.evaluation.compression import token_texts
from llmkit.tokenizer import encode_text, load_tokenizer, tokenizer_hash

LINES = [f"def name_{i}(value):\n    return value + {i * 37}  # Grüße\n" for i in range(80)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    """The tiny tokenizer, saved."""
    path = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def text_file(tmp_path):
    """A text of some thousand characters."""
    path = tmp_path / "text.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


def test_train_writes_a_tokenizer_and_one_document_of_json(run_cli, tmp_path, text_file):
    result = run_cli("tokenizer", "train", text_file, "--output", tmp_path / "tok", "--vocab-size", 300, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    tokenizer = load_tokenizer(tmp_path / "tok")
    num_bytes = text_file.stat().st_size
    assert (report["output"], report["vocab_size"]) == (str(tmp_path / "tok"), 300)
    assert report["bytes_per_token"] == num_bytes / len(encode_text(tokenizer, text_file.read_text("utf-8")))
    assert (report["documents"], report["bytes"]) == (1, num_bytes)
    assert report["seconds"] > 0


@pytest.mark.parametrize("algorithm", ["bpe", "unigram", "wordpiece", "chars"])
def test_each_algorithm_gives_the_text_back(run_cli, tmp_path, text_file, algorithm):
    output = tmp_path / "tok"
    run_cli("tokenizer", "train", text_file, "--output", output, "--vocab-size", 300, "--algorithm", algorithm)
    result = run_cli("tokenizer", "evaluate", output, "--data", text_file, "--json")
    assert json.loads(result.stdout)["tokenizers"][0]["round_trip"] == 1


def test_bytes_need_no_text(run_cli, tmp_path):
    result = run_cli("tokenizer", "train", "--algorithm", "bytes", "--output", tmp_path / "tok", "--json")
    report = json.loads(result.stdout)
    assert (report["vocab_size"], report["bytes_per_token"], report["documents"]) == (260, 1.0, 0)
    assert encode_text(load_tokenizer(tmp_path / "tok"), "aé") == [4 + 97, 4 + 0xC3, 4 + 0xA9]


def test_bytes_read_no_text_and_say_so(run_cli, tmp_path):
    result = run_cli("tokenizer", "train", tmp_path / "missing", "--algorithm", "bytes", "--output", tmp_path / "tok")
    assert result.exit_code == 0, result.stderr
    assert "nothing is read" in result.stderr


def test_characters_of_the_text_are_tokens(run_cli, tmp_path, text_file):
    arguments = ("--algorithm", "chars", "--output", tmp_path / "tok", "--json")
    result = run_cli("tokenizer", "train", text_file, *arguments)
    report = json.loads(result.stdout)
    text = text_file.read_text("utf-8")
    tokenizer = load_tokenizer(tmp_path / "tok")
    assert report["characters"] == len(set(text))
    assert report["vocab_size"] == 4 + 256 + len({c for c in text if not c.isascii()})
    assert f"{len(set(text))} characters, 4 control tokens" in result.stderr
    assert len(encode_text(tokenizer, text)) == len(text)


def test_a_vocabulary_too_small_for_all_characters_says_how_many_are_left_out(run_cli, tmp_path):
    (tmp_path / "a.txt").write_text("語語é", encoding="utf-8")
    arguments = ("--algorithm", "chars", "--vocab-size", 261, "--output", tmp_path / "tok")
    result = run_cli("tokenizer", "train", tmp_path / "a.txt", *arguments)
    assert "the 1 rarest of 2 characters are written as bytes" in result.stderr
    assert len(encode_text(load_tokenizer(tmp_path / "tok"), "語é")) == 1 + 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--algorithm", "chars"), "there is no text to learn from"),
        (("--algorithm", "bytes", "--vocab-size", "300"), "always has 260 tokens"),
        ((), "there is no text to learn from"),
    ],
)
def test_what_makes_no_tokenizer_is_refused(run_cli, tmp_path, arguments, message):
    result = run_cli("tokenizer", "train", *arguments, "--output", tmp_path / "tok")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "tok").exists()


def test_train_reads_stdin_and_rows(run_cli, tmp_path):
    rows = "".join(json.dumps({"id": i, "body": line}) + "\n" for i, line in enumerate(LINES))
    arguments = ("--text-column", "body", "--vocab-size", 300, "--json")
    result = run_cli("tokenizer", "train", "-", "--output", tmp_path / "tok", *arguments, input=rows)
    assert json.loads(result.stdout)["documents"] == len(LINES), result.stderr


def test_train_with_the_same_text_is_the_same_tokenizer(run_cli, tmp_path, text_file):
    for name in ("one", "two"):
        run_cli("tokenizer", "train", text_file, "--output", tmp_path / name, "--vocab-size", 300)
    assert tokenizer_hash(load_tokenizer(tmp_path / "one")) == tokenizer_hash(load_tokenizer(tmp_path / "two"))


def test_a_vocabulary_that_the_text_cannot_fill_is_told(run_cli, tmp_path):
    (tmp_path / "a.txt").write_text("abc")
    result = run_cli("tokenizer", "train", tmp_path / "a.txt", "--output", tmp_path / "tok")
    assert result.exit_code == 0
    assert "repeats too little for 4,096 tokens: the vocabulary has 262" in result.stderr


def test_what_cannot_be_trained_leaves_nothing(run_cli, tmp_path, text_file):
    result = run_cli("tokenizer", "train", text_file, "--output", tmp_path / "tok", "--vocab-size", "200")
    assert result.exit_code == 2
    assert "no room for the 256 bytes" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["text.txt"]


def test_train_touches_no_folder_that_holds_something(run_cli, tmp_path, text_file):
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "mine").write_text("x")
    result = run_cli("tokenizer", "train", text_file, "--output", tmp_path / "tok", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"]["where"] == str(tmp_path / "tok")
    assert [p.name for p in (tmp_path / "tok").iterdir()] == ["mine"]


def test_evaluate_sets_tokenizers_side_by_side(run_cli, folder, text_file, tmp_path):
    run_cli("tokenizer", "train", text_file, "--output", tmp_path / "own", "--vocab-size", 400)
    result = run_cli("tokenizer", "evaluate", folder, tmp_path / "own", "--data", text_file, "--json")
    report = json.loads(result.stdout)
    first, second = report["tokenizers"]
    assert [first["tokenizer"], second["tokenizer"]] == [str(folder), str(tmp_path / "own")]
    assert second["bytes_per_token"] > first["bytes_per_token"] >= 1 == report["reference"]["bytes_per_token"]


def test_evaluate_prints_a_table_by_file_for_people(run_cli, folder, text_file, tmp_path):
    (tmp_path / "other.md").write_text("another text")
    result = run_cli("tokenizer", "evaluate", folder, "--data", text_file, tmp_path / "other.md")
    assert result.exit_code == 0, result.stderr
    assert "(plain bytes)" in result.stdout
    assert "bytes/token by file" in result.stdout
    assert "other.md" in result.stdout
    assert "100%" in result.stdout


def test_evaluate_of_no_tokenizer_is_an_error(run_cli, tmp_path, text_file):
    result = run_cli("tokenizer", "evaluate", tmp_path, "--data", text_file, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"]["where"] == str(tmp_path)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("tok --data a b --json", "tok --data a --data b --json"),
        ("tok --data a --data b c --text-column x", "tok --data a --data b --data c --text-column x"),
        ("tok --data -", "tok --data -"),
        ("--data a tok", "--data a tok"),
    ],
)
def test_data_may_have_several_values(given, read):
    assert spread_data(given.split()) == read.split()


def test_show_prints_a_line_for_each_token(run_cli, folder, tiny_tokenizer):
    text = 'the model <|im_end|>\n"x"\tü'
    result = run_cli("tokenizer", "show", folder, text)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [int(index) for index, _ in lines] == encode_text(tiny_tokenizer, text)
    assert [json.loads(token) for _, token in lines][-3:] == ["\t", "\\xc3", "\\xbc"]
    assert f"{len(lines)} tokens" in result.stderr


def test_show_reads_stdin(run_cli, folder):
    result = run_cli("tokenizer", "show", folder, "-", "--json", input="the model")
    report = json.loads(result.stdout)
    assert "".join(token["text"] for token in report["tokens"]) == "the model"
    assert [token["id"] for token in report["tokens"]] == report["ids"]
    assert report["bytes_per_token"] == 9 / report["num_tokens"]


def test_show_of_nothing_is_nothing(run_cli, folder):
    result = run_cli("tokenizer", "show", folder, "", "--json")
    assert json.loads(result.stdout)["ids"] == []
    assert run_cli("tokenizer", "show", folder, "").stdout == ""


def test_tokens_stand_above_their_ids(tiny_tokenizer):
    ids = encode_text(tiny_tokenizer, "the\nmodel x")
    tokens = token_texts(tiny_tokenizer, ids)
    lines = list(interlinear(ids, tokens, width=80))
    assert [line.split() for line in lines[1::2]] == [
        [str(i) for i in ids[: tokens.index("\n") + 1]],
        [str(i) for i in ids[tokens.index("\n") + 1 :]],
    ]
    assert all(len(line) <= 10 for line in interlinear(ids, tokens, width=9))


def test_a_terminal_gets_no_control_characters():
    assert make_visible("a b\n\t\x1b[31m\u202e") == "a·b⏎⇥\\x1b[31m\\u202e"
