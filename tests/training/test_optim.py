"""The learning rate of each step, what is in which group, and optimizers that go on where they were."""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmkit.errors import RecipeError
from llmkit.losses import causal_lm_loss_sum, classification_loss_sum
from llmkit.models.causal_lm import build_causal_lm
from llmkit.recipe.schema import ModelSection, PretrainRecipe, TrainSection
from llmkit.training.checkpoint import optimizer_tensors, restore_optimizer
from llmkit.training.job import start_job
from llmkit.training.loop import train
from llmkit.training.optim import clip_gradients, lr_at, make_optimizer
from llmkit.training.run import open_run

HAS_BITSANDBYTES = find_spec("bitsandbytes") is not None


def rates(steps, *, num_steps, **fields):
    """The lr of some steps, where the highest is 1."""
    config = TrainSection(lr=1.0, **fields)
    return [lr_at(step, config, num_steps=num_steps) for step in steps]


def test_lr_rises_over_the_warmup_steps_or_their_share():
    rise = [0.2, 0.4, 0.6, 0.8, 1.0]
    for schedule in ("cosine", "linear", "constant", "wsd", "inverse_sqrt"):
        assert rates(range(5), num_steps=40, schedule=schedule, warmup_steps=4) == pytest.approx(rise)
        share = {"warmup_share": 0.1, "warmup_steps": 17}
        assert rates(range(5), num_steps=40, schedule=schedule, **share) == pytest.approx(rise)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_run_shorter_than_its_warmup_gets_to_its_lr_in_the_middle(schedule):
    config = TrainSection(lr=1.0, warmup_steps=20, schedule=schedule)
    lrs = [lr_at(step, config, num_steps=13) for step in range(13)]
    assert lrs.index(max(lrs)) == 6
    assert max(lrs) == 1.0
    assert lrs[-1] == pytest.approx(config.min_lr_ratio)


@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt", "wsd"])
def test_the_warmup_of_a_run_that_may_be_made_longer_does_not_depend_on_its_length(schedule):
    config = TrainSection(lr=1.0, warmup_steps=20, schedule=schedule)
    assert lr_at(5, config, num_steps=13) == lr_at(5, config, num_steps=1000)


def test_a_cosine_is_half_way_down_in_the_middle():
    cosine = {"schedule": "cosine", "warmup_steps": 4, "min_lr_ratio": 0.1}
    # 16 steps of fall; after a quarter of them (1 + cos 45 degrees) / 2 = 0.853553 of the way is left.
    expected = [1.0, 0.1 + 0.9 * 0.853553, 0.55, 0.1]
    assert rates([4, 8, 12, 20], num_steps=21, **cosine) == pytest.approx(expected, abs=1e-6)


def test_a_linear_schedule_is_a_line_and_a_constant_one_stays():
    line = {"schedule": "linear", "warmup_steps": 0, "min_lr_ratio": 0.0}
    assert rates(range(5), num_steps=5, **line) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert rates([1, 50, 99], num_steps=100, schedule="constant", warmup_steps=0) == [1, 1, 1]


def test_an_inverse_square_root_halves_lr_when_the_steps_are_fourfold():
    # Step 3 is the fourth, step 15 the sixteenth.
    values = rates([3, 15, 63], num_steps=64, schedule="inverse_sqrt", warmup_steps=3)
    assert values == pytest.approx([1, 1 / 2, 1 / 4])


def test_wsd_stays_and_falls_by_one_minus_sqrt_at_the_end():
    wsd = {"schedule": "wsd", "warmup_steps": 10, "decay_share": 0.2}
    assert rates([10, 45, 79], num_steps=100, **wsd) == [1, 1, 1]
    # 20 steps of fall: the fifth has a quarter behind it, 1 - sqrt(1/4) = 1/2.
    assert rates([84, 99], num_steps=100, min_lr_ratio=0.0, **wsd) == pytest.approx([0.5, 0])
    assert rates([84, 99], num_steps=100, min_lr_ratio=0.1, **wsd) == pytest.approx([0.55, 0.1])


