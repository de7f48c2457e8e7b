"""MB per second of encoding and tokenizer training: llmkit beside datasets.map and the tokenizers library, in one run.

    python tests/benchmarks/bench_tokenizer.py
    python tests/benchmarks/bench_tokenizer.py --megabytes 10 --data corpus/

The text is python-docs, repeated with its long words exchanged, or what is below --data, repeated likewise if it is too
little. All use the same tokenizer, all cores, and take turns; the median over rounds counts. datasets.map works in as
many processes as there are cores. `prepare` reads files, splits, hashes, encodes and writes.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmkit.console import format_table, say, write
from llmkit.data.documents import read_documents
from llmkit.data.prepare import prepare
from llmkit.encoding import TextEncoder, available_cores
from llmkit.tokenizer import WORDS, text_backend, train_tokenizer

CHUNK = 4 << 20
"""Characters that are encoded at once, as `data prepare` does."""
LONG_WORD = re.compile(r"\b[a-z]{7,}\b")


def make_texts(inputs: list[str], num_bytes: int) -> list[str]:
    """Documents of so many bytes; in the n-th copy each long word gives way to the n-th after it in the alphabet."""
    originals = [document.text for document in read_documents(inputs)]
    words = sorted({word for text in originals for word in LONG_WORD.findall(text)})
    texts, size, copy = [], 0, 0
    while size < num_bytes:
        follower = dict(zip(words, words[copy:] + words[:copy], strict=True))
        for text in originals:
            texts.append(LONG_WORD.sub(lambda match, to=follower: to[match[0]], text))
            size += len(texts[-1].encode())
            if size >= num_bytes:
                break
        copy += 1
    return texts


def chunks(texts: list[str]) -> Iterator[list[str]]:
    """The texts in lists of about CHUNK characters."""
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    yield chunk


def map_with_datasets(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    """datasets.map over batches, in a process for each core."""
    table = datasets.Dataset.from_dict({"text": texts})
    table.map(
        lambda rows: {"input_ids": tokenizer(rows["text"], add_special_tokens=False).input_ids},
        batched=True,
        num_proc=available_cores(),
        remove_columns=["text"],
        load_from_cache_file=False,
        new_fingerprint=f"bench-{time.time_ns()}",
    )


def encode_with_tokenizers(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    """tokenizers' fastest call, in chunks."""
    backend = text_backend(tokenizer)
    for chunk in chunks(texts):
        _ = [encoding.ids for encoding in backend.encode_batch_fast(chunk, add_special_tokens=False)]


def encode_with_llmkit(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    """A fresh encoder, with the building and checking of the stand-in that this brings."""
    encoder = TextEncoder(tokenizer)
    for chunk in chunks(texts):
        encoder.encode(chunk)
    assert encoder.stand_in is not None or not encoder.is_settled


def prepare_files(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """`llmkit data prepare`."""
    with tempfile.TemporaryDirectory() as output:
        prepare([str(folder)], tokenizer, Path(output) / "prepared")


def train_with_llmkit(folder: Path, vocab_size: int) -> None:
    """`llmkit tokenizer train`, without the report."""
    train_tokenizer((document.text for document in read_documents([str(folder)])), vocab_size=vocab_size)


def train_with_tokenizers(folder: Path, vocab_size: int, pre_tokenizer: pre_tokenizers.PreTokenizer) -> None:
    """tokenizers' own trainer, fed from the files."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    backend.train([str(path) for path in sorted(folder.iterdir())], trainer)


def measure(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
            say(f"round {number + 1}: {name}, {seconds[name][-1]:.1f} s")
    return seconds


def show(title: str, seconds: dict[str, list[float]], megabytes: float, base: str) -> None:
    """A table: the median of each, and its ratio to that of `base`."""
    rates = {name: megabytes / statistics.median(found) for name, found in seconds.items()}
    rows = [
        [name, f"{rate:.1f}", f"{rate / rates[base]:.2f}", " ".join(f"{megabytes / s:.1f}" for s in seconds[name])]
        for name, rate in rates.items()
    ]
    write(format_table([title, "MB/s", "ratio", "rounds"], rows) + "\n")


def main() -> None:
    """Measure in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--data", default="python-docs", help="python-docs, or a file or folder of texts")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    datasets.disable_progress_bars()
    texts = make_texts([options.data], round(options.megabytes * 1e6))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = train_tokenizer(texts[:: max(1, round(megabytes / 10))], vocab_size=options.vocab_size)
    say(f"{megabytes:.0f} MB in {len(texts):,} documents, {len(tokenizer):,} tokens, {available_cores()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, text in enumerate(texts):
            (folder / f"{number:07}.txt").write_text(text, encoding="utf-8", newline="")
        encoders = {
            "datasets.map": lambda: map_with_datasets(texts, tokenizer),
            "tokenizers encode_batch_fast": lambda: encode_with_tokenizers(texts, tokenizer),
            "llmkit TextEncoder": lambda: encode_with_llmkit(texts, tokenizer),
            "llmkit data prepare, from files": lambda: prepare_files(folder, tokenizer),
        }
        show("encoding", measure(encoders, options.rounds), megabytes, "datasets.map")
        split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
        same = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        default = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainings = {
            "tokenizers, from files, its words": lambda: train_with_tokenizers(folder, options.vocab_size, default),
            "tokenizers, from files, our words": lambda: train_with_tokenizers(folder, options.vocab_size, same),
            "llmkit, from files": lambda: train_with_llmkit(folder, options.vocab_size),
        }
        show("training", measure(trainings, options.rounds), megabytes, "tokenizers, from files, its words")


if __name__ == "__main__":
    main()
