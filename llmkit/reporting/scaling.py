"""The drawing of a scaling law, both axes logarithmic, and the page of a ladder: from scaling.json alone."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from llmkit import __version__
from llmkit.reporting.curves import color_of
from llmkit.reporting.plots import Frame, Point, grid_columns, grid_rows, labels, mark, path, picture, short, ticks
from llmkit.reporting.scaling_words import MEASURES, tell
from llmkit.reporting.templates import page_templates

SIZE = (760, 420)
"""Pixels of the drawing."""
ROUND = (1, 2, 5)
"""Numbers at which a logarithmic axis is marked, times powers of ten."""


class LogFrame(Frame):
    """A frame both of whose axes are logarithmic; `x` and `y` are the logarithms of its ends."""

    def place(self, point: Point) -> Point:
        """Pixels of a point; what lies outside is drawn on the edge."""
        x, y = (math.log10(max(value, 1e-300)) for value in point)
        return super().place((min(max(x, self.x[0]), self.x[1]), min(max(y, self.y[0]), self.y[1])))


def draw_scaling(document: dict[str, Any]) -> str:
    """The models, the law through them with its band, the prediction and what was measured of it, as SVG."""
    frame = frame_of(document)
    parts = log_axes(frame, axis_of(document["dials"][0]), MEASURES[document["measure"]])
    for number, curve in enumerate(document["curves"]):
        color = color_of(number)
        if curve["band"]:
            edge = [(x, high) for x, _, high in curve["band"]] + [(x, low) for x, low, _ in reversed(curve["band"])]
            parts.append(f'<polygon class="band f{color}" points="{path(edge, frame)}"/>')
            parts.append(f'<polyline class="line c{color}" points="{path(curve["law"], frame)}"/>')
        for x, y in curve["points"]:
            parts.append(mark(frame, (x, y), f"c{color}", f"{curve['name']}: {x:,.0f}, {y:.4f}"))
    predicted, check = document["prediction"], document["check"]
    if predicted is not None and document["is_supported"]:
        parts += draw_prediction(frame, predicted, document["dials"][0])
    if check is not None:
        told = f"{check['name']} came to {check['loss']:.4f}"
        parts.append(mark(frame, (check[document["dials"][0]], check["loss"]), "measured", told))
    return picture(parts, SIZE, "loss by size, with the law that was fitted")


def axis_of(dial: str) -> str:
    """What an axis measures: `parameters_without_embeddings` in words."""
    return dial.replace("_", " ")


def draw_prediction(frame: Frame, predicted: dict[str, Any], dial: str) -> list[str]:
    """An open mark with its interval."""
    x = predicted[dial]
    ends = path([(x, predicted["low"]), (x, predicted["high"])], frame)
    told = f"{predicted['name']} is expected at {predicted['loss']:.4f}"
    return [
        f'<polyline class="interval" points="{ends}"/>',
        mark(frame, (x, predicted["loss"]), "predicted", told),
    ]


def frame_of(document: dict[str, Any]) -> LogFrame:
    """Where the logarithms of all that is drawn lie; bands that leave the picture are cut off, like a loss of 0."""
    points = [point for curve in document["curves"] for point in (*curve["points"], *curve["law"])]
    for model in filter(None, (document["prediction"], document["check"])):
        points.append((model[document["dials"][0]], model["loss"]))
    xs, ys = [math.log10(x) for x, _ in points], [math.log10(y) for _, y in points if y > 0] or [0.0]
    gap_x, gap_y = (0.06 * (max(values) - min(values)) or 0.05 for values in (xs, ys))
    return LogFrame(*SIZE, (min(xs) - gap_x, max(xs) + gap_x), (min(ys) - 2 * gap_y, max(ys) + 2 * gap_y))


def log_axes(frame: Frame, x_label: str, y_label: str) -> list[str]:
    """Grid lines at round numbers of logarithmic axes, and what is measured."""
    rows = [(frame.place((1, y))[1], short(y)) for y in loss_marks(frame)]
    columns = [(frame.place((x, 1))[0], short(x)) for x in round_numbers(*frame.x)]
    return [*grid_rows(frame, rows), *grid_columns(frame, columns), *labels(frame, x_label, y_label)]


def loss_marks(frame: Frame) -> list[float]:
    """Where the axis of losses is marked: at 1, 2, 5 ... where it spans several of these, else at equal distances."""
    found = round_numbers(*frame.y)
    return found if len(found) > 3 else ticks(10 ** frame.y[0], 10 ** frame.y[1], 6)


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 ... between two powers of ten."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [n * 10.0**power for power in powers for n in ROUND if low <= math.log10(n * 10.0**power) <= high]


def view_ladder(document: dict[str, Any]) -> dict[str, Any]:
    """What a page shows of a ladder: drawing, key, the law in words, and a row for each model."""
    law = document.get("residuals", {})
    return {
        "document": document,
        "drawing": Markup(draw_scaling(document)),
        "colors": [(color_of(number), curve["name"]) for number, curve in enumerate(document["curves"])],
        "lines": list(tell(document)),
        "rows": [(r["name"], r["loss"], law.get(r["name"]), r.get("seconds")) for r in document["rungs"]],
    }


def render_scaling(document: dict[str, Any]) -> str:
    """The page of a ladder, from what scaling.json holds."""
    return page_templates().get_template("scaling.html").render(ladder=view_ladder(document), version=__version__)
