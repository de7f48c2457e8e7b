"""One small network, trained by llmkit's loop, by a loop written by hand, or by Lightning's Trainer: seconds per step.

    python time_baseline.py llmkit mlp --steps 400

The network, the rows and the optimizer are the same for all. What each does besides is its own: llmkit writes metrics,
looks into the network and draws a bar, the others are told to write nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # a peer's Python knows nothing of llmkit

import torch
from setting import peak_mb, report
from torch import nn

from llmkit.models.baselines import BaselineSpec, build_baseline
from llmkit.recipe.schema import BaselineModel

NUM_ROWS, BATCH_SIZE, LR, WARM_UP = 6000, 64, 1e-3, 30
CLASSES = 10

MODELS = {
    "mlp": (BaselineModel(kind="mlp", hidden_size=128), BaselineSpec("image", (1, 28, 28), CLASSES)),
    "cnn": (BaselineModel(kind="cnn", hidden_size=16), BaselineSpec("image", (1, 28, 28), CLASSES)),
    "gru": (BaselineModel(kind="rnn", cell="gru"), BaselineSpec("series", (32, 8), CLASSES)),
}


class Ticks:
    """When each step ended; after the last one it reports and ends the process."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.ends: list[float] = []

    def __call__(self) -> None:
        """A step has ended."""
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARM_UP + self.steps:
            ends = self.ends[WARM_UP - 1 :]
            report(steps=self.steps, seconds=ends[-1] - ends[0], peak_mb=peak_mb())


def make_rows(spec: BaselineSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Random rows with random classes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(NUM_ROWS, *spec.input_shape, generator=generator)
    return inputs, torch.randint(0, CLASSES, (NUM_ROWS,), generator=generator)


def run_llmkit(name: str, tick: Ticks) -> None:
    """The loop of `llmkit baseline`."""
    import functools

    from llmkit.data.labelled_set import TensorRows
    from llmkit.losses import classification_loss_sum
    from llmkit.models.baselines import save_baseline
    from llmkit.recipe.schema import BaselineRecipe
    from llmkit.training.job import start_job
    from llmkit.training.loop import train
    from llmkit.training.run import open_run
    from llmkit.training.session import Session

    section, spec = MODELS[name]
    sizes = {"steps": WARM_UP + tick.steps + 1, "batch_size": BATCH_SIZE, "lr": LR, "validate_every": 0}
    config = BaselineRecipe().train.model_copy(update=sizes)
    record = Session.record

    def record_timed(session: Session, *step: object) -> None:
        record(session, *step)
        tick()

    Session.record = record_timed
    model = build_baseline(section, spec)
    accelerator = start_job(config)
    recipe = BaselineRecipe(model=section, train=config)
    with tempfile.TemporaryDirectory() as folder, open_run(Path(folder) / "run", recipe, accelerator) as run:
        train(
            model,
            TensorRows(*make_rows(spec)),
            functools.partial(classification_loss_sum, label_smoothing=0.0, class_weights=None),
            config,
            run,
            accelerator=accelerator,
            save_model=lambda path, _: save_baseline(model, path, section=section, spec=spec, data={}),
            load_model=lambda path: None,
            looks_inside=True,
        )


def run_plain(name: str, tick: Ticks) -> None:
    """The loop that one would write by hand, with a schedule, clipping, and the loss looked at."""
    section, spec = MODELS[name]
    model = build_baseline(section, spec).train()
    inputs, targets = make_rows(spec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1, fused=True)
    total = WARM_UP + tick.steps
    step = 0
    while True:
        order = torch.randperm(NUM_ROWS)
        for start in range(0, NUM_ROWS, BATCH_SIZE):
            index = order[start : start + BATCH_SIZE]
            loss = nn.functional.cross_entropy(model(inputs[index]), targets[index])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = LR * (1 + math.cos(math.pi * step / total)) / 2
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            step += 1
            tick()


def run_lightning(name: str, tick: Ticks) -> None:
    """Lightning's Trainer with all that it would write switched off."""
    import lightning

    section, spec = MODELS[name]

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_baseline(section, spec)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def on_train_batch_end(self, *_) -> None:
            tick()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=LR, weight_decay=0.1, fused=True)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, WARM_UP + tick.steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    rows = torch.utils.data.TensorDataset(*make_rows(spec))
    loader = torch.utils.data.DataLoader(rows, batch_size=BATCH_SIZE, shuffle=True)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=WARM_UP + tick.steps + 1, gradient_clip_val=1.0, barebones=False, **off
    )
    trainer.fit(Module(), loader)


TOOLS = {"llmkit": run_llmkit, "plain": run_plain, "lightning": run_lightning}


def main() -> None:
    """Train until enough steps were timed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    # As `llmkit baseline` does: a second thread makes networks of this size slower.
    torch.set_num_threads(1)
    TOOLS[options.tool](options.model, Ticks(options.steps))


if __name__ == "__main__":
    main()
