"""What a model and its tokenizer must agree on: the size of the embeddings, and the tokens that end a text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from llmkit.batch import IGNORE_INDEX, Batch
from llmkit.errors import ModelError
from llmkit.losses import causal_lm_loss_sum
from llmkit.models.causal_lm import model_folder
from llmkit.models.config_files import ADAPTER_CONFIG, base_of_adapter
from llmkit.source import check_hub_name

HASHED_BYTES = 1 << 26
"""So much of a file's beginning and of its end goes into its hash."""


def fit_vocabulary(model: Any, tokenizer: Any, *, can_grow: bool) -> list[int]:
    """Give every token of the tokenizer a row in the model's embeddings; the ids of the rows that are new.

    A new row is the mean of the others: a token about which nothing is known yet.

    Raises:
        ModelError: The tokenizer has tokens that the model lacks, and `can_grow` is False: they do not belong together.
    """
    old, new = model.get_input_embeddings().weight.shape[0], len(tokenizer)
    if new <= old:
        return []
    if not can_grow:
        raise ModelError(
            f"the tokenizer has {new:,} tokens, the model only {old:,}",
            where=str(tokenizer.name_or_path) or None,
            fix="use the tokenizer that the model was trained with",
        )
    model.resize_token_embeddings(new, mean_resizing=False)
    matrices = {model.get_input_embeddings().weight, getattr(model.get_output_embeddings(), "weight", None)} - {None}
    with torch.no_grad():
        for matrix in matrices:
            matrix[old:] = matrix[:old].float().mean(dim=0).to(matrix.dtype)
    return list(range(old, new))


def set_stop_tokens(model: Any, ids: Collection[int]) -> None:
    """Note in the model's generation configuration that a text ends at these ids too, for whoever generates with it."""
    known = model.generation_config.eos_token_id
    known = [] if known is None else [known] if isinstance(known, int) else known
    both = sorted({*known, *ids})
    model.generation_config.eos_token_id = both[0] if len(both) == 1 else both


@torch.no_grad()
def knows_tokens(model: Any, batch: Batch, ids: Sequence[int]) -> bool:
    """Whether the model expects these tokens where they are targets more than blind chance would."""
    # Of pairs of answers, a batch has one target each; what the answers say stands beside it.
    targets = batch.get("answers", batch["targets"])
    wanted = torch.isin(targets, torch.tensor(list(ids)))
    if not wanted.any():
        return True
    only = {**batch, "targets": torch.where(wanted, targets, IGNORE_INDEX)}
    nats = float(causal_lm_loss_sum(model, only)) / int(wanted.sum())
    return nats < math.log(model.get_input_embeddings().weight.shape[0])


def content_hash(source: str) -> str:
    """A hash of a model folder's weights, configuration, tokenizer and template; of a hub model, of its revision.

    That of an adapter holds its model's.

    Of a large file the size, the beginning and the end are enough to know it by.
    """
    folder = Path(model_folder(source))
    digest = hashlib.sha256(b"" if folder.is_dir() else f"{source} {revision_of(source)}".encode())
    names = ("*.safetensors", "*config.json", "tokenizer.json", "*.jinja")
    for path in (path for name in names for path in sorted(folder.glob(name))):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(HASHED_BYTES))
            file.seek(max(0, size - HASHED_BYTES))
            digest.update(file.read(HASHED_BYTES))
    if (folder / ADAPTER_CONFIG).is_file() and (base := base_of_adapter(folder)):
        digest.update(content_hash(base).encode())
    return digest.hexdigest()


def revision_of(name: str) -> str | None:
    """The commit of a hub model that a load of it takes; None where there is no such model, as loading it will tell.

    Raises:
        ModelError: It can be none: what is not asked of the hub is not waited for.
    """
    check_hub_name(name)
    try:
        commit: str | None = extract_commit_hash(cached_file(name, CONFIG_NAME), None)
    except OSError:
        return None
    return commit
