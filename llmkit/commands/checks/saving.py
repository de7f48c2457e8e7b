"""Checks of what lies on disk: saved models are the same when they are loaded, adapters belong to their base."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.checks.case import Case, CheckOutcome, Trainee, apart, at_most, device_of, not_applicable, worst

if TYPE_CHECKING:
    from torch import Tensor

SAVED_TOLERANCE = 1e-5
"""Of logits in fp32, as a share of the largest: they come from the same numbers in the same order."""
ADAPTER_TOLERANCE = 1e-5
MERGED_TOLERANCE = 1e-3
"""A merged weight is one sum where an adapter's are two."""


def check_files(case: Case) -> CheckOutcome:
    """Checkpoints, results and prepared data match their checksums, byte for byte."""
    from llmkit.commands.run_verify import check_path
    from llmkit.errors import LlmkitError

    if not case.folders:
        return not_applicable("nothing here carries checksums")
    checks = []
    for folder in case.folders:
        try:
            checks += list(check_path(folder))
        except LlmkitError as error:
            return CheckOutcome("fail", note=str(error))
    damaged = [check for check in checks if check.state == "damaged"]
    note = f"{len(checks)} folders, {sum(check.bytes for check in checks) / 1e6:.1f} MB"
    if damaged:
        note = f"{damaged[0].path}: {damaged[0].problem}"
    return at_most(float(len(damaged)), 0.0, note)


def check_saved(case: Case) -> CheckOutcome:
    """A model that was saved and loaded again gives the same logits."""
    if case.trainee is not None:
        return saved_trainee(case, case.trainee)
    assert case.open_saved is not None
    with tempfile.TemporaryDirectory() as name:
        save_answerer(case, Path(name))
        again = case.open_saved(Path(name))
    return at_most(apart(logits(case.answerer, case.texts), logits(again, case.texts)), SAVED_TOLERANCE, "logits")


def saved_trainee(case: Case, trainee: Trainee) -> CheckOutcome:
    """Moved off its start, saved, put back, loaded: by the run that goes on, and by whoever opens the folder."""
    trainee.reset()
    trainee.disturb()
    trainee.model.eval()
    before = outputs(trainee.model, trainee, case)
    with tempfile.TemporaryDirectory() as name:
        trainee.save(Path(name), None)
        trainee.reset()
        trainee.load(Path(name))
        off = [apart(before, outputs(trainee.model, trainee, case))]
        if case.open_saved is not None:
            off.append(apart(before, outputs(case.open_saved(Path(name)), trainee, case)))
    trainee.reset()
    return at_most(worst(off), SAVED_TOLERANCE, "logits" if trainee.is_language_model else "losses of single rows")


def save_answerer(case: Case, folder: Path) -> None:
    """Write the model that answers as every verb would."""
    from llmkit.models.causal_lm import save_causal_lm

    save_causal_lm(case.answerer, case.tokenizer, folder)


def outputs(model: Any, trainee: Trainee, case: Case) -> Tensor:
    """What a model says, as one row of numbers: logits, or the loss of each row where there are none."""
    import torch

    from llmkit.batch import to_device

    if trainee.is_language_model:
        return logits(model, case.texts)
    model.eval()
    rows = [to_device(trainee.rows.batch([number]), device_of(model)) for number in range(len(trainee.rows))]
    with torch.no_grad():
        return torch.stack([trainee.loss_sum(model, row) for row in rows]).cpu()


def logits(model: Any, texts: list[list[int]]) -> Tensor:
    """The logits of some texts at all their places, one after the other, (N,) float32."""
    import torch

    model.eval()
    rows = [torch.tensor([ids], device=device_of(model)) for ids in texts]
    with torch.no_grad():
        return torch.cat([model(input_ids=row).logits.float().flatten() for row in rows]).cpu()


def check_adapter_start(case: Case) -> CheckOutcome:
    """A new adapter changes nothing."""
    trainee = case.trainee
    if trainee is None or not trainee.has_adapter:
        return not_applicable("no new adapter is trained")
    if not trainee.is_language_model:
        return not_applicable("the head of a classifier is new as well")
    from llmkit.models.lora import adapter_off

    trainee.reset()
    with_adapter = logits(trainee.model, case.texts)
    with adapter_off(trainee.model):
        without = logits(trainee.model, case.texts)
    return at_most(apart(without, with_adapter), ADAPTER_TOLERANCE, "logits with it and without it")


def check_merged(case: Case) -> CheckOutcome:
    """An adapter that was worked into its model gives the logits that it gives attached."""
    from llmkit.models.lora import merge_lora

    trainee = case.trainee
    if trainee is not None and trainee.has_adapter and trainee.is_language_model:
        trainee.reset()
        trainee.disturb()
        model = trainee.model
    elif hasattr(case.answerer, "peft_config"):
        model = case.answerer
    else:
        return not_applicable("there is no adapter")
    attached = logits(model, case.texts)
    off = apart(attached, logits(merge_lora(copy.deepcopy(model)), case.texts))
    if trainee is not None:
        trainee.reset()
    return at_most(off, MERGED_TOLERANCE, "logits")
