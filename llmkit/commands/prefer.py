"""Task prefer: pairs of answers as rows, the reference that DPO holds the model against, and what validation tells."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

from llmkit.console import Progress, say, warn

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.commands.tuning import Base, Tuning
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.training.run import Run

REFERENCE = "reference-{name}.npy"
"""Log-likelihoods of all answers under the model as it was, kept in the run."""


def gather_pairs(settings: FinetuneRecipe, base: Base) -> Tuning:
    """Pairs as rows, and the model with what is trained on them."""
    from llmkit.commands.answers import choose_questions, questions_of
    from llmkit.commands.tuning import Tuning, attach, keepers, longest_row
    from llmkit.data.dialogue import show_row
    from llmkit.data.dialogue_set import tell
    from llmkit.data.dialogue_source import check_meant, read_pair_sets
    from llmkit.data.preferences import PairRows, encode_pairs
    from llmkit.models.preference import PreferenceLoss

    check_meant(settings.data, ("paths",), "prefer")
    train, validation, shared, num_same = read_pair_sets(settings.data)
    limit = longest_row(settings, base.model)
    encode = partial(encode_pairs, tokenizer=base.tokenizer, max_length=limit, overlong=settings.data.overlong)
    pairs, account = encode(train, name="train")
    account.add_held_out(shared)
    accounts, held_out = [account], None
    if validation:
        held_pairs, held_account = encode(validation, name="validation")
        held_account.num_same_questions = num_same
        accounts.append(held_account)
        held_out = PairRows(held_pairs, is_flat=base.is_flat)
    else:
        warn("no pair is held out: whether the model prefers more than what it was shown will not be seen")
    tell(accounts)
    rows = PairRows(pairs, is_flat=base.is_flat)
    model, trained_tokens = attach(settings, base, rows)
    section = settings.preference
    openings = [pair.dialogues[0] for pair in validation or train]
    return Tuning(
        model=model,
        tokenizer=base.tokenizer,
        train=rows,
        content_hash=rows.content_hash,
        loss_sum=PreferenceLoss(section.loss, section.beta),
        validate=None if held_out is None else Validation(settings, model, held_out),
        **keepers(settings, model, base.tokenizer),
        accounts=accounts,
        num_targets=len(rows),
        first_row="\n".join(show_row(ids.tolist(), t.tolist(), base.tokenizer) for ids, t in rows.documents[:2]),
        trained_tokens=trained_tokens,
        questions=choose_questions(settings, openings, base.tokenizer, longest=limit // 2),
        held_out_questions=questions_of(
            openings if validation else (), base.tokenizer, longest=limit // 2, count=settings.end_check
        ),
    )


class Validation:
    """Loss, rewards and accuracy over held-out pairs."""

    def __init__(self, settings: FinetuneRecipe, model: Any, rows: Any) -> None:
        self.settings = settings
        self.model = model
        self.rows = rows

    def __call__(self) -> dict[str, float]:
        """In eval mode, on this process's share; the sums are those of all processes."""
        from llmkit.batch import count_targets, to_device
        from llmkit.evaluation.held_out import share_of_batches
        from llmkit.evaluation.perplexity import sum_over_processes
        from llmkit.models.compile import uncompiled
        from llmkit.models.preference import PreferenceLoss
        from llmkit.training.step import rows_per_forward, tokens_per_forward

        config, device = self.settings.train, self.model.device
        measured = PreferenceLoss(self.settings.preference.loss, self.settings.preference.beta)
        loss, count = 0.0, 0
        with uncompiled(self.model):
            for batch in share_of_batches(self.rows, rows_per_forward(config), tokens_per_forward(config, device)):
                loss += float(measured(self.model, to_device(batch, device)))
                count += count_targets(batch)
        sums = {"loss": loss, **measured.take_measures()}
        total = sum_over_processes(count, device)
        return {name: sum_over_processes(value, device) / total for name, value in sums.items()}


def note_reference(settings: FinetuneRecipe, material: Tuning, run: Run, accelerator: Accelerator) -> None:
    """Where no adapter can be switched off: measure all answers under the model as it is, once, and keep the numbers.

    So it is for DPO on weights of the model itself, and on an adapter that is trained on.
    """
    is_fresh_adapter = settings.method in ("lora", "qlora") and settings.model.adapter == "merge"
    if settings.task != "prefer" or settings.preference.loss != "dpo" or is_fresh_adapter:
        return
    from llmkit.training.job import on_main_process

    sets: dict[str, Any] = {"train": material.train}
    if isinstance(material.validate, Validation):
        sets["validation"] = material.validate.rows
    model = material.model.to(accelerator.device)
    for name, rows in sets.items():
        path = run.folder / REFERENCE.format(name=name)
        with accelerator.autocast():
            on_main_process(accelerator, partial(keep_reference, settings, model, rows, path))
        rows.reference = load_reference(path)


def keep_reference(settings: FinetuneRecipe, model: Any, rows: Any, path: Any) -> None:
    """Log-likelihoods (N, 2) of all answers, as a file of numbers; one that is there stays."""
    if path.exists():
        return
    import numpy as np
    import torch

    from llmkit.batch import batches_by_length, to_device
    from llmkit.files import write_file
    from llmkit.models.preference import answer_log_likelihoods, evaluated
    from llmkit.training.disk import retrying
    from llmkit.training.step import rows_per_forward, tokens_per_forward

    config = settings.train
    tokens = tokens_per_forward(config, model.device)
    found = np.zeros((len(rows), 2), dtype=np.float32)
    with torch.no_grad(), evaluated(model), Progress("reference", total=len(rows), unit="pairs") as progress:
        for part in batches_by_length(rows.lengths, tokens=tokens, rows=rows_per_forward(config)):
            batch = to_device(rows.batch(part), model.device)
            found[part] = answer_log_likelihoods(model, batch).log_likelihoods.view(-1, 2).cpu().numpy()
            progress.update(len(part))
    file = io.BytesIO()
    np.save(file, found)
    retrying(lambda: write_file(path, file.getvalue()), path)
    say(f"{path}: what the model says to {len(rows):,} pairs before it is tuned")


def load_reference(path: Any) -> Any:
    """The numbers of `keep_reference`, (N, 2) float32."""
    import numpy as np
    import torch

    return torch.from_numpy(np.load(path, allow_pickle=False))
