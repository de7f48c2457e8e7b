"""What is killed, and how two runs of it are compared: small runs of every trainer, with all that makes resuming hard.

Dropout, accumulation over uneven micro-batches, shuffled rows, several epochs whose borders fall inside a step, texts
that are tokenized as they are read, an average of the weights, validation and samples beside the steps, and checkpoints
that do not come as often as the steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forks import Forks
from safetensors import safe_open

SENTENCE = "the a model learns to guess next token from text and then we ask it what comes after that def class return"
WORDS = SENTENCE.split()
COLORS = ["red", "green", "blue"]

TIMES = {"seconds", "tokens_per_second", "waited_share", "mfu", "memory_bytes"}
"""What two equal runs differ in. Everything else that is logged must be the same."""

LOOP = {
    "train.batch_size": 8,
    "train.micro_batch_size": 3,
    "train.warmup_steps": 2,
    "train.precision": "fp32",
    "train.validate_every": 4,
}
SIZES = {"model.num_layers": 2, "model.hidden_size": 32, "model.num_heads": 2, "train.seq_len": 32}


@dataclass(frozen=True)
class Trainer:
    """A run as it is typed, but for its --output."""

    name: str
    arguments: tuple[str, ...]

    def command(self, output: Path, steps: int = 12, save_every: int = 2, **others: object) -> list[str]:
        """The command line of a run of so many steps."""
        fields = {"train.steps": steps, "train.save_every": save_every, **{f"train.{k}": v for k, v in others.items()}}
        return [*self.arguments, *settings(fields), "--output", str(output)]


def settings(fields: dict[str, Any]) -> list[str]:
    """Recipe fields as flags."""
    return [word for key, value in fields.items() for word in ("--set", f"{key}={value}")]


def make_material(folder: Path, forks: Forks) -> None:
    """Write into `folder` what the trainers read: texts, rows, a tokenizer, prepared data, a base model."""

    def make(*arguments: object) -> None:
        found = forks.run(*arguments, log=folder / "making.log")
        assert found["code"] == 0, (folder / "making.log").read_text()

    write_rows(folder)
    make("tokenizer", "train", folder / "text", "--vocab-size", 300, "--output", folder / "tokenizer")
    make("data", "prepare", folder / "text", "--tokenizer", folder / "tokenizer", "--output", folder / "data")
    make(*trainers_on(folder)["pretrain"].command(folder / "base", steps=2))


def trainers_on(folder: Path) -> dict[str, Trainer]:
    """Trainers by name, of the material in `folder`."""
    recipe = {**LOOP, **SIZES, "train.sample_every": 5, "data.sample_prompts": "[the]"}
    pretrain = ("pretrain", *settings({**recipe, "model.overrides.attention_dropout": 0.1}))
    prepared = (*pretrain, "--data", str(folder / "data"))
    muon = {"train.optimizer": "muon", "train.ema_decay": 0.9, "train.keep_best": 1, "train.schedule": "wsd"}
    streamed = {"data.stream": "true", "data.tokenizer": folder / "tokenizer"}
    trainers = [
        Trainer("pretrain", prepared),
        Trainer("pretrain-muon", (*prepared, *settings(muon))),
        Trainer("pretrain-stream", (*pretrain, "--data", str(folder / "text"), *settings(streamed))),
    ]
    tune = ("finetune", "--model", str(folder / "base/model"), "--data", str(folder / "rows.jsonl"))
    tune += tuple(settings({**LOOP, "train.sample_every": 5, "train.seq_len": 64, "data.validation": 0.1}))
    trainers += [
        Trainer("lora", (*tune, *settings({"lora.dropout": 0.1, "lora.rank": 4}))),
        Trainer("full", (*tune, *settings({"method": "full"}))),
    ]
    for kind, data in (("mlp", "points.csv"), ("cnn", "texts.jsonl"), ("rnn", "texts.jsonl")):
        small = settings({**LOOP, "model.hidden_size": 16, "model.dropout": 0.2, "train.seq_len": 32})
        trainers.append(Trainer(kind, ("baseline", "--kind", kind, "--data", str(folder / data), *small)))
    return {trainer.name: trainer for trainer in trainers}


WRITERS = ["tokenizer", "data", "merge", "results", "report"]


def writers_on(material: Path, folder: Path, forks: Forks) -> dict[str, tuple[object, ...]]:
    """The command lines of verbs that write one result, but for its --output; an adapter is made in `folder`."""
    adapter = folder / "adapter"
    found = forks.run(*trainers_on(material)["lora"].command(adapter, steps=2), log=folder / "log")
    assert found["code"] == 0, (folder / "log").read_text()
    return {
        "tokenizer": ("tokenizer", "train", material / "text", "--vocab-size", 300),
        "data": ("data", "prepare", material / "text", "--tokenizer", material / "tokenizer"),
        "merge": ("model", "merge", adapter / "model"),
        "results": ("evaluate", "--model", adapter, "--task", "perplexity", "--data", material / "text/01.txt"),
        "report": ("report", adapter),
    }


def write_rows(folder: Path) -> None:
    """Texts, instructions, points and labelled texts: a few epochs of each in twelve steps."""
    (folder / "text").mkdir(parents=True)
    for i in range(40):
        text = " ".join(WORDS[(i * 7 + j * (i + 3)) % len(WORDS)] for j in range(16 + i))
        (folder / "text" / f"{i:02}.txt").write_text(f"{text}.\n")
    rows = [{"instruction": f"say {a} {b}", "output": f"{b} {a}"} for a in WORDS[:9] for b in WORDS[9:14]]
    write_lines(folder / "rows.jsonl", rows)
    points = [f"{x % 20},{x // 20},{COLORS[x % 20 // 4 % 3]}\n" for x in range(60)]
    (folder / "points.csv").write_text("x,y,label\n" + "".join(points))
    texts = [{"text": f"{a} {b} {'good' if (i + j) % 2 else 'bad'}", "label": "ny"[(i + j) % 2]}
             for i, a in enumerate(WORDS[:9]) for j, b in enumerate(WORDS[9:16])]  # fmt: skip
    write_lines(folder / "texts.jsonl", texts)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Objects as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def outcome(run: Path) -> dict[str, Any]:
    """All that a finished run is: its lines, its weights, its optimizer, its figures. Equal runs have equal outcomes.

    Numbers are compared as they are written, which for a float is to the last bit.
    """
    found: dict[str, Any] = {}
    for name in ("metrics.jsonl", "samples.jsonl"):
        if (run / name).exists():
            found[name] = [timeless(json.loads(line)) for line in (run / name).read_text().splitlines()]
    for name in ("summary.json", "results.json"):
        if (run / name).exists():
            found[name] = {
                k: v for k, v in timeless(json.loads((run / name).read_text())).items() if k not in ("run", "model")
            }
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    found["checkpoint"] = newest.name
    for path in sorted([*newest.glob("*.safetensors"), *(run / "model").glob("*.safetensors")]):
        found[f"{path.parent.name}/{path.name}"] = tensors_in(path)
    return found


def timeless(values: Any) -> Any:
    """A document without what differs from run to run, at any depth."""
    if isinstance(values, dict):
        return {key: timeless(value) for key, value in values.items() if key not in TIMES}
    return [timeless(value) for value in values] if isinstance(values, list) else values


def tensors_in(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name -> (dtype, shape, bytes)."""
    import torch

    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return {
        name: (str(t.dtype), tuple(t.shape), t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, t in tensors.items()
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """In what two outcomes differ."""
    return [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]


def steps_in(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints in a folder, none of which may be damaged."""
    from llmkit.training.checkpoint import checkpoints_in, find_damage

    found = checkpoints_in(checkpoints)
    assert {path: find_damage(path) for path in found.values() if find_damage(path)} == {}
    return list(found)


def steps_of(run: Path) -> list[int]:
    """Steps of the checkpoints of a run, none of which may be damaged."""
    return steps_in(run / "checkpoints")


def litter(folder: Path) -> list[str]:
    """What a save has left behind: every hidden name but the lock's."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name != ".lock")
