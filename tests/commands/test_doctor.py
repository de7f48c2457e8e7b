"""`llmkit doctor`: what it finds, what it checks, and that it is quick."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmkit.commands import doctor


def test_the_document_names_versions_machine_and_checks(run_cli):
    result = run_cli("doctor", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == (0 if found["ok"] else 3)
    assert {"llmkit", "python", "packages", "extras", "cpu", "memory", "disk", "gpus", "folders", "checks"} <= set(
        found
    )
    versions = {package["name"]: package["version"] for package in found["packages"]}
    assert all(versions[name] for name in ("torch", "transformers", "jinja2"))
    assert found["cpu"]["cores"] >= 1
    assert "torch" not in found


def test_people_get_tables(run_cli):
    result = run_cli("doctor")
    assert "processor" in result.stdout
    assert re.search(r"torch +ok", result.stdout)


def test_full_asks_torch_and_times_a_product(run_cli):
    import torch

    found = json.loads(run_cli("doctor", "--full", "--json").stdout)["torch"]
    assert found["version"] == torch.__version__
    assert found["gflops"]["fp32"] > 0
    assert found["gflops"]["bf16"] > 0


def test_without_full_nothing_heavy_is_imported():
    code = (
        "import sys, llmkit.cli\n"
        "try: llmkit.cli.app(['doctor', '--json'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.stderr.write(' '.join(sorted(heavy)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.returncode == 0


def found_with(**versions):
    """A finding in which these packages have these versions."""
    needed = {name: version for name, (version, _) in doctor.SECURITY.items()}
    packages = [
        {"name": name, "version": versions.get(name, needed[name]), "needed": needed[name], "extra": None}
        for name in needed
    ]
    return {"python": "3.11.9", "packages": packages, "disk": {"free_gb": 50.0}}


@pytest.mark.parametrize(
    ("versions", "failed"),
    [
        ({}, []),
        ({"torch": "2.9.1+cpu"}, ["torch"]),
        ({"torch": "2.10.0", "transformers": "5.23.0"}, []),
        ({"transformers": "5.4.9", "jinja2": "3.1.10"}, ["transformers"]),
        ({"jinja2": None}, ["jinja2"]),
    ],
)
def test_a_version_below_its_floor_fails_and_says_what_to_install(versions, failed):
    checks = [check for check in doctor.list_checks(found_with(**versions)) if not check["ok"]]
    assert [check["name"] for check in checks] == failed
    assert all("pip install" in check["fix"] for check in checks)


def test_a_python_that_is_too_old_or_a_full_disk_fails():
    old, full = found_with(), found_with()
    old["python"] = "3.10.2"
    full["disk"] = {"free_gb": 0.5}
    assert [c["name"] for c in doctor.list_checks(old) if not c["ok"]] == ["python"]
    assert [c["name"] for c in doctor.list_checks(full) if not c["ok"]] == ["disk"]


def test_the_floors_against_vulnerabilities_are_those_of_the_package():
    needed = {package["name"]: package["needed"] for package in doctor.list_packages()}
    assert {name: version for name, (version, _) in doctor.SECURITY.items()}.items() <= needed.items()
    text = (Path(doctor.__file__).parents[2] / "pyproject.toml").read_text()
    for name, (version, _) in doctor.SECURITY.items():
        assert f'"{name}>={version}"' in text


def test_extras_say_what_they_lack():
    packages = [
        {"name": "a", "version": "1", "needed": None, "extra": "plots"},
        {"name": "b", "version": None, "needed": None, "extra": "plots"},
        {"name": "c", "version": "1", "needed": None, "extra": None},
    ]
    assert doctor.list_extras(packages) == {"plots": {"installed": False, "missing": ["b"]}}
