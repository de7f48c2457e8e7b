"""Prepared folders mixed by weight: shares kept, small sources repeated, one tokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from llmkit.data.mix import LONGEST_EPOCH, MixRows
from llmkit.data.prepare import prepare
from llmkit.data.pretraining import open_pretraining
from llmkit.errors import DataError, RecipeError
from llmkit.recipe.schema import PretrainData
from llmkit.tokenizer import train_tokenizer


class NumberedRows:
    """Rows [100 * number + index]."""

    lengths = None
    is_stream = False

    def __init__(self, number, length):
        self.number = number
        self.length = length

    def __len__(self):
        return self.length

    def batch(self, indices):
        return {"input_ids": torch.tensor([[100 * self.number + index] for index in indices])}


def ids_of(rows, indices):
    return rows.batch(indices)["input_ids"][:, 0].tolist()


def test_rows_of_a_mix_by_hand():
    rows = MixRows({"a": NumberedRows(1, 6), "b": NumberedRows(2, 2)}, {"a": 0.6, "b": 0.4})
    # a is seen whole in 6 / 0.6 = 10 rows, b in 5: the epoch has 10, 4 of them from b, whose two rows come twice.
    assert rows.counts == {"a": 6, "b": 4}
    assert len(rows) == 10
    assert ids_of(rows, range(10)) == [100, 101, 102, 103, 104, 105, 200, 201, 200, 201]
    assert ids_of(rows, [9, 0, 7, 5]) == [201, 100, 201, 105]


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1, 0.1), (0.001, 5, 2), (7, 7, 1e-3)])
def test_an_epoch_keeps_the_weights_to_a_row_and_sees_every_source_whole(weights):
    lengths = (17, 230, 5)
    shares = {str(i): weight / sum(weights) for i, weight in enumerate(weights)}
    rows = MixRows({str(i): NumberedRows(i, length) for i, length in enumerate(lengths)}, shares)
    for (name, count), length in zip(rows.counts.items(), lengths, strict=True):
        assert abs(count - shares[name] * len(rows)) <= 1
        assert count >= length
    assert min(count / length for count, length in zip(rows.counts.values(), lengths, strict=True)) == 1


def test_weights_that_are_too_far_apart_are_an_error():
    rows = {"web": NumberedRows(1, 10), "code": NumberedRows(2, 1000)}
    share = 1000 / (LONGEST_EPOCH * 2)
    with pytest.raises(DataError, match="weight of code"):
        MixRows(rows, {"web": 1 - share, "code": share})


@pytest.fixture
def folders(tmp_path, tiny_tokenizer, monkeypatch):
    """Prepared folders `web` (100 documents) and `code` (20), the working directory being theirs."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("web", 100), ("code", 20)):
        rows = [json.dumps({"text": f"{name} {i} the model learns to guess"}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        prepare([f"{name}.jsonl"], tiny_tokenizer, tmp_path / name, validation=0.2)
    return tmp_path


def open_mix(mix, **fields):
    return open_pretraining(PretrainData(mix=mix, **fields))


def test_the_rows_of_a_mix_are_those_of_its_folders(folders):
    rows = open_mix({"web": 3, "code": 1}).rows(8)
    web, code = (open_pretraining(PretrainData(source=name)).rows(8) for name in ("web", "code"))
    expected = {"web": len(web), "code": round(len(web) / 3)}
    assert rows.counts == expected
    assert len(code) < expected["code"]
    positions = [0, len(web) - 1, len(web), len(web) + len(code) - 1, len(web) + len(code)]
    alone = [(web, 0), (web, len(web) - 1), (code, 0), (code, len(code) - 1), (code, 0)]
    batch = rows.batch(positions)
    for place, (source, index) in enumerate(alone):
        for name, tensor in source.batch([index]).items():
            assert batch[name][place].tolist() == tensor[0].tolist()


def test_the_plan_says_how_often_each_source_is_seen(folders):
    data = open_mix({"web": 1, "code": 1})
    head, web, code = data.describe(8)
    rows = data.rows(8)
    assert head == f"a mix of 2, an epoch has {len(rows):,} rows"
    assert web.startswith("web: 50.0% of the rows")
    assert web.endswith("are seen 1.00 times")
    assert float(code.split()[-2]) == pytest.approx(rows.counts["code"] / len(rows.sources["code"]), abs=0.005)


def test_the_validation_is_each_folders_own_in_proportion(folders):
    data = open_mix({"web": 3, "code": 1})
    limit = 200
    web, code = (open_mix({name: 1}).validation(size) for name, size in (("web", 150), ("code", 50)))
    stream, num_bytes = data.validation(limit)
    assert stream.tolist() == [*web[0].tolist(), *code[0].tolist()[1:]]
    assert num_bytes == web[1] + code[1]
    parts = data.validation_parts(limit)
    assert [parts[name][0].tolist() for name in ("web", "code")] == [web[0].tolist(), code[0].tolist()]


def test_a_folder_that_holds_nothing_out_leaves_the_validation_to_the_others(folders, tiny_tokenizer):
    prepare(["web.jsonl"], tiny_tokenizer, folders / "all", validation=0)
    data = open_mix({"all": 9, "code": 1})
    assert data.validation(50)[0].tolist() == open_mix({"code": 1}).validation(50)[0].tolist()
    assert open_mix({"all": 1}).validation(50) is None


def test_the_folder_of_another_tokenizer_is_named(folders, texts):
    other = train_tokenizer(texts, algorithm="bpe", vocab_size=280)
    prepare(["web.jsonl"], other, folders / "odd")
    prepare(["web.jsonl"], open_mix({"web": 1}).tokenizer, folders / "third")
    with pytest.raises(DataError, match="another tokenizer than web") as caught:
        open_mix({"odd": 1, "web": 1, "third": 1})
    assert caught.value.where == "odd"


def test_other_weights_are_other_data(folders):
    hashes = [
        open_mix(mix).content_hash for mix in ({"web": 3, "code": 1}, {"web": 6, "code": 2}, {"web": 1, "code": 1})
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_mix_tells_where_documents_begin_when_asked_to(folders):
    batch = open_mix({"web": 1, "code": 1}, document_mask=True).rows(16).batch([0, 30])
    assert batch["position_ids"].shape == (2, 16)
    starts = batch["input_ids"] == 0
    assert np.all(batch["position_ids"][starts].numpy() == 0)


@pytest.mark.parametrize("fields", [{"source": "web"}, {"stream": True}])
def test_a_mix_with_something_else_is_an_error(fields):
    with pytest.raises(RecipeError, match="both given"):
        open_mix({"web": 1}, **fields)


def test_what_is_for_streams_alone_is_an_error_without_one():
    with pytest.raises(RecipeError, match="for streams alone"):
        open_pretraining(PretrainData(source="web", tokenizer="tok"))
