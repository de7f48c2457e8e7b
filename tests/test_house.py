"""The rules of the house: what imports what, how long a file is, where printing happens, what is never used."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer.main

import llmkit
from llmkit.cli import app
from llmkit.recipe.schema import RECIPES, Section

PACKAGE = Path(llmkit.__file__).parent
REPOSITORY = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))

FLOORS = [
    ("__main__",),
    ("cli",),
    ("commands",),
    ("data", "models", "training", "evaluation", "reporting"),
    ("encoding", "alphabet", "tokenizer", "losses", "generation", "device"),
    ("recipe",),
    ("batch", "errors", "console", "files", "machine", "source"),
]
"""From the roof down. A module imports from floors below its own, and from its own folder."""

NEIGHBOURS = {
    *(("generation", "tokenizer"), ("alphabet", "tokenizer"), ("encoding", "tokenizer"), ("encoding", "alphabet")),
    *(("console", "errors"), ("files", "errors"), ("batch", "errors"), ("source", "errors")),
}
"""Steps sideways that are meant: what works on ids needs the tokenizer, and everything may raise."""

HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "tiktoken",
    "tokenizers",
    "peft",
    "accelerate",
    "numpy",
    "pydantic",
    "yaml",
    "rich",
    "safetensors",
    "sklearn",
    "matplotlib",
    "PIL",
    "jinja2",
    "pyarrow",
}

LONGEST_FILE = 400
LONGEST_FUNCTION = 50

FORBIDDEN = {
    r"^import pickle|^from pickle|\bpickle\.(load|dump)": "pickle runs code",
    r"\btorch\.(load|save)\(": "torch.load unpickles",
    r"\byaml\.(load|full_load|unsafe_load)\(": "yaml.load builds objects",
    r"trust_remote_code\s*=\s*True": "a model's own code is never run",
    r"\bshell\s*=\s*True": "no shell",
    r"(?<![\w.])(eval|exec)\(": "no code from text",
    r"(?<![\w.])print\(": "data goes through console.write, everything else through console.say",
    r"^\s*(import|from) click\b": "typer has its own copy of click",
    r"\bmodel\(.*\blabels\s*=": "targets are called targets; labels are shifted inside transformers",
}


def module_name(path: Path) -> str:
    """`data/documents.py` as `data.documents`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(name: str) -> int:
    """The number of the floor that a part of llmkit stands on."""
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


def imported_parts(path: Path) -> set[str]:
    """The parts of llmkit (`data`, `errors` ...) that a file imports, inside functions and for types too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmkit"):
            parts = node.module.split(".")[1:]
            names |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("llmkit.")}
    return {name for name in names if not name.startswith("__")}


def lines_of_body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and its docstring."""
    docstring = ast.get_docstring(node, clean=False)
    return node.end_lineno - node.body[0].lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)


