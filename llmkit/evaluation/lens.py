"""Inside a model: what each layer would guess (the logit lens), and where an attention head looks.

The logit lens (nostalgebraist 2020) puts the model's last norm and its output head on the states between the layers.
Shapes: T positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llmkit.errors import ModelError, UsageError
from llmkit.evaluation.scoring import CHUNK_LOGITS
from llmkit.losses import body_of, head_of, unwrap


class LayerGuess(NamedTuple):
    """What the model would say if it ended after a layer."""

    token: int
    """The likeliest id."""
    probability: float
    """Of that id."""
    own: float | None
    """Probability of the token that stands there; None behind the text, where there is none."""


class Anatomy(NamedTuple):
    """The parts of a model that the lens needs."""

    layers: nn.ModuleList
    norm: nn.Module
    """The norm behind the last layer."""


@torch.no_grad()
def read_layers(model: Any, ids: Sequence[int]) -> list[list[LayerGuess]]:
    """What would be guessed after the embeddings (first) and after each layer, at each position.

    Args:
        model: A causal language model in eval mode.
        ids: At most as many as the model has positions. The guess at a position is about the id that follows.

    Returns:
        For each depth a guess at each of the T positions; the last depth is the model's own output.

    Raises:
        ModelError: The architecture is not layers, a norm and a head.
    """
    input_ids = torch.tensor([list(ids)], device=model.device)
    anatomy = find_anatomy(model, input_ids[:, :2])
    states = states_between(model, anatomy, input_ids)
    head = head_of(model)
    whole = model(input_ids=input_ids, use_cache=False).logits[0, -1].float()
    found = head(anatomy.norm(states[-1][-1:]))[0].float()
    if not torch.allclose(found, whole, atol=1e-3 if model.dtype == torch.float32 else 0.5, rtol=1e-2):
        raise no_lens(model, "its output is more than a norm and a head of its last layer")
    targets = torch.tensor(ids[1:], device=model.device)
    return [guess_at(head, anatomy.norm(state), targets) for state in states]


def guess_at(head: Any, states: Tensor, targets: Tensor) -> list[LayerGuess]:
    """Guesses from normed states (T, D); `targets` (T - 1,) are the ids that follow all but the last."""
    guesses: list[LayerGuess] = []
    rows = max(16, CHUNK_LOGITS // head.weight.shape[0])
    for part in torch.split(states, rows):
        shares = head(part).float().softmax(dim=-1)
        best = shares.max(dim=-1)
        wanted = targets[len(guesses) : len(guesses) + len(part)]
        own = shares[: len(wanted)].gather(1, wanted[:, None]).squeeze(1).tolist()
        own += [None] * (len(part) - len(own))
        guesses += map(LayerGuess, best.indices.tolist(), best.values.tolist(), own)
    return guesses


def find_anatomy(model: Any, input_ids: Tensor) -> Anatomy:
    """Find layers and last norm by what they do, not by what an architecture calls them.

    The layers are the list that is as long as the configuration says; the norm is the module beside that list whose
    output is the body's.
    """
    body, count = body_of(model), getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for owner in body.modules():
        for layers in owner.children():
            if isinstance(layers, nn.ModuleList) and len(layers) == count:
                norm = find_norm(body, owner, input_ids)
                if norm is not None:
                    return Anatomy(layers, norm)
    raise no_lens(model, "there is no list of layers with a norm behind it")


def find_norm(body: Any, owner: nn.Module, input_ids: Tensor) -> nn.Module | None:
    """The child of `owner` that made the output of `body`, if there is one."""
    outputs: list[tuple[nn.Module, Any]] = []
    children = [child for child in owner.children() if not isinstance(child, nn.ModuleList)]
    hooks = [child.register_forward_hook(lambda m, _, out: outputs.append((m, out))) for child in children]
    try:
        result = body(input_ids=input_ids, use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    tensors = ((child, out) for child, out in reversed(outputs) if isinstance(out, Tensor))
    # Some architectures give it another shape behind the norm.
    return next((child for child, out in tensors if torch.equal(out.flatten(), result.flatten())), None)


def states_between(model: Any, anatomy: Anatomy, input_ids: Tensor) -> list[Tensor]:
    """(T, D) what goes into each layer, and last what goes into the norm."""
    states: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append((args[0] if args else kwargs["hidden_states"])[0])

    parts = [*anatomy.layers, anatomy.norm]
    hooks = [part.register_forward_pre_hook(keep, with_kwargs=True) for part in parts]
    try:
        body_of(model)(input_ids=input_ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if len(states) != len(parts) or any(state.shape != states[0].shape for state in states):
        raise no_lens(model, "its layers do not follow each other one by one")
    return states


def no_lens(model: Any, reason: str) -> ModelError:
    """The error for an architecture that the lens does not fit."""
    return ModelError(
        f"the layers of a {model.config.model_type} cannot be read: {reason}",
        where="--layers",
        fix="leave out --layers; it works for llama, gpt2, qwen, mistral and their like",
    )


@torch.no_grad()
def attention_map(model: Any, ids: Sequence[int], layer: int, head: int) -> Tensor:
    """(T, T) how much each position (row) takes from each position (column); rows sum to 1.

    Raises:
        UsageError: There is no such layer or head.
        ModelError: The architecture has no attention that it shows.
    """
    config = model.config.get_text_config()
    check_place("layer", layer, getattr(config, "num_hidden_layers", 0))
    check_place("head", head, getattr(config, "num_attention_heads", 0) or 0)
    with plain_attention(model):
        found = body_of(model)(
            input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False, output_attentions=True
        )
    maps = getattr(found, "attentions", None)
    if not maps or len(maps) <= layer or maps[layer] is None:
        raise ModelError(
            f"layer {layer} of this {model.config.model_type} shows no attention",
            where="--attention",
            fix="choose another layer, or leave --attention out",
        )
    weights: Tensor = maps[layer][0, head].float()
    return weights


def check_place(what: str, number: int, count: int) -> None:
    """Raise unless there is a layer or head of this number."""
    if not 0 <= number < count:
        fix = f"choose 0 to {count - 1}" if count else "leave --attention out"
        raise UsageError(f"there is no {what} {number}; the model has {count}", where="--attention", fix=fix)


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Within the block attention is computed the plain way, the only one that shows its weights."""
    inner = unwrap(model)
    before = inner.config._attn_implementation
    try:
        inner.set_attn_implementation("eager")
        yield
    except ValueError as error:
        raise ModelError(
            f"this {inner.config.model_type} does not show its attention: {error}",
            where="--attention",
            fix="leave --attention out",
        ) from error
    finally:
        inner.set_attn_implementation(before)
