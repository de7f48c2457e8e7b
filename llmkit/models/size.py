"""One dial for a model: `size: 10m` to width, depth, heads and feed-forward width in sound proportions.

How wide for how deep hardly matters for the loss: over a factor of ten in width by depth it changes by some percent
(Kaplan et al. 2020, arXiv:2001.08361, figure 5). What families of models have in common is that the ratio grows with
size: 43 for 6M parameters (256 x 6), 64 for GPT-2's 124M (768 x 12) and in all of nanochat, 73 for Qwen3 1.7B
(2048 x 28), 128 for Llama 7B (4096 x 32). That is a sixth root of the size, through GPT-2.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmkit.errors import RecipeError
from llmkit.models.causal_lm import count_parameters, feed_forward, make_config
from llmkit.recipe.schema import ModelSection

SIZES = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "intermediate_size")
"""What the dial sets; `config` and `source` bring sizes of their own."""
UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}
LARGEST = 1e12

GPT2_RATIO, GPT2_BODY = 64, 85e6
"""hidden_size / num_layers of GPT-2's smallest, and its parameters without embeddings."""
TIED_BELOW = 5e9
"""Parameters from which the output head gets a matrix of its own, as in Qwen3: 4B is tied, 8B is not."""
TOLERANCE = 0.045
"""How far the parameters may be from what was asked for."""
MOST_STRETCHED = 1.6
"""How much wider or narrower than usual feed-forward layers may be to meet a size."""
LEAST_RATIO = 2
"""Of hidden_size / num_layers."""

WIDTHS = (32, 48, 64, 96, *range(128, 1024, 64), *range(1024, 2048, 128), *range(2048, 16385, 256))
"""Multiples of 64, which matrix products are fast at, and others for models that are a vocabulary and little else."""
SCALE, CANDIDATES, SMALL = 256, 8, 12
"""The width that tells how large layers are; how many widths are looked at; how many of WIDTHS count as small."""


def section_for_size(section: ModelSection, *, vocab_size: int, seq_len: int = 256) -> ModelSection:
    """The same section with `size` turned into sizes; as it is where it has no `size`.

    Args:
        section: `type`, `tie_embeddings` and `overrides` are kept where they were set.
        vocab_size: Rows of the embeddings, which are part of the size.
        seq_len: Rows of the position embeddings, in architectures that have them.

    Raises:
        RecipeError: `size` cannot be read, stands beside explicit sizes, or leaves nothing beside the vocabulary.

    >>> sized = section_for_size(ModelSection(size="10m"), vocab_size=4096)
    >>> sized.num_layers, sized.hidden_size, sized.num_heads, sized.intermediate_size
    (8, 320, 5, 704)
    """
    if section.size is None:
        return section
    wanted = parse_size(section.size)
    plain = type(section)(**{name: value for name, value in section if name in said_beside_sizes(section)})
    sized = shape_model(plain, wanted, vocab_size=vocab_size, seq_len=seq_len)
    if sized is None:
        larger = next_size(plain, wanted, vocab_size=vocab_size, seq_len=seq_len)
        raise RecipeError(
            f"with a vocabulary of {vocab_size:,} no {plain.type} of sound proportions has {section.size} parameters",
            where="model.size",
            fix=f"ask for {format_size(larger)}, or train a tokenizer with a smaller vocabulary",
        )
    check_alone(section, sized)
    return sized


def section_near(section: ModelSection, wanted: float, *, vocab_size: int, seq_len: int) -> ModelSection:
    """The section with sizes for about `wanted` parameters, or for the next larger number that a vocabulary allows."""
    sized = shape_model(section, wanted, vocab_size=vocab_size, seq_len=seq_len)
    if sized is None:
        larger = next_size(section, wanted, vocab_size=vocab_size, seq_len=seq_len)
        sized = shape_model(section, larger, vocab_size=vocab_size, seq_len=seq_len)
    assert sized is not None
    return sized


def shape_model(section: ModelSection, wanted: float, *, vocab_size: int, seq_len: int) -> ModelSection | None:
    """The section with the soundest sizes that give about `wanted` parameters; None where none do."""
    if "tie_embeddings" not in section.model_fields_set:
        section = section.model_copy(update={"tie_embeddings": wanted < TIED_BELOW})
    count = functools.partial(count_width, section, vocab_size=vocab_size, seq_len=seq_len)
    head = vocab_size * (1 if section.tie_embeddings else 2)
    widths = promising_widths(wanted, count(SCALE), head=head)
    shapes = [shape for width in widths for shape in shapes_of_width(width, count(width), wanted)]
    if not shapes:
        return None
    best = min(shapes, key=lambda shape: shape.cost)
    sizes = {"num_layers": best.num_layers, "hidden_size": best.width, "num_heads": heads_of(best.width)}
    return section.model_copy(update={**sizes, "intermediate_size": best.feed_forward})


def next_size(section: ModelSection, wanted: float, *, vocab_size: int, seq_len: int) -> float:
    """The parameters of the smallest model that has more than `wanted`."""
    counts = (count_width(section, width, vocab_size=vocab_size, seq_len=seq_len) for width in WIDTHS[:SMALL])
    return min(c.smallest for c in counts if c.smallest > wanted)


