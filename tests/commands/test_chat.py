"""`llmkit chat`: from a script, and at a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from llmkit.errors import UsageError

SHORT = ("--max-new-tokens", "5", "--dtype", "fp32")


@pytest.fixture
def run(run_cli, tiny_model_folder):
    """Run `llmkit chat` with the tiny model."""
    return lambda *arguments, input=None: run_cli("chat", "--model", tiny_model_folder, *SHORT, *arguments, input=input)


@pytest.fixture
def dialogue(tiny_model_folder):
    """A dialogue that begins, with a person at the terminal."""
    from llmkit.commands.chat import Conversation
    from llmkit.commands.generate import load_speaker
    from llmkit.generation.decode import Memory

    speaker = load_speaker(
        str(tiny_model_folder),
        dtype="fp32",
        sampling=(0.0, 0, 1.0),
        max_new_tokens=8,
        stop_strings=None,
        seed=0,
        is_chat=True,
    )
    return Conversation("tiny", speaker, Memory(), is_live=True)


def test_each_line_is_a_turn_and_the_document_holds_all_of_them(run):
    result = run("--json", "--system", "be short", input="the model\n\nthe text\n")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [m["role"] for m in document["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert [m["content"] for m in document["messages"][1::2]] == ["the model", "the text"]
    assert all(answer["num_tokens"] <= 5 for answer in document["answers"])
    assert "> the model" in result.stderr


def test_answers_go_to_stdout_and_questions_to_stderr(run):
    document = json.loads(run("--json", input="the model\nthe text\n").stdout)
    result = run(input="the model\nthe text\n")
    assert result.stdout == "".join(m["content"] + "\n" for m in document["messages"] if m["role"] == "assistant")


def test_one_question_can_be_asked_on_the_command_line(run):
    document = json.loads(run("--prompt", "the model", "--json").stdout)
    assert run("--prompt", "the model").stdout == document["messages"][1]["content"] + "\n"


def test_the_second_answer_knows_of_the_first(run, tiny_model, tiny_tokenizer):
    from llmkit.data.dialogue import Message, render_prompt
    from llmkit.generation.generate import generate_ids
    from llmkit.generation.sampling import SamplingConfig

    document = json.loads(run("--json", "--temperature", "0", input="the model\nthe text\n").stdout)
    messages = [Message(m["role"], m["content"]) for m in document["messages"]]
    settings = {"sampling": SamplingConfig(), "max_new_tokens": 5, "tokenizer": tiny_tokenizer}
    (expected,) = generate_ids(tiny_model, [render_prompt(messages[:-1], tiny_tokenizer)], **settings)
    assert messages[-1].content == expected.text


def test_commands_reset_set_the_system_message_save_and_quit(run, tmp_path):
    file = tmp_path / "dialogue.jsonl"
    lines = f"one\n/reset\n/system be kind\ntwo\n/save {file}\n/help\n/quit\nthree\n"
    document = json.loads(run("--json", input=lines).stdout)
    assert [m["content"] for m in document["messages"][:2]] == ["be kind", "two"]
    assert len(document["messages"]) == 3
    assert json.loads(file.read_text()) == {"messages": document["messages"]}


def test_what_was_saved_is_read_by_finetune_as_a_dialogue(dialogue, tmp_path):
    from llmkit.commands.chat import answer, save

    answer(dialogue, "the model", str)
    save(dialogue, str(tmp_path / "a.jsonl"))
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [m["role"] for m in json.loads(line)["messages"]] == ["user", "assistant"]
    with pytest.raises(UsageError, match="nothing is overwritten"):
        save(dialogue, str(tmp_path / "a.jsonl"))


def test_an_unknown_command_is_text_in_a_script_and_a_slip_at_the_terminal(dialogue, capsys):
    from llmkit.commands.chat import take_line

    assert take_line(dialogue, "/model the", str)
    assert [m.content for m in dialogue.messages[:1]] == ["/model the"]
    assert take_line(dialogue, "/model the", str, is_strict=True)
    assert len(dialogue.messages) == 2
    assert "there is no /model" in capsys.readouterr().err
    assert take_line(dialogue, " /reset", str, is_strict=True)
    assert dialogue.messages[2].content == "/reset"
    assert not take_line(dialogue, "/quit", str)


def test_a_history_that_no_longer_fits_loses_its_oldest_turns_and_says_so(dialogue, capsys):
    from llmkit.commands.chat import answer

    for number in range(6):
        answer(dialogue, f"the model learns to guess next token {number}", str)
    assert dialogue.num_forgotten >= 2
    assert dialogue.num_forgotten % 2 == 0
    assert len(dialogue.messages) == 12
    assert "oldest turns are left out" in capsys.readouterr().err


def test_a_message_longer_than_the_model_is_an_error_that_leaves_the_dialogue_as_it_was(dialogue):
    from llmkit.commands.chat import answer

    answer(dialogue, "the model", str)
    with pytest.raises(UsageError, match="takes at most 128"):
        answer(dialogue, "the " * 200, str)
    assert len(dialogue.messages) == 2
    assert dialogue.num_forgotten == 0


def test_ctrl_c_stops_an_answer_and_the_dialogue_goes_on(dialogue, capsys):
    from llmkit.commands.chat import answer

    shown = []

    def interrupt(piece):
        shown.append(piece)
        if len(shown) == 2:
            raise KeyboardInterrupt

    answer(dialogue, "the model", interrupt)
    (completion,) = dialogue.completions
    assert completion.finish_reason == "interrupted"
    assert dialogue.messages[1].content == completion.text == "".join(shown).removesuffix("\n")
    answer(dialogue, "the text", str)
    assert dialogue.completions[1].finish_reason != "interrupted"


def test_ctrl_c_ends_a_script(dialogue):
    from llmkit.commands.chat import answer

    def interrupt(piece):
        raise KeyboardInterrupt

    dialogue.is_live = False
    with pytest.raises(KeyboardInterrupt):
        answer(dialogue, "the model", interrupt)


def test_bytes_that_are_no_text_are_an_error_with_the_line(run):
    result = run(input=b"the model\n\xff\n")
    assert result.exit_code == 2
    assert "stdin:2: not UTF-8" in result.stderr


class Terminal:
    """`llmkit chat` at a terminal of its own."""

    def __init__(self, *arguments, home):
        self.end, inner = pty.openpty()
        command = [sys.executable, "-m", "llmkit", "chat", *map(str, arguments)]
        environment = os.environ | {"TERM": "xterm", "XDG_STATE_HOME": str(home), "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True
        )
        os.close(inner)
        self.seen = ""

    def wait_for(self, text, seconds=90):
        """Read until `text` shows up; what was seen up to there is taken away."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.end], [], [], 0.2)[0]:
                self.seen += os.read(self.end, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, keys):
        os.write(self.end, keys.encode())


def test_a_dialogue_at_a_terminal(tiny_model_folder, tmp_path):
    terminal = Terminal("--model", tiny_model_folder, *SHORT, home=tmp_path)
    try:
        terminal.wait_for("Ctrl-D leaves")
        terminal.wait_for("> ")
        terminal.type("the model\r")
        terminal.wait_for("> ")
        terminal.type("/save\r")
        terminal.wait_for("there is no file name")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)
    assert (tmp_path / "llmkit" / "chat-history").read_text().splitlines()[-2:] == ["the model", "/save"]
