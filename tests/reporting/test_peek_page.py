"""The page of `llmkit peek`."""

from __future__ import annotations

import base64
import html.parser
import json
import math
import re

import numpy as np

from llmkit.reporting.peek_page import STEPS_PER_NAT, pack_logits, render_peek

EVIL = "</script><script>alert(1)</script><!-- & \u2028 \x1b]0;x\x07"
DOCUMENT = {
    "model": "<b>model</b>",
    "chat": False,
    "text": EVIL,
    "context": "<|endoftext|>",
    "summary": {"num_tokens": 1, "num_bytes": 9, "bits": 3.0, "bits_per_byte": 0.3333, "first_guesses": 0},
    "tokens": [{"text": EVIL, "token": EVIL, "id": 1, "alternatives": []}],
}


class Elements(html.parser.HTMLParser):
    """The elements of a page, and the text of its data."""

    def __init__(self):
        super().__init__()
        self.tags, self.data, self.inside = [], "", False

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script" and dict(attrs).get("id") == "data"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.data += data if self.inside else ""


def parse(page):
    elements = Elements()
    elements.feed(page)
    return elements


def test_no_text_gets_out_of_its_place():
    elements = parse(render_peek(DOCUMENT))
    assert [tag for tag, _ in elements.tags].count("script") == 2
    assert ("b", {}) not in elements.tags[: [tag for tag, _ in elements.tags].index("script")]
    found = json.loads(elements.data)
    assert found["text"] == EVIL
    assert found["model"] == "<b>model</b>"


def test_the_page_loads_nothing_from_anywhere():
    page = render_peek(DOCUMENT, pack_logits([0.0, 1.0]))
    elements = parse(page)
    assert not any({"src", "href"} & set(attributes) for _, attributes in elements.tags)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|import\(", page)
    policy = next(a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    # Texts become text nodes, never markup.
    assert "innerHTML" not in page


def test_the_distribution_is_packed_from_the_top_down():
    packed = pack_logits([math.log(0.2), math.log(0.5), math.log(0.3), -100.0])
    steps = np.frombuffer(base64.b64decode(packed), dtype="<u2")
    assert steps[0] == 0
    assert np.allclose(0.5 * np.exp(steps[:3] / -STEPS_PER_NAT), [0.5, 0.3, 0.2], rtol=1e-3)
    assert steps[3] == 65535
