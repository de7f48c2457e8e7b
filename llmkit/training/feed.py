"""The rows of the next step are made in a thread while this one computes, so that the loop does not wait for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from statistics import median
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

STEPS_AHEAD = 2
"""How many steps' rows may lie ready or be in the making."""

NOTICEABLE_SHARE = 0.003
"""Of a step: what takes less is made when it is asked for."""

SHORT_SECONDS = 0.02
"""In shorter steps two threads that take turns would cost more than they save."""

NUM_JUDGED = 25
"""Steps by whose median that is judged: a busy machine makes any of them slow."""


class Made(NamedTuple, Generic[T]):
    """What was made for a step, or the error that came of it."""

    step: int
    value: T | None
    error: BaseException | None


class Feed(Generic[T]):
    """Makes what the steps from `first` on need, one after the other, and hands it out in that order.

    As soon as the loop is seen to wait for it, or from the start with `is_ahead`, all is made ahead in a thread. What
    the first step needs may be made already. An error of the thread is raised by `take`, at the step it belongs to.

    >>> with Feed(lambda step: step * step, first=3, end=5) as feed:
    ...     [feed.take(3), feed.take(4)]
    [9, 16]
    """

    def __init__(
        self,
        make: Callable[[int], T],
        *,
        first: int,
        end: int | None = None,
        ready: T | None = None,
        is_ahead: bool = False,
    ) -> None:
        self.make = make
        self.first = first
        self.end = end
        self.ready = ready
        self.is_ahead = is_ahead
        self.waited_seconds = 0.0
        self.num_taken = 0
        self.makes: deque[float] = deque(maxlen=NUM_JUDGED)
        self.steps: deque[float] = deque(maxlen=NUM_JUDGED)
        self.thread: threading.Thread | None = None
        self.queue: SimpleQueue[Made[T]] = SimpleQueue()
        self.room = threading.Semaphore(STEPS_AHEAD)
        self.is_closed = False

    def __enter__(self) -> Feed[T]:
        self.last_asked = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_closed = True
        self.room.release()
        if self.thread is not None:
            # A thread that waits for a slow source must not hold up the end: it ends with the process.
            self.thread.join(timeout=1.0)

    def take(self, step: int) -> T:
        """What the next step needs: `first`, and so on without a gap."""
        assert step == self.first + self.num_taken, f"step {step} is asked for out of turn"
        begin = time.perf_counter()
        self.steps.append(begin - self.last_asked)
        self.last_asked = begin
        value = self.take_now(step) if self.thread is None else self.take_ready()
        self.makes.append(time.perf_counter() - begin)
        self.waited_seconds += self.makes[-1]
        self.num_taken += 1
        if self.thread is None and (self.is_ahead or self.is_slow()):
            self.thread = threading.Thread(target=self.work, args=(step + 1,), name="rows", daemon=True)
            self.thread.start()
        return value

    def take_now(self, step: int) -> T:
        """Make it here."""
        ready, self.ready = self.ready, None
        return self.make(step) if ready is None else ready

    def take_ready(self) -> T:
        """Take what the thread has made."""
        made = self.queue.get()
        if made.error is not None:
            raise made.error
        self.room.release()
        return made.value  # type: ignore[return-value]

    def is_slow(self) -> bool:
        """Whether the loop would gain by not waiting; judged now and then, as medians cost what a small step feels."""
        if self.num_taken % NUM_JUDGED:
            return False
        step = median(self.steps)
        return step > SHORT_SECONDS and median(self.makes) > NOTICEABLE_SHARE * step

    def work(self, step: int) -> None:
        """Make what one step after the other needs, while there is room."""
        while self.end is None or step < self.end:
            self.room.acquire()
            if self.is_closed:
                return
            try:
                self.queue.put(Made(step, self.make(step), None))
            except BaseException as error:
                self.queue.put(Made(step, None, error))
                return
            step += 1
