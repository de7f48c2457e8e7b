from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from llmkit.reporting.collect import collect
from llmkit.reporting.page import render_page
from llmkit.reporting.plots import spread


@pytest.fixture
def page(results):
    return render_page(collect([results]), title="<Title>", made="today", folder=results)


class Outline(HTMLParser):
    """Checks that every tag that is opened is closed, and keeps what could ask a server for something."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr", "rect", "line", "circle", "polyline"})

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in {"src", "href", "data", "action", "srcset"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_asks_nothing_of_any_server(page):
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert all(link.startswith("#") for link in outline.links)
    assert not re.search(r"https?://|url\(|@import|<script", page)


def test_every_link_leads_somewhere(page):
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page


def test_text_of_models_and_users_is_text(page):
    assert "&lt;Title&gt;" in page
    assert "colourless &lt;green&gt; ideas" in page
    assert "text &lt;3&gt; &amp; more" in page


def test_what_was_measured_is_on_the_page(page):
    for text in ("gzip -9 2.000, xz -9 1.700", "chance 0.250", "majority class 0.100", "What is it?", "1 min 1 s"):
        assert text in page
    assert "llmkit pretrain --data &#39;my data&#39;" in page
    assert page.count("<svg") >= 8


def test_answers_to_the_same_question_stand_side_by_side(page):
    row = next(line for line in page.splitlines() if "What is it?" in line)
    assert row.count('<div class="text">') == 2


def test_samples_are_spread_over_the_run():
    assert spread([1, 2, 3], 4) == [1, 2, 3]
    assert spread(list(range(100)), 4) == [0, 33, 66, 99]


def test_a_run_that_has_just_begun_has_a_page(results):
    folder = results / "small"
    for name in ("summary.json", "samples.jsonl", "environment.json"):
        (folder / name).unlink()
    (folder / "metrics.jsonl").write_text("")
    assert "not finished" in render_page(collect([folder]), title="t", made="today", folder=folder)


def test_the_verb_prints_a_table_and_writes_the_page(results, run_cli):
    result = run_cli("report", results)
    assert result.exit_code == 0, result.stderr
    assert "gzip -9 2.000, xz -9 1.700" in result.stdout
    assert "before  colourless <green> ideas" in result.stdout
    assert (results / "report.html").read_text().startswith("<!doctype html>")
    run_cli("report", results, "--output", results / "other.html", "--title", "Mine")
    assert "<h1>Mine</h1>" in (results / "other.html").read_text()


def test_the_verb_prints_one_document_with_json(results, run_cli):
    document = json.loads(run_cli("report", results, "--json").stdout)
    assert document["output"] == str(results / "report.html")
    assert {"group", "what", "measure", "value", "stderr", "beside"} == set(document["figures"][0])


def test_the_document_holds_ladders_and_comparisons_whole(ladder, compared, document, run_cli):
    printed = json.loads(run_cli("report", ladder.parent, compared, "--json").stdout)
    assert printed["comparisons"] == [{"name": "compared here", **document}]
    assert printed["ladders"][0].items() > json.loads((ladder / "scaling.json").read_text()).items()


def test_nothing_but_a_page_is_replaced(results, run_cli):
    mine = results / "mine.html"
    for content in ("notes", "<!doctype html><p>my own page</p>"):
        mine.write_text(content)
        for flag in ("--output", "--picture"):
            result = run_cli("report", results, flag, mine)
            assert (result.exit_code, mine.read_text()) == (2, content)
            assert "is not replaced" in result.stderr
    assert run_cli("report", results, "--output", results / "report.html").exit_code == 0
    assert run_cli("report", results, "--output", results / "report.html").exit_code == 0


def test_a_picture_is_replaced_if_llmkit_drew_it(results, run_cli):
    drawing = results / "drawing.svg"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg"><circle r="4"/></svg>')
    result = run_cli("report", results, "--picture", drawing)
    assert (result.exit_code, "circle" in drawing.read_text()) == (2, True)
    assert "no picture of llmkit" in result.stderr
    for _ in range(2):
        assert run_cli("report", results, "--picture", results / "drawn.svg").exit_code == 0


def test_the_verb_says_what_is_missing(tmp_path, run_cli):
    result = run_cli("report", tmp_path)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_ladder_has_its_drawing_its_words_and_its_table(ladder, run_cli):
    result = run_cli("report", ladder.parent)
    assert result.exit_code == 0, result.stderr
    assert "wide, 3 models:" in result.stdout
    assert "  these points do not support a law:\n    too few <points>" in result.stdout
    page = (ladder.parent / "report.html").read_text()
    assert '<a href="#ladder-1">wide</a>' in page
    assert "wide: how loss falls with size" in page
    assert page.count('<circle class="c1"') == 3
    assert "too few &lt;points&gt;" in page
    assert '<td>1e+06</td><td class="n">3.0000</td>' in page
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert run_cli("report", ladder).exit_code == 0
    assert "wide: how loss" in (ladder / "report.html").read_text()


def test_a_tuned_run_tells_how_many_answers_end_and_what_it_forgot(tuned):
    page = render_page(collect([tuned]), title="t", made="today", folder=tuned)
    assert "<span>answers that end</span><b>48 of 50</b>" in page
    assert "before it was tuned, and after 6 steps" in page
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", next(line for line in page.splitlines() if "&lt;exam&gt;" in line))
    assert cells == ["&lt;exam&gt;", "accuracy", "0.7500", "0.5000", "-0.2500", "2", "1"]
    outline = Outline()
    outline.feed(page)
    assert outline.open == []


def test_a_run_that_was_not_asked_has_neither(page):
    assert "answers that end" not in page
    assert "before it was tuned" not in page


def test_a_comparison_has_its_table_its_remarks_and_a_link_to_its_own_page(compared, results, run_cli):
    result = run_cli("report", results)
    assert result.exit_code == 0, result.stderr
    page = (results / "report.html").read_text()
    assert '<a href="#comparison-1">compared here</a>' in page
    assert '<a href="compared%20here/comparison.html">compared here/comparison.html</a>' in page
    assert page.index("<td>LoRA</td>") < page.index("<td>TF-IDF + logistic regression</td>")
    best = re.findall(r"<td[^>]*>([^<]*)</td>", next(line for line in page.splitlines() if "<td>LoRA</td>" in line))
    assert best == ["LoRA", "0.900", "0.800 to 1.000", "1,234", "56,789", "1.5", "80"]
    for remark in (
        "not run: no language model was named",
        "99% of its answers are &lt;b&gt;",
        "below 4 examples, LoRA",
    ):
        assert remark in page
    outline = Outline()
    outline.feed(page)
    assert outline.open == []


def test_the_link_leads_to_the_comparison_from_wherever_the_page_lies(compared, results, tmp_path, run_cli):
    (tmp_path / "pages").mkdir()
    assert run_cli("report", results, "--output", tmp_path / "pages" / "all.html").exit_code == 0
    assert 'href="../all/compared%20here/comparison.html"' in (tmp_path / "pages" / "all.html").read_text()
    (compared / "comparison.html").unlink()
    assert run_cli("report", results).exit_code == 0
    assert "comparison.html" not in (results / "report.html").read_text()


def test_the_verb_prints_the_table_of_a_comparison(compared, run_cli):
    lines = run_cli("report", compared).stdout.splitlines()
    start = lines.index("compared here, 20 test rows of <b>reviews</b>:")
    assert lines[start + 3].split() == ["LoRA", "0.900", "0.800", "1.000", "1,234", "56,789", "1.5", "80"]
    assert "  full fine-tuning: not run: no language model was named" in lines[start:]


def test_what_compare_really_writes_has_its_table(tmp_path, run_cli):
    rows = [{"text": f"a {('good', 'bad')[n % 2]} thing {n}", "label": ("yes", "no")[n % 2]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = run_cli("compare", tmp_path / "rows.jsonl", "--methods", "tfidf,zero-shot", "--output", tmp_path / "o")
    assert made.exit_code == 0, made.stderr
    assert run_cli("report", tmp_path).exit_code == 0
    page = (tmp_path / "report.html").read_text()
    assert "<td>TF-IDF + logistic regression</td>" in page
    assert "0-shot: not run: no language model was named" in page
    assert '<a href="o/comparison.html">' in page
