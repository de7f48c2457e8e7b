"""Which methods are compared, and with which settings: known before any of them begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.contest.rows import Contest
from llmkit.console import say
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.recipe.schema import BaselineData, BaselineRecipe, FinetuneRecipe
    from llmkit.training.signals import StopRequest

REFERENCES = ("majority", "tfidf")
NETWORKS = ("mlp", "cnn", "rnn")
ASKED = ("zero-shot", "few-shot")
TUNED = ("lora", "full")
CASCADE = "cascade"
METHODS = (*REFERENCES, *NETWORKS, *ASKED, *TUNED, CASCADE)

TEXTS = {"train.lr": 2e-3, "train.micro_batch_size": 32, "train.seq_len": 128, "model.vocab_size": 16384}
USUAL: dict[tuple[str, str], dict[str, Any]] = {
    ("text", "mlp"): {**TEXTS, "train.steps": 1500, "model.dropout": 0.5},
    ("text", "cnn"): {**TEXTS, "train.steps": 800, "model.dropout": 0.5},
    ("text", "rnn"): {
        **TEXTS,
        "train.steps": 800,
        "model.hidden_size": 48,
        "model.bidirectional": True,
        "model.dropout": 0.5,
    },
    ("image", "cnn"): {"train.steps": 800},
    ("image", "mlp"): {"train.steps": 1000},
    ("image", "rnn"): {"train.steps": 800},
    ("table", "mlp"): {"train.steps": 800},
}
"""Settings of a network by the form of the rows, beside those that `llmkit baseline` has anyway."""
PATIENCE = 4
"""Validations without progress after which a network stops."""
LOOKS = 12
"""Validations of a network, early stopping apart."""
PASSES, SHORTEST = 60, 200
"""A network makes no more passes over its rows, but so many steps in any case: few rows are soon known by heart."""
CURVE_STEPS = 300
"""Most steps of a network that has no validation rows to stop by."""

ROWS_SEEN = 3000
MOST_EPOCHS = 10
FEWEST_STEPS = 30
"""A language model is tuned on about so many rows: at least one pass, at most ten, and some steps in any case."""


@dataclass(frozen=True)
class Asked:
    """What the command line says of the methods."""

    methods: tuple[str, ...]
    model: str | None = None
    shots: int = 4
    seed: int = 0
    dtype: str = "auto"
    calibrate: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """Where and how methods run."""

    asked: Asked
    output: Path
    stop: StopRequest
    model_hash: str | None = None


@dataclass(frozen=True)
class Method:
    """A method with its settings."""

    name: str
    """As it is asked for."""
    title: str
    """As it is shown."""
    recipe: BaselineRecipe | FinetuneRecipe | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """What else its result depends on."""
    seed: int = 0

    def key(self, contest: Contest) -> str:
        """A hash of all that the result depends on."""
        settings = self.recipe.model_dump(mode="json") if self.recipe else {}
        said = [contest.content_hash, self.name, settings, self.about, self.seed]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def parse_methods(text: str | None) -> tuple[str, ...]:
    """The methods of `majority,lora`, in the order of METHODS; all of them without a text."""
    names = [part.strip() for part in text.split(",") if part.strip()] if text else list(METHODS)
    unknown = next((name for name in names if name not in METHODS), None)
    if unknown is not None or not names:
        raise UsageError(f"there is no method {unknown!r}", where="--methods", fix=f"choose of {','.join(METHODS)}")
    return tuple(name for name in METHODS if name in names)


def sort_overrides(overrides: Sequence[str]) -> dict[str, list[str]]:
    """METHOD or data -> KEY=VALUE of `METHOD.KEY=VALUE`.

    Raises:
        UsageError: It begins with no method that has settings.
    """
    sorted_by: dict[str, list[str]] = {}
    known = (*NETWORKS, *TUNED, "data")
    for text in overrides:
        owner, dot, rest = text.partition(".")
        if owner not in known or not dot:
            fix = f"write METHOD.KEY=VALUE with one of {', '.join(known)}, such as mlp.train.steps=500"
            raise UsageError("this does not say whose setting it is", where=f"--set {text}", fix=fix)
        sorted_by.setdefault(owner, []).append(f"data.{rest}" if owner == "data" else rest)
    return sorted_by


def tell_unused(asked: Asked) -> None:
    """Say which settings and flags are of methods that are not compared."""
    for owner, texts in sort_overrides(asked.overrides).items():
        if owner != "data" and owner not in asked.methods:
            say(f"--set {', '.join(f'{owner}.{text}' for text in texts)}: {owner} is not among the methods")
    if asked.calibrate and not set(ASKED) & set(asked.methods):
        say(f"--calibrate: {' and '.join(ASKED)} are not among the methods")


def data_section(overrides: Sequence[str]) -> BaselineData:
    """How a labelled set is to be read."""
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import BaselineRecipe

    return load_recipe(BaselineRecipe, None, sort_overrides(overrides).get("data", [])).data


def make_method(name: str, contest: Contest, job: Job, *, seed: int | None = None) -> Method:
    """A method with its settings for these rows, held to what --set says."""
    asked, own = job.asked, sort_overrides(job.asked.overrides).get(name, [])
    seed = asked.seed if seed is None else seed
    if name in NETWORKS:
        recipe = network_recipe(name, contest, own, seed)
        return Method(name, recipe.model.cell.upper() if name == "rnn" else name.upper(), recipe, seed=seed)
    if name in TUNED and job.model_hash is not None:
        tuned = tuning_recipe(name, contest, asked, own, seed)
        title = {"lora": "LoRA", "full": "full fine-tuning"}[name]
        return Method(name, title, tuned, {"model": job.model_hash, "dtype": asked.dtype}, seed=seed)
    task_hash = contest.task.content_hash if contest.task else None
    asking = {"model": job.model_hash, "task": task_hash, "dtype": asked.dtype, "calibrate": asked.calibrate}
    manner = ", calibrated" if asked.calibrate else ""
    titles: Mapping[str, tuple[str, dict[str, Any]]] = {
        "majority": ("majority class", {}),
        "tfidf": ("TF-IDF + logistic regression" if contest.form == "text" else "logistic regression", {}),
        "zero-shot": (f"0-shot{manner}", asking),
        "few-shot": (f"{asked.shots}-shot{manner}", {**asking, "shots": asked.shots}),
    }
    title, about = titles.get(name, (name, {}))
    return Method(name, title, about=about, seed=seed if name == "few-shot" else 0)


def network_recipe(name: str, contest: Contest, overrides: Sequence[str], seed: int) -> BaselineRecipe:
    """The recipe of a network. It stops early by the rows that are held out; without any it makes fewer steps."""
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import BaselineRecipe

    picks = {"model.kind": name, "train.steps": CURVE_STEPS, **USUAL.get((contest.form, name), {}), "train.seed": seed}
    settings = load_recipe(BaselineRecipe, None, overrides, picks=picks)
    most = max(SHORTEST, PASSES * len(contest.parts["train"]) // settings.train.batch_size)
    steps = picks["train.steps"] = min(picks["train.steps"], most)
    if len(contest.parts["validation"]):
        picks |= {"train.patience": PATIENCE, "train.validate_every": max(1, steps // LOOKS)}
    else:
        picks |= {"train.validate_every": 0, "train.steps": min(CURVE_STEPS, steps)}
    recipe = load_recipe(BaselineRecipe, None, overrides, picks=picks)
    if len(contest.parts["validation"]) or not recipe.train.patience:
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"patience": 0})})


def tuning_recipe(name: str, contest: Contest, asked: Asked, overrides: Sequence[str], seed: int) -> FinetuneRecipe:
    """The recipe of a classifier on top of the language model."""
    from llmkit.commands.finetune import usual_lr
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import FinetuneRecipe

    rows = len(contest.parts["train"])
    flags = {"model.source": ("--model", asked.model)}
    picks = {"task": "classify", "method": name, "train.warmup_share": 0.1, "train.seed": seed, "end_check": 0}
    settings = load_recipe(FinetuneRecipe, None, overrides, flags, picks=picks)
    seen = max(rows, min(ROWS_SEEN, MOST_EPOCHS * rows))
    picks |= {"train.lr": usual_lr(settings)}
    if not any(text.startswith("train.epochs") for text in overrides):
        picks["train.steps"] = max(FEWEST_STEPS, -(-seen // settings.train.batch_size))
    return load_recipe(FinetuneRecipe, None, overrides, flags, picks=picks)
