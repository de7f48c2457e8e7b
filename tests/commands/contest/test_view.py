"""What a comparison shows in the terminal and says in its document."""

from __future__ import annotations

import json
import shlex
import sys

from llmkit.commands.contest.view import show_curve


def test_the_table_of_a_curve_carries_on_what_uses_no_more(capsys):
    def points(*pairs):
        return [{"examples": n, "value": v, "low": v, "high": v, "draws": 1} for n, v in pairs]

    curves = {"zero-shot": points((0, 0.4)), "tfidf": points((8, 0.5), (90, 0.6)), "cnn": points((8, 0.3), (100, 0.7))}
    methods = [{"method": name, "title": name} for name in curves]
    curve = {"examples": [0, 8, 100], "all": 100, "draws": 1, "curves": curves, "words": "so it is"}
    show_curve({"metric": "accuracy", "methods": methods, "curve": curve})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["method", "0", "8", "all"] in lines
    assert ["zero-shot", "0.400", "0.400", "0.400"] in lines
    assert ["tfidf", "0.500", "0.600"] in [[word for word in line if word != "-"] for line in lines]
    assert ["cnn", "0.300", "0.700"] in [[word for word in line if word != "-"] for line in lines]


def test_the_document_repeats_the_command_as_a_shell_takes_it(run_cli, tmp_path, monkeypatch):
    rows = [{"text": f"the model {i}", "label": "ab"[i % 2]} for i in range(40)]
    (tmp_path / "my rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    words = [
        "compare",
        "my rows.jsonl",
        "--methods",
        "majority",
        "--prompt",
        "Isn't it {text}?\nIt is",
        "--output",
        "o",
    ]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/llmkit", *words])
    result = run_cli(*words)
    assert result.exit_code == 0, result.stderr
    command = json.loads((tmp_path / "o" / "comparison.json").read_text())["command"]
    assert command.startswith("llmkit compare 'my rows.jsonl' --methods majority --prompt ")
    assert shlex.split(command) == ["llmkit", *words]
