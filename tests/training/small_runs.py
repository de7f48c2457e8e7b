"""Runs of a second or less, for the tests of the loop."""

from __future__ import annotations

import json

import torch
from torch import nn

from llmkit.batch import IGNORE_INDEX
from llmkit.losses import causal_lm_loss_sum, classification_loss_sum
from llmkit.recipe.schema import PretrainRecipe, TrainSection
from llmkit.training.job import start_job
from llmkit.training.loop import train
from llmkit.training.run import RunOptions, open_run

EXTEND = RunOptions(extend=True)


class RaggedRows:
    """Rows of 3 to 12 ids with some targets masked, padded on the right."""

    is_stream = False

    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(0)
        self.rows = [torch.randint(5, 290, (3 + i % 10,), generator=generator) for i in range(count)]
        self.lengths = [len(row) for row in self.rows]

    def __len__(self):
        return len(self.rows)

    def batch(self, indices):
        longest = max(self.lengths[i] for i in indices)
        ids = torch.zeros(len(indices), longest, dtype=torch.int64)
        targets = torch.full_like(ids, IGNORE_INDEX)
        for place, index in enumerate(indices):
            row = self.rows[index]
            ids[place, : len(row)] = row
            targets[place, index % 3 : len(row)] = row[index % 3 :]
        return {"input_ids": ids, "targets": targets}


class LabelledRows:
    """Thirty points with three classes."""

    lengths = None
    is_stream = False

    def __init__(self, count=30):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(count, 4, generator=generator)
        self.targets = torch.arange(count) % 3

    def __len__(self):
        return len(self.targets)

    def batch(self, indices):
        return {"inputs": self.inputs[indices], "targets": self.targets[indices]}


class UnevenRows(LabelledRows):
    """The same points, a third of them masked: the shares of a step have now more targets, now fewer."""

    def __init__(self):
        super().__init__()
        self.targets[:10] = IGNORE_INDEX


class CrashError(Exception):
    """Stands for the plug being pulled."""


class FailingRows:
    """Rows that break after so many were read."""

    is_stream = False

    def __init__(self, rows, limit):
        self.rows, self.limit, self.read, self.lengths = rows, limit, 0, rows.lengths

    def __len__(self):
        return len(self.rows)

    def batch(self, indices):
        self.read += len(indices)
        if self.read > self.limit:
            raise CrashError
        return self.rows.batch(indices)


def run_training(
    folder, model, rows=None, loss=causal_lm_loss_sum, *, stop_after=None, options=None, calls=None, **fields
):
    """Train and return (summary, lines of metrics, weights). `calls` are further arguments of `train`."""
    from safetensors.torch import load_file, save_file

    config = TrainSection(**{"steps": 6, "batch_size": 8, "lr": 1e-2, "warmup_steps": 2, "precision": "fp32", **fields})
    accelerator = start_job(config)
    rows = RaggedRows() if rows is None else rows
    if stop_after is not None:
        rows = FailingRows(rows, stop_after * config.batch_size)
    with open_run(folder, PretrainRecipe(train=config), accelerator, options=options or RunOptions()) as run:
        summary = train(
            model,
            rows,
            loss,
            config,
            run,
            accelerator=accelerator,
            save_model=lambda path, weights: save_file(copied(model), path / "model.safetensors"),
            load_model=lambda path: model.load_state_dict(load_file(path / "model.safetensors")),
            **(calls or {}),
        )
    return summary, read_lines(run.folder), copied(model)


def read_lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def copied(model):
    """The weights, each in memory of its own: safetensors refuses two names for one."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def make_classifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def classify(folder, model=None, rows=None, loss=classification_loss_sum, **options):
    """The quickest run there is: three classes of points."""
    return run_training(folder, model or make_classifier(), rows or LabelledRows(), loss, **options)


def losses_of(lines):
    return [line["loss"] for line in lines if "loss" in line]
