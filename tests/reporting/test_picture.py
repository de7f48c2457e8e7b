from __future__ import annotations

from xml.etree import ElementTree

from llmkit.reporting.collect import collect
from llmkit.reporting.picture import draw_picture

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_one_well_formed_svg_with_all_figures(results):
    picture = draw_picture(collect([results]), title="<Title>")
    root = ElementTree.fromstring(picture)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    for expected in ("<Title>", "Tokenizer", "held-out, small", "1.500", "bits per byte; gzip -9 2.000, xz -9 1.700"):
        assert expected in texts
    assert len(list(root.iter(f"{SVG}polyline"))) == 3
    assert len(list(root.iter(f"{SVG}rect"))) == 1 + 3
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")


def test_nothing_stands_below_the_picture(results):
    root = ElementTree.fromstring(draw_picture(collect([results]), title="t"))
    height = float(root.get("height"))
    assert all(float(text.get("y")) < height for text in root.findall(f"{SVG}text"))


def test_results_without_a_run_have_a_picture_too(results):
    picture = draw_picture(collect([results / "evaluations"]), title="t")
    assert "polyline" not in picture.partition("</style>")[2]


def test_the_verb_writes_it(results, run_cli, tmp_path):
    assert run_cli("report", results, "--picture", tmp_path / "a.svg").exit_code == 0
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
