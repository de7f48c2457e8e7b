import gzip
import lzma
import math

import numpy as np
import pytest
import torch
from torch import distributed as dist

from llmkit.batch import IGNORE_INDEX
from llmkit.evaluation import perplexity
from llmkit.evaluation.perplexity import compressed_bits_per_byte, measure_stream, rolling_windows, window_batches


def test_a_stream_is_measured_as_the_mean_over_its_ids_each_seen_in_its_window(tiny_model):
    stream = np.arange(3, 3 + 23, dtype=np.uint16)
    nats = 0.0
    for start in range(0, 22, 8):  # windows of 8 targets share one id
        ids = torch.from_numpy(stream[start : start + 9].astype(np.int64))[None]
        with torch.no_grad():
            logits = tiny_model(ids[:, :-1]).logits[0].log_softmax(-1)
        nats -= float(logits.gather(1, ids[0, 1:, None]).sum())
    for batch_size in (1, 2, 16):
        found = measure_stream(tiny_model, stream, 50, seq_len=8, batch_size=batch_size)
        assert found["nats_per_token"] == pytest.approx(nats / 22, abs=1e-5)
        assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 50, abs=1e-5)


def test_processes_share_the_windows_and_run_equally_many_batches(monkeypatch):
    stream = np.arange(1, 1 + 23)
    whole = [b["targets"] for b in window_batches(stream, 4, 2)]
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        parts.append([b["targets"] for b in window_batches(stream, 4, 2)])
    assert len({len(part) for part in parts}) == 1
    targets = torch.cat([t.flatten() for part in parts for t in part])
    expected = torch.cat([t.flatten() for t in whole])
    assert sorted(targets[targets != IGNORE_INDEX].tolist()) == sorted(expected[expected != IGNORE_INDEX].tolist())
    assert sorted(targets[targets != IGNORE_INDEX].tolist()) == list(range(2, 24))


def test_measuring_leaves_a_model_in_training_mode(tiny_model):
    tiny_model.train()
    measure_stream(tiny_model, np.arange(10), 10, seq_len=4, batch_size=2)
    assert tiny_model.training


def test_an_untrained_model_is_as_surprised_as_by_a_uniform_guess(tiny_model):
    found = measure_stream(tiny_model, np.arange(200) % 250, 200, seq_len=64, batch_size=4)
    assert found["nats_per_token"] == pytest.approx(math.log(tiny_model.config.vocab_size), rel=0.05)


def test_rolling_windows_predict_every_id_once_and_the_last_reaches_back():
    windows = list(rolling_windows([1, 2, 3, 4, 5, 6, 7], 0, 3))
    assert windows == [([0], [1, 2, 3]), ([3], [4, 5, 6]), ([4, 5, 6], [7])]
    assert all(len(context) + len(rest) <= 4 for context, rest in windows)


def test_a_short_text_is_one_window_after_the_prefix():
    assert list(rolling_windows([1, 2], 9, 5)) == [([9], [1, 2])]


def test_compressors_see_the_texts_as_one_file():
    texts = [f"line {n} of a text that repeats itself, and ünusual characters\n" for n in range(200)]
    data = "".join(texts).encode()
    bits = compressed_bits_per_byte((text, text) for text in texts)
    assert bits["gzip_9"] == 8 * len(gzip.compress(data, 9)) / len(data)
    assert bits["xz_9"] == 8 * len(lzma.compress(data, preset=9)) / len(data)
    assert compressed_bits_per_byte([])["gzip_9"] > 0


def test_compressors_count_the_bytes_that_count_for_the_model(monkeypatch):
    # What is predicted is half as long as what is counted.
    plain = compressed_bits_per_byte([("0123456789" * 50, "0123456789" * 50)])
    spaced = compressed_bits_per_byte([("0123456789" * 50, "0 1 2 3 4 5 6 7 8 9 " * 50)])
    assert spaced["xz_9"] == plain["xz_9"] / 2
    # Of a text that is cut, the same share counts.
    monkeypatch.setattr(perplexity, "MOST_COMPRESSED", 500)
    cut = compressed_bits_per_byte([("0123456789" * 100, "0 1 2 3 4 5 6 7 8 9 " * 100)])
    assert cut == spaced
