"""SIGTERM, SIGINT and SIGUSR1 ask for a checkpoint after the step in hand; a second Ctrl-C ends the program at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Within the block, a signal sets `name` instead of ending the program; a block around this one learns of it too.

    >>> with StopRequest() as stop:
    ...     stop.name is None
    True
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.name: str | None = None
        self.previous: dict[signal.Signals, Any] = {}

    @property
    def outer(self) -> StopRequest | None:
        """The block around this one: a ladder's around that of a run."""
        owners = (getattr(handler, "__self__", None) for handler in self.previous.values())
        return next((owner for owner in owners if isinstance(owner, StopRequest)), None)

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread set handlers; a test or a notebook may run elsewhere.
        if threading.current_thread() is threading.main_thread():
            self.previous = {s: signal.signal(s, self.handle) for s in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; let a second Ctrl-C through."""
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.note(signal.Signals(number).name)

    def note(self, name: str) -> None:
        """Ask for an end here and in the blocks around: this one may be over before it looks."""
        self.name = name
        if self.outer is not None:
            self.outer.note(name)