def all_commands(group=None, path=()):
    """Every command as (its words, the command)."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))
        if not hasattr(command, "commands") or command.invoke_without_command:
            yield (*path, name), command


COMMANDS = dict(all_commands())


def test_imports_only_go_down():
    upwards = []
    for path in SOURCES:
        own = module_name(path).split(".")[0]
        for part in imported_parts(path) - {own} if own else ():
            if floor_of(part) <= floor_of(own) and (own, part) not in NEIGHBOURS:
                upwards.append(f"{module_name(path)} imports llmkit.{part}")
    assert upwards == []


def test_nothing_forbidden_is_used():
    found = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            reasons = [reason for pattern, reason in FORBIDDEN.items() if re.search(pattern, line)]
            found += [f"{module_name(path)}:{number}: {reason}" for reason in reasons]
    assert found == []


def test_files_are_short_enough_to_be_read():
    lengths = {p.relative_to(REPOSITORY).as_posix(): len(p.read_text().splitlines()) for p in [*SOURCES, *TESTS]}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short_enough_to_be_read():
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of_body(node) > LONGEST_FUNCTION:
                long.append(f"{module_name(path)}.{node.name}: {lines_of_body(node)} lines")
    assert long == []


def test_modules_of_commands_import_nothing_heavy_at_the_top():
    allowed = {"typer", "llmkit", *sys.stdlib_module_names}
    for path in [
        *(PACKAGE / "commands").rglob("*.py"),
        PACKAGE / "cli.py",
        PACKAGE / "console.py",
        PACKAGE / "errors.py",
    ]:
        for node in ast.parse(path.read_text()).body:
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert {name.split(".")[0] for name in names} <= allowed, path.name
            parts = {name for name in names if name.startswith("llmkit.")}
            floor = (
                {"llmkit.console", "llmkit.errors"}
                if PACKAGE / "commands" in path.parents
                else {"llmkit.console", "llmkit.errors", "llmkit.commands"}
            )
            assert all(part in floor or part.startswith("llmkit.commands") for part in parts), f"{path.name}: {parts}"


LIST_IMPORTS = """
import sys, llmkit.cli
sys.argv = ["llmkit", *sys.argv[1:]]
try:
    llmkit.cli.main()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["pretrain", "--help"], ["--version"], ["pretrian"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    result = subprocess.run(
        [sys.executable, "-c", LIST_IMPORTS, *arguments], capture_output=True, text=True, timeout=120
    )
    loaded = {name.split(".")[0] for name in result.stderr.split()}
    # typer itself reads the arguments of a verb with pydantic.
    assert loaded & HEAVY <= {"pydantic"}
    assert "llmkit" in loaded


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_of_each_command_leads_with_examples(words, run_cli):
    result = run_cli(*words, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert result.stdout.index("Examples:") < result.stdout.index("Options:")
    assert f"llmkit {' '.join(words)}" in result.stdout, "an example must show the command itself"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_is_explained_and_json_is_offered(words):
    options = {name: p for p in COMMANDS[words].params for name in getattr(p, "opts", [])}
    assert all(getattr(p, "help", None) for p in options.values()), [
        n for n, p in options.items() if not getattr(p, "help", None)
    ]
    assert "--json" in options


def fields_of(section: type[Section]) -> set[str]:
    """Names of all fields of a section and of the sections in it."""
    names = set()
    for name, field in section.model_fields.items():
        names.add(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names |= fields_of(field.annotation)
    return names


def test_every_field_of_a_recipe_is_read_by_something():
    read = set()
    for path in SOURCES:
        if path.parent.name != "recipe":
            read |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    unread = {
        f"{kind}: {name}"
        for kind, recipe in RECIPES.items()
        for name in fields_of(recipe)
        if name not in read and name != "kind"
    }
    assert not unread


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_field_of_a_recipe_has_its_sentence(recipe):
    for name, field in recipe.model_fields.items():
        assert field.description, name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            test_every_field_of_a_recipe_has_its_sentence(field.annotation)


def test_each_test_file_stands_where_its_module_stands():
    for path in TESTS:
        place = path.relative_to(REPOSITORY / "tests")
        if place.parts[0] in {"benchmarks", "faults"} or len(place.parts) == 1 or place.name == "conftest.py":
            continue
        assert (PACKAGE / place.parent).is_dir(), f"tests/{place}: there is no llmkit/{place.parent}"


def test_the_wheel_holds_the_recipes(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    recipes = REPOSITORY / "recipes"
    for path in recipes.rglob("*.*"):
        assert f"llmkit/recipes/{path.relative_to(recipes).as_posix()}" in names
    assert {f"llmkit/{path.relative_to(PACKAGE).as_posix()}" for path in SOURCES} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_pins_name_every_tool_but_torch():
    pins = (REPOSITORY / ".ci" / "constraints.txt").read_text()
    lines = [line for line in pins.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert not any(line.startswith("torch==") for line in lines)


@pytest.mark.parametrize("arguments", [["doctor", "--json"], ["recipe", "list", "--json"]], ids=" ".join)
def test_json_is_one_document_when_stdin_is_closed_and_stdout_is_a_pipe(arguments):
    result = subprocess.run(
        [sys.executable, "-m", "llmkit", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    json.loads(result.stdout)
    assert "\x1b" not in result.stdout + result.stderr


def test_a_reader_that_leaves_early_is_no_error():
    result = subprocess.run(
        f"{sys.executable} -m llmkit recipe list | head -1", shell=True, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0
    assert result.stderr == ""


def test_an_unknown_verb_names_the_nearest(run_cli):
    result = run_cli("pretrian")
    assert result.exit_code == 2
    assert "pretrain" in result.stderr
