from __future__ import annotations

import pytest
import yaml

from llmkit.errors import RecipeError
from llmkit.recipe.load import dump_recipe, find_recipe, list_recipes, load_recipe, recipe_kind
from llmkit.recipe.schema import BaselineRecipe, FinetuneRecipe, PretrainRecipe


@pytest.fixture
def write(tmp_path):
    """Write a recipe and return its path."""

    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
        return path

    return write


def error_of(*arguments, **options) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(PretrainRecipe, *arguments, **options)
    return caught.value


def test_without_a_recipe_the_defaults_hold():
    assert load_recipe(PretrainRecipe, None) == PretrainRecipe()


def test_later_layers_win_over_earlier_ones(write):
    path = write("train:\n  lr: 1e-3\n  batch_size: 4\n  seed: 1\n")
    flags = {"train.batch_size": ("--batch-size", 8), "train.seed": ("--seed", None)}
    recipe = load_recipe(PretrainRecipe, path, ["train.lr=1e-4"], flags)
    assert (recipe.train.lr, recipe.train.batch_size, recipe.train.seed) == (1e-4, 8, 1)


def test_numbers_in_yaml_may_be_written_1e_4(write):
    assert load_recipe(PretrainRecipe, write("train:\n  lr: 1e-4\n")).train.lr == 1e-4


def test_an_unknown_key_names_its_line_and_the_nearest_key(write):
    path = write("model:\n  type: gpt2\n  hidden_sise: 64\n")
    error = error_of(path)
    assert error.where == f"{path}:3"
    assert "unknown key 'model.hidden_sise'" in error.message
    assert error.fix == "did you mean 'hidden_size'?"


def test_a_doubled_key_is_an_error(write):
    path = write("train:\n  lr: 1e-3\n  steps: 5\n  lr: 1e-4\n")
    error = error_of(path)
    assert error.where == f"{path}:4"
    assert "'lr' is given twice (first on line 2)" in error.message


def test_a_wrong_value_names_its_line_and_what_it_is(write):
    path = write("train:\n  steps: soon\n")
    error = error_of(path)
    assert error.where == f"{path}:2"
    assert "train.steps" in error.message
    assert "'soon'" in error.message


def test_a_wrong_override_names_the_flag():
    assert error_of(None, ["train.steps=-1"]).where == "--set train.steps=-1"
    assert "KEY=VALUE" in error_of(None, ["train.steps"]).message


def test_a_section_that_is_no_mapping_is_an_error(write):
    assert error_of(write("train: 5\n")).where.endswith(":1")
    assert error_of(write("- a\n- b\n")).where.endswith(":1")
    assert error_of(None, ["train=5"]).where == "--set train=5"


@pytest.mark.parametrize("text", ["train: [1\n", b"\xff\xfe\x00", "a: &x [*x\n"])
def test_what_is_no_yaml_is_an_error_and_not_a_crash(write, text):
    assert "recipe.yaml" in str(error_of(write(text)))


def test_a_yaml_tag_never_builds_an_object(write):
    path = write("model:\n  type: !!python/object/apply:os.getcwd []\n")
    assert error_of(path).where == f"{path}:2"


def test_steps_unsay_epochs_and_epochs_unsay_steps(write):
    assert load_recipe(FinetuneRecipe, None, ["train.steps=3"]).train.epochs is None
    recipe = load_recipe(PretrainRecipe, None, ["train.epochs=2"])
    assert (recipe.train.steps, recipe.train.epochs) == (None, 2)
    path = write("train:\n  epochs: 2\n")
    assert load_recipe(PretrainRecipe, path, ["train.steps=7"]).train.epochs is None


def test_warm_up_in_steps_unsays_an_earlier_share(write):
    path = write("train:\n  warmup_share: 0.1\n")
    train = load_recipe(PretrainRecipe, path, ["train.warmup_steps=7"]).train
    assert (train.warmup_steps, train.warmup_share) == (7, None)


def test_a_mapping_that_is_given_as_a_whole_replaces_the_earlier_one(write):
    path = write("data:\n  mix:\n    web: 3\n    code: 1\n")
    assert load_recipe(PretrainRecipe, path, ["data.mix={books: 2}"]).data.mix == {"books": 2}
    assert load_recipe(PretrainRecipe, path, ["data.mix={}"]).data.mix == {}
    assert load_recipe(PretrainRecipe, path, ["data.mix.code=5"]).data.mix == {"web": 3, "code": 5}


@pytest.mark.parametrize("kind", [PretrainRecipe, FinetuneRecipe, BaselineRecipe])
def test_a_dumped_recipe_reads_back_the_same(write, kind):
    recipe = load_recipe(kind, None, ["train.lr=3.3e-5", "data.source=ä #1"])
    assert load_recipe(kind, write(dump_recipe(recipe))) == recipe


def test_a_recipe_of_another_kind_is_refused(write):
    error = error_of(write("kind: finetune\n"))
    assert "kind" in error.message


def test_the_kind_of_a_file_is_what_it_says(write):
    assert recipe_kind(write("kind: baseline\n")) == "baseline"
    with pytest.raises(RecipeError, match="kind is None"):
        recipe_kind(write("train: {}\n"))


def test_a_shipped_recipe_is_found_by_its_name():
    assert find_recipe("tiny/pretrain") == find_recipe("tiny/pretrain.yaml") == list_recipes()["tiny/pretrain"]
    with pytest.raises(RecipeError, match="no such recipe") as caught:
        find_recipe("tiny/pretrian")
    assert caught.value.fix == "did you mean 'tiny/pretrain'?"


def test_settings_for_accelerate_are_no_recipes():
    assert not any("accelerate" in name for name in list_recipes())


def test_a_dumped_recipe_is_plain_yaml():
    values = yaml.safe_load(dump_recipe(PretrainRecipe()))
    assert list(values) == ["kind", "model", "data", "train"]


@pytest.mark.parametrize("setting", ["data.test=1.5", "train.micro_batch_size=some"])
def test_a_value_that_fits_none_of_several_types_is_named_by_its_field_alone(setting):
    with pytest.raises(RecipeError) as error:
        load_recipe(BaselineRecipe, None, [setting])
    assert f"'{setting.split('=')[0]}'" in error.value.message
