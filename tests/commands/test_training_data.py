"""The training data that test items are looked for in: who reads what, how long it takes, and how to do without."""

from __future__ import annotations

import gzip
import json

import pytest

from llmkit.commands import training_data
from llmkit.commands.training_data import Share, look_for_items, text_sources, watched
from llmkit.errors import UsageError


@pytest.fixture
def sources(tmp_path, run_cli, tiny_model_folder):
    """Five documents of text, five rows, and five prepared documents."""
    words = [f"number {n} of the texts" for n in range(5)]
    (tmp_path / "texts").mkdir()
    for n, text in enumerate(words):
        (tmp_path / "texts" / f"{n}.txt").write_text(text)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": text, "a": "yes"}) + "\n" for text in words))
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in words))
    prepare = ("data", "prepare", lines, "--tokenizer", tiny_model_folder, "--output", tmp_path / "prepared")
    assert run_cli(*prepare, "--validation", "0").exit_code == 0
    return [str(tmp_path / name) for name in ("texts", "rows.jsonl", "prepared")]


def texts_read(source, share):
    return list(watched(text_sources(source), share))


def test_the_shares_of_two_processes_are_the_whole(sources):
    for source in sources:
        whole = texts_read(source, Share(0, 1))
        shares = [texts_read(source, Share(rank, 2)) for rank in range(2)]
        assert sorted([*shares[0], *shares[1]]) == sorted(whole)
        assert all(len(share) < len(whole) for share in shares)


def test_none_reads_nothing(tmp_path):
    assert look_for_items([], str(tmp_path), ["none"], None, Share(0, 1)) == {}
    with pytest.raises(UsageError, match="none stands beside other data"):
        look_for_items([], str(tmp_path), ["none", "corpus.txt"], None, Share(0, 1))


def test_how_long_it_takes_is_told_before_it_has_taken_it(sources, monkeypatch, capsys):
    texts_read(sources[0], Share(0, 1))
    assert "takes about" not in capsys.readouterr().err
    monkeypatch.setattr(training_data, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(training_data, "WORTH_TELLING_SECONDS", 0.0)
    texts_read(sources[0], Share(0, 1))
    told = capsys.readouterr().err
    assert told.count("takes about") == 1
    assert "--train-data none leaves it out" in told


def test_the_text_in_a_packed_file_is_guessed_from_its_size(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n'))
    (part,) = text_sources(str(path))
    assert part.num_bytes == 3 * path.stat().st_size
