"""AdamW with states of 8 bits, from bitsandbytes, in a form that checkpoints can hold."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.optim import AdamW8bit as BitsAndBytesAdamW8bit

TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}
"""What the 256 codes stand for: the same for all parameters, so no part of what is saved."""


class AdamW8bit(BitsAndBytesAdamW8bit):  # type: ignore[misc]
    """Matrices have states of 8 bits; embeddings and all that is small keep 32, as the paper found stable."""

    def get_config(self, group_number: int, number: int, group: dict[str, Any]) -> dict[str, Any]:
        """How a parameter is treated."""
        config = super().get_config(group_number, number, group)
        return {**config, "optim_bits": 8 if group["name"] == "matrices" else 32}

    def state_dict(self) -> dict[str, Any]:
        """The state as plain tensors by name (bitsandbytes would nest them)."""
        whole = torch.optim.Optimizer.state_dict(self)
        states = {k: {n: v for n, v in state.items() if n not in TABLES} for k, state in whole["state"].items()}
        return {**whole, "state": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            state["step"] = int(state["step"])
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[name] = value.to(parameter.device)
            if state["state1"].dtype == torch.uint8:
                state.update({name: self.name2qmap[table].to(parameter.device) for name, table in TABLES.items()})
