"""What the tests of faults share: the parent that forks, and the runs that nothing disturbs."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if sys.platform != "linux":  # faults are made and watched through /proc
    collect_ignore_glob = ["test_*.py"]

import pytest
from forks import Forks
from trainers import make_material, outcome, trainers_on
from trials import Trial


@pytest.fixture(scope="session")
def forks():
    with Forks() as parent:
        yield parent


@pytest.fixture(scope="session")
def material(forks, tmp_path_factory):
    """A folder of texts, rows, a tokenizer, prepared data and a base model."""
    folder = tmp_path_factory.mktemp("material")
    make_material(folder, forks)
    return folder


@pytest.fixture(scope="session")
def trainers(material):
    """Trainer by name."""
    return trainers_on(material)


@pytest.fixture(scope="session")
def undisturbed(forks, trainers, tmp_path_factory):
    """(trainer, other fields) -> (what its run comes to, the seconds it takes), run once."""
    known = {}

    def run(name, **fields):
        key = (name, *fields.items())
        if key not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            found = forks.run(*trainers[name].command(folder / "run", **fields), log=folder / "log")
            assert found["code"] == 0, (folder / "log").read_text()
            known[key] = outcome(folder / "run"), found["seconds"]
        return known[key]

    return run


@pytest.fixture
def disturbed(forks, trainers, undisturbed, tmp_path):
    """(trainer, other fields) -> a trial of its run."""
    return lambda name, **fields: Trial(forks, trainers[name], tmp_path, *undisturbed(name, **fields), fields)
