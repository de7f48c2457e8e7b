"""A save that ends at any one of its operations, and a disk that is full from there on, cost nothing that was saved."""

from __future__ import annotations

import shutil

import pytest
from failpoints import CRASHED
from trainers import litter, steps_in
from trials import fail, strike

PARTS = 4
"""The failpoints of one run are dealt out to so many tests, which may run side by side."""

RUN = {"steps": 2, "save_every": 1, "keep_last": 1}


@pytest.fixture(scope="module")
def before(forks, material, tmp_path_factory):
    """A folder with the checkpoint of step 1."""
    folder = tmp_path_factory.mktemp("saving")
    found = forks.run(folder / "before", material / "tokenizer", 1, log=folder / "log", call="save")
    assert found["code"] == 0, (folder / "log").read_text()
    return folder / "before"


@pytest.mark.parametrize("mode", ["power", "full", "once"])
def test_a_save_that_fails_at_any_operation_leaves_a_whole_checkpoint(mode, forks, before, material, tmp_path):
    folder = tmp_path / "checkpoints"

    def save(step, mode, number=None):
        return strike(forks, folder, [folder, material / "tokenizer", step], mode=mode, number=number, call="save")

    shutil.copytree(before, folder)
    _, trace, _ = save(2, "count")
    kinds = [line["kind"] for line in trace]
    # Nine files of a model, its optimizer and average, state and manifest: each is made, written and flushed.
    assert kinds.count("flush") >= 12
    assert {"make", "create", "write", "flush", "rename", "remove"} == set(kinds)
    for number in range(1, len(trace) + 1):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        code, struck, said = save(2, mode, number)
        assert len(struck) == 1, f"operation {number} was not reached"
        steps = steps_in(folder)
        assert steps in ([1], [1, 2], [2]), struck
        if mode == "power":
            assert code == CRASHED
        elif mode == "once":
            assert (code, steps[-1]) == (0, 2), said
        else:
            assert code == (0 if 2 in steps else 1), said
            assert "No space left" in said
        if number % 4 == 0:
            assert save(3, "count")[0] == 0
            assert steps_in(folder) == [3]
            assert litter(folder) == []


def test_a_save_flushes_before_it_renames_and_deletes_last_of_all(forks, before, material, tmp_path):
    folder = shutil.copytree(before, tmp_path / "checkpoints")
    arguments = [folder, material / "tokenizer", 2]
    _, trace, _ = strike(forks, folder, arguments, mode="count", call="save")
    steps = [(line["kind"], line["path"].removeprefix(f"{folder}/")) for line in trace]
    renamed = steps.index(("rename", "step-00000002"))
    aside = next(path for kind, path in steps if kind == "make")
    written = {path for kind, path in steps[:renamed] if kind == "write"}
    flushed = {path for kind, path in steps[:renamed] if kind == "flush"}
    assert written < flushed
    assert flushed - written == {aside}
    assert steps[renamed + 1] == ("flush", str(folder))
    assert {kind for kind, _ in steps[renamed + 2 :]} == {"rename", "remove"}
    assert not {"rename", "remove"} & {kind for kind, _ in steps[:renamed]}


@pytest.fixture(scope="module")
def operations(forks, trainers, tmp_path_factory):
    """How many operations a whole run makes."""
    folder = tmp_path_factory.mktemp("counted") / "run"
    code, trace, said = strike(forks, folder, trainers["mlp"].command(folder, **RUN), mode="count")
    assert code == 0, said
    return len(trace)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("mode", ["crash", "full"])
def test_a_run_that_fails_at_any_operation_goes_on_to_the_same_end(mode, part, operations, disturbed):
    assert operations > 90
    numbers = range(1 + part, operations + 1, PARTS)
    verdicts = list(fail(disturbed("mlp", **RUN), mode, numbers))
    assert [verdict for verdict in verdicts if verdict.problem] == []
    assert len(verdicts) == len(numbers)
