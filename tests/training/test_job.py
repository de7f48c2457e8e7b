"""The start of a job."""

from __future__ import annotations

import pytest

from llmkit.errors import RunError
from llmkit.recipe.schema import TrainSection
from llmkit.training.job import start_job


@pytest.mark.parametrize("engine", ["deepspeed", "megatron_lm"])
def test_an_engine_that_would_want_another_loop_is_refused(engine, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine.upper()}", "true")
    with pytest.raises(RunError, match=f"{engine} is not served: jobs run with DDP or FSDP"):
        start_job(TrainSection())
