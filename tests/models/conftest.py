"""What tests of models share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def compiling(monkeypatch):
    """Graphs are traced and differentiated as ever; only the C++ that would take half a minute is left out."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda m, **o: compile_module(m, backend="aot_eager", **o))
    torch._dynamo.reset()
