"""What torch.compile does when a run begins, and how a run gets over a cache that was left half-written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import torch

from llmkit.console import warn
from llmkit.errors import RunError

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def with_whole_cache(action: Callable[[], None]) -> None:
    """Run `action`, which may compile; where that fails, once more with an empty cache.

    torch writes what it compiled straight to its final name: a process that was killed in that moment leaves a file
    with which every later run of the same model would fail.

    Raises:
        RunError: It fails with an empty cache too.
    """
    try:
        action()
    except Exception as error:
        if not is_compile_error(error):
            raise
        damaged = os.environ.get(CACHE_VARIABLE, "its default place")
        os.environ[CACHE_VARIABLE] = tempfile.mkdtemp(prefix="llmkit-compiled-")
        warn(f"torch.compile failed, perhaps for a damaged cache in {damaged}: trying again with an empty one")
        torch._dynamo.reset()
        try:
            action()
        except Exception as again:
            if not is_compile_error(again):
                raise
            reason = str(again).strip().splitlines()[0]
            raise RunError(
                f"torch.compile fails here: {reason}", where="train.compile", fix="add --set train.compile=false"
            ) from again


def is_compile_error(error: Exception) -> bool:
    """Whether torch's compiler raised it. Its classes are imported only once something was compiled."""
    return any(kind.__name__ in ("InductorError", "BackendCompilerFailed") for kind in type(error).__mro__)
