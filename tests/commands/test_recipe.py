"""`llmkit recipe`: list, show, copy, check."""

from __future__ import annotations

import json

import pytest
import yaml

from llmkit.recipe.load import list_recipes
from llmkit.recipe.schema import RECIPES

SOUND = "# A small one.\nkind: pretrain\ntrain:\n  steps: 5\n"


@pytest.fixture
def recipe(tmp_path):
    """A sound recipe in a file."""
    path = tmp_path / "mine.yaml"
    path.write_text(SOUND)
    return path


def test_list_names_every_recipe_with_its_verb_and_first_comment(run_cli):
    found = json.loads(run_cli("recipe", "list", "--json").stdout)["recipes"]
    assert [r["name"] for r in found] == list(list_recipes())
    assert all(r["kind"] in RECIPES and r["about"] for r in found)
    table = run_cli("recipe", "list").stdout
    assert all(r["name"] in table for r in found)


def test_show_prints_the_file_as_it_is(run_cli, recipe):
    assert run_cli("recipe", "show", recipe).stdout == SOUND


def test_resolved_fills_in_every_default_and_loads_again(run_cli, recipe, tmp_path):
    result = run_cli("recipe", "show", recipe, "--resolved")
    values = yaml.safe_load(result.stdout)
    assert values["train"]["steps"] == 5
    assert values["train"]["max_grad_norm"] == 1.0
    assert json.loads(run_cli("recipe", "show", recipe, "--json").stdout)["recipe"] == values
    again = tmp_path / "again.yaml"
    again.write_text(result.stdout)
    assert run_cli("recipe", "check", again).exit_code == 0


@pytest.mark.parametrize("kind", RECIPES)
def test_fields_tell_every_field_with_type_default_and_sentence(run_cli, kind):
    (fields,) = json.loads(run_cli("recipe", "show", "--fields", kind, "--json").stdout)["kinds"].values()
    names = {field["field"] for field in fields}
    assert {"kind", "train.lr", "train.batch_size"} <= names
    assert all(
        field["description"] and field["type"] and "<" not in field["type"].replace("< ", "").replace("<= ", "")
        for field in fields
    )
    text = run_cli("recipe", "show", "--fields", kind).stdout
    assert all(name in text for name in names)


def test_the_default_of_a_field_is_that_of_its_kind(run_cli):
    def default(kind, name):
        (fields,) = json.loads(run_cli("recipe", "show", "--fields", kind, "--json").stdout)["kinds"].values()
        return next(json.loads(field["default"]) for field in fields if field["field"] == name)

    for kind, recipe in RECIPES.items():
        assert default(kind, "train.lr") == recipe().train.lr


def test_types_are_said_in_words(run_cli):
    fields = json.loads(run_cli("recipe", "show", "--fields", "--json").stdout)["kinds"]["pretrain"]
    types = {field["field"]: field["type"] for field in fields}
    assert types["train.batch_size"] == "whole number > 0"
    assert types["train.micro_batch_size"] == "whole number > 0 or auto or none"
    assert types["train.schedule"] == "cosine|linear|constant|wsd|inverse_sqrt"
    assert types["train.min_lr_ratio"] == "number >= 0.0 <= 1.0"


def test_copy_makes_a_file_to_change_and_never_overwrites_one(run_cli, recipe, tmp_path):
    target = tmp_path / "copy.yaml"
    assert run_cli("recipe", "copy", recipe, target).exit_code == 0
    assert target.read_text() == SOUND
    target.write_text("mine")
    result = run_cli("recipe", "copy", recipe, target)
    assert result.exit_code == 2
    assert "nothing already there is overwritten" in result.stderr
    assert target.read_text() == "mine"


def test_copy_into_a_folder_or_the_current_one_keeps_the_name(run_cli, recipe, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    run_cli("recipe", "copy", recipe, folder)
    assert (folder / "mine.yaml").read_text() == SOUND
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    run_cli("recipe", "copy", recipe)
    assert (here / "mine.yaml").read_text() == SOUND


def test_what_a_launcher_needs_can_be_copied_too(run_cli, tmp_path):
    result = run_cli("recipe", "copy", "accelerate/ddp", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "distributed_type" in (tmp_path / "ddp.yaml").read_text()
    assert f"accelerate launch --config_file {tmp_path / 'ddp.yaml'}" in result.stderr


def test_check_says_ok(run_cli, recipe):
    result = run_cli("recipe", "check", recipe, "--set", "train.lr=1e-4")
    assert result.exit_code == 0
    assert result.stdout == f"{recipe}: ok (pretrain)\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("kind: pretrain\ntrain:\n  stepz: 5\n", 3, "did you mean 'steps'"),
        ("kind: pretrain\nkind: pretrain\n", 2, "given twice"),
        ("kind: pretrain\ntrain:\n  lr: fast\n", 3, "train.lr"),
    ],
)
def test_check_names_file_and_line_of_what_is_wrong(run_cli, recipe, text, line, message):
    recipe.write_text(text)
    result = run_cli("recipe", "check", recipe)
    assert result.exit_code == 2
    assert f"{recipe}:{line}: " in result.stderr
    assert message in result.stderr


def test_check_of_several_says_all_that_is_wrong(run_cli, recipe, tmp_path):
    result = run_cli("recipe", "check", recipe, tmp_path / "none.yaml", "nowhere")
    assert result.exit_code == 2
    assert "mine.yaml: ok" in result.stdout
    assert "none.yaml" in result.stderr
    assert "2 of 3 recipes" in result.stderr
    found = json.loads(run_cli("recipe", "check", recipe, "nowhere", "--json").stdout)["recipes"]
    assert [r["ok"] for r in found] == [True, False]


def test_every_recipe_that_comes_along_is_sound(run_cli):
    result = run_cli("recipe", "check", *list_recipes())
    assert result.exit_code == 0, result.stderr


def test_fields_of_an_unknown_kind_and_show_of_nothing_say_what_there_is(run_cli):
    result = run_cli("recipe", "show", "--fields", "finetun")
    assert result.exit_code == 2
    assert "finetune" in result.stderr
    assert "llmkit recipe list" in run_cli("recipe", "show").stderr
