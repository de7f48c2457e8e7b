"""Checks of training: what a step adds up, what a crash leaves behind, whether anything is learned."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.checks.case import (
    Case,
    CheckOutcome,
    Trainee,
    apart,
    at_most,
    device_of,
    not_applicable,
    small,
    worst,
)

if TYPE_CHECKING:
    from torch import Tensor

    from llmkit.batch import Batch, LossSum
    from llmkit.training.step import StepRows

SPLIT_TOLERANCE = 1e-4
"""Of a loss and a gradient in fp32, as a share: sums in another order round differently."""
PACK_TOLERANCE = 1e-4
MOST_STEPS, ENOUGH = 80, 0.5
"""Steps on the same rows, and the share of its first value at which their loss need not fall further."""
WHOLE, ADAPTER = (3e-3, 0.5), (1e-2, 0.9)
"""Learning rate, and the share to which the loss must fall: an adapter can do less where the model knows nothing."""
NOTHING = 1e-6
"""Of a loss: there is nothing left to be learnt. A forecast that begins with the last value may be right at once."""
NO_RECIPE = "a model alone is not trained: name a recipe or a run"


class UnpluggedError(Exception):
    """Stands for the plug being pulled."""


def check_split(case: Case) -> CheckOutcome:
    """The loss and the gradient of a batch do not depend on how it is split."""
    if case.trainee is None:
        return not_applicable(NO_RECIPE)
    size = min(4, len(case.trainee.rows))
    if size < 2:
        return not_applicable("there is one row only")
    whole, split = (gradient_of(case, case.trainee, size, rows) for rows in (size, 1))
    off = (abs(whole[0] - split[0]) / max(abs(whole[0]), 1e-12), distance(whole[1], split[1]))
    return at_most(worst(off), SPLIT_TOLERANCE, f"{size} rows at once and one by one")


def gradient_of(case: Case, trainee: Trainee, size: int, at_once: int) -> tuple[float, dict[str, Tensor]]:
    """Mean loss of a step and its gradients, without dropout."""
    trainee.reset()
    loop = loop_of(case, trainee, batch_size=size, micro_batch_size=at_once)
    rows = loop.step_rows(0)
    with still(trainee.model):
        total = loop.forward_backward(rows.batches, scale=1 / rows.num_targets)
    gradients = {name: p.grad.detach().clone() for name, p in trainee.trained().items() if p.grad is not None}
    trainee.reset()
    return total / rows.num_targets, gradients


def loop_of(case: Case, trainee: Trainee, **fields: Any) -> Any:
    """The steps of the one training loop, over a few rows."""
    from llmkit.training.optim import make_optimizer
    from llmkit.training.step import Loop, SummedLoss

    config = small(trainee.config, **fields)
    wrapped, optimizer = case.accelerator.prepare(
        SummedLoss(trainee.model, trainee.loss_sum), make_optimizer(trainee.model, config)
    )
    return Loop(wrapped, optimizer, trainee.rows, config, case.accelerator, config.steps)


def distance(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """How far two sets of tensors are apart, as a share of their size."""
    if one.keys() != two.keys():
        return math.inf
    apart = sum(float((one[name] - two[name]).double().square().sum()) for name in one)
    size = sum(float(tensor.double().square().sum()) for tensor in one.values())
    return math.sqrt(apart / size) if size else math.sqrt(apart)


def check_packing(case: Case) -> CheckOutcome:
    """Documents that lie in one row have the loss that each has alone."""
    import torch

    from llmkit.losses import causal_lm_loss_sum, model_inputs

    model = case.answerer if case.trainee is None else case.trainee.model
    is_language_model = case.trainee is None or case.trainee.is_language_model
    if model is None or not is_language_model or len(case.texts) < 2:
        return not_applicable("only language models are given several documents in a row")
    device = device_of(model)
    documents = [torch.tensor(ids, device=device) for ids in case.texts[:3]]
    parts = [{"input_ids": ids[None, :-1], "targets": ids[None, 1:]} for ids in documents]
    row = {name: torch.cat([part[name] for part in parts], dim=1) for name in ("input_ids", "targets")}
    row["position_ids"] = torch.cat([torch.arange(len(ids) - 1, device=device) for ids in documents])[None]
    model.eval()
    with torch.no_grad():
        losses = [float(causal_lm_loss_sum(model, batch)) for batch in (row, *parts)]
        packed, *alone = (model(**model_inputs(model, batch)).logits.float() for batch in (row, *parts))
    off = worst((abs(losses[0] / sum(losses[1:]) - 1), apart(torch.cat(alone, dim=1), packed)))
    if not off <= PACK_TOLERANCE and not case.packs:
        note = f"this architecture does not keep them apart (off by {off:.2g}), and nothing is packed"
        return not_applicable(note)
    return at_most(off, PACK_TOLERANCE, f"{len(parts)} documents, {row['targets'].shape[1]} tokens: loss and logits")


def check_resume(case: Case) -> CheckOutcome:
    """A run that was killed and continued ends with the weights of one that was not."""
    import torch

    if case.trainee is None:
        return not_applicable(NO_RECIPE)
    trainee = case.trainee
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = run(case, trainee, folder / "whole", trainee.loss_sum)
        try:
            run(case, trainee, folder / "killed", unplugged(trainee.loss_sum, folder / "killed" / "checkpoints"))
        except UnpluggedError:
            resumed = run(case, trainee, folder / "killed", trainee.loss_sum)
        else:
            return CheckOutcome("fail", note="no checkpoint was written before the end")
        *_, last = json.loads((folder / "killed" / "environment.json").read_text(encoding="utf-8"))["parts"]
    if last["step"] != 2:
        return CheckOutcome("fail", note=f"the run that was killed after step 2 went on from step {last['step']}")
    changed = [key for key in whole if not torch.equal(whole[key], resumed[key])]
    off = worst([0.0, *(float((whole[key].double() - resumed[key].double()).abs().max()) for key in changed)])
    return at_most(off, 0.0, "4 steps, and 2 + 2: the largest difference of a weight")


def unplugged(loss_sum: LossSum, checkpoints: Path) -> LossSum:
    """The same loss until there is a checkpoint; then the plug is pulled."""

    def loss_until_saved(model: Any, batch: Batch) -> Tensor:
        if any(checkpoints.glob("step-*")):
            raise UnpluggedError
        return loss_sum(model, batch)

    return loss_until_saved


def run(case: Case, trainee: Trainee, folder: Path, loss_sum: LossSum) -> dict[str, Tensor]:
    """Train four steps from the start, or from the checkpoint in `folder`, and give the weights."""
    from llmkit.training.loop import train
    from llmkit.training.run import open_run

    trainee.reset()
    size = min(4, len(trainee.rows))
    config = small(trainee.config, batch_size=size, micro_batch_size=min(2, size), seq_len=trainee.config.seq_len)
    settings = trainee.settings.model_copy(update={"train": config})
    with open_run(folder, settings, case.accelerator) as opened:
        summary = train(
            trainee.model,
            trainee.rows,
            loss_sum,
            config,
            opened,
            accelerator=case.accelerator,
            save_model=trainee.save,
            load_model=trainee.load,
        )
    if summary.status == "stopped":  # by Ctrl-C: this is no run that is worth going on with
        raise KeyboardInterrupt
    weights = trainee.weights()
    trainee.reset()
    return weights


def check_gradients(case: Case) -> CheckOutcome:
    """Every trained parameter receives a gradient, and all of them are finite."""
    import torch

    if case.trainee is None:
        return not_applicable(NO_RECIPE)
    size = min(4, len(case.trainee.rows))
    _, gradients = gradient_of(case, case.trainee, size, size)
    trained = case.trainee.trained()
    without = [name for name in trained if name not in gradients]
    bad = [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
    note = f"of {len(trained)} trained tensors"
    if without or bad:
        note = f"{[*without, *bad][0]}: {'no gradient' if without else 'not finite'}"
    return at_most(float(len(without) + len(bad)), 0.0, note)


def check_first_loss(case: Case) -> CheckOutcome:
    """A model with random weights guesses blindly: its loss is near the logarithm of the choices."""
    trainee = case.trainee
    if trainee is None or not trainee.is_fresh:
        return not_applicable("its weights are not random")
    choices = num_choices(trainee)
    if choices is None:
        return not_applicable("numbers are predicted, and not choices")
    trainee.reset()
    size = min(4, len(trainee.rows))
    rows = loop_of(case, trainee, batch_size=size, micro_batch_size=size).step_rows(0)
    with still(trainee.model):
        loss = mean_loss(trainee, rows)
    config = getattr(trainee.model, "config", None)
    width = 0 if config is None else config.get_text_config().hidden_size
    # Logits of a head whose weights have this spread are as far apart as that, and the loss lies half of it higher.
    spread = width * getattr(config, "initializer_range", 0.02) ** 2 / 2
    return at_most(
        abs(loss - math.log(choices)), 0.5 + spread, f"{loss:.3f} beside ln({choices:,}) = {math.log(choices):.3f}"
    )


def num_choices(trainee: Trainee) -> int | None:
    """Among how many a fresh model guesses; None where it predicts numbers."""
    if hasattr(trainee.model, "config"):
        return int(trainee.model.get_input_embeddings().weight.shape[0])
    targets = trainee.rows.batch([0])["targets"]
    if targets.is_floating_point():
        return None
    return int(list(trainee.trained().values())[-1].shape[0])


def check_heart(case: Case) -> CheckOutcome:
    """A few rows can be learnt by heart."""
    from llmkit.training.step import Signs

    if case.trainee is None:
        return not_applicable(NO_RECIPE)
    trainee = case.trainee
    trainee.reset()
    size = min(2, len(trainee.rows))
    lr, learnt = ADAPTER if trainee.has_adapter else WHOLE
    rate = {"lr": lr, "schedule": "constant", "warmup_steps": 0, "steps": MOST_STEPS}
    loop = loop_of(case, trainee, batch_size=size, micro_batch_size=size, **rate)
    rows = loop.step_rows(0)
    with still(trainee.model):
        losses = [mean_loss(trainee, rows)]
        if losses[0] < NOTHING:
            return not_applicable(f"the loss is {losses[0]:.2g} before anything is learnt")
        while len(losses) <= MOST_STEPS and not losses[-1] <= ENOUGH * losses[0]:
            loop.train_step(len(losses) - 1, rows, Signs())
            losses.append(mean_loss(trainee, rows))
    trainee.reset()
    note = f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses) - 1} steps on {size} rows"
    return at_most(losses[-1] / losses[0], learnt, note)


def mean_loss(trainee: Trainee, rows: StepRows) -> float:
    """What the model says to some rows, without what a recipe adds to the loss."""
    import torch

    from llmkit.batch import to_device

    device = device_of(trainee.model)
    with torch.no_grad():
        losses = [float(trainee.plain_loss(trainee.model, to_device(batch, device))) for batch in rows.batches]
    return sum(losses) / rows.num_targets


@contextmanager
def still(model: Any) -> Iterator[None]:
    """Within the block nothing is left to chance: no dropout, no noise, no pictures that move."""
    from torch import nn

    model.eval()
    # On a GPU a recurrent layer gives gradients in training mode only.
    recurrent = [(module, module.dropout) for module in model.modules() if isinstance(module, nn.RNNBase)]
    for module, _ in recurrent:
        module.train()
        module.dropout = 0.0
    try:
        yield
    finally:
        for module, dropout in recurrent:
            module.dropout = dropout
