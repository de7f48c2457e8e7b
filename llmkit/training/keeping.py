"""What a run leaves on disk: its checkpoints on the way, and in the end the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from llmkit.console import say, warn
from llmkit.files import new_folder, remove_entry
from llmkit.training import checkpoint as checkpoints
from llmkit.training.average import WeightAverage
from llmkit.training.disk import retrying
from llmkit.training.job import on_main_process
from llmkit.training.patience import best_step, loss_of
from llmkit.training.run import Run
from llmkit.training.step import Loop


@dataclass
class Keeper:
    """Writes the checkpoints of a run and its result. All processes call it, the main one writes."""

    run: Run
    loop: Loop
    save_model: checkpoints.SaveModel
    load_model: Callable[[Path], None]
    average: WeightAverage | None = None
    saved_step: int = 0
    """The step of the newest checkpoint."""

    def save(self, done: int, counted: Mapping[str, Any]) -> None:
        """A checkpoint, with what was counted until then, and only then the end of older ones."""
        loop, run = self.loop, self.run
        run.flush_metrics()
        checkpoints.save_checkpoint(
            run.checkpoints,
            done,
            accelerator=loop.accelerator,
            model=loop.wrapped,
            optimizer=loop.optimizer,
            state={**counted, "forward_rows": loop.forward_rows, "fingerprint": run.fingerprint},
            save_model=self.save_model,
            average=None if self.average is None else self.average.tensors(),
        )
        self.saved_step = done
        self.prune()

    def prune(self) -> None:
        """Delete the checkpoints that nothing asks for any more."""
        run, config = self.run, self.loop.config
        if run.is_main:
            is_compared = config.keep_best or config.patience
            best = {step: loss_of(values) for step, values in run.validations().items()} if is_compared else {}
            checkpoints.prune_checkpoints(
                run.checkpoints,
                keep_last=config.keep_last,
                keep_every=config.keep_every,
                keep_best=max(config.keep_best, bool(config.patience)),
                best=best,
            )

    def past_validations(self) -> dict[int, dict[str, Any]]:
        """What metrics.jsonl has: a run may have been stopped between a checkpoint and its validation."""
        return on_main_process(self.loop.accelerator, self.run.validations)

    def return_to_best(self, done: int) -> int:
        """Put the weights of the best validation back; the step they are of."""
        best = best_step(self.past_validations())
        if best is None or best == done:
            return done
        path = checkpoints.step_folder(self.run.checkpoints, best)
        problem = on_main_process(self.loop.accelerator, lambda: checkpoints.find_damage(path))
        if problem is not None:
            warn(f"the best checkpoint, {path}, is damaged ({problem}): the result has the weights of step {done:,}")
            return done
        self.load_model(path)
        averages = checkpoints.read_average(path)
        if self.average is not None and averages is not None:
            self.average.restore(averages)
        say(f"the result has the weights of step {best:,}, whose validation was the best; trained until step {done:,}")
        return best

    def write_result(self) -> None:
        """Write the model, with the averaged weights where there are some, as what the run came to."""
        with nullcontext() if self.average is None else self.average.applied():
            weights = checkpoints.whole_weights(self.loop.wrapped)
            target = self.run.folder / "model"
            on_main_process(self.loop.accelerator, lambda: retrying(lambda: self.replace_result(weights), target))

    def replace_result(self, weights: dict[str, Tensor] | None) -> None:
        """Write the result aside and put it in the place of an earlier one."""
        target = self.run.folder / "model"
        new, old = target.with_name(".model.new"), target.with_name(".model.old")
        for leftover in (new, old):  # of a crash in this very place
            remove_entry(leftover)
        with new_folder(new, flush=checkpoints.write_manifest) as aside:
            self.save_model(aside, weights)
        if target.exists():
            target.rename(old)
        new.rename(target)
        remove_entry(old)
