"""The command `llmkit pretrain`, with what it does beside the steps timed: lines of metrics, the bar, waiting for rows.

Lines and the bar are left out in every other step, so that steps with and without them alternate in one process.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from statistics import median

from setting import WARM_UP, Clock, report
from time_llmkit import run_pretrain


class Watch:
    """Counts the seconds of each thing."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: Counter[str] = Counter()
        self.ends: list[float] = []

    def begin(self) -> None:
        """Put the stop watch into the loop."""
        from llmkit.console import Progress
        from llmkit.training.feed import Feed
        from llmkit.training.run import Run

        log, update, take = Run.log, Progress.update, Feed.take

        def timed(name: str, function, *arguments, **options):
            begin = time.perf_counter()
            result = function(*arguments, **options)
            if len(self.ends) >= WARM_UP:
                self.seconds[name] += time.perf_counter() - begin
            return result

        def log_timed(run, values) -> None:
            if "loss" not in values:
                log(run, values)
                return
            if values["step"] % 2 == 0:
                timed("lines", log, run, values)
            self.tick()

        def update_timed(bar, count=1, **options) -> None:
            if (bar.done + count) % 2 == 0:
                timed("bar", update, bar, count, **options)
            else:
                bar.done += count

        Run.log, Progress.update = log_timed, update_timed
        Feed.take = lambda feed, step: timed("rows", take, feed, step)

    def tick(self) -> None:
        """A step has ended; after the last one, tell."""
        if not self.ends:
            self.first_step_seconds = time.time() - self.clock.begun
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARM_UP + self.clock.steps:
            seconds = [end - begin for begin, end in pairwise(self.ends)]
            # The first of the differences is the second step, an even one.
            told, untold = ([s for i, s in enumerate(seconds) if i >= WARM_UP - 1 and i % 2 == odd] for odd in (0, 1))
            report(
                step_seconds=median(seconds[WARM_UP - 1 :]),
                told_seconds=median(told),
                untold_seconds=median(untold),
                lines_seconds=self.seconds["lines"] / len(told),
                bar_seconds=self.seconds["bar"] / len(told),
                rows_seconds=self.seconds["rows"] / self.clock.steps,
                first_step_seconds=self.first_step_seconds,
            )


clock = Clock.from_arguments()
run_pretrain(clock, Watch(clock).begin)
