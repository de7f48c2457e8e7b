"""What layers would guess, and where heads look."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmkit.errors import ModelError, UsageError
from llmkit.evaluation.lens import attention_map, read_layers

IDS = [0, 7, 8, 9, 10]


def small(kind, **fields):
    """A small model with random weights."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields)).eval()


SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "model",
    [
        small("llama", **SIZES, intermediate_size=32),
        small("gpt2", vocab_size=50, n_embd=16, n_layer=3, n_head=2),
        small("gpt_neox", **SIZES, intermediate_size=32),
        small("opt", **SIZES, ffn_dim=32, word_embed_proj_dim=16),
    ],
    ids=lambda model: model.config.model_type,
)
def test_the_last_depth_of_the_lens_is_the_model(model):
    depths = read_layers(model, IDS)
    assert len(depths) == 4
    with torch.no_grad():
        shares = model(input_ids=torch.tensor([IDS])).logits[0].softmax(-1)
    for place, (guess, row) in enumerate(zip(depths[-1], shares, strict=True)):
        assert guess.token == int(row.argmax())
        assert guess.probability == pytest.approx(float(row.max()), rel=1e-4)
        own = None if place == 4 else pytest.approx(float(row[IDS[place + 1]]), rel=1e-4)
        assert guess.own == own


def test_the_first_depth_sees_its_own_token_alone(tiny_model):
    with torch.no_grad():
        state = tiny_model.model.norm(tiny_model.get_input_embeddings()(torch.tensor(IDS)))
        wanted = tiny_model.lm_head(state).argmax(-1).tolist()
    assert [guess.token for guess in read_layers(tiny_model, IDS)[0]] == wanted


def test_an_output_that_is_more_than_norm_and_head_is_an_error():
    capped = small(
        "gemma2", **SIZES, num_key_value_heads=2, head_dim=8, intermediate_size=32, final_logit_softcapping=0.01
    )
    with pytest.raises(ModelError, match="more than a norm and a head"):
        read_layers(capped, IDS)
    with pytest.raises(ModelError, match="no list of layers with a norm"):
        read_layers(small("openai-gpt", vocab_size=50, n_embd=16, n_layer=3, n_head=2), IDS)


def test_attention_is_causal_and_each_row_adds_up(tiny_model):
    before = tiny_model.config._attn_implementation
    found = attention_map(tiny_model, IDS, 1, 0)
    assert found.shape == (5, 5)
    assert torch.equal(found, found.tril())
    assert torch.allclose(found.sum(-1), torch.ones(5), atol=1e-5)
    assert tiny_model.config._attn_implementation == before
    assert not torch.equal(found, attention_map(tiny_model, IDS, 1, 1))


@pytest.mark.parametrize(("place", "what"), [((2, 0), "no layer 2"), ((0, 2), "no head 2")])
def test_a_place_that_is_not_there_is_told(tiny_model, place, what):
    with pytest.raises(UsageError, match=what):
        attention_map(tiny_model, IDS, *place)


def test_a_model_without_attention_says_so():
    mamba = small("mamba", vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises((ModelError, UsageError), match=r"head 0|attention"):
        attention_map(mamba, IDS, 0, 0)
