"""Faults, one after another, and what became of each: shared by the tests, which do some, and soak, which does many."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from failpoints import CRASHED, STRUCK, read_trace
from forks import Forks
from trainers import Trainer, differences, litter, outcome, steps_of

from llmkit.training.checkpoint import find_damage

PAGE = 4096
STOPPED = 75
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


@dataclass(frozen=True)
class Verdict:
    """A fault, and what it has cost: nothing, or `problem`."""

    fault: str
    problem: str | None = None


@dataclass
class Trial:
    """A run that is disturbed, and what it must come to."""

    forks: Forks
    trainer: Trainer
    folder: Path
    expected: dict[str, Any]
    seconds: float
    """How long the run takes when nothing disturbs it."""
    fields: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run, self.log = self.folder / "run", self.folder / "log"

    def start(self, fault: dict[str, Any] | None = None) -> int:
        """Run the command, with a fault: the exit code."""
        return int(self.forks.run(*self.trainer.command(self.run, **self.fields), log=self.log, fault=fault)["code"])

    def find_loss(self) -> str | None:
        """Run the command to its end, undisturbed: what is not as it must be."""
        code = self.start()
        if code:
            return f"exit code {code}: {self.log.read_text()[-2000:]}"
        changed = differences(self.expected, outcome(self.run))
        left = litter(self.run)
        shutil.rmtree(self.run)
        return f"differs in {changed}" if changed else f"left behind {left}" if left else None


def kill(trial: Trial, chance: random.Random, count: int) -> Iterator[Verdict]:
    """Kill a run so many times, every other time inside a save, and let it come to its end."""
    done = 0
    while done < count:
        is_save = done % 2 == 0
        fault = {"signal": signal.SIGKILL, "after": chance.uniform(0, 0.02 if is_save else trial.seconds)}
        if is_save:
            fault["sight"] = str(trial.run / "checkpoints/.step-*")
        done += trial.start(fault) == -signal.SIGKILL
        if (trial.run / "summary.json").exists():  # it was faster: kill the next one
            problem = trial.find_loss()
            if problem:
                yield Verdict("a kill at the end", problem)
    problem = trial.find_loss()
    yield from [Verdict(f"{done} kills of {trial.trainer.name}", problem)] * count


def stop(trial: Trial, chance: random.Random, count: int) -> Iterator[Verdict]:
    """Send signals while it trains: it must stop with a checkpoint and exit code 75, or have been at its end."""
    codes = []
    for number in range(count):
        kind = SIGNALS[number % len(SIGNALS)]
        fault = {
            "signal": kind,
            "after": chance.uniform(0, trial.seconds / 20),
            "grows": str(trial.run / "metrics.jsonl"),
        }
        codes.append(trial.start(fault))
        newest = steps_of(trial.run)[-1] if codes[-1] in (STOPPED, 0) else None
        told = f"stopped after step {newest} with a checkpoint"
        if codes[-1] == STOPPED and told not in trial.log.read_text():
            yield Verdict(kind.name, f"not told: {told}")
    wrong = [code for code in codes if code not in (STOPPED, 0)]
    problem = f"exit codes {wrong}: {trial.log.read_text()[-2000:]}" if wrong else trial.find_loss()
    yield from [Verdict(f"signals, exit codes {codes}", problem)] * codes.count(STOPPED)


def strike(
    forks: Forks, folder: Path, arguments: Iterable[object], *, mode: str, number: int | None = None, **others: Any
) -> tuple[int, list[dict[str, Any]], str]:
    """Run something with one failpoint below `folder`.

    Returns:
        The exit code, the operation that failed (all operations where no `number` is given), and what was said.
    """
    log, trace = folder.with_name(f"{folder.name}.log"), folder.with_name(f"{folder.name}.trace")
    for path in (log, trace):
        path.unlink(missing_ok=True)
    point = {"folder": str(folder), "trace": str(trace), "mode": mode, "number": number}
    found = forks.run(*arguments, log=log, fault={"failpoint": point, "waits": [0, 0]}, **others)
    lines = [line for line in read_trace(trace) if number is None or line[STRUCK]]
    return int(found["code"]), lines, log.read_text()


def fail(trial: Trial, mode: str, numbers: Iterable[int]) -> Iterator[Verdict]:
    """Let each of these operations of a run fail, and the run go on."""
    command = trial.trainer.command(trial.run, **trial.fields)
    for number in numbers:
        code, struck, said = strike(trial.forks, trial.run, command, mode=mode, number=number)
        problem = judge(mode, code, struck, said)
        problem = problem or (wholesome(trial.run) if trial.run.exists() else None) or trial.find_loss()
        shutil.rmtree(trial.run, ignore_errors=True)
        yield Verdict(f"{mode} at {number}: {struck}", problem)


def judge(mode: str, code: int, struck: list[dict[str, Any]], said: str) -> str | None:
    """Whether a program ended as it must where one of its operations failed; None when it did."""
    if len(struck) != 1:
        return "the operation was not reached"
    if mode in ("crash", "power"):
        return None if code == CRASHED else f"exit code {code}: {said}"
    if code not in (0, 2) or "Traceback" in said or (code == 2 and "No space left" not in said):
        return f"exit code {code}: {said}"
    return None


def wholesome(run: Path) -> str | None:
    """What of a run has its final name and is not whole."""
    try:
        steps_of(run)
        for path in run.glob("*.json"):
            json.loads(path.read_text())
    except (AssertionError, ValueError) as error:
        return f"half-written: {error}"
    names = {path.name for path in (run / "model").glob("*")}
    has_weights = any(name.endswith("model.safetensors") for name in names)
    return f"half-written: {names}" if names and not has_weights else None


def fail_writer(
    forks: Forks, command: Iterable[object], folder: Path, mode: str, numbers: Iterable[int]
) -> Iterator[Verdict]:
    """Let each of these operations of a verb that writes one result fail: all of it must be there, or nothing."""
    folder.mkdir(parents=True)
    whole, command = folder / "whole", list(command)

    def write(place: Path, mode: str, number: int | None = None) -> tuple[int, list[dict[str, Any]], str]:
        place.mkdir(exist_ok=True)
        return strike(forks, place, [*command, "--output", place / "result"], mode=mode, number=number)

    write(whole, "count")
    for number in numbers:
        place = folder / str(number)
        code, struck, said = write(place, mode, number)
        found = sizes(place / "result")
        problem = judge(mode, code, struck, said)
        if found not in ({}, sizes(whole / "result")):
            problem = f"half of it is there: {found}"
        elif mode == "full" and (left := [name for name in litter(place) if not name.startswith(".unfinished")]):
            problem = f"left behind {left}"  # answers that an evaluation has got are kept for the same command
        elif number % 4 == 0 and not found:
            again = write(place, "count")[0], sizes(place / "result"), litter(place)
            problem = problem or (None if again == (0, sizes(whole / "result"), []) else f"then: {again}")
        yield Verdict(f"{mode} at {number}: {struck}", problem)


def sizes(path: Path) -> dict[str, int]:
    """Name -> size of every file of a result; figures with times in them keep their length but for some digits."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(p.relative_to(path)): round(p.stat().st_size, -2) for p in files if p.exists()}


