"""What the name of a model leads to where it is no model folder: a run that has not ended, or the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from llmkit.errors import ModelError

FIX_SOURCE = "name a folder that `llmkit tokenizer train` wrote, a model folder, or a model of the hub (owner/name)"

SECONDS_TO_ANSWER = 10


def check_ended(folder: Path) -> None:
    """Raise for a run that has checkpoints and no model.

    Raises:
        ModelError: It names the newest checkpoint, which is a model folder too.
    """
    checkpoints = sorted((folder / "checkpoints").glob("step-*"))
    if checkpoints and not (folder / "model").exists():
        fix = f"go on with it by its own command, or name its newest checkpoint: {checkpoints[-1]}"
        raise ModelError("this run has not ended, so it has no model yet", where=str(folder), fix=fix)


def check_hub_name(source: str) -> None:
    """Raise unless what is no folder here may be a hub name, `owner/name`: nothing else is looked up there."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        message = "there is no such folder, and it is no hub name (owner/name)"
        raise ModelError(message, where=source, fix=FIX_SOURCE)


def check_hub_has(source: str) -> None:
    """Raise where the hub does not have this model or cannot be asked, unless it was fetched before.

    The libraries would ask for each of its files, again and again: two minutes for the mistyped name of a folder.
    """
    # Half a second, which only names of the hub cost.
    from huggingface_hub import HfApi, try_to_load_from_cache  # noqa: PLC0415

    check_hub_name(source)
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json")
    if any(isinstance(try_to_load_from_cache(source, name), str) for name in names):
        return
    try:
        HfApi().model_info(source, timeout=SECONDS_TO_ANSWER)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"there is no such folder here, nor can it be had from the hub ({reason})"
        raise ModelError(message, where=source, fix=FIX_SOURCE) from error
