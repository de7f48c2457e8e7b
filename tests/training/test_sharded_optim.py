"""Optimizers and the running average on weights that FSDP has spread over two processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

JOB = """
import copy, json, sys
from datetime import timedelta
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from safetensors.torch import load_file, save_file
from llmkit.errors import RecipeError
from llmkit.recipe.schema import TrainSection
from llmkit.training.average import WeightAverage
from llmkit.training.checkpoint import optimizer_tensors, restore_optimizer
from llmkit.training.optim import make_optimizer

folder = sys.argv[1]
torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
mesh, rank = init_device_mesh("cpu", (2,)), torch.distributed.get_rank()


def make_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 24), nn.RMSNorm(24))
    model.head = nn.Linear(24, 11)
    return model


def shard(model):
    return fully_shard(model, mesh=mesh)


def run(model, optimizer, first, last, average=None):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        ids, targets = (torch.randint(11, (32,), generator=generator) for _ in range(2))
        nn.functional.cross_entropy(model(ids).float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update()


def whole(model):
    weights = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in model.named_parameters()}
    return {n: p.detach().float().clone() for n, p in weights.items()}


def distance(a, b):
    assert a.keys() == b.keys()
    return max((a[n].float() - b[n].float()).abs().max().item() for n in a)


def compare(name, dtype):
    config = TrainSection(optimizer=name, lr=1e-2, muon_lr=0.02)
    plain, spread = make_model().to(dtype), shard(make_model().to(dtype))
    plain_optimizer, optimizer = make_optimizer(plain, config), make_optimizer(spread, config)
    averages = WeightAverage(plain, 0.9), WeightAverage(spread, 0.9)
    start = whole(plain)
    run(plain, plain_optimizer, 0, 3, averages[0])
    run(spread, optimizer, 0, 3, averages[1])
    found = {"moved": distance(start, whole(plain)), "apart": distance(whole(plain), whole(spread))}
    tensors, saved = averages[1].tensors(), optimizer_tensors(spread, optimizer)
    if rank == 0:
        save_file(tensors, f"{folder}/average.safetensors")
        save_file(saved, f"{folder}/optimizer.safetensors")
        found["averages apart"] = distance(averages[0].tensors(), tensors)
    torch.distributed.barrier()
    own = whole(spread)
    with averages[1].applied():
        if rank == 0:
            rounded = {n: t.to(dtype) for n, t in tensors.items() if n != "num_updates"}
        applied = whole(spread)
        if rank == 0:
            found["applied apart"] = distance(applied, rounded)
    found["own apart"] = distance(whole(spread), own)

    again = make_model().to(dtype)
    again.load_state_dict({n: t.to(dtype) for n, t in own.items()})
    again = shard(again)
    restored, average = make_optimizer(again, config), WeightAverage(again, 0.9)
    restore_optimizer(again, restored, load_file(f"{folder}/optimizer.safetensors"))
    average.restore(load_file(f"{folder}/average.safetensors"))
    run(spread, optimizer, 3, 5, averages[1])
    run(again, restored, 3, 5, average)
    found["resumed apart"] = distance(whole(spread), whole(again))
    after, again_after = averages[1].tensors(), average.tensors()
    assert (rank == 0) == bool(after)
    if rank == 0:
        found["resumed averages apart"] = distance(after, again_after)
    torch.distributed.barrier()
    return found


names = [(name, dtype) for name in ("adamw", "muon") for dtype in (torch.float32, torch.bfloat16)]
results = {f"{name} {dtype}": compare(name, dtype) for name, dtype in names}
try:
    compare("adafactor", torch.float32)
except RecipeError as error:
    results["refused"] = str(error)
if rank == 0:
    with open(f"{folder}/results.json", "w") as file:
        json.dump(results, file)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    (folder / "job.py").write_text(JOB)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, str(folder / "job.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


CASES = [f"{name} torch.{dtype}" for name in ("adamw", "muon") for dtype in ("float32", "bfloat16")]


@pytest.mark.parametrize("case", CASES)
def test_spread_weights_move_as_whole_ones(results, case):
    found = results[case]
    tolerance = 1e-5 if "float32" in case else 4e-3
    assert found["moved"] > 1e-2
    assert found["apart"] < tolerance
    assert found["averages apart"] < tolerance


@pytest.mark.parametrize("case", CASES)
def test_spread_state_goes_on_to_the_same_last_bit(results, case):
    assert results[case]["resumed apart"] == 0
    assert results[case]["resumed averages apart"] == 0


@pytest.mark.parametrize("case", CASES)
def test_spread_weights_give_way_to_their_average_and_come_back(results, case):
    assert results[case]["applied apart"] == 0
    assert results[case]["own apart"] == 0


def test_adafactor_says_that_it_cannot_update_spread_weights(results):
    assert "adafactor cannot update parameters that FSDP has spread" in results["refused"]
