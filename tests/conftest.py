"""What tests share. Everything is made here; nothing is downloaded."""

from __future__ import annotations

import json
import os
import sys

# Before anything imports torch: two test processes on two cores, and sums that do not depend on the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("NO_COLOR", None)

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

SENTENCE = "the a model learns to guess next token from text and then we ask it what comes after that def class return"
WORDS = SENTENCE.split()


@pytest.fixture(scope="session")
def texts():
    """Forty short documents."""
    return [" ".join(WORDS[(i * 7 + j * (i + 3)) % len(WORDS)] for j in range(20 + i)) + ".\n" for i in range(40)]


@pytest.fixture(scope="session")
def tiny_tokenizer(texts):
    """A byte-level BPE of about 300 tokens, with control tokens and a ChatML template."""
    from llmkit.tokenizer import train_tokenizer

    return train_tokenizer(texts, algorithm="bpe", vocab_size=300)


@pytest.fixture
def tiny_model(tiny_tokenizer):
    """A Llama of two layers, 32 wide, with random weights."""
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    section = ModelSection(num_layers=2, hidden_size=32, num_heads=2)
    model = build_causal_lm(section, vocab_size=len(tiny_tokenizer), seq_len=128, tokenizer=tiny_tokenizer, seed=0)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory, tiny_tokenizer):
    """The same model, saved with its tokenizer."""
    from llmkit.models.causal_lm import build_causal_lm, save_causal_lm
    from llmkit.recipe.schema import ModelSection

    folder = tmp_path_factory.mktemp("model")
    section = ModelSection(num_layers=2, hidden_size=32, num_heads=2)
    model = build_causal_lm(section, vocab_size=len(tiny_tokenizer), seq_len=128, tokenizer=tiny_tokenizer, seed=0)
    save_causal_lm(model, tiny_tokenizer, folder)
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Forget the job after each test: Accelerate keeps one for the life of a process, precision included."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def run_cli():
    """Run `llmkit` with these arguments: .stdout, .stderr, .exit_code."""
    from llmkit.cli import app

    def run(*arguments: str | Path, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=input)

    return run


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory, texts, tiny_tokenizer):
    """Prepared data: the forty documents, a fifth of them held out."""
    from llmkit.data.prepare import prepare

    folder = tmp_path_factory.mktemp("text")
    for number, text in enumerate(texts):
        (folder / f"{number:02}.txt").write_text(text * 4)
    prepare([str(folder)], tiny_tokenizer, folder / "prepared", validation=0.2)
    return folder / "prepared"


@pytest.fixture
def tiny_pretraining(prepared_folder):
    """Arguments of a `llmkit pretrain` of a few seconds, but for --output."""
    sizes = {"model.num_layers": 2, "model.hidden_size": 32, "model.num_heads": 2}
    loop = {"train.steps": 4, "train.batch_size": 4, "train.seq_len": 32, "train.precision": "fp32"}
    fields = {**sizes, **loop, "train.warmup_steps": 1, "train.validate_every": 2, "train.sample_every": 0}
    return ["pretrain", "--data", prepared_folder, *(x for k, v in fields.items() for x in ("--set", f"{k}={v}"))]


class LocalHub:
    """`hf:owner/name`, three shards of twenty rows in files here, whatever the commit."""

    def __init__(self) -> None:
        self.newest = None
        self.read = []
        """The commits that were opened."""
        self.error = None
        """What asking for a commit raises."""

    def push(self, commit):
        """A new commit, on a hub that can be asked."""
        self.newest, self.error = commit, None


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """What stands in for the hub where a data set of it is streamed."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import DatasetInfo

    load_dataset, found, files = datasets.load_dataset, LocalHub(), []
    for shard in range(3):
        files.append(str(tmp_path / f"{shard}.jsonl"))
        rows = [json.dumps({"text": f"shard {shard} row {i} the model"}) for i in range(20)]
        (tmp_path / f"{shard}.jsonl").write_text("\n".join(rows))

    def load(name, config, *, split, revision, streaming):
        found.read.append(revision)
        return load_dataset(
            "json", data_files={"train": files}, split=split, streaming=True, cache_dir=str(tmp_path / "cache")
        )

    def dataset_info(self, name, *, revision, timeout):
        if found.error is not None:
            raise found.error
        return DatasetInfo(id=name, sha=revision or found.newest, tags=[])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    return found
