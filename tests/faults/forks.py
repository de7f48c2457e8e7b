"""A parent process that has imported all of llmkit, and forks a child for each trial: no trial waits for torch.

Started as a program it reads one JSON request per line and answers each with a line; `Forks` is the other end.

What runs in a child is the command line as it is typed, with one fault: a SIGKILL or another signal from outside after
so many seconds, or behind the first sight of a save; or a failpoint inside (see `failpoints`).
"""

from __future__ import annotations

import gc
import glob
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import failpoints
import saving

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GLOO_SOCKET_IFNAME": "lo",
}

PRELOADED = ("transformers.models.llama.modeling_llama", "peft.tuners.lora.model", "torch.distributed.checkpoint")
"""What would else be imported when a model is built."""

GLANCE = 0.001
"""Seconds between two looks at the child and its folder."""


class Forks:
    """The program in this file, to be asked for trials one after another."""

    def __enter__(self) -> Forks:
        # Newer Pythons warn of forks beside threads; those of the libraries stand still here.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", __file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, **pipes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()  # it has nothing to put in order, and torch takes seconds to leave
        self.process.communicate()

    def run(self, *arguments: object, log: Path, fault: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
        """Run `llmkit ARGUMENTS` in a child: {"code", "seconds", "was_struck"}; what it said is added to `log`.

        With `call`, the function of this name in `saving` is run with these arguments in its place.

        A child that a signal ended has the code -SIGNAL, as in `subprocess`.
        """
        request = {"arguments": [str(a) for a in arguments], "log": str(log), "fault": fault, **others}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def serve() -> None:
    """Answer requests until there are no more."""
    import llmkit

    modules = [module.name for module in pkgutil.walk_packages(llmkit.__path__, "llmkit.")]
    for name in [*modules, *PRELOADED]:
        with suppress(ModuleNotFoundError):  # of an extra that is not installed
            if name != "llmkit.__main__":
                importlib.import_module(name)
    from llmkit import device

    # Only shown, and measured anew it would take longer than the rest of most trials.
    device.measure_matrix_rate = lambda device, dtype: 1e10
    gc.freeze()  # else the first collection in each child would copy all that is shared with this process
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run_trial(json.loads(line))) + "\n")
        sys.stdout.flush()


def run_trial(request: dict[str, Any]) -> dict[str, Any]:
    """Fork, watch, strike, wait."""
    fault = request["fault"] or {}
    strike, was_struck, begin = Strike(fault), False, time.monotonic()
    pid = os.fork()
    if pid == 0:
        be_child(request)
    limit = begin + request.get("limit_seconds", 120)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return {
                "code": os.waitstatus_to_exitcode(status),
                "seconds": time.monotonic() - begin,
                "was_struck": was_struck,
            }
        now = time.monotonic()
        if not was_struck and "signal" in fault and strike.is_due(now):
            os.kill(pid, fault["signal"])
            was_struck = True
        if now > limit:
            os.kill(pid, signal.SIGKILL)
        time.sleep(GLANCE)


class Strike:
    """When a signal is sent: `after` seconds behind the start, or behind the first sight of something.

    That is a file that fits the glob `sight` and was not there before, or `grows`, which has become longer.
    """

    def __init__(self, fault: dict[str, Any]) -> None:
        self.after, self.sight, self.grows = fault.get("after", 0.0), fault.get("sight"), fault.get("grows")
        self.before = self.look()
        self.begin = None if self.sight or self.grows else time.monotonic()

    def look(self) -> int | set[str]:
        """What there is to see."""
        if self.grows:
            return os.path.getsize(self.grows) if os.path.exists(self.grows) else 0
        return set(glob.glob(self.sight)) if self.sight else set()

    def is_due(self, now: float) -> bool:
        """Whether it is time."""
        if self.begin is None:
            found = self.look()
            is_seen = found > self.before if self.grows else bool(found - self.before)
            self.begin = now if is_seen else None
        return self.begin is not None and now - self.begin >= self.after


def be_child(request: dict[str, Any]) -> None:
    """Run the command line in this process, which ends with it."""
    code = 1
    try:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, descriptor)
        os.environ.update(request.get("environment", {}))
        code = run_command(request)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(bool(ending.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def run_command(request: dict[str, Any]) -> int:
    """The command line, or the function that the request names, with what is to go wrong inside."""
    import llmkit.cli
    from llmkit.training import disk

    fault = request["fault"] or {}
    disk.WAITS = tuple(fault.get("waits", disk.WAITS))
    if "largest_file" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["largest_file"], fault["largest_file"]))
    if "failpoint" in fault:
        failpoints.arm(**fault["failpoint"])
    if "call" in request:
        getattr(saving, request["call"])(*request["arguments"])
        return 0
    sys.argv = ["llmkit", *request["arguments"]]
    llmkit.cli.main()
    return 0


if __name__ == "__main__":
    serve()