def test_a_wsd_run_that_is_branched_off_has_the_same_lr_until_its_decay():
    wsd = {"schedule": "wsd", "warmup_steps": 5, "decay_share": 0.2}
    whole = rates(range(100), num_steps=100, **wsd)
    # Branched off at step 40, to decay at once: 40 / (1 - 0.2) = 50 steps in all.
    branch = rates(range(50), num_steps=50, **wsd)
    assert branch[:40] == whole[:40]
    assert branch[40] < branch[39] == 1.0
    assert branch[49] == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd", "inverse_sqrt"])
def test_lr_is_sound_in_runs_shorter_than_warmup_and_decay(schedule):
    for num_steps in (1, 2, 3):
        for share in (0.0, 0.5, 1.0):
            values = rates(range(num_steps), num_steps=num_steps, schedule=schedule, warmup_steps=2, decay_share=share)
            assert all(0 < value <= 1 for value in values)


def names_of_groups(model, **fields):
    """Of each group, the names of its parameters and its settings."""
    names = {p: name for name, p in model.named_parameters()}
    groups = make_optimizer(model, TrainSection(**fields)).param_groups
    return [({names[p] for p in group["params"]}, group) for group in groups]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_norms_and_embeddings_do_not_decay(tiny_model, optimizer):
    (decaying, first), (plain, second) = names_of_groups(tiny_model, optimizer=optimizer, weight_decay=0.1)
    assert [g["lr_scale"] * g["weight_decay"] for g in (first, second)] == pytest.approx([0.1, 0.0])
    assert "model.layers.0.mlp.up_proj.weight" in decaying
    assert plain >= {"model.norm.weight", "model.embed_tokens.weight"}


@pytest.fixture
def wide_model(tiny_tokenizer):
    """A Llama of one layer, 64 wide (bitsandbytes keeps 32 bits for matrices below 4,096 numbers), head untied."""
    section = ModelSection(num_layers=1, hidden_size=64, num_heads=2, tie_embeddings=False)
    return build_causal_lm(section, vocab_size=300, seq_len=16, tokenizer=tiny_tokenizer, seed=0)


def test_muon_has_the_hidden_matrices_and_not_the_output_head(wide_model):
    muon, head, plain = names_of_groups(wide_model, optimizer="muon", lr=1e-3, muon_lr=0.02)
    assert muon[1]["lr_scale"] == pytest.approx(20)
    assert len(muon[0]) == 7
    assert all("layers" in name for name in muon[0])
    assert head[0] == {"lm_head.weight"}
    assert "momentum" not in head[1]
    assert plain[0] >= {"model.norm.weight", "model.embed_tokens.weight"}


def test_what_is_frozen_is_in_no_group():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    assert [names for names, _ in names_of_groups(model)] == [{"1.weight"}, {"1.bias"}]


def run_steps(model, optimizer, first, last, config):
    """Some steps on text that is a function of the step."""
    for step in range(first, last):
        ids = torch.randint(5, 290, (2, 12), generator=torch.Generator().manual_seed(step))
        causal_lm_loss_sum(model, {"input_ids": ids, "targets": ids}).backward()
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, config, num_steps=last) * group["lr_scale"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "adamw8bit"])
def test_a_restored_optimizer_goes_on_to_the_same_last_bit(tmp_path, wide_model, name, dtype):
    if name == "adamw8bit" and not HAS_BITSANDBYTES:
        pytest.skip("bitsandbytes is not installed")
    config = TrainSection(optimizer=name, lr=1e-2, schedule="constant", warmup_steps=0)
    whole = wide_model.to(dtype)
    continued = copy.deepcopy(whole)
    optimizer = make_optimizer(whole, config)
    run_steps(whole, optimizer, 0, 3, config)
    save_file(optimizer_tensors(whole, optimizer), tmp_path / "optimizer.safetensors")
    continued.load_state_dict({name: tensor.clone() for name, tensor in whole.state_dict().items()})
    run_steps(whole, optimizer, 3, 5, config)

    resumed = make_optimizer(continued, config)
    restore_optimizer(continued, resumed, load_file(tmp_path / "optimizer.safetensors"))
    run_steps(continued, resumed, 3, 5, config)
    for mine, other in (
        (whole.state_dict(), continued.state_dict()),
        (optimizer_tensors(whole, optimizer), optimizer_tensors(continued, resumed)),
    ):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)


