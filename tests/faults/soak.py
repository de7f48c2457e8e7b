"""The long tier of the fault tests: hundreds of faults in every trainer, and one table of what they cost.

    make soak
    python tests/faults/soak.py --quick      a sample of each, in a few minutes

A fault is survived when the same command, typed again, comes to the weights, the optimizer and the metrics of a run
that nothing disturbed, to the last bit, and leaves nothing behind. The exit code is 3 unless all are. Half an hour on
two cores; each fault that cost something is told at once.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forks import ENVIRONMENT, Forks
from trainers import Trainer, differences, litter, make_material, outcome, trainers_on, writers_on
from trials import Trial, Verdict, damage, fail, fail_writer, flip_all, kill, stop, strike

from llmkit.console import format_seconds, format_table, say, write
from llmkit.errors import CheckError

SHORT = {"steps": 3, "save_every": 1, "keep_last": 1}
BASELINES = ("mlp", "cnn", "rnn")
TWO = {"steps": 40, "save_every": 2, "sample_every": 0}
EXPENSIVE = ("pretrain", "lora", "mlp")
"""Trainers of which every operation is made to fail; the others differ from them in arithmetic alone."""

SECONDS_TO_END = 60.0
"""A job whose process was killed must have ended by then."""


@dataclass
class Row:
    """A line of the table."""

    name: str
    tried: int = 0
    lost: int = 0


@dataclass
class Soak:
    """What all trials share."""

    forks: Forks
    folder: Path
    chance: random.Random
    is_quick: bool
    rows: list[Row] = field(default_factory=list)
    known: dict[Any, tuple[dict[str, Any], float]] = field(default_factory=dict)
    begin: float = field(default_factory=time.monotonic)
    count: int = 0

    def add(self, name: str, verdicts: Iterable[Verdict]) -> None:
        """Go through some faults, and tell what they cost."""
        row = Row(name)
        self.rows.append(row)
        for verdict in verdicts:
            row.tried += 1
            if verdict.problem:
                row.lost += 1
                say(f"LOST: {name}: {verdict.fault}: {verdict.problem}")
        took = format_seconds(time.monotonic() - self.begin)
        say(f"[{took:>12}] {name}: {row.tried} tried, {row.lost} lost")

    def few(self, much: int, little: int) -> int:
        """How many of something."""
        return little if self.is_quick else much

    def some(self, numbers: range) -> range:
        """Every operation, or every twelfth."""
        return numbers[self.chance.randrange(min(12, len(numbers))) :: 12] if self.is_quick else numbers

    def place(self) -> Path:
        """A new folder."""
        self.count += 1
        return self.folder / f"trial-{self.count}"

    def trial(self, trainer: Trainer, **fields: Any) -> Trial:
        """A run to be disturbed; it is run undisturbed once."""
        key = (trainer.name, *fields.items())
        if key not in self.known:
            whole = Trial(self.forks, trainer, self.place(), {}, 0.0, fields)
            begin = time.monotonic()
            if whole.start():
                raise CheckError(f"{trainer.name} fails undisturbed: {whole.log.read_text()}", where="soak")
            self.known[key] = outcome(whole.run), time.monotonic() - begin
        return Trial(self.forks, trainer, self.place(), *self.known[key], fields)


def kill_all(soak: Soak, trainers: dict[str, Trainer]) -> None:
    """SIGKILL at random times, five to a run: 208 in all, as many for each trainer."""
    for number, trainer in enumerate(trainers.values()):
        total = soak.few(208, len(trainers))
        share = total // len(trainers) + (number < total % len(trainers))
        trial = soak.trial(trainer)
        rounds = [min(5, share - done) for done in range(0, share, 5)]
        verdicts = (verdict for count in rounds for verdict in kill(trial, soak.chance, count))
        soak.add(f"SIGKILL at any time: {trainer.name}", verdicts)


def stop_all(soak: Soak, trainers: dict[str, Trainer]) -> None:
    """SIGTERM, SIGINT and SIGUSR1 at random times."""
    for trainer in trainers.values():
        # So many steps that a run is not over before the last signal comes.
        trial = soak.trial(trainer, steps=300 if trainer.name in BASELINES else 30, save_every=0)
        verdicts = (verdict for _ in range(soak.few(3, 1)) for verdict in stop(trial, soak.chance, soak.few(6, 2)))
        soak.add(f"SIGTERM, SIGINT, SIGUSR1: {trainer.name}", verdicts)


def fail_all(soak: Soak, trainers: dict[str, Trainer]) -> None:
    """A crash, and a full disk, at every single operation on the disk of a whole run."""
    for name in EXPENSIVE:
        trial = soak.trial(trainers[name], **SHORT)
        _, trace, _ = strike(soak.forks, trial.run, trial.trainer.command(trial.run, **SHORT), mode="count")
        numbers = range(1, len(trace) + 1)
        for mode, what in (("crash", "crash"), ("full", "full disk")):
            verdicts = fail(soak.trial(trainers[name], **SHORT), mode, soak.some(numbers))
            soak.add(f"{what} at one of {len(trace)} operations: {name}", verdicts)


def fail_writers(soak: Soak, material: Path) -> None:
    """The same in every verb that writes a result."""
    made = soak.place()
    made.mkdir()
    for verb, command in writers_on(material, made, soak.forks).items():
        place = soak.place()
        place.mkdir()
        _, trace, _ = strike(soak.forks, place, [*command, "--output", place / "result"], mode="count")
        numbers = range(1, len(trace) + 1)
        for mode, what in (("crash", "crash"), ("full", "full disk")):
            verdicts = fail_writer(soak.forks, command, soak.place(), mode, soak.some(numbers))
            soak.add(f"{what} at one of {len(trace)} operations: {verb}", verdicts)


def damage_all(soak: Soak, trainers: dict[str, Trainer]) -> None:
    """Flipped bits, lost ends, pages and files."""
    for name in EXPENSIVE:
        trial = soak.trial(trainers[name])
        trial.start()
        checkpoint = max((trial.run / "checkpoints").glob("step-*"))
        soak.add(f"damage of a checkpoint: {name}", damage(checkpoint, soak.chance, soak.few(1000, 100)))
        if name == EXPENSIVE[0]:
            soak.add("each bit of a manifest flipped", flip_all(checkpoint / "manifest.json", checkpoint))


def kill_processes(soak: Soak, trainer: Trainer) -> Iterator[Verdict]:
    """SIGKILL of one of two processes under torchrun, at the start or between the steps."""
    whole = soak.place()
    whole.mkdir()
    job = Job(trainer.command(whole / "run", **TWO), whole / "log")
    if job.wait(300):
        raise CheckError(f"two processes fail undisturbed: {job.log.read_text()}", where="soak")
    expected = outcome(whole / "run")
    for _ in range(soak.few(4, 1)):
        place, killed, problem = soak.place(), 0, None
        place.mkdir()
        command, metrics = trainer.command(place / "run", **TWO), place / "run/metrics.jsonl"
        while killed < soak.few(5, 2) and not (place / "run/summary.json").exists():
            job = Job(command, place / f"log-{killed}")
            # Every third one anywhere from the first second on, the others between steps.
            killed += job.kill(soak.chance.randrange(2), metrics if killed % 3 else None, soak.chance.uniform(0, 2))
            if job.wait(SECONDS_TO_END) is None:
                problem = f"still there {SECONDS_TO_END:.0f} s after the kill: {job.log.read_text()[-2000:]}"
        job = Job(command, place / "log-last")
        if job.wait(300):
            problem = problem or job.log.read_text()[-2000:]
        else:
            changed = differences(expected, outcome(place / "run")) + litter(place / "run")
            problem = problem or (f"differs in {changed}" if changed else None)
        yield from [Verdict(f"{killed} kills of one of two processes", problem)] * killed


class Job:
    """Two processes of one run under torchrun."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*launcher, "-m", "llmkit", *command],
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def kill(self, rank: int, grows: Path | None, after: float) -> bool:
        """SIGKILL one process, `after` seconds behind its start, or behind the first growth of a file.

        False when it was at its end before.
        """
        size = grows.stat().st_size if grows and grows.exists() else 0
        while self.process.poll() is None and (
            rank not in self.ranks() or (grows and not (grows.exists() and grows.stat().st_size > size))
        ):
            time.sleep(0.02)
        time.sleep(after)
        found = self.ranks().get(rank)
        if found is not None:
            os.kill(found, signal.SIGKILL)
        return found is not None

    def ranks(self) -> dict[int, int]:
        """Rank -> process id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    words = (folder / "environ").read_bytes().split(b"\0")
                    found |= {int(w[5:]): int(folder.name) for w in words if w.startswith(b"RANK=")}
            except (OSError, IndexError):
                continue
        return found

    def wait(self, seconds: float) -> int | None:
        """The exit code; None, and the end of the job, when it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return None


