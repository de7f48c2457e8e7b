"""Every recipe that comes along is sound and runs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import llmkit
from llmkit.data import python_docs
from llmkit.models.causal_lm import count_parameters, make_config
from llmkit.recipe.load import list_recipes, load_recipe, recipe_kind
from llmkit.recipe.schema import RECIPES

FOLDER = Path(llmkit.__file__).parent.parent / "recipes"
ALL = list_recipes()
KINDS = {name: recipe_kind(path) for name, path in ALL.items()}

TWO_STEPS = ["--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "train.micro_batch_size=2"]
"""What makes any recipe short; what it says otherwise stays."""


def names(kind):
    return [name for name, of in KINDS.items() if of == kind]


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory, texts):
    """A file of instructions."""
    path = tmp_path_factory.mktemp("dialogues") / "rows.jsonl"
    rows = [{"instruction": text[:20], "input": "", "output": text[20:60]} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def pairs(tmp_path_factory, texts):
    """A file of preference pairs."""
    path = tmp_path_factory.mktemp("pairs") / "rows.jsonl"
    rows = [{"prompt": text[:20], "chosen": text[20:60], "rejected": text[60:80]} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_recipes_are_the_known_ones():
    assert set(KINDS.values()) == set(RECIPES)
    assert {"tiny/pretrain", "laptop/pretrain-python", "gpt2-124m/pretrain"} <= set(ALL)
    assert len(ALL) == len(list(FOLDER.rglob("*.yaml"))) - len(list(FOLDER.glob("accelerate/*.yaml")))
    for folder in ("tiny", "laptop"):
        assert {kind for name, kind in KINDS.items() if name.startswith(folder)} == set(RECIPES), folder


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_loads_and_its_header_has_the_command(name):
    recipe = load_recipe(RECIPES[KINDS[name]], ALL[name])
    assert recipe.kind == KINDS[name]
    header = [line for line in ALL[name].read_text().splitlines() if line.startswith("#")]
    assert any(re.search(rf"llmkit {KINDS[name]} {name}\b", line) for line in header)


@pytest.mark.parametrize("name", names("pretrain"))
def test_a_pretrain_recipe_runs(name, run_cli, prepared_folder, tmp_path):
    # 124M parameters are built, but not trained, on a CPU.
    more = ["--dry-run"] if name.startswith("gpt2") else ["--output", tmp_path / "run", *TWO_STEPS]
    result = run_cli(
        "pretrain", name, "--data", prepared_folder, "--set", "data.validation_tokens=500", *more, "--json"
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    if "--dry-run" in more:
        assert 80e6 < document["parameters"] < 130e6
    else:
        assert (document["status"], document["step"]) == ("finished", 2)


def test_the_recipe_of_124m_parameters_has_them_with_the_vocabulary_of_its_header():
    text = ALL["gpt2-124m/pretrain"].read_text()
    vocab_size = int(re.search(r"--vocab-size (\d+)", text).group(1))
    recipe = load_recipe(RECIPES["pretrain"], ALL["gpt2-124m/pretrain"])
    config = make_config(recipe.model, vocab_size=vocab_size, seq_len=recipe.train.seq_len)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert round(count_parameters(model) / 1e6) == 124


@pytest.mark.parametrize("name", names("finetune"))
def test_a_finetune_recipe_runs(name, run_cli, tiny_model_folder, dialogues, pairs, tmp_path):
    data = pairs if load_recipe(RECIPES["finetune"], ALL[name]).task == "prefer" else dialogues
    model = ["--model", tiny_model_folder, "--data", data, "--output", tmp_path / "run"]
    result = run_cli("finetune", name, *model, *TWO_STEPS, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 2


def small_source(folder, name):
    """A few rows of the kind that a baseline recipe without a source of its own is for."""
    if "mnist" in name or "pictures" in name:
        shape = (60, 28, 28) if "mnist" in name else (60, 32, 32, 3)
        pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
        np.savez(folder / "pictures.npz", x=pixels, y=np.arange(60) % 3)
        return folder / "pictures.npz"
    rows = {
        "texts": ["text,label", *(f"a film of {i} {'good' if i % 2 else 'bad'} parts,{i % 2}" for i in range(60))],
        "names": ["".join(chr(97 + i * k % 26) for k in range(1, 6)) for i in range(200)],
        "forecast": ["month,sales", *(f"{1990 + i // 12}-{i % 12 + 1:02},{i % 12 + i / 10}" for i in range(120))],
        "hourly": ["step,load", *(f"{i},{i % 24 + i / 1000}" for i in range(1500))],
    }
    path = folder / ("names.txt" if "names" in name else "rows.csv")
    path.write_text("\n".join(next(lines for word, lines in rows.items() if word in name)) + "\n")
    return path


@pytest.mark.parametrize("name", names("baseline"))
def test_a_baseline_recipe_runs(name, run_cli, tmp_path):
    has_source = load_recipe(RECIPES["baseline"], ALL[name]).data.source is not None
    data = [] if has_source else ["--data", small_source(tmp_path, name)]
    result = run_cli("baseline", name, *data, "--output", tmp_path / "run", *TWO_STEPS, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 2


@pytest.mark.parametrize("path", sorted(FOLDER.glob("accelerate/*.yaml")), ids=lambda path: path.stem)
def test_settings_for_accelerate_are_read_by_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    assert config.mixed_precision == "no", "the recipe decides"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.stem)
def test_a_script_is_sound(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_demo_asks_what_is_held_out_in_every_version_of_python():
    questions = re.findall(r'--prompt "([^"]+)"', (FOLDER / "demo.sh").read_text())
    modules = {re.search(r"(\w+)\.\w+", question)[1] for question in questions}
    assert len(questions) >= 3
    assert all(python_docs.split_of(module) == "test" for module in modules)


def test_the_readme_of_the_recipes_names_every_folder():
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{path.name}/`" in text for path in FOLDER.iterdir() if path.is_dir())
