"""What does not fit into memory is found out before the first step; what fits leaves no trace."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from small_runs import EXTEND, LabelledRows, classify, run_training
from torch import nn

from llmkit.errors import RunError, UsageError
from llmkit.losses import causal_lm_loss_sum, classification_loss_sum
from llmkit.training import memory
from llmkit.training.run import RunOptions

WIDE, DEPTH = 2_000_000, 8


class Wide(nn.Module):
    """A classifier that holds 8 x 8 MB for each row until its backward pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(4, 3)

    def forward(self, inputs):
        wide = (inputs.mean(1, keepdim=True) * self.scale).expand(-1, WIDE)
        for _ in range(DEPTH):
            wide = torch.tanh(wide)
        return self.head(inputs) + wide.mean(1, keepdim=True)


def shapes_of(run):
    """(rows, positions) of each forward pass of a run."""
    shapes = []

    def loss(model, batch):
        shapes.append(tuple(batch["targets"].shape))
        return causal_lm_loss_sum(model, batch)

    run(loss)
    return shapes


def test_the_longest_rows_go_first(tmp_path, make_model):
    shapes = shapes_of(
        lambda loss: run_training(tmp_path / "run", make_model(), loss=loss, micro_batch_size=4, steps=1)
    )
    # One and four of the longest, whose 12 positions no row exceeds; then the step itself.
    assert shapes[:2] == [(1, 12), (4, 12)]
    assert len(shapes) == 2 + 2


def test_what_is_tried_leaves_no_trace(tmp_path, make_model, monkeypatch):
    _, lines, weights = run_training(tmp_path / "tried", make_model(0.2), steps=3)
    monkeypatch.setattr("llmkit.training.loop.fit_memory", lambda *arguments, **options: None)
    _, other_lines, others = run_training(tmp_path / "untried", make_model(0.2), steps=3)
    assert [line["loss"] for line in lines] == [line["loss"] for line in other_lines]
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def with_free_memory(monkeypatch, num_bytes):
    monkeypatch.setattr(memory, "available_memory_bytes", lambda device: num_bytes)


def test_what_does_not_fit_says_what_to_change_and_by_how_much(tmp_path, monkeypatch):
    with_free_memory(monkeypatch, 350_000_000)
    seen = []

    def loss(model, batch):
        seen.append(len(batch["targets"]))
        return classification_loss_sum(model, batch)

    with pytest.raises(RunError) as caught:
        classify(tmp_path / "run", Wide(), LabelledRows(64), loss, batch_size=32)
    assert max(seen) <= 4, "32 rows were never tried: the system would have ended the process"
    assert "32 rows at once" in str(caught.value)
    assert "350.0 MB of memory are free" in str(caught.value)
    assert re.search(r"train.micro_batch_size=[24] ", str(caught.value))
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_not_even_one_row_fits(tmp_path, monkeypatch):
    with_free_memory(monkeypatch, 20_000_000)
    with pytest.raises(RunError, match="even one row does not fit"):
        classify(tmp_path / "run", Wide(), LabelledRows(64), batch_size=4, micro_batch_size=1)


def test_weights_that_do_not_fit_with_their_gradients_need_no_row_to_be_told(tmp_path, monkeypatch):
    with_free_memory(monkeypatch, 1000)
    with pytest.raises(RunError, match="gradients and the optimizer's state alone"):
        classify(tmp_path / "run")


def test_auto_takes_the_largest_that_fits_and_changes_no_loss(tmp_path, monkeypatch, capsys):
    rows = LabelledRows(64)
    _, lines, _ = classify(tmp_path / "all", Wide(), rows, batch_size=8, steps=2, micro_batch_size=1)
    with_free_memory(monkeypatch, 700_000_000)
    sizes = []

    def loss(model, batch):
        sizes.append(len(batch["targets"]))
        return classification_loss_sum(model, batch)

    _, found, _ = classify(tmp_path / "auto", Wide(), rows, loss, batch_size=8, steps=2, micro_batch_size="auto")
    chosen = sizes[-1]
    assert chosen in (2, 4), "half of the memory is for a few rows of 64 MB"
    assert f"micro_batch_size auto: {chosen} of 8 rows at once" in capsys.readouterr().err
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in lines], abs=1e-5)