def main() -> None:
    """Do all there is to do, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="A sample of each kind of fault.")
    parser.add_argument("--seed", type=int, default=None, help="Of the times and places; a new one each time.")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    say(f"seed {seed}")
    with tempfile.TemporaryDirectory() as name, Forks() as forks:
        material = Path(name) / "material"
        material.mkdir()
        make_material(material, forks)
        trainers = trainers_on(material)
        soak = Soak(forks, Path(name), random.Random(seed), options.quick)
        kill_all(soak, trainers)
        stop_all(soak, trainers)
        fail_all(soak, trainers)
        fail_writers(soak, material)
        damage_all(soak, trainers)
        soak.add("SIGKILL of one of two processes: pretrain", kill_processes(soak, trainers["pretrain"]))
    tell(soak)


def tell(soak: Soak) -> None:
    """The table; the exit code is 3 when a fault was not survived, or a kind of fault never tried."""
    total = Row("all", sum(row.tried for row in soak.rows), sum(row.lost for row in soak.rows))
    lines = [[row.name, f"{row.tried:,}", f"{row.tried - row.lost:,}", row.lost] for row in [*soak.rows, total]]
    write(format_table(["fault", "tried", "survived", "lost"], lines))
    say(f"in {format_seconds(time.monotonic() - soak.begin)}")
    if total.lost or not all(row.tried for row in soak.rows):
        sys.exit(CheckError.exit_code)


if __name__ == "__main__":
    main()
