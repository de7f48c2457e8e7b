"""Signs of life: every process of a job tells the others that it lives, and ends when one of them does not any more.

Each process has a thread that counts up a number in the job's store once a second, and reads the numbers of the others.
Who is killed breaks its connections, and the others learn of it at once; who hangs does not, and its number stands
still. In both cases the job ends, and says which process it was.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from llmkit.console import shout
from llmkit.errors import LlmkitError, RunError, StoppedError

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 120.0
"""A process that shows no sign of life for so long has died or hangs. LLMKIT_SILENCE_SECONDS says otherwise."""

GRACE_SECONDS = 10.0
"""How long a process has to notice by itself that another one is lost, before its watch ends it."""

DONE = "done"

BROKEN_TALK = (
    "gloo",
    "NCCL",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Timed out",
    "timed out",
    "socket",
)
"""What an error of the talk between processes says, besides its class."""

FIX = "see its own message, or the machine's (out of memory?); the same command goes on from the last checkpoint"

_watch: Watch | None = None


class Watch:
    """Beats for this process, listens to the others, and ends this process when one of them is lost."""

    def __init__(self, store: Any, rank: int, num_processes: int) -> None:
        self.store = store
        self.rank = rank
        self.others = [other for other in range(num_processes) if other != rank]
        self.silence_seconds = float(os.environ.get("LLMKIT_SILENCE_SECONDS", SILENCE_SECONDS))
        self.heard = {other: ("", time.monotonic()) for other in self.others}
        self.last_talk = time.monotonic()
        self.step = 0
        self.num_turns = 0
        self.last_word: str | None = None
        self.has_ended = threading.Event()
        # The one that judges never touches the store: it would wait for a process that keeps the store and hangs.
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.talk, self.judge)]
        for thread in self.threads:
            thread.start()

    def talk(self) -> None:
        """Beat and listen until this process ends."""
        count = 0
        while not self.has_ended.wait(BEAT_SECONDS):
            count += 1
            with suppress(RuntimeError):  # the store has gone with the process that kept it
                self.beat(count)
                self.listen()
                self.last_talk = time.monotonic()

    def judge(self) -> None:
        """End this process when another one is lost, and it does not notice by itself."""
        lost_since, last_round = None, time.monotonic()
        while not self.has_ended.wait(BEAT_SECONDS):
            now = time.monotonic()
            if now - last_round > 5 * BEAT_SECONDS:  # this process was asleep: what it has not heard says nothing
                self.heard = {other: (word, now) for other, (word, _) in self.heard.items()}
                self.last_talk = now
            last_round = now
            problem = self.find_lost(self.silence_seconds) if self.last_word is None else None
            lost_since = (lost_since or now) if problem else None
            if lost_since is not None and now - lost_since >= min(GRACE_SECONDS, self.silence_seconds):
                shout(f"error: {problem}\n  fix: {FIX}")
                # The main thread waits for a message that will never come: nothing else ends it.
                os._exit(LlmkitError.exit_code)

    def beat(self, count: int) -> None:
        """Say that this process lives, and at which step it is."""
        if self.last_word is None:
            self.store.set(f"beat/{self.rank}", f"{count} {self.step}")

    def listen(self) -> None:
        """Note which of the others have said something new."""
        now = time.monotonic()
        for other in self.others:
            key = f"beat/{other}"
            word = self.store.get(key).decode() if self.store.check([key]) else ""
            if word != self.heard[other][0]:
                self.heard[other] = (word, now)

    def find_lost(self, silence_seconds: float) -> str | None:
        """Which process has died or hangs, in words; None when all are well."""
        now = time.monotonic()
        if now - self.last_talk > silence_seconds:
            return "process 0, or the launcher, which keeps the processes together, has died or hangs: no sign of life"
        for other, (word, when) in self.heard.items():
            if word == DONE:
                continue
            if word.startswith("error"):
                return f"process {other} ended with an {word}"
            if now - when > silence_seconds:
                return f"process {other} has died or hangs: no sign of life for {now - when:.0f} s"
        return None

    def find_late(self) -> str | None:
        """Which process is steps behind this one, in words."""
        steps = {
            other: int(word.split()[1]) for other, (word, _) in self.heard.items() if " " in word and word[0] != "e"
        }
        late = [f"process {other} is at step {step}" for other, step in steps.items() if step < self.step]
        return f"{' and '.join(late)}, this one at step {self.step}" if late else None

    def wait_for(self, key: str) -> None:
        """Wait as long as it takes for another process to announce `key`; its silence ends this process."""
        pause = 0.01
        while not self.store.check([key]):
            time.sleep(pause)
            pause = min(0.5, 1.5 * pause)

    def leave(self, word: str) -> None:
        """The last word of this process."""
        if self.last_word is None:
            self.last_word = word
            with suppress(RuntimeError):  # nobody may be left to hear it
                self.store.set(f"beat/{self.rank}", word)

    def wait_for_others(self) -> None:
        """Wait until all others have left: the process that keeps the store must be the last."""
        while any(word != DONE and not word.startswith("error") for word, _ in self.heard.values()):
            time.sleep(0.05)
            self.listen()
            if self.find_lost(self.silence_seconds):
                return

    def end(self) -> None:
        """Stop beating."""
        self.leave("error: it ended early")
        self.has_ended.set()
        for thread in self.threads:
            thread.join(timeout=2.0)


def start_watch(rank: int, num_processes: int) -> None:
    """Watch over the processes of this job, once; alone, a process has nobody to watch."""
    global _watch
    if num_processes > 1 and _watch is None:
        _watch = Watch(PrefixStore("llmkit", _get_default_store()), rank, num_processes)
        atexit.register(_watch.end)


def note_step(step: int) -> None:
    """Let the others know where this process is."""
    if _watch is not None:
        _watch.step = step


def in_turn(action: Callable[[], None], *, is_main: bool) -> None:
    """Run `action` on the main process while the others wait for it, as long as it takes: no time is too long."""
    if _watch is None:
        if is_main:
            action()
        return
    _watch.num_turns += 1
    key = f"turn/{_watch.num_turns}"
    if is_main:
        action()
        _watch.store.set(key, "")
    else:
        _watch.wait_for(key)


@contextmanager
def watched() -> Iterator[None]:
    """Within the block, an error of the talk between processes names the process that was lost.

    Raises:
        RunError: A process has died, hangs, or is late, and this one cannot go on without it.
    """
    if _watch is None:
        yield
        return
    try:
        yield
    except StoppedError:
        leave_together(_watch)
        raise
    except BaseException as error:
        problem = name_the_lost(_watch, error) if is_broken_talk(error) else None
        _watch.leave(f"error: {type(error).__name__}: {error}")
        if problem is None:
            raise
        raise RunError(problem, where="the processes of the job", fix=FIX) from error
    leave_together(_watch)


def leave_together(watch: Watch) -> None:
    """Say that all is done; process 0 waits for the others, who may need it until then."""
    watch.leave(DONE)
    if watch.rank == 0:
        watch.wait_for_others()


def is_broken_talk(error: BaseException) -> bool:
    """Whether an error comes from the talk between processes."""
    return isinstance(error, RuntimeError) and any(sign in f"{type(error).__name__} {error}" for sign in BROKEN_TALK)


def name_the_lost(watch: Watch, error: BaseException) -> str:
    """Which process was lost, as soon as that can be told."""
    end = time.monotonic() + 5 * BEAT_SECONDS
    while time.monotonic() < end:
        with suppress(RuntimeError):
            watch.listen()
        problem = watch.find_lost(3 * BEAT_SECONDS)
        if problem is not None:
            return problem
        time.sleep(0.1)
    return watch.find_late() or f"the processes of this job have lost each other: {error}"
