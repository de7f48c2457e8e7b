from __future__ import annotations

import io
import math

import pytest

from llmkit import console
from llmkit.console import Progress, format_seconds, format_table, paint, say, tee, without_nan, write_json


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch) -> Terminal:
    """Put a terminal in the place of stderr. Not a fixture: pytest puts its own stderr back between set-up and test."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_data_goes_to_stdout_and_words_to_stderr(capsys):
    write_json({"name": "Zoë"})
    say("hello")
    out, err = capsys.readouterr()
    assert out == '{"name": "Zoë"}\n'
    assert err == "hello\n"


def test_nan_is_not_json(capsys):
    with pytest.raises(ValueError, match="JSON"):
        write_json({"loss": float("nan")})
    assert capsys.readouterr().out == ""


def test_only_the_first_process_talks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    write_json({})
    say("hello")
    assert capsys.readouterr() == ("", "")


def test_colours_appear_on_a_terminal_only(monkeypatch):
    open_terminal(monkeypatch)
    assert paint("x", "red") == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", stream=io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red") == "x"


def test_a_table_aligns_numbers_to_the_right():
    table = format_table(["name", "loss"], [["a", 1.23456], ["bcd", None], ["e", 10]])
    assert table.splitlines() == ["name   loss", "----  -----", "a     1.235", "bcd", "e        10"]


def test_a_table_may_be_empty():
    assert format_table(["name", "loss"], []).splitlines() == ["name  loss", "----  ----"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3599.9, "1 h 0 min")]
)
def test_seconds_read_as_people_say_them(seconds, text):
    assert format_seconds(seconds) == text


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Progress("training", total=100, unit="steps") as progress:
        for _ in range(50):
            now[0] += 0.5
            progress.update(1, note="loss 2.0")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training  20/100 steps  loss 2.0  40.0 s left", "training  40/100 steps  loss 2.0  30.0 s left"]


def test_progress_on_a_terminal_is_a_bar_that_vanishes(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(console, "terminal_width", lambda: 80)
    with Progress("training", total=4, unit="steps") as progress:
        progress.last_shown = -1.0
        progress.update(2)
    text = terminal.getvalue()
    assert "━" * 12 + "╌" * 12 in text
    assert text.endswith("\r\x1b[K")


def test_a_log_gets_what_is_said_without_colours_and_bars(tmp_path, monkeypatch):
    open_terminal(monkeypatch)
    with tee(tmp_path / "log.txt"):
        say(paint("warning:", "yellow") + " careful")
        with Progress("training", total=4, unit="steps") as progress:
            progress.last_shown = -1.0
            progress.update(2)
            say("step 2: validation 1.5")
    say("later")
    assert (tmp_path / "log.txt").read_text() == "warning: careful\nstep 2: validation 1.5\n"


def test_what_is_said_under_a_bar_stands_on_a_line_of_its_own(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with Progress("training", total=4, unit="steps") as progress:
        progress.last_shown = -1.0
        progress.update(2)
        say("a sample")
    assert "\r\x1b[Ka sample\n" in terminal.getvalue()


def test_the_note_beside_a_bar_is_made_when_it_is_shown():
    with Progress("training", total=4, unit="steps") as progress:
        progress.update(1, note=lambda: pytest.fail("nothing is shown yet"))


def test_numbers_that_json_does_not_know_become_null():
    assert without_nan({"a": [1.0, math.nan], "b": (math.inf, "nan")}) == {"a": [1.0, None], "b": [None, "nan"]}
