"""What the README tells people to type can be typed, and what the scripts of recipes/ type."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main
import yaml

import llmkit
from llmkit.cli import app
from llmkit.evaluation.task_file import TaskFile
from llmkit.recipe.load import list_recipes, recipe_kind

REPOSITORY = Path(llmkit.__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
TEXT = README.partition("## Commands")[0]
SCRIPTS = [path.read_text() for path in sorted((REPOSITORY / "recipes").glob("*.sh"))]


def shell_commands(script: str) -> list[list[str]]:
    """The words of each llmkit command of a script, without what is before and behind it, lines joined."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        line = re.sub(r'\s>\s+("[^"]*"|\S+)|\s\|\s.*', "", line.strip().replace("$(llmkit", "$( llmkit"))
        words = shlex.split(line, comments=True)
        if "llmkit" in words:
            found.append(words[words.index("llmkit") + 1 :])
    return found


def blocks(language: str) -> list[str]:
    """The code blocks of the README in a language, up to the command reference."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def find_command(words: list[str]):
    """The command that words begin with, and what is left of them."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if command.invoke_without_command and not (words and words[0] in command.commands):
            break
        assert words, "a command was left out"
        assert words[0] in command.commands
        command, words = command.commands[words[0]], words[1:]
    return command, words


FROM_README = [words for block in blocks("sh") for words in shell_commands(block)]
FROM_SCRIPTS = [words for script in SCRIPTS for words in shell_commands(script)]


@pytest.mark.parametrize("words", [*FROM_README, *FROM_SCRIPTS], ids=" ".join)
def test_commands_and_options_are_real(words):
    command, rest = find_command(words)
    known = {name for parameter in command.params for name in parameter.opts}
    used = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    assert set(used) <= known


@pytest.mark.parametrize("words", [*FROM_README, *FROM_SCRIPTS], ids=" ".join)
def test_recipes_and_keys_are_real(words, run_cli):
    verb = words[0]
    recipes = [word for word in words[1:] if re.fullmatch(r"(tiny|laptop|gpt2-124m)/[a-z0-9-]+", word)]
    assert set(recipes) <= set(list_recipes())
    changes = [pair for flag, pair in pairwise(words) if flag == "--set"]
    # What a script computes is a number of steps.
    changes = [re.sub(r"\$\(\(.*\)\)|\$\w+", "7", change) for change in changes]
    if verb == "compare":  # METHOD.KEY: a tuning's
        verb, changes = "finetune", [change.partition(".")[2] for change in changes]
    if changes:
        name = next(name for name, path in list_recipes().items() if recipe_kind(path) == verb)
        name = recipes[0] if recipes else name
        result = run_cli("recipe", "check", name, *(word for change in changes for word in ("--set", change)))
        assert result.exit_code == 0, result.stderr


def test_every_verb_has_an_example():
    shown = {words[0] for words in FROM_README}
    assert shown == set(typer.main.get_command(app).commands)


def test_make_targets_are_real():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z]+)", " ".join([*blocks("sh"), *re.findall(r"`(make [^`]+)`", TEXT)])))
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_files_that_are_linked_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (REPOSITORY / target).exists(), target


def test_the_task_file_that_is_shown_is_one():
    shown = [values for values in map(yaml.safe_load, blocks("yaml")) if "kind" in values]
    assert [TaskFile(**values).kind for values in shown] == ["choice"]


def test_the_parts_of_recipes_that_are_shown_are_valid():
    from llmkit.recipe.schema import PretrainRecipe

    shown = [values for values in map(yaml.safe_load, blocks("yaml")) if "kind" not in values]
    assert len([PretrainRecipe(**values) for values in shown]) == 2


def test_the_rows_that_are_shown_are_read(tmp_path, capsys):
    from llmkit.data.dialogue_forms import read_dialogues

    (block,) = blocks("json")
    for number, line in enumerate(block.splitlines()):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(line + "\n")
        (dialogue,) = read_dialogues(str(path))
        assert [message.role for message in dialogue.messages] == ["user", "assistant"]


def test_the_reference_lists_every_command():
    reference = README.partition("## Commands")[2]
    for words in FROM_README:
        if words[0] not in {"data", "recipe", "model", "run", "tokenizer"}:
            assert f"<code>llmkit {words[0]}</code>" in reference
