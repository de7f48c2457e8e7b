"""Which models a ladder of `llmkit scale` has: sizes and tokens that are named, or that fit into a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from llmkit.commands.ladder import CHECK, RUNGS, Rung
from llmkit.console import warn
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.data.pretraining import PretrainingData
    from llmkit.recipe.schema import BaselineRecipe, PretrainRecipe

NUM_RUNGS = 6
"""Sizes of a ladder that a budget decides about: three more than a law of one dial has unknowns."""
SPAN = 16.0
"""The largest of them over the smallest."""
LEAST_SPAN = 3.0
"""A ladder that is shorter tells no exponent."""
DEFAULT_TOKENS = "20x"
"""Tokens of each model where nobody says: 20 per parameter (Hoffmann et al. 2022, arXiv:2203.15556)."""
USUAL_STEP = 2.0
"""From a model to the next, where a ladder has one size alone."""
LEAST_STEP = 1.25
FEWEST_STEPS = 10
MANY_EPOCHS = 4
"""Tokens that are read more often than this count less than new ones (Muennighoff et al. 2023, arXiv:2305.16264)."""
WIDTHS = 5
"""Networks in a baseline's ladder, each half as wide as the next, up to the width of the recipe."""


@dataclass(frozen=True)
class LadderPlan:
    """The models that are trained, and the one that is predicted from them."""

    rungs: list[Rung]
    following: Rung
    rule: str
    """How learning rate and batch were found."""
    search: list[dict[str, Any]] = field(default_factory=list)
    """The learning rates that were tried, and what they came to."""


class Amount(NamedTuple):
    """How many tokens a model is trained on, as it was typed: `8m`, or `20x` for 20 per parameter."""

    text: str
    value: float
    is_ratio: bool

    def tokens(self, parameters: float) -> float:
        """For a model of so many parameters."""
        return self.value * parameters if self.is_ratio else self.value


def read_amounts(text: str) -> list[Amount]:
    """`2m,8m` or `10x,40x` as amounts, the smallest first.

    Raises:
        UsageError: One of them is no amount, or the same is named twice.
    """
    return sorted(map(read_amount, split_list(text, "--tokens")), key=lambda amount: amount.value)


def read_amount(text: str) -> Amount:
    """`8m` or `20x`."""
    is_ratio = text.endswith("x")
    return Amount(text, read_number(text.removesuffix("x") if is_ratio else text, "--tokens"), is_ratio)


def read_sizes(text: str) -> list[str]:
    """`0.5m,1m,2m` as sizes, the smallest first."""
    return sorted(split_list(text, "--sizes"), key=lambda size: read_number(size, "--sizes"))


def split_list(text: str, flag: str) -> list[str]:
    """What stands between commas, each once."""
    parts = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not parts or len(set(parts)) < len(parts):
        message = f"{text!r} names nothing" if not parts else f"{text!r} names something twice"
        raise UsageError(message, where=flag, fix="write for example 0.5m,1m,2m,4m")
    return parts


def read_number(text: str, flag: str) -> float:
    """`1.5m` as a number."""
    from llmkit.errors import RecipeError
    from llmkit.models.size import parse_size

    try:
        return parse_size(text)
    except RecipeError as error:
        fix = "write 500k, 8m or 1.5b, and for tokens also 20x: 20 per parameter"
        raise UsageError(f"{text!r} is no number", where=flag, fix=fix) from error


class Shape(NamedTuple):
    """A model of some size, before it is built."""

    parameters: int
    without_embeddings: int
    flops_per_token: float