class Points:
    """Points of three classes, which break off after so many were read."""

    lengths = None
    is_stream = False

    def __init__(self, limit):
        self.left = limit

    def __len__(self):
        return 24

    def batch(self, indices):
        self.left -= len(indices)
        if self.left < 0:
            raise ConnectionError("the plug was pulled")
        inputs = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(i)) for i in indices])
        return {"inputs": inputs, "targets": torch.tensor(indices) % 3}


def train_points(folder, limit, **fields):
    """Six steps through the loop; the result's weights."""
    config = TrainSection(steps=6, batch_size=8, lr=1e-2, warmup_steps=1, save_every=2, ema_decay=0.9, **fields)
    accelerator = start_job(config)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    with open_run(folder, PretrainRecipe(train=config), accelerator) as run:
        train(
            model,
            Points(limit),
            classification_loss_sum,
            config,
            run,
            accelerator=accelerator,
            save_model=lambda path, _: save_file(model.state_dict(), path / "model.safetensors"),
            load_model=lambda path: model.load_state_dict(load_file(path / "model.safetensors")),
        )
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "pure-bf16"])
@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "adamw8bit"])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path, name, precision):
    if name == "adamw8bit" and not HAS_BITSANDBYTES:
        pytest.skip("bitsandbytes is not installed")
    fields = {"optimizer": name, "precision": precision}
    whole = train_points(tmp_path / "whole", 10_000, **fields)
    with pytest.raises(ConnectionError):
        train_points(tmp_path / "cut", 8 * 5, **fields)
    assert [path.name for path in sorted((tmp_path / "cut/checkpoints").iterdir())][-1] == "step-00000004"
    continued = train_points(tmp_path / "cut", 10_000, **fields)
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


@pytest.mark.skipif(HAS_BITSANDBYTES, reason="bitsandbytes is installed")
def test_an_optimizer_whose_library_is_missing_says_what_to_install(tiny_model):
    with pytest.raises(RecipeError, match="bitsandbytes") as error:
        make_optimizer(tiny_model, TrainSection(optimizer="adamw8bit"))
    assert "llmkit[8bit]" in error.value.fix


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes is not installed")
def test_states_of_8_bits_are_those_of_matrices(wide_model):
    config = TrainSection(optimizer="adamw8bit", weight_decay=0.0)
    optimizer = make_optimizer(wide_model, config)
    run_steps(wide_model, optimizer, 0, 1, config)
    state = optimizer_tensors(wide_model, optimizer)
    eight_bits = {name.partition("|")[0] for name, tensor in state.items() if tensor.dtype == torch.uint8}
    assert eight_bits == {name for name, p in wide_model.named_parameters() if p.ndim == 2 and "embed" not in name}


@pytest.mark.parametrize("bound", [0.1, 3.0, 1e9, math.inf])
@pytest.mark.parametrize("factor", [1.0, math.inf, math.nan], ids=["finite", "infinite", "no number"])
def test_gradients_are_clipped_as_torch_does_to_the_last_bit(bound, factor):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.zeros(shape)) for shape in ((3, 5), (7,), (1,), (2, 2))] for _ in range(2))
    for one, other in zip(ours[:-1], theirs[:-1], strict=True):  # the last has none
        one.grad = torch.randn(one.shape, generator=generator)
        one.grad[0] *= factor
        other.grad = one.grad.clone()
    norm, expected = clip_gradients(ours, bound), nn.utils.clip_grad_norm_(theirs, bound)
    torch.testing.assert_close(norm, float(expected), rtol=0, atol=0, equal_nan=True)
    for one, other in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0, equal_nan=True)


def test_without_gradients_there_is_no_norm():
    assert clip_gradients([nn.Parameter(torch.zeros(2))], 1.0) == 0.0
