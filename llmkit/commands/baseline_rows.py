"""Rows as people know them, from the tensors that a network reads."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from llmkit.data.labelled import LabelledData
    from llmkit.data.table_encoder import TableEncoder

LONGEST_TEXT = 400
LARGEST_PICTURE = 128
"""Pixels a side; larger ones are not put into results.json."""
MOST_COLUMNS = 12


def describe_row(labelled: LabelledData, split: str, row: int) -> dict[str, Any]:
    """A row as {"text"}, {"picture"} (PNG in base64), {"columns"} or nothing."""
    from llmkit.data.pictures import png_of
    from llmkit.data.table_encoder import TableEncoder

    rows, encoder = labelled.splits[split], labelled.encoder
    inputs = rows.inputs[row]
    if rows.texts is not None:
        text = rows.texts[row]
        return {"text": text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"}
    if isinstance(encoder, TableEncoder):
        return {"columns": describe_columns(encoder, inputs)}
    if labelled.form == "image" and max(inputs.shape[1:]) <= LARGEST_PICTURE:
        return {"picture": base64.b64encode(png_of(inputs.numpy())).decode()}
    return {}


def describe_columns(encoder: TableEncoder, inputs: Tensor) -> dict[str, Any]:
    """The first columns of a table's row; of a gap what stood for it."""
    from llmkit.data.table_encoder import NumericColumn

    values: dict[str, Any] = {}
    place = 0
    for column in encoder.columns[:MOST_COLUMNS]:
        part = inputs[place : place + column.width].tolist()
        place += column.width
        if isinstance(column, NumericColumn):
            values[column.name] = float(f"{part[0] * column.scale + column.mean:.5g}")
        else:
            values[column.name] = next((c for c, on in zip(column.categories, part, strict=True) if on), None)
    return values


def numbers_of(outputs: Tensor, labelled: LabelledData, split: str) -> tuple[str, list[float], list[float]]:
    """The first number to predict: its name, what is true and what was predicted, in its own unit."""
    from llmkit.data.targets import NumberTarget

    rows, target = labelled.splits[split], labelled.target
    assert isinstance(target, NumberTarget), "only called where numbers are predicted"
    last = last_values(labelled, rows.inputs) if target.base == "last" else None
    true, found = (target.decode(values, last)[:, 0].tolist() for values in (rows.targets, outputs))
    return target.names[0], true, found


def last_values(labelled: LabelledData, windows: Tensor) -> Tensor:
    """The last values of the columns to forecast in windows (N, L, C): (N, K) in their own units."""
    import torch

    from llmkit.data.series import SeriesEncoder
    from llmkit.data.targets import NumberTarget

    encoder, target = labelled.encoder, labelled.target
    assert isinstance(encoder, SeriesEncoder)
    assert isinstance(target, NumberTarget)
    places = [encoder.columns.index(name) for name in target.names]
    means, scales = (torch.tensor(v, dtype=torch.float64)[places] for v in (encoder.means, encoder.scales))
    return windows[:, -1, places].double() * scales + means
