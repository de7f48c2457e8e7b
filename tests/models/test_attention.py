"""Attention by plain products is torch's attention, to bf16's rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmkit.models.attention import NAME, CausalProducts, DocumentProducts, attend_compiled, attention, use_products


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 17, 8, generator=generator) for _ in range(4)]


def test_output_and_gradients_equal_torchs_own(tensors):
    *inputs, weights = tensors
    results = []
    for attend in (
        lambda q, k, v: CausalProducts.apply(q, k, v, 8**-0.5, None),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = attend(*leaves)
        (out * weights).sum().backward()
        results.append([out, *(x.grad for x in leaves)])
    for ours, torchs in zip(*results, strict=True):
        assert torch.allclose(ours, torchs, atol=1e-5)


@pytest.mark.parametrize("has_documents", [True, False])
@pytest.mark.parametrize("block", [128, 16])
def test_a_compiled_model_trains_with_blocks_of_products_as_without(
    tiny_tokenizer, has_documents, block, monkeypatch, compiling
):
    from llmkit.losses import body_of, causal_lm_loss_sum
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    monkeypatch.setattr("llmkit.models.attention.BLOCK", block)
    monkeypatch.setattr(CausalProducts, "forward", None)  # what a model does that is not compiled
    section = ModelSection(num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2)
    ids = torch.arange(120).reshape(2, 60) % 290
    batch = {"input_ids": ids, "targets": ids.roll(-1, 1)}
    if has_documents:
        batch["position_ids"] = torch.cat([torch.arange(25), torch.arange(35)]).expand(2, -1)
    found = []
    for is_fast in (False, True):
        model = build_causal_lm(section, vocab_size=300, seq_len=64, tokenizer=tiny_tokenizer, seed=0)
        if is_fast:
            use_products(model)
            body_of(model).compile()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = causal_lm_loss_sum(model, batch)
        loss.backward()
        found.append((loss.item() / 120, torch.cat([p.grad.flatten() for p in model.parameters()])))
    (plain, expected), (fast, grad) = found
    assert fast == pytest.approx(plain, rel=2e-3)
    assert (grad - expected).norm() < 0.02 * expected.norm()


def test_blocks_of_products_drop_out_as_many_shares_as_they_are_told():
    ones = torch.ones(1, 8, 64, 16, dtype=torch.bfloat16)
    torch.manual_seed(0)
    kept = attend_compiled((ones, ones, ones), None, {"dropout": 0.25})
    assert kept.float().mean().item() == pytest.approx(1, abs=0.05)
    assert kept.float().std().item() > 0.05


@pytest.mark.parametrize("documents", [[20, 30], [7, 41, 2]])
def test_documents_of_a_compiled_row_are_not_compiled_by_their_lengths(tiny_model, documents, compiling):
    from llmkit.losses import model_inputs

    use_products(tiny_model)
    positions = torch.cat([torch.arange(n) for n in documents])[None]
    batch = {"input_ids": positions, "position_ids": positions}
    assert model_inputs(tiny_model, batch)["document_lengths"] == documents
    tiny_model.model.compile()
    assert "document_lengths" not in model_inputs(tiny_model, batch)


@pytest.mark.parametrize("grouped", [True, False])
def test_a_model_trains_with_it_as_without(tiny_tokenizer, grouped, monkeypatch):
    from llmkit.losses import causal_lm_loss_sum
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    section = ModelSection(num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2 if grouped else None)
    losses, calls = [], []
    original = CausalProducts.forward
    monkeypatch.setattr(CausalProducts, "forward", staticmethod(lambda *a: (calls.append(1), original(*a))[1]))
    for fast in (False, True):
        model = build_causal_lm(section, vocab_size=300, seq_len=64, tokenizer=tiny_tokenizer, seed=0)
        if fast:
            use_products(model)
        ids = torch.arange(120).reshape(2, 60) % 290
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = causal_lm_loss_sum(model, {"input_ids": ids, "targets": ids.roll(-1, 1)})
        loss.backward()
        norm = sum(p.grad.norm() ** 2 for p in model.parameters()) ** 0.5
        losses.append([loss.item() / 120, norm.item()])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert len(calls) == 2  # once in each layer of the second model


def test_padding_and_caches_go_to_torchs_own_attention(tiny_model):
    ids = torch.arange(20).reshape(2, 10)
    mask = torch.ones(2, 10, dtype=torch.int64)
    mask[0, :4] = 0
    before = tiny_model(input_ids=ids, attention_mask=mask).logits
    use_products(tiny_model)
    assert torch.allclose(tiny_model(input_ids=ids, attention_mask=mask).logits, before, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", NAME])
def test_documents_kept_apart_have_the_loss_and_the_gradients_they_have_alone(tiny_tokenizer, kind, attention):
    from llmkit.data.prepared import token_batch
    from llmkit.losses import causal_lm_loss_sum
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    start = 0
    section = ModelSection(type=kind, num_layers=2, hidden_size=64, num_heads=2)
    model = build_causal_lm(section, vocab_size=300, seq_len=64, tokenizer=tiny_tokenizer, seed=0).eval()
    is_bf16 = attention == NAME
    if is_bf16:
        use_products(model)
    else:
        model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(5, 290, (n,), generator=generator) for n in (7, 1, 12, 4)]
    ids = torch.cat([torch.cat([torch.tensor([start]), d]) for d in documents])
    packed = token_batch(torch.cat([ids, torch.tensor([start])])[None], start)

    def measure(batches):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            loss = sum(causal_lm_loss_sum(model, batch) for batch in batches)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    def alone(document, following):
        row = torch.cat([torch.tensor([start]), document, torch.tensor([following])])[None]
        return {"input_ids": row[:, :-1], "targets": row[:, 1:]}

    together, grad = measure([packed])
    apart, expected = measure([alone(d, start) for d in documents])
    assert together == pytest.approx(apart, rel=2e-3 if is_bf16 else 1e-5)
    if not is_bf16:
        assert torch.allclose(grad, expected, atol=2e-4)
    mixed, _ = measure([{k: v for k, v in packed.items() if k != "position_ids"}])
    assert abs(mixed - apart) > 5 * abs(together - apart)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "mistral", "gpt_neox"])
def test_transformers_keep_documents_apart_that_lie_end_to_end(tiny_tokenizer, kind):
    from llmkit.models.attention import keeps_documents_apart
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    section = ModelSection(type=kind, num_layers=2, hidden_size=32, num_heads=2)
    model = build_causal_lm(section, vocab_size=300, seq_len=64, tokenizer=tiny_tokenizer, seed=0)
    before = model.config._attn_implementation
    assert keeps_documents_apart(model)
    assert model.config._attn_implementation == before


def test_rounding_does_not_pass_for_a_leak_where_outputs_are_large(tiny_model):
    from llmkit.models.attention import keeps_documents_apart

    with torch.no_grad():
        tiny_model.model.norm.weight.mul_(1e5)
    assert keeps_documents_apart(tiny_model)


def test_a_model_that_carries_a_state_along_the_row_does_not(tiny_tokenizer):
    from transformers import MambaConfig, MambaForCausalLM

    from llmkit.models.attention import keeps_documents_apart

    model = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4))
    assert not keeps_documents_apart(model)


def test_whether_documents_are_kept_apart_depends_on_the_attention():
    """OPT counts positions itself: laid out one by one they are right, behind a mask they are not."""
    from transformers import OPTConfig, OPTForCausalLM

    from llmkit.models.attention import keeps_documents_apart

    sizes = {"vocab_size": 64, "hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "ffn_dim": 64}
    model = OPTForCausalLM(OPTConfig(**sizes, num_attention_heads=2, max_position_embeddings=64))
    assert keeps_documents_apart(model, "products")
    assert not keeps_documents_apart(model, "sdpa", num_rows=2)


@pytest.mark.parametrize("num_rows", [1, 2])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention", "products"])
def test_every_attention_keeps_documents_of_a_llama_apart(tiny_model, attention, num_rows):
    from llmkit.models.attention import keeps_documents_apart

    assert keeps_documents_apart(tiny_model, attention, num_rows=num_rows)


def test_each_document_of_a_row_gets_attention_of_its_own(tensors, tiny_model):
    query, key, value = (x[:1] for x in tensors[:3])
    layer = tiny_model.model.layers[0].self_attn
    layer.num_key_value_groups = 1
    together, _ = attention(layer, query, key, value, None, document_lengths=[5, 12])
    parts = zip(*(x.split([5, 12], dim=2) for x in (query, key, value)), strict=True)
    apart = [F.scaled_dot_product_attention(*part, is_causal=True).transpose(1, 2) for part in parts]
    assert torch.allclose(together, torch.cat(apart, dim=1), atol=1e-6)


def test_a_document_is_measured_as_it_is_trained(tiny_model):
    """To the last bit in bf16: DPO holds a model against itself."""
    from llmkit.losses import causal_lm_loss_sum

    use_products(tiny_model)
    ids = torch.arange(60)[None] % 290
    positions = torch.cat([torch.arange(20), torch.arange(40)])[None]
    batch = {"input_ids": ids, "targets": ids.roll(-1, 1), "position_ids": positions}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = causal_lm_loss_sum(tiny_model, batch).item()
        with torch.no_grad():
            measured = causal_lm_loss_sum(tiny_model, batch).item()
    assert measured == trained


@pytest.mark.parametrize("block", [128, 4, 1])
@pytest.mark.parametrize("num_keys", [3, 1])
def test_products_of_documents_and_their_gradients_equal_torchs_own(tensors, num_keys, block, monkeypatch):
    monkeypatch.setattr("llmkit.models.attention.BLOCK", block)
    query, key, value, weights = (x[:1].bfloat16() for x in tensors)
    key, value = key[:, :num_keys], value[:, :num_keys]
    results = []
    for compute in (
        lambda q, k, v: DocumentProducts.apply(q, k, v, 8**-0.5, [5, 1, 11]),
        lambda q, k, v: torch.cat(
            [
                F.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True)
                for part in zip(*(x.split([5, 1, 11], dim=2) for x in (q, k, v)), strict=True)
            ],
            dim=2,
        ),
    ):
        leaves = [x.clone().requires_grad_() for x in (query, key, value)]
        out = compute(*leaves)
        (out.float() * weights.float()).sum().backward()
        results.append([out, *(x.grad for x in leaves)])
    for ours, torchs in zip(*results, strict=True):
        assert torch.allclose(ours.float(), torchs.float(), atol=0.03, rtol=0.01)
