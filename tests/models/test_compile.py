"""Attention and compilation are chosen by device, arithmetic and length of the run, and change nothing but speed."""

from __future__ import annotations

import pytest
import torch

from llmkit.errors import RecipeError
from llmkit.losses import causal_lm_loss_sum
from llmkit.models.compile import WORTH_COMPILING, Engine, choose_engine, fit_engine, uncompiled, use_engine
from llmkit.recipe.schema import TrainSection

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LONG, SHORT = 10 * WORTH_COMPILING["cuda"], 1e12


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    monkeypatch.setattr("llmkit.models.compile.compiler_works", lambda device: True)


@pytest.mark.parametrize(
    ("device", "dtype", "flops", "seq_len", "expected"),
    [
        (CPU, torch.bfloat16, LONG, 256, Engine("products", True)),
        (CPU, torch.bfloat16, SHORT, 256, Engine("products", False)),
        (CPU, torch.bfloat16, SHORT, 1024, Engine("sdpa", False)),
        (CPU, torch.float32, LONG, 256, Engine("sdpa", False)),
        (CUDA, torch.bfloat16, LONG, 1024, Engine("sdpa", True)),
        (CUDA, torch.bfloat16, SHORT, 1024, Engine("sdpa", False)),
    ],
)
def test_the_fastest_is_chosen(device, dtype, flops, seq_len, expected):
    config = TrainSection(seq_len=seq_len)
    assert choose_engine(config, dtype=dtype, device=device, total_flops=flops) == expected


@pytest.mark.parametrize("has_amx", [True, False])
def test_where_products_are_cheap_compiling_pays_in_a_shorter_run(has_amx, monkeypatch):
    monkeypatch.setattr("llmkit.models.compile.has_amx", lambda: has_amx)
    flops = WORTH_COMPILING["cpu"] / 2
    found = choose_engine(TrainSection(), dtype=torch.bfloat16, device=CPU, total_flops=flops)
    assert found.is_compiled == has_amx


def test_rows_of_many_lengths_have_no_blocks_to_compile_for_each():
    config = TrainSection(compile=True)
    found = choose_engine(config, dtype=torch.bfloat16, device=CPU, total_flops=LONG, is_ragged=True)
    assert found == Engine("eager", True)


def test_the_recipe_has_the_last_word():
    config = TrainSection(attention="sdpa", compile=True)
    assert choose_engine(config, dtype=torch.float32, device=CPU, total_flops=SHORT) == Engine("sdpa", True)


@pytest.mark.parametrize("reason", ["is_ragged", "is_sharded"])
def test_what_would_be_compiled_again_and_again_is_not_compiled(reason):
    found = choose_engine(TrainSection(), dtype=torch.bfloat16, device=CPU, total_flops=LONG, **{reason: True})
    assert not found.is_compiled


def test_without_a_compiler_a_long_run_is_not_compiled_and_that_is_said(monkeypatch, capsys):
    monkeypatch.setattr("llmkit.models.compile.compiler_works", lambda device: False)
    found = choose_engine(TrainSection(), dtype=torch.bfloat16, device=CPU, total_flops=LONG)
    assert found == Engine("products", False)
    assert "not compiled" in capsys.readouterr().err


def test_an_attention_that_is_not_installed_is_an_error_that_names_the_field(tiny_model):
    with pytest.raises(RecipeError) as error:
        use_engine(tiny_model, Engine("flash_attention_2", False), TrainSection())
    assert error.value.where == "train.attention"


def make_tiny(kind: str):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    more = {"intermediate_size": 32, "num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1}
    none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more, **none))


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma2"])
def test_sinks_and_caps_of_attention_are_never_lost_to_speed(kind):
    model = make_tiny(kind)
    own = model.config._attn_implementation
    assert fit_engine(Engine("products", False), model, TrainSection()) == Engine(own, False)
    with pytest.raises(RecipeError, match=f"products do not compute what the attention of {kind} does"):
        fit_engine(Engine("products", False), model, TrainSection(attention="products"))
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma2"])
def test_a_model_without_torchs_attention_trains_and_is_validated_with_its_own(kind, monkeypatch):
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda m, **o: compile_module(m, backend="eager", **o))
    model = make_tiny(kind)
    engine = fit_engine(Engine("sdpa", True), model, TrainSection())
    use_engine(model, engine, TrainSection())
    ids = torch.arange(20).reshape(2, 10)
    with uncompiled(model), torch.no_grad():
        assert causal_lm_loss_sum(model, {"input_ids": ids, "targets": ids}).item() > 0
    assert model.config._attn_implementation == engine.attention


def test_a_model_that_has_nothing_of_its_own_keeps_the_fast_attention(tiny_model):
    for engine in (Engine("products", False), Engine("products", True), Engine("sdpa", True)):
        assert fit_engine(engine, tiny_model, TrainSection()) == engine


def test_flex_attention_on_a_cpu_is_refused_before_the_first_step():
    config = TrainSection(attention="flex_attention")
    with pytest.raises(RecipeError, match="no backward pass on a CPU"):
        choose_engine(config, dtype=torch.float32, device=CPU, total_flops=SHORT)
    assert choose_engine(config, dtype=torch.bfloat16, device=CUDA, total_flops=SHORT).attention == "flex_attention"


def test_compiled_is_uncompiled_and_validation_compiles_nothing(tiny_model, compiling):
    ids = torch.arange(40).reshape(2, 20) % 290
    batch = {"input_ids": ids, "targets": ids.roll(-1, 1)}
    plain = causal_lm_loss_sum(tiny_model, batch)
    plain.backward()
    expected = [p.grad.clone() for p in tiny_model.parameters()]
    names = set(tiny_model.state_dict())
    tiny_model.zero_grad()
    use_engine(tiny_model, Engine("eager", True), TrainSection())
    loss = causal_lm_loss_sum(tiny_model, batch)
    loss.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for ours, wanted in zip((p.grad for p in tiny_model.parameters()), expected, strict=True):
        assert torch.allclose(ours, wanted, atol=1e-4)
    assert set(tiny_model.state_dict()) == names
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with uncompiled(tiny_model), torch.no_grad():
        other = {"input_ids": ids[:, :11], "targets": ids[:, :11]}
        assert causal_lm_loss_sum(tiny_model, other).item() > 0
        assert tiny_model.config._attn_implementation == "sdpa"
    assert tiny_model.config._attn_implementation == "eager"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled > 0


def test_few_kept_activations_change_no_gradient(tiny_model):
    ids = torch.arange(40).reshape(2, 20) % 290
    batch = {"input_ids": ids, "targets": ids.roll(-1, 1)}
    tiny_model.train()
    grads = []
    for config in (TrainSection(), TrainSection(gradient_checkpointing=True)):
        use_engine(tiny_model, Engine("sdpa", False), config)
        tiny_model.zero_grad()
        causal_lm_loss_sum(tiny_model, batch).backward()
        grads.append([p.grad.clone() for p in tiny_model.parameters()])
    assert any(getattr(m, "gradient_checkpointing", False) for m in tiny_model.modules())
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
