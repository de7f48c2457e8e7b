"""Blocks of a CNN, its normalisation, and the changes that pictures undergo in training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmkit.errors import RecipeError
from llmkit.models.baselines import BaselineSpec, build_baseline, load_baseline, predict, save_baseline
from llmkit.models.baselines.augment import Augment
from llmkit.models.baselines.cnn import BatchNorm2d, ResidualBlock
from llmkit.recipe.schema import BaselineModel

PICTURES = BaselineSpec("image", (3, 16, 16), 5)
SERIES = BaselineSpec("series", (12, 2), 1)


def section(**fields):
    return BaselineModel(**{"kind": "cnn", "hidden_size": 8, "dropout": 0.0, **fields})


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("blocks", ["plain", "residual"])
@pytest.mark.parametrize("spec", [PICTURES, SERIES], ids=["pictures", "series"])
def test_every_kind_of_block_halves_and_doubles(spec, blocks, norm):
    model = build_baseline(section(blocks=blocks, norm=norm, num_layers=2), spec)
    inputs = torch.randn(4, *spec.input_shape)
    assert model(inputs).shape == (4, spec.num_outputs)
    planes = inputs.transpose(1, 2) if spec.form == "series" else inputs
    # Two halvings; 8 channels, then 16.
    assert model.blocks(planes).shape[1:] == (16, *(side // 4 for side in planes.shape[2:]))


def test_a_residual_block_without_filters_passes_its_input_on():
    block = ResidualBlock(8, 8, section(norm="none"), dims=2, halves=False)
    with torch.no_grad():
        for parameter in block.filters.parameters():
            parameter.zero_()
    planes = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(planes), F.relu(planes))


def test_batch_normalisation_tests_with_what_it_saw_in_training():
    norm = BatchNorm2d(1)
    norm.train()
    planes = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    # Mean 2, spread 1; the running ones move a tenth of the way from 0 and 1 (with an unbiased variance of 2).
    torch.testing.assert_close(norm(planes).flatten(), torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    norm.eval()
    expected = (planes.flatten() - 0.2) / (0.9 * 1 + 0.1 * 2) ** 0.5
    torch.testing.assert_close(norm(planes).flatten(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_without_spread_changes_no_running_figure(count):
    norm = BatchNorm2d(3).train()
    norm(torch.randn(8, 3, 2, 2))
    before = [buffer.clone() for buffer in norm.buffers()]
    found = norm(torch.randn(count, 3, 1, 1))
    assert found.shape == (count, 3, 1, 1)
    assert found.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))


def test_group_normalisation_sees_no_other_row():
    model = build_baseline(section(norm="group"), PICTURES).train()
    inputs = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(model(inputs)[:1], model(inputs[:1]), atol=1e-5, rtol=0)


def test_running_figures_are_saved_with_the_weights(tmp_path):
    chosen = section(blocks="residual")
    model = build_baseline(chosen, PICTURES).train()
    inputs = torch.randn(16, 3, 16, 16) * 3 + 1
    model(inputs)
    save_baseline(model, tmp_path, section=chosen, spec=PICTURES, data={})
    loaded, _ = load_baseline(tmp_path)
    assert any("running_mean" in name for name in loaded.state_dict())
    assert torch.equal(loaded(inputs), model.eval()(inputs))


def test_pictures_are_moved_by_whole_pixels_and_each_by_its_own():
    pictures = torch.zeros(200, 1, 7, 7)
    pictures[:, :, 3, 3] = 1.0
    torch.manual_seed(0)
    moved = Augment(shift=2, flips=False).train()(pictures)
    places = {tuple(place) for place in moved.nonzero()[:, 2:].tolist()}
    assert moved.sum() == 200
    assert places == {(row, column) for row in range(1, 6) for column in range(1, 6)}


def test_about_half_of_the_pictures_are_mirrored():
    pictures = torch.arange(6.0).view(1, 1, 2, 3).expand(400, 1, 2, 3)
    torch.manual_seed(0)
    changed = Augment(shift=0, flips=True).train()(pictures)
    is_flipped = (changed == pictures.flip(3)).all(dim=(1, 2, 3))
    assert (is_flipped | (changed == pictures).all(dim=(1, 2, 3))).all()
    assert 0.4 < is_flipped.float().mean() < 0.6


def test_changes_are_a_function_of_the_seed_and_stay_out_of_testing():
    model = build_baseline(section(shift=2, flip=True, norm="none"), PICTURES)
    pictures = torch.randn(4, 3, 16, 16)
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(model.train()(pictures))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    torch.testing.assert_close(model.eval()(pictures), model[1](pictures))


def test_only_pictures_can_be_moved():
    with pytest.raises(RecipeError, match="only pictures"):
        build_baseline(section(shift=1), SERIES)


def test_predicting_leaves_the_running_figures_alone():
    class Pictures:
        lengths = None
        is_stream = False

        def __len__(self):
            return 6

        def batch(self, indices):
            return {"inputs": torch.ones(len(indices), 3, 16, 16), "targets": torch.zeros(len(indices))}

    model = build_baseline(section(), PICTURES).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert predict(model, Pictures()).shape == (6, 5)
    assert model.training
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
