"""The command `llmkit pretrain` with nothing set but the sizes of the model and of the batch."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable

from setting import BATCH_SIZE, HIDDEN_SIZE, INTERMEDIATE_SIZE, LONG_RUN, NUM_HEADS, NUM_LAYERS, SEQ_LEN, Clock

from llmkit import cli

SIZES = {
    "model.num_layers": NUM_LAYERS,
    "model.hidden_size": HIDDEN_SIZE,
    "model.num_heads": NUM_HEADS,
    "model.intermediate_size": INTERMEDIATE_SIZE,
    "train.batch_size": BATCH_SIZE,
    "train.seq_len": SEQ_LEN,
    "train.steps": LONG_RUN,
}


def run_pretrain(clock: Clock, watch: Callable[[], None]) -> None:
    """Run the command as it would be typed; `watch` is called when torch may be imported, before the command's work."""
    app = cli.app

    def run_watched() -> None:
        # Only now: the command line sets what must be set before torch loads.
        watch()
        app()

    cli.app = run_watched
    settings = SIZES | dict(flag.split("=", 1) for flag in clock.flags)
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    sys.argv = ["llmkit", "pretrain", "--data", str(clock.data), "--output", tempfile.mkdtemp(), *words]
    cli.main()


def main() -> None:
    """The clock ticks when a step's line of metrics is written."""
    clock = Clock.from_arguments()

    def watch() -> None:
        from llmkit.training.run import Run

        log = Run.log

        def log_timed(run, values) -> None:
            log(run, values)
            if "loss" in values:
                clock.tick()

        Run.log = log_timed

    run_pretrain(clock, watch)


if __name__ == "__main__":
    main()