def parse_size(text: str) -> float:
    """`10m`, `1.5b` or `500K` as a number of parameters."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmb]?)", text.strip().lower())
    parameters = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 0 < parameters <= LARGEST:
        raise RecipeError(f"{text!r} is not the size of a model", where="model.size", fix="write 500k, 10m or 1.5b")
    return parameters


def format_size(parameters: float) -> str:
    """A number of parameters with its unit, rounded up so that it can be asked for: 525,312 is 540k."""
    unit = next(u for u in ("b", "m", "k") if parameters >= UNITS[u] or u == "k")
    value = parameters / UNITS[unit]
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:g}{unit}"


def said_beside_sizes(section: ModelSection) -> set[str]:
    """The fields that were said, but for `size` and what it sets."""
    return section.model_fields_set - {"size", *SIZES}


def check_alone(section: ModelSection, sized: ModelSection) -> None:
    """Raise when sizes were said beside `size`, unless they are what it comes to: a saved recipe has them all."""
    said = {name: getattr(section, name) for name in SIZES if name in section.model_fields_set}
    given = [name for name, value in said.items() if value is not None]
    if all(said[name] == getattr(sized, name) for name in given):
        given = []
    given += [name for name in ("config", "source") if getattr(section, name) is not None]
    if given:
        raise RecipeError(
            f"model.size sets the sizes, and model.{', model.'.join(given)} {'is' if len(given) == 1 else 'are'} given",
            where="model.size",
            fix="leave out the one or the other",
        )


class Shape(NamedTuple):
    """A model that could be built, and how far it is from what was asked for and from sound proportions."""

    width: int
    num_layers: int
    feed_forward: int | None
    cost: float


@dataclass(frozen=True)
class WidthCounts:
    """Parameters of the models of one width: linear in their depth and in the width of their feed-forward layers."""

    outside: int
    """Embeddings, head, last norm."""
    per_layer: int
    """Of a layer with feed-forward layers of the usual width."""
    per_unit: float
    """Of one unit of one feed-forward layer; 0 where the architecture sets their width itself."""
    usual: int | None
    """The usual width of feed-forward layers."""

    @property
    def smallest(self) -> float:
        """Parameters of the smallest model of this width."""
        return self.outside + self.per_layer - self.per_unit * (self.usual or 0) * (1 - 1 / MOST_STRETCHED)


def count_width(section: ModelSection, width: int, *, vocab_size: int, seq_len: int) -> WidthCounts:
    """Count the parameters of three models without weights."""
    usual = next(iter(feed_forward(resized(section, width), AutoConfig.for_model(section.type)).values()), None)

    def count(num_layers: int, units: int | None) -> int:
        sized = resized(section, width).model_copy(update={"num_layers": num_layers, "intermediate_size": units})
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(make_config(sized, vocab_size=vocab_size, seq_len=seq_len))
        return count_parameters(model)

    one, two = count(1, usual), count(2, usual)
    per_unit = 0.0 if usual is None else (count(1, usual + 64) - one) / 64
    return WidthCounts(2 * one - two, two - one, per_unit, usual if per_unit else None)


def resized(section: ModelSection, width: int) -> ModelSection:
    """The section with this width and its heads."""
    return section.model_copy(update={"hidden_size": width, "num_heads": heads_of(width)})


def heads_of(width: int) -> int:
    """Heads are 32 wide in small models, 128 in large ones, and 64 in those between, as in Llama 3.2 and Qwen3."""
    return width // (32 if width < 256 else 64 if width < 3072 else 128)


def sound_ratio(body: float) -> float:
    """hidden_size / num_layers for so many parameters without embeddings."""
    return GPT2_RATIO * math.pow(body / GPT2_BODY, 1 / 6)


def promising_widths(wanted: float, scale: WidthCounts, *, head: int) -> list[int]:
    """The widths whose models come nearest to sound proportions, when layers grow with the square of their width."""

    def distance(width: int) -> float:
        body = wanted - head * width
        num_layers = body / (scale.per_layer * (width / SCALE) ** 2)
        return abs(math.log(width / num_layers / sound_ratio(body)))

    return sorted((width for width in WIDTHS if head * width < wanted), key=distance)[:CANDIDATES]


def shapes_of_width(width: int, counts: WidthCounts, wanted: float) -> Iterator[Shape]:
    """Models of one width near the parameters that are wanted, none of them a chain of thin layers."""
    body = max(wanted - counts.outside, 1.0)
    depth = max(1, round(body / counts.per_layer))
    for num_layers in range(max(1, depth - 1), min(depth + 2, width // LEAST_RATIO + 1)):
        units = fitting_units(counts, body / num_layers)
        stretch = units / counts.usual if units and counts.usual else 1.0
        per_layer = counts.per_layer + counts.per_unit * ((units or 0) - (counts.usual or 0))
        error = abs(counts.outside + num_layers * per_layer - wanted) / wanted
        ratio = abs(math.log(width / num_layers / sound_ratio(body)))
        if error <= TOLERANCE or counts.usual is None:
            yield Shape(width, num_layers, units, ratio + abs(math.log(stretch)) + 10 * error + (width % 64 > 0) / 2)


def fitting_units(counts: WidthCounts, per_layer: float) -> int | None:
    """The width of feed-forward layers that gives a layer so many parameters, within MOST_STRETCHED of the usual."""
    if counts.usual is None:
        return None
    grain = 64 if counts.usual >= 128 * MOST_STRETCHED else 16
    exact = counts.usual + (per_layer - counts.per_layer) / counts.per_unit
    low, high = counts.usual / MOST_STRETCHED, counts.usual * MOST_STRETCHED
    return max(grain, round(min(max(exact, low), high) / grain) * grain)
