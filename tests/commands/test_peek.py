"""`llmkit peek`."""

from __future__ import annotations

import io
import json
import re

import pytest

from llmkit.commands import peek_view

TEXT = "the model learns 👍 to guess.\nnaïve \x1b[31mred"


@pytest.fixture
def peeked(run_cli, tiny_model_folder):
    """Run `llmkit peek` on the tiny model: the JSON document."""

    def run(*arguments, input=None):
        result = run_cli("peek", "--model", tiny_model_folder, *arguments, "--json", input=input)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run


def test_bits_per_byte_are_those_of_evaluate(run_cli, peeked, tiny_model_folder, texts, tmp_path):
    text = " ".join(texts[:6])
    (tmp_path / "text.txt").write_text(text)
    task = ["--task", "perplexity", "--data", tmp_path / "text.txt", "--output", tmp_path / "out"]
    result = run_cli("evaluate", "--model", tiny_model_folder, *task, "--json")
    metrics = json.loads(result.stdout)["results"][0]["metrics"]
    found = peeked(text)["summary"]
    assert found["num_tokens"] > 128, "several windows"
    assert found["bits_per_byte"] == pytest.approx(metrics["bits_per_byte"]["value"], rel=1e-5)


def test_tokens_are_the_text_with_their_numbers(peeked):
    document = peeked(TEXT, "--alternatives", "3")
    assert "".join(token["text"] for token in document["tokens"]) == TEXT
    token = document["tokens"][0]
    assert token["probability"] == pytest.approx(2 ** -token["surprise"])
    assert len(token["alternatives"]) == 3
    assert document["summary"]["num_bytes"] == len(TEXT.encode())


def test_stdin_is_read_without_the_line_break_at_its_end(peeked):
    assert peeked("-", input="the model\n")["text"] == "the model"
    assert peeked(input="the model")["text"] == "the model"


def test_everything_at_once(peeked, tiny_model_folder):
    flags = ["--next", "--layers", "--attention", "1:0", "--compare", tiny_model_folder, "--temperature", "0.5"]
    document = peeked("the model learns", *flags)
    num = len(document["tokens"])
    assert [stage["name"] for stage in document["next"]["stages"]] == ["as it is", "temperature 0.5", "top-p 0.95"]
    assert len(document["layers"]) == 3
    assert all(len(depth) == num + 1 for depth in document["layers"])
    assert document["layers"][-1][0]["own"] == pytest.approx(document["tokens"][0]["probability"], rel=1e-4)
    assert [len(row) for row in document["attention"]["weights"]] == list(range(1, num + 2))
    assert all(s["bits"] == pytest.approx(s["other_bits"]) for s in document["compare"]["stretches"])


def test_a_message_stands_in_the_template(peeked):
    document = peeked("--chat", "the model")
    assert document["text"] == "user\nthe model<|im_end|>\n<|im_start|>assistant\n"
    assert [t["token"] for t in document["tokens"] if not t["counted"]] == ["<|im_end|>", "<|im_start|>"]


def test_no_control_character_reaches_the_terminal(run_cli, tiny_model_folder):
    for more in ([], ["--compare", tiny_model_folder], ["--next", "--layers", "--attention", "0:1"]):
        result = run_cli("peek", "--model", tiny_model_folder, TEXT, *more)
        assert result.exit_code == 0, result.stderr
        assert "\x1b" not in result.stdout + result.stderr
        assert "\\x1b" in result.stdout