def test_auto_takes_all_rows_where_there_is_room(tmp_path, capsys):
    classify(tmp_path / "run", micro_batch_size="auto", steps=1)
    assert "micro_batch_size auto: 8 of 8 rows at once" in capsys.readouterr().err


def sizes_of(folder, **fields):
    """How many rows went at once in the steps of a run."""
    sizes = []

    def loss(model, batch):
        sizes.append(len(batch["targets"]))
        return classification_loss_sum(model, batch)

    fields = {"micro_batch_size": "auto", "schedule": "constant", **fields}
    classify(folder, Wide(), LabelledRows(64), loss, **fields)
    return sizes[-1]


def test_a_resumed_run_keeps_what_auto_found_or_says_that_it_cannot(tmp_path, monkeypatch, capsys):
    with_free_memory(monkeypatch, 1_000_000_000)
    assert sizes_of(tmp_path / "run", steps=1) == 4
    monkeypatch.undo()
    assert sizes_of(tmp_path / "run", steps=2, options=EXTEND) == 4, "there would be room for 8 now"
    with_free_memory(monkeypatch, 200_000_000)
    exact = RunOptions(extend=True, require_exact=True)
    with pytest.raises(UsageError, match=r"micro_batch_size auto was 4, is [12]"):
        sizes_of(tmp_path / "run", steps=3, options=exact)
    assert sizes_of(tmp_path / "run", steps=3, options=EXTEND) < 4
    assert "continues, not bit-identical: micro_batch_size auto was 4, is" in capsys.readouterr().err


def test_memory_that_ends_in_the_middle_of_a_run_is_told(tmp_path):
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")
        return classification_loss_sum(model, batch)

    with pytest.raises(RunError, match="step 3: there is no memory left for 8 rows at once") as caught:
        classify(tmp_path / "run", loss=loss)
    # What is advised is what can be done.
    assert "--set train.micro_batch_size=4 " in caught.value.fix
    assert classify(tmp_path / "run", micro_batch_size=4)[0].status == "finished"


def test_processes_that_measured_and_one_that_did_not_talk_equally_often(tmp_path):
    class Counted:
        """The messages of one of two processes; the other has not measured."""

        messages = 0

        def add_up(self, values):
            self.messages += 1
            return [1.0]

    talked = []
    for each_row in (0.0, 5.0):
        fitting = object.__new__(memory.Fitting)
        fitting.loop, fitting.device, fitting.is_spread = Counted(), torch.device("cpu"), False
        fitting.loop.forward_tokens = None
        fitting.each_row, fitting.one_row, fitting.available = each_row, 10, 20
        fitting.state_bytes = fitting.gradient_bytes = 1
        fitting.estimate = lambda count: True
        memory.too_much(fitting, 8)
        talked.append(fitting.loop.messages)
    assert talked[0] == talked[1]


def test_other_errors_stay_what_they_are(tmp_path):
    def loss(model, batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        classify(tmp_path / "run", loss=loss)


LIMITED = """
import resource, sys
from pathlib import Path
sys.path[:0] = {paths}
from small_runs import LabelledRows, classify
from test_memory import Wide
from llmkit.errors import LlmkitError
from llmkit.machine import own_status
limit = own_status("VmSize") + 900_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    classify(Path(sys.argv[1]), Wide(), LabelledRows(64), batch_size=64, steps=1)
except LlmkitError as error:
    sys.exit(str(error))
"""


def test_a_limit_of_the_system_is_respected(tmp_path):
    from pathlib import Path

    script = LIMITED.format(paths=[str(Path(__file__).parent)])
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "64 rows at once" in result.stderr
    assert "train.micro_batch_size=" in result.stderr


def test_a_compiled_model_is_compiled_before_the_first_step_and_once(tmp_path):
    compiled = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs):
            return torch.tanh(self.layer(inputs))

    def backend(graph, inputs):
        compiled.append([tuple(tensor.shape) for tensor in inputs])
        return graph.forward

    model = Net()
    model.compile(backend=backend)
    classify(tmp_path / "run", model, steps=3)
    assert len(compiled) == 1, "not for one row and two, whose memory is measured uncompiled"
    assert (8, 4) in compiled[0]
