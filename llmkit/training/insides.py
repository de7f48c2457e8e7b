"""What goes on inside a small network while it learns: gradients by layer, units that are dead or saturated."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from llmkit.recipe.schema import TrainSection

LOOKS = 50
"""A run is looked into so many times: enough for a curve, and next to nothing of its time."""

FLAT = 0.05
"""A sigmoid or tanh is saturated where its slope is below this share of the highest: hardly any gradient passes."""

DEAD: dict[type[nn.Module], float] = {nn.ReLU: 0.0, nn.GELU: 1e-3, nn.SiLU: 1e-3}
"""Non-linearities behind which a unit can be dead: no row of the batch makes it answer, and none teaches it. An output
of no greater size than this is no answer."""

WATCHED: tuple[type[nn.Module], ...] = (*DEAD, nn.Sigmoid, nn.Tanh, nn.RNNBase)


class Insides:
    """Looks into a network every so many steps; what it saw goes into the line of metrics of the step.

    Per layer with a matrix the norm of its gradient, before clipping. Per non-linearity the share of its units that are
    dead (rectifiers), or of its outputs that are saturated (sigmoid, tanh, states of recurrent cells).
    """

    def __init__(self, model: nn.Module, optimizer: Any, config: TrainSection, *, num_steps: int) -> None:
        self.model = model
        self.is_on = False
        # In lines that are written.
        self.every = config.log_every * max(1, round(num_steps / LOOKS / config.log_every))
        convolves = any(isinstance(module, nn.Conv1d | nn.Conv2d) for module in model.modules())
        self.unit_axis = 1 if convolves else -1
        self.norms: dict[str, float] = {}
        self.clipped = 0.0
        self.live: dict[str, Tensor] = {}
        self.flat: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        getattr(optimizer, "optimizer", optimizer).register_step_pre_hook(self.note_gradients)

    def watching(self, step: int) -> AbstractContextManager[None]:
        """Within the block, a step is made; it is looked into if it is time to."""
        self.is_on = step % self.every == 0
        return self.looking() if self.is_on else nullcontext()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Within the block, all that the layers give is noted."""
        self.live.clear()
        self.flat.clear()
        hooks = [
            module.register_forward_hook(lambda module, _, output, name=name: self.note_outputs(name, module, output))
            for name, module in self.model.named_modules()
            if isinstance(module, WATCHED)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def note_outputs(self, name: str, module: nn.Module, output: Any) -> None:
        """What a non-linearity gave in a forward pass; a step may have several."""
        if type(module) in DEAD:
            units = output.movedim(self.unit_axis, 0).flatten(1)  # (units, all rows and places)
            is_live = (units.abs() > DEAD[type(module)]).any(dim=1)
            self.live[name] = self.live[name] | is_live if name in self.live else is_live
            return
        values = output[0] if isinstance(module, nn.RNNBase) else output
        values = values.data if isinstance(values, PackedSequence) else values
        # The slope by the output, as a share of the highest; the states of cells end in a tanh.
        slope = 4 * values * (1 - values) if isinstance(module, nn.Sigmoid) else 1 - values * values
        self.flat[name][0] += int((slope < FLAT).sum())
        self.flat[name][1] += slope.numel()

    @torch.no_grad()
    def note_gradients(self, *_: Any) -> None:
        """Norms of the gradients, by layer, as the optimizer is about to use them."""
        if not self.is_on:
            return
        squares: dict[str, float] = defaultdict(float)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                squares[name.rpartition(".")[0]] += float(parameter.grad.float().square().sum())
        matrices = {name.rpartition(".")[0] for name, p in self.model.named_parameters() if p.dim() > 1}
        self.clipped = math.sqrt(sum(squares.values()))
        self.norms = {name: math.sqrt(square) for name, square in squares.items() if name in matrices}

    def take(self, grad_norm: float) -> dict[str, Any]:
        """What the last step showed, for its line: {"layers": {name: {"grad_norm", "dead", "saturated"}}}, or nothing.

        Args:
            grad_norm: Of the whole gradient, before it was clipped.
        """
        if not self.is_on:
            return {}
        scale = grad_norm / self.clipped if self.clipped else 0.0
        layers = {name: {"grad_norm": significant(norm * scale)} for name, norm in self.norms.items()}
        for name, is_live in self.live.items():
            layers.setdefault(name, {})["dead"] = significant(1 - is_live.float().mean().item())
        for name, (flat, total) in self.flat.items():
            layers.setdefault(name, {})["saturated"] = significant(flat / max(1, total))
        return {"layers": layers}


def significant(value: float) -> float:
    """Four digits: what a curve can show."""
    return float(f"{value:.4g}")
