"""The folder of a trained network: its weights, and all that is needed to answer new rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from llmkit.errors import ModelError
from llmkit.models.baselines.build import build_baseline
from llmkit.models.baselines.spec import BaselineSpec
from llmkit.recipe.schema import BaselineModel

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_baseline(
    model: nn.Module, folder: Path, *, section: BaselineModel, spec: BaselineSpec, data: Mapping[str, Any]
) -> None:
    """Write model.safetensors and config.json into `folder`: all that is needed to answer new rows.

    Args:
        model: The network.
        folder: An existing folder.
        section: What it was built from.
        spec: What it was built for.
        data: How rows become tensors and answers become names (JSON).
    """
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS
    )
    config = {"llmkit": "baseline", "model": section.model_dump(mode="json"), "spec": asdict(spec), "data": dict(data)}
    (folder / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_baseline(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A network from the folder that `save_baseline` wrote, in eval mode on the CPU, and its `data`.

    Raises:
        ModelError: The folder holds no baseline, or one that is not whole.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        section, stored = BaselineModel(**config["model"]), config["spec"]
        spec = BaselineSpec(**{**stored, "input_shape": tuple(stored["input_shape"])})
        data = dict(config["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"this folder holds no baseline ({CONFIG}: {error})",
            where=str(folder),
            fix="name the model folder of a baseline run",
        ) from error
    model = build_baseline(section, spec)
    load_weights(model, folder)
    return model.eval(), data


def load_weights(model: nn.Module, folder: Path) -> None:
    """Read the weights of `folder` into a network of the same shape."""
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ModelError(
            f"these weights do not fit or cannot be read: {reason}",
            where=str(folder / WEIGHTS),
            fix="train the baseline again",
        ) from error
