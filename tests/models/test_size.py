"""One dial gives a model of the size that was asked for, in the proportions of known families."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmkit.errors import RecipeError
from llmkit.models.causal_lm import count_parameters, make_config
from llmkit.models.size import format_size, parse_size, section_for_size, section_near
from llmkit.recipe.load import load_recipe
from llmkit.recipe.schema import ModelSection, PretrainRecipe


def parameters_of(section, vocab_size, seq_len=256):
    """Counted on the model itself, built without weights."""
    with torch.device("meta"):
        config = make_config(section, vocab_size=vocab_size, seq_len=seq_len)
        return count_parameters(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize(
    ("size", "vocab_size"),
    [("300k", 256), ("300k", 4096), ("700k", 1024), ("3m", 4096), ("10M", 32768), ("124m", 50257), ("10b", 151936)],
)
def test_the_parameters_are_within_a_twentieth_of_what_was_asked(kind, size, vocab_size):
    section = section_for_size(ModelSection(type=kind, size=size), vocab_size=vocab_size)
    assert parameters_of(section, vocab_size) == pytest.approx(parse_size(size), rel=0.05)
    assert section.size is None


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "gpt_neox", "mixtral"])
def test_other_architectures_have_the_dial_too(kind):
    section = section_for_size(ModelSection(type=kind, size="20m"), vocab_size=4096)
    assert parameters_of(section, 4096) == pytest.approx(20e6, rel=0.05)


def test_position_embeddings_are_part_of_the_size():
    section = section_for_size(ModelSection(type="gpt2", size="1m"), vocab_size=256, seq_len=4096)
    assert parameters_of(section, 256, seq_len=4096) == pytest.approx(1e6, rel=0.05)


@pytest.mark.parametrize(
    ("size", "known"),
    [("5.9m", (256, 6)), ("124m", (768, 12)), ("1.7b", (2048, 28)), ("6.7b", (4096, 32))],
    ids=["the laptop recipe", "GPT-2", "Qwen3", "Llama"],
)
def test_width_for_depth_is_that_of_known_families(size, known):
    section = section_for_size(ModelSection(size=size), vocab_size=32768 if size != "5.9m" else 4096)
    ratio = section.hidden_size / section.num_layers
    assert ratio == pytest.approx(known[0] / known[1], rel=0.45)


@pytest.mark.parametrize("size", ["1m", "10m", "100m", "1b", "10b"])
def test_shapes_suit_fast_products(size):
    section = section_for_size(ModelSection(size=size), vocab_size=4096)
    assert section.hidden_size % 64 == 0
    assert section.intermediate_size % 64 == 0
    head = section.hidden_size // section.num_heads
    assert (head, section.hidden_size % section.num_heads) in {(32, 0), (64, 0), (128, 0)}


def test_large_models_have_a_head_of_their_own_unless_the_recipe_says_otherwise():
    assert section_for_size(ModelSection(size="4b"), vocab_size=4096).tie_embeddings
    assert not section_for_size(ModelSection(size="6b"), vocab_size=4096).tie_embeddings
    assert section_for_size(ModelSection(size="6b", tie_embeddings=True), vocab_size=4096).tie_embeddings
    assert not section_for_size(ModelSection(size="4b", tie_embeddings=False), vocab_size=4096).tie_embeddings


def test_sizes_beside_the_dial_are_an_error_that_names_them():
    settings = load_recipe(PretrainRecipe, None, ["model.size=10m", "model.num_layers=6", "model.num_heads=8"])
    with pytest.raises(RecipeError, match=r"model.num_layers, model.num_heads are given"):
        section_for_size(settings.model, vocab_size=4096)


def test_the_sizes_that_the_dial_gave_may_stand_beside_it():
    sized = section_for_size(ModelSection(size="1m"), vocab_size=1024)
    again = sized.model_copy(update={"size": "1m"})
    assert section_for_size(again, vocab_size=1024) == sized


@pytest.mark.parametrize("size", ["10", "ten million", "0m", "-3m", "5t", ""])
def test_what_is_no_size_is_an_error(size):
    with pytest.raises(RecipeError, match=r"is not the size of a model|no llama of sound proportions"):
        section_for_size(ModelSection(size=size), vocab_size=4096)


@pytest.mark.parametrize(("size", "vocab_size"), [("300k", 32768), ("1m", 151936), ("7m", 151936)])
def test_a_vocabulary_that_is_too_large_gets_the_smallest_size_that_can_be_built(size, vocab_size):
    with pytest.raises(RecipeError, match=f"vocabulary of {vocab_size:,}") as caught:
        section_for_size(ModelSection(size=size), vocab_size=vocab_size)
    offered = caught.value.fix.split()[2].rstrip(",")
    assert parse_size(size) < parse_size(offered) < 4 * max(parse_size(size), 32 * vocab_size)
    section = section_for_size(ModelSection(size=offered), vocab_size=vocab_size)
    assert parameters_of(section, vocab_size) == pytest.approx(parse_size(offered), rel=0.05)


def test_a_number_of_parameters_that_cannot_be_met_gives_the_next_larger_model():
    section = section_near(ModelSection(), 3e5, vocab_size=32768, seq_len=256)
    assert 32768 * 32 < parameters_of(section, 32768) < 1.2e6


def test_sizes_are_written_so_that_they_can_be_asked_for():
    assert [format_size(n) for n in (525_312, 1_048_577, 1.21e9, 999)] == ["530k", "1.1m", "1.3b", "1k"]