@dataclass
class TextPlanner:
    """Plans rungs of a language model's ladder."""

    settings: PretrainRecipe
    data: PretrainingData
    accelerator: Accelerator

    @property
    def seq_len(self) -> int:
        """Positions of a row."""
        return self.settings.train.seq_len

    def shape(self, size: str) -> Shape:
        """The model that `model.size` stands for, without weights."""
        import torch
        from transformers import AutoModelForCausalLM

        from llmkit.commands.plan import count_embeddings
        from llmkit.models.causal_lm import count_parameters, make_config
        from llmkit.models.flops import flops_per_token
        from llmkit.models.size import section_for_size

        sizes = {"vocab_size": len(self.data.tokenizer), "seq_len": self.seq_len}
        section = section_for_size(self.settings.model.model_copy(update={"size": size}), **sizes)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(make_config(section, **sizes))
        parameters = count_parameters(model)
        return Shape(parameters, parameters - count_embeddings(model), flops_per_token(model, self.seq_len))

    def plan(self, sizes: Sequence[str], amounts: Sequence[Amount]) -> LadderPlan:
        """A rung for each size and amount, the cheapest first, and the one that comes next."""
        shapes = {size: self.shape(size) for size in sizes}
        rungs = [self.rung(size, shapes[size], amount) for size in sizes for amount in amounts]
        rungs.sort(key=lambda rung: rung.about["flops"])
        return LadderPlan(rungs, self.following(sizes, shapes, amounts), self.describe_rule())

    def rung(self, size: str, shape: Shape, amount: Amount, *, place: str = RUNGS) -> Rung:
        """One model: how long it trains, and with which learning rate and batch."""
        tokens = amount.tokens(shape.parameters)
        values = {"model.size": size, **self.pick_loop(tokens, shape.flops_per_token * tokens)}
        batch = values.get("train.batch_size", self.settings.train.batch_size) * self.seq_len
        steps = values["train.steps"]
        rows = self.data.rows(self.seq_len)
        about = {
            "size": size,
            "amount": amount.text,
            "parameters": shape.parameters,
            "parameters_without_embeddings": shape.without_embeddings,
            "tokens": steps * batch,
            "flops": round(shape.flops_per_token * steps * batch),
            "epochs": None if rows.is_stream else round(steps * batch / (len(rows) * self.seq_len), 3),
            "lr": values.get("train.lr", self.settings.train.lr),
            "batch_tokens": batch,
            "steps": steps,
        }
        return Rung(f"{size}-{amount.text}", values, about, place)

    def pick_loop(self, tokens: float, flops: float) -> dict[str, Any]:
        """The fields of the training loop; what the recipe or the user says of batch and learning rate stays."""
        from llmkit.commands.minutes import round_batch, rows_at_once
        from llmkit.models.budget import pick_batch_tokens, pick_lr

        train, forward = self.settings.train, rows_at_once(self.seq_len, self.accelerator)
        batch = train.batch_size
        picks: dict[str, Any] = {}
        if "batch_size" not in train.model_fields_set:
            batch = round_batch(pick_batch_tokens(flops) / self.seq_len, forward)
            picks["train.batch_size"] = batch
        if not {"micro_batch_size", "batch_size"} & train.model_fields_set:
            picks["train.micro_batch_size"] = "auto" if self.accelerator.device.type == "cuda" else min(forward, batch)
        if "lr" not in train.model_fields_set:
            picks["train.lr"] = pick_lr(flops)
        steps = round(tokens / (batch * self.seq_len))
        if steps < FEWEST_STEPS:
            message = f"{tokens:,.0f} tokens are {steps} steps of {batch} rows of {self.seq_len}: too few to learn from"
            raise UsageError(message, where="--tokens", fix="name more tokens, or a smaller train.batch_size")
        if not {"warmup_steps", "warmup_share"} & train.model_fields_set:
            picks["train.warmup_steps"] = max(1, steps // 20)
        often = {"train.validate_every": 0, "train.sample_every": 0, "train.save_every": math.ceil(steps / 4)}
        return {"train.steps": steps, **picks, **often}

    def following(self, sizes: Sequence[str], shapes: Mapping[str, Shape], amounts: Sequence[Amount]) -> Rung:
        """The next size with the most tokens; where the ladder has one size, the same with more tokens."""
        from llmkit.models.size import format_size

        if len(sizes) == 1:
            step = amounts[-1].value / amounts[-2].value if len(amounts) > 1 else USUAL_STEP
            value = amounts[-1].value * step
            text = f"{value:g}x" if amounts[-1].is_ratio else format_size(value)
            return self.rung(sizes[0], shapes[sizes[0]], read_amount(text), place=CHECK)
        last, before = (shapes[size].parameters for size in (sizes[-1], sizes[-2]))
        size = format_size(last * max(last / before, LEAST_STEP))
        return self.rung(size, self.shape(size), amounts[-1], place=CHECK)

    def warn_of_repetition(self, rungs: Sequence[Rung]) -> None:
        """Tell when tokens are read so often that they count for less than the law takes them for."""
        most = max((rung.about["epochs"] or 0 for rung in rungs), default=0)
        if most > MANY_EPOCHS:
            warn(
                f"a model reads the text {most:.1f} times; what is read more than {MANY_EPOCHS} times teaches less "
                "than new text, and a law of tokens takes it for as much: more text would be better"
            )

    def describe_rule(self) -> str:
        """Where learning rate and batch come from."""
        from llmkit.models.budget import MOST_LR

        said = self.settings.train.model_fields_set
        rule = (
            f"lr 0.3118 C^-0.125 and at most {MOST_LR:g}"
            if "lr" not in said
            else f"lr {self.settings.train.lr:g} as said"
        )
        batch = "batch 0.2920 C^0.3271 tokens" if "batch_size" not in said else "batch as said"
        source = (
            "" if {"lr", "batch_size"} <= said else " (DeepSeek LLM 2024, arXiv:2401.02954; C the FLOPs of the run)"
        )
        return f"{rule}, {batch}{source}"

    def sizes_for(self, flops: float, amounts: Sequence[Amount], *, has_check: bool) -> list[str]:
        """NUM_RUNGS sizes, equally far apart, that take about so many FLOPs together, with the check if there is one.

        Raises:
            UsageError: The budget is too small for a ladder.
        """
        from llmkit.models.size import format_size, next_size

        least = next_size(self.settings.model, 0, vocab_size=len(self.data.tokenizer), seq_len=self.seq_len)
        largest = solve(flops, least, amounts, has_check=has_check)
        # Attention and the head make the true cost another one: once more, with what those models would take.
        sizes = [format_size(size) for size in spread(least, largest)]
        planned = self.plan(sizes, amounts)
        true = sum(rung.about["flops"] for rung in planned.rungs) + has_check * planned.following.about["flops"]
        largest = solve(
            flops * cost_of(least, largest, amounts, has_check=has_check) / true, least, amounts, has_check=has_check
        )
        if largest < LEAST_SPAN * least:
            raise UsageError(
                f"a budget of {flops:.2g} FLOPs reaches to {format_size(largest)} parameters, and the smallest model "
                f"with this vocabulary has {format_size(least)}: no ladder",
                where="--minutes or --flops",
                fix="give it more, train on fewer tokens (--tokens 5x), or prepare the data with a smaller vocabulary",
            )
        return [format_size(size) for size in spread(least, largest)]


def spread(least: float, largest: float) -> list[float]:
    """Sizes from the smallest that is possible, or SPAN below the largest, in equal steps."""
    smallest = max(least, largest / SPAN)
    return [smallest * (largest / smallest) ** (number / (NUM_RUNGS - 1)) for number in range(NUM_RUNGS)]


def cost_of(least: float, largest: float, amounts: Sequence[Amount], *, has_check: bool) -> float:
    """About how many FLOPs a ladder takes: six for each parameter and token."""
    sizes = spread(least, largest)
    total = sum(6 * size * amount.tokens(size) for size in sizes for amount in amounts)
    following = sizes[-1] ** 2 / sizes[-2]
    return total + has_check * 6 * following * amounts[-1].tokens(following)


def solve(flops: float, least: float, amounts: Sequence[Amount], *, has_check: bool) -> float:
    """The largest size of a ladder that costs so much."""
    low, high = least, 1e12
    for _ in range(100):
        middle = math.sqrt(low * high)
        is_cheap = cost_of(least, middle, amounts, has_check=has_check) < flops
        low, high = (middle, high) if is_cheap else (low, middle)
    return low


def plan_baseline(settings: BaselineRecipe, sizes: str | None) -> LadderPlan:
    """Networks of several widths, all else as the recipe says."""
    widest = settings.model.hidden_size
    widths = [round(widest / 2**number) for number in range(WIDTHS)][::-1]
    if sizes is not None:
        widths = sorted(int(read_number(text, "--sizes")) for text in split_list(sizes, "--sizes"))
    if widths[0] < 1 or len(set(widths)) < len(widths):
        raise UsageError(f"widths of {widths} are no ladder", where="--sizes", fix="name some: --sizes 4,8,16,32,64")
    step = max(widths[-1] / widths[-2], LEAST_STEP) if len(widths) > 1 else USUAL_STEP
    lr = settings.train.lr
    rungs = [width_rung(width, lr) for width in widths]
    return LadderPlan(rungs, width_rung(round(widths[-1] * step), lr, place=CHECK), "all else as the recipe says")


def width_rung(width: int, lr: float, place: str = RUNGS) -> Rung:
    """A network of so many units or channels."""
    return Rung(f"width-{width}", {"model.hidden_size": width}, {"width": width, "lr": lr}, place)