def flip(data: bytearray, chance: random.Random) -> bytearray:
    """One bit."""
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def cut(data: bytearray, chance: random.Random) -> bytearray:
    """The end is missing."""
    return data[: chance.randrange(len(data))]


def lose_page(data: bytearray, chance: random.Random) -> bytearray:
    """Zeros in the place of a page, as a lost write leaves them."""
    start = chance.randrange(len(data)) // PAGE * PAGE
    data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))
    return data


def lengthen(data: bytearray, chance: random.Random) -> bytearray:
    """Something behind the end."""
    return data + bytes([chance.randrange(256)])


def remove(data: bytearray, chance: random.Random) -> None:
    """No file at all."""


def damage(checkpoint: Path, chance: random.Random, count: int) -> Iterator[Verdict]:
    """Damage the files of a checkpoint in turn, and mend them: each damage must be found."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    for number in range(count):
        path, way = paths[number % len(paths)], chance.choice([flip, flip, cut, lose_page, lengthen, remove])
        original = path.read_bytes()
        damaged = way(bytearray(original), chance)
        if damaged == original:  # a page of zeros that was one before
            damaged = flip(damaged, chance)
        path.unlink() if damaged is None else path.write_bytes(damaged)
        found = find_damage(checkpoint)
        path.write_bytes(original)
        yield Verdict(f"{way.__name__} {path.name}", None if found else "not found")
    assert find_damage(checkpoint) is None


def flip_all(path: Path, checkpoint: Path) -> Iterator[Verdict]:
    """Flip every single bit of a file of a checkpoint, one at a time."""
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(path.read_bytes()):
            for flipped in [*(byte ^ (1 << bit) for bit in range(8)), byte]:
                file.seek(place)
                file.write(bytes([flipped]))
                is_found = find_damage(checkpoint) is not None
                if flipped != byte or is_found:
                    yield Verdict(f"byte {place}: {byte} -> {flipped}", None if is_found else "not found")