def test_before_and_after_tuning_are_compared(run_cli, tiny_model, tiny_tokenizer, tiny_model_folder, tmp_path):
    import torch

    from llmkit.models.causal_lm import save_causal_lm
    from llmkit.models.lora import attach_lora
    from llmkit.recipe.schema import LoraSection

    model = attach_lora(tiny_model, LoraSection(rank=4), base=tiny_model_folder, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    save_causal_lm(model, tiny_tokenizer, tmp_path / "tuned")
    flags = ["--compare", tiny_model_folder, "--layers", "--attention", "0:0", "--json"]
    result = run_cli("peek", "--model", tmp_path / "tuned", "the model", *flags)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["summary"]["bits"] == pytest.approx(sum(s["bits"] for s in document["compare"]["stretches"]))
    assert document["summary"]["bits"] != pytest.approx(document["compare"]["summary"]["bits"], rel=1e-3)
    last = document["layers"][-1][0]
    assert last["own"] == pytest.approx(document["tokens"][0]["probability"], rel=1e-3)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_terminal_shows_the_text_in_colours_and_its_hardest_places(peeked, monkeypatch):
    document = peeked(TEXT)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    peek_view.show(document, 3)
    shown = terminal.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "\x1b[" in shown
    assert "\x1b" not in plain
    assert plain.startswith(TEXT.replace("\x1b", "\\x1b"))
    assert len([line for line in plain.splitlines() if "%" in line]) == 3
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.truncate(0)
    peek_view.show(document, 3)
    assert "\x1b" not in terminal.getvalue()


def test_a_narrow_terminal_shows_fewer_things_and_none_of_them_cut(peeked, monkeypatch):
    document = peeked("the model learns to guess", "--layers")
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    seen = {}
    for width in (80, 300):
        monkeypatch.setattr(peek_view, "terminal_width", lambda width=width: width)
        monkeypatch.setattr("llmkit.commands.terminal.terminal_width", lambda width=width: width)
        terminal.truncate(0)
        terminal.seek(0)
        peek_view.show(document, 3)
        seen[width] = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert ".." not in seen[80]
    assert seen[300].count("%") > seen[80].count("%")


@pytest.mark.parametrize(
    ("bits", "styles"), [(0.5, ("dim",)), (2, ()), (6, ("yellow",)), (10, ("magenta",)), (20, ("red", "bold"))]
)
def test_colours_go_by_surprise(bits, styles, monkeypatch):
    monkeypatch.setattr(peek_view, "paint", lambda text, *given, stream: f"{given}{text}")
    painted = peek_view.paint_surprise({"surprise": bits, "text": "x", "counted": True})
    assert painted == (f"{styles}x" if styles else "x")


def test_the_easier_model_gives_the_colour():
    assert peek_view.side_of({"bits": 1, "other_bits": 3}) == ("blue",)
    assert peek_view.side_of({"bits": 3, "other_bits": 1}) == ("yellow",)
    assert peek_view.side_of({"bits": 3, "other_bits": 2.5}) == ()


def test_the_page_is_written_whole(run_cli, tiny_model_folder, tmp_path):
    page = tmp_path / "peek.html"
    result = run_cli("peek", "--model", tiny_model_folder, TEXT, "--next", "--html", page)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert str(page) in result.stderr
    assert page.read_text().startswith("<!doctype html>")
    assert run_cli("peek", "--model", tiny_model_folder, "again", "--html", page).exit_code == 0
    page.write_text("<!doctype html><p>my own page</p>")
    result = run_cli("peek", "--model", tiny_model_folder, TEXT, "--html", page)
    assert result.exit_code == 2
    assert "this file is no page of llmkit" in result.stderr
    assert "my own page" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--attention", "3"], "not LAYER:HEAD"),
        (["x", "--attention", "7:0"], "no layer 7"),
        (["word " * 200, "--layers"], "shows at most 127"),
        (["x", "--temperature", "-1"], "not a temperature"),
        (["x", "--html", "."], "this is a folder"),
        (["x", "--compare", "nowhere"], "no such folder"),
        ([""], "no text"),
    ],
)
def test_what_cannot_be_done_is_told(run_cli, tiny_model_folder, arguments, message):
    result = run_cli("peek", "--model", tiny_model_folder, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "fix:" in result.stderr


def test_a_model_without_a_template_holds_no_dialogue(run_cli, tiny_model, tiny_tokenizer, tmp_path):
    import copy

    from llmkit.models.causal_lm import save_causal_lm

    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    save_causal_lm(tiny_model, plain, tmp_path / "plain")
    result = run_cli("peek", "--model", tmp_path / "plain", "--chat", "x")
    assert result.exit_code == 2
    assert "no chat template" in result.stderr
