"""The running average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmkit.training.average import WeightAverage


def one_weight(value, dtype=torch.float32):
    """A model of one number."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model.to(dtype)


def set_weight(model, value):
    with torch.no_grad():
        model.weight.fill_(value)


def test_a_young_average_forgets_faster_and_an_old_one_as_it_was_told():
    model = one_weight(1.0)
    average = WeightAverage(model, decay=0.25)
    set_weight(model, 2.0)
    average.update()  # keeps 2/11 of itself
    assert average.averages["weight"].item() == pytest.approx(2 / 11 * 1 + 9 / 11 * 2)
    set_weight(model, 0.0)
    average.update()  # would keep 3/12, and that is what it was told
    assert average.averages["weight"].item() == pytest.approx(0.25 * (2 / 11 + 18 / 11))
    before = average.averages["weight"].item()
    average.update()  # 4/13 is more than 0.25
    assert average.averages["weight"].item() == pytest.approx(0.25 * before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_has_the_average_within_the_block_and_its_own_weights_after(dtype):
    torch.manual_seed(0)
    model = nn.Linear(7, 5).to(dtype)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight.add_(torch.randn_like(model.weight))
    average.update()
    own, memory = model.weight.clone(), model.weight.data_ptr()
    averaged = {name: tensor.clone() for name, tensor in average.tensors().items()}
    with average.applied():
        assert torch.equal(model.weight, averaged["weight"].to(dtype))
        assert not torch.equal(model.weight, own)
    assert torch.equal(model.weight, own)
    assert model.weight.data_ptr() == memory
    for name, tensor in average.tensors().items():
        assert torch.equal(tensor, averaged[name])


def test_the_model_has_its_own_weights_after_a_validation_that_failed():
    model = one_weight(1.0)
    average = WeightAverage(model, 0.9)
    set_weight(model, 2.0)
    with pytest.raises(ZeroDivisionError), average.applied():
        raise ZeroDivisionError
    assert model.weight.item() == 2.0


def test_an_average_of_bf16_weights_is_kept_in_fp32():
    model = one_weight(1.0, torch.bfloat16)
    average = WeightAverage(model, decay=0.999)
    average.num_updates = 100_000
    set_weight(model, 2.0)
    average.update()
    assert average.averages["weight"].item() == pytest.approx(1.001)  # in bf16 it would still be 1


def test_weights_that_are_not_trained_are_not_averaged():
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    assert WeightAverage(model, 0.9).tensors().keys() == {"bias", "num_updates"}


def test_a_restored_average_goes_on_to_the_same_last_bit(tmp_path):
    from safetensors.torch import load_file, save_file

    def run(steps, saved=None):
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        average = WeightAverage(model, 0.99)
        for step in range(steps[0], steps[1]):
            with torch.no_grad():
                model.weight.copy_(torch.randn(4, 6, generator=torch.Generator().manual_seed(step)))
            if saved and step == steps[0]:
                average.restore(load_file(saved))
            average.update()
        return average.tensors()

    save_file(run((0, 5)), tmp_path / "average.safetensors")
    whole, continued = run((0, 9)), run((5, 9), tmp_path / "average.safetensors")
    assert whole.keys() == continued.keys()
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
