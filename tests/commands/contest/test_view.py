"""What a comparison shows in the terminal."""

from __future__ import annotations

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
