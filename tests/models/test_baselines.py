"""The classical networks: shapes, padding that changes nothing, and folders that hold all that is needed."""

from __future__ import annotations

import json

import pytest
import torch

from llmkit.batch import Rows
from llmkit.data.labelled import TensorRows
from llmkit.errors import ModelError, RecipeError
from llmkit.models.baselines import (
    ACTIVATIONS,
    BaselineSpec,
    build_baseline,
    count_parameters,
    load_baseline,
    load_weights,
    predict,
    save_baseline,
)
from llmkit.recipe.schema import BaselineModel

IMAGE = BaselineSpec("image", (3, 9, 8), 5)
TABLE = BaselineSpec("table", (7,), 3)
TEXT = BaselineSpec("text", (), 4, num_words=50)
SERIES = BaselineSpec("series", (12, 2), 1)


def section(kind, **fields):
    return BaselineModel(kind=kind, **{"hidden_size": 8, "embedding_size": 6, "dropout": 0.0, **fields})


def inputs_for(spec, rows=4):
    generator = torch.Generator().manual_seed(0)
    if spec.form == "text":
        return torch.randint(1, spec.num_words, (rows, 10), generator=generator)
    return torch.randn(rows, *spec.input_shape, generator=generator)


FITTING = [(kind, spec) for kind in ("mlp", "cnn", "rnn") for spec in (IMAGE, TEXT, SERIES)] + [("mlp", TABLE)]
IDS = [f"{kind}-{spec.form}" for kind, spec in FITTING]


@pytest.mark.parametrize(("kind", "spec"), FITTING, ids=IDS)
def test_every_network_answers_the_forms_it_is_made_for(kind, spec):
    model = build_baseline(section(kind, num_layers=2), spec)
    outputs = model(inputs_for(spec))
    assert outputs.shape == (4, spec.num_outputs)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("kind", "spec"), FITTING, ids=IDS)
def test_a_row_is_answered_alike_alone_and_in_company(kind, spec):
    model = build_baseline(section(kind), spec).eval()
    inputs = inputs_for(spec)
    alone = torch.cat([model(row[None]) for row in inputs])
    torch.testing.assert_close(model(inputs), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"num_layers": 2}, {"cell": "gru", "bidirectional": True}])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "rnn"])
def test_padding_changes_nothing(kind, fields):
    model = build_baseline(section(kind, **fields), TEXT).eval()
    short = torch.tensor([[7, 3, 9]])
    padded = torch.tensor([[7, 3, 9, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    torch.testing.assert_close(model(padded)[:1], model(short), atol=1e-6, rtol=1e-5)


def test_a_text_of_one_word_is_enough_for_every_network():
    for kind in ("mlp", "cnn", "rnn"):
        assert build_baseline(section(kind), TEXT)(torch.tensor([[1]])).isfinite().all()


def test_a_phrase_filter_of_three_words_sees_its_neighbours_alone():
    model = build_baseline(section("cnn"), TEXT).eval()
    layer = model.layers[0]
    found = torch.zeros(1, 6, 9)
    changed = found.clone()
    changed[0, :, 4] = 1.0
    differs = (layer(found) != layer(changed)).view(3, 8, 9).any(1)
    # Spans 3, 4 and 5, all about the word in the middle.
    assert [row.nonzero().flatten().tolist() for row in differs] == [[3, 4, 5], [3, 4, 5, 6], [2, 3, 4, 5, 6]]


def test_the_order_of_words_matters_to_an_rnn_and_not_to_an_mlp():
    forward, backward = torch.tensor([[3, 4, 5]]), torch.tensor([[5, 4, 3]])
    rnn, mlp = (build_baseline(section(kind), TEXT).eval() for kind in ("rnn", "mlp"))
    assert not torch.allclose(rnn(forward), rnn(backward))
    torch.testing.assert_close(mlp(forward), mlp(backward))


def test_the_parameters_of_an_mlp_are_those_counted_by_hand():
    model = build_baseline(section("mlp", num_layers=2), TABLE)
    assert count_parameters(model) == (7 * 8 + 8) + (8 * 8 + 8) + (8 * 3 + 3)


@pytest.mark.parametrize("kind", ["cnn", "rnn"])
def test_a_table_has_neither_neighbours_nor_order(kind):
    with pytest.raises(RecipeError, match="neither"):
        build_baseline(section(kind), TABLE)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_makes_another_network(name):
    inputs = inputs_for(TABLE)
    relu, other = (build_baseline(section("mlp", activation=a), TABLE)(inputs) for a in ("relu", name))
    assert torch.equal(relu, other) == (name == "relu")


def test_weights_are_a_function_of_the_seed_and_leave_other_randomness_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    same, again, other = (build_baseline(section("mlp"), TABLE, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(same["head.weight"], again["head.weight"])
    assert not torch.equal(same["head.weight"], other["head.weight"])


@pytest.mark.parametrize(("kind", "spec"), FITTING, ids=IDS)
def test_saved_and_loaded_networks_give_equal_outputs(kind, spec, tmp_path):
    chosen = section(kind)
    model = build_baseline(chosen, spec, seed=3).eval()
    save_baseline(model, tmp_path, section=chosen, spec=spec, data={"classes": ["ä", "b"]})
    loaded, data = load_baseline(tmp_path)
    assert data == {"classes": ["ä", "b"]}
    assert not loaded.training
    assert torch.equal(loaded(inputs_for(spec)), model(inputs_for(spec)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_that_is_no_baseline_is_named(tmp_path):
    with pytest.raises(ModelError, match="no baseline"):
        load_baseline(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="no baseline"):
        load_baseline(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    model = build_baseline(section("mlp"), TABLE)
    save_baseline(model, tmp_path, section=section("mlp"), spec=TABLE, data={})
    with pytest.raises(ModelError, match="do not fit"):
        load_weights(build_baseline(section("mlp", hidden_size=16), TABLE), tmp_path)


def test_predictions_come_in_the_order_of_the_rows_whatever_their_lengths():
    ids = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 4, 0]], dtype=torch.int32)
    rows: Rows = TensorRows(ids, torch.zeros(3, dtype=torch.int64), [3, 1, 2])
    model = build_baseline(section("rnn", dropout=0.5), TEXT).train()
    together, one_by_one = predict(model, rows), predict(model, rows, batch_size=1)
    torch.testing.assert_close(together, one_by_one)
    assert model.training
    torch.testing.assert_close(together[1], model.eval()(torch.tensor([[8]]))[0])
