"""The page of `llmkit peek`: a text to explore with the mouse, in one file that opens without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from llmkit import __version__
from llmkit.reporting.templates import page_templates

STEPS_PER_NAT = 1000
"""How finely the page knows the distribution after the text: its sliders reshape it exactly to 0.1 %."""


def render_peek(document: dict[str, Any], packed: str | None = None) -> str:
    """The page as HTML.

    Args:
        document: What `llmkit peek --json` prints.
        packed: `pack_logits` of what comes after the text, where the document has "next".
    """
    data = {**document, "packed": packed, "steps_per_nat": STEPS_PER_NAT}
    return (
        page_templates()
        .get_template("peek.html")
        .render(title=f"What {document['model']} expects", version=__version__, data=as_script_data(data))
    )


def as_script_data(document: dict[str, Any]) -> Markup:
    """JSON that cannot end the script element it stands in, whatever its texts say."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def pack_logits(logits: Sequence[float]) -> str:
    """Logits (V,) from the highest down, as steps below the highest: 16 bits each, in base64."""
    falling = np.sort(np.asarray(logits, dtype=np.float64))[::-1]
    steps = np.round((falling[0] - falling) * STEPS_PER_NAT).clip(0, 65535).astype("<u2")
    return base64.b64encode(steps.tobytes()).decode()
