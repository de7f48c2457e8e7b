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


def test_a_number_with_an_exponent_is_a_number_wherever_it_stands(write):
    path = write(
        "model:\n  overrides:\n    rms_norm_eps: 1e-6\n    rope_parameters: {rope_theta: 5E5, rope_type: default}\n"
    )
    expected = {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    assert load_recipe(PretrainRecipe, path).model.overrides == expected
    overrides = load_recipe(PretrainRecipe, None, ["model.overrides.rms_norm_eps=1e-6"]).model.overrides
    assert overrides == {"rms_norm_eps": 1e-6}
    assert load_recipe(PretrainRecipe, None, ["train.steps=2e3"]).train.steps == 2000


def test_a_text_that_looks_like_a_number_stays_a_text(write):
    recipe = load_recipe(PretrainRecipe, None, ["data.source='1e5'", "model.overrides={a: '-.5e3', b: 08, c: 1.5e}"])
    assert recipe.data.source == "1e5"
    assert recipe.model.overrides == {"a": "-.5e3", "b": "08", "c": "1.5e"}
    assert load_recipe(PretrainRecipe, write(dump_recipe(recipe))) == recipe


def test_a_key_that_is_doubled_inside_a_value_is_an_error(write):
    for text in ("data.mix={x: 1, x: 2}", "data.sample_prompts=[{x: 1, y: 2, x: 3}]"):
        error = error_of(None, [text])
        assert (error.where, error.message) == (f"--set {text}", "'x' is given twice")
    path = write("data:\n  sample_prompts:\n  - {x: 1, x: 2}\n")
    assert error_of(path).message == "'x' is given twice"


def test_a_section_in_which_all_is_commented_out_is_empty(write):
    recipe = load_recipe(PretrainRecipe, write("train:\n#  steps: 5\nmodel:\n"), ["train.lr=0.5"])
    assert recipe == load_recipe(PretrainRecipe, None, ["train.lr=0.5"])


def test_a_section_that_is_a_number_is_told_in_words_of_recipes(write):
    assert error_of(write("train: 5\n")).message == "'train': a section must hold keys and values (got 5)"


@pytest.mark.parametrize(("one", "other"), [("steps: 100", "epochs: 3"), ("warmup_steps: 9", "warmup_share: 0.1")])
def test_what_says_the_same_in_two_ways_stands_in_a_recipe_once(write, one, other):
    path = write(f"train:\n  {one}\n  {other}\n")
    names = [text.partition(":")[0] for text in (one, other)]
    error = error_of(path)
    assert error.where == f"{path}:3"
    assert error.message.startswith(f"train.{names[0]} and train.{names[1]} are both given")
    later = load_recipe(PretrainRecipe, write(f"train:\n  {one}\n"), [f"train.{other.replace(': ', '=')}"])
    assert load_recipe(PretrainRecipe, write(dump_recipe(later))) == later


def test_a_saved_recipe_says_no_more_than_it_was_made_of(write):
    # It has all fields: the warm-up in steps beside the share that took its place.
    for kind in (PretrainRecipe, FinetuneRecipe, BaselineRecipe):
        recipe = load_recipe(kind, None, ["train.warmup_steps=7", "train.warmup_share=0.1"])
        assert load_recipe(kind, write(dump_recipe(recipe))) == recipe


def test_a_seed_is_no_larger_than_the_generators_take():
    assert load_recipe(PretrainRecipe, None, [f"train.seed={2**63 - 1}"]).train.seed == 2**63 - 1
    assert "train.seed" in error_of(None, [f"train.seed={2**63}"]).message
