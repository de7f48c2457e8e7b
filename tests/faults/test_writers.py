"""Nothing half-written stands under its final name, whoever writes it: tokenizers, data, models, results, pages."""

from __future__ import annotations

import pytest
from trainers import WRITERS, writers_on
from trials import fail_writer, strike


@pytest.fixture(scope="module")
def commands(forks, material, tmp_path_factory):
    """Verb -> its command line but for --output."""
    return writers_on(material, tmp_path_factory.mktemp("writers"), forks)


@pytest.mark.parametrize("mode", ["crash", "full"])
@pytest.mark.parametrize("verb", WRITERS)
def test_a_writer_that_fails_at_any_operation_leaves_all_or_nothing(verb, mode, forks, commands, tmp_path):
    place = tmp_path / "counted"
    place.mkdir()
    code, trace, said = strike(forks, place, [*commands[verb], "--output", place / "result"], mode="count")
    assert code == 0, said
    assert {"create", "write", "flush", "rename"} <= {line["kind"] for line in trace}
    numbers = range(1, len(trace) + 1)
    verdicts = list(fail_writer(forks, commands[verb], tmp_path / "trials", mode, numbers))
    assert [verdict for verdict in verdicts if verdict.problem] == []
    assert len(verdicts) == len(trace)


def test_a_page_that_cannot_be_written_leaves_the_one_before(forks, commands, tmp_path):
    page = tmp_path / "pages" / "page.html"
    page.parent.mkdir()
    for mode in ("crash", "full"):
        for number in (1, 2, 3, 4, 5):
            page.write_text("the page before")
            strike(forks, page.parent, [*commands["report"], "--output", page], mode=mode, number=number)
            assert page.read_text() == "the page before" or page.read_text().rstrip().endswith("</html>")
