"""Text to ids and back: training, loading and encoding. Text never becomes a control token here.

Our own tokenizers are lossless for every text: a regular expression cuts it into words, words are written as bytes, and
these are cut into tokens by byte pair encoding, a unigram model or greedy longest match (WordPiece).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn
from weakref import WeakKeyDictionary

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmkit.errors import DataError, ModelError, UsageError
from llmkit.source import FIX_SOURCE, check_ended, check_hub_has

Algorithm = Literal["bpe", "unigram", "wordpiece"]

END_OF_DOCUMENT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
PAD = "<|pad|>"
CONTROL_TOKENS = (END_OF_DOCUMENT, START_OF_TURN, END_OF_TURN, PAD)
"""The control tokens of our own tokenizers, with ids 0 to 3. Pad is never the end of anything."""

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The chat template of our own tokenizers: ChatML without a default system turn."""

SMALLEST_VOCABULARY = 256 + len(CONTROL_TOKENS)
"""One token for each byte, and the control tokens."""

LONGEST_TEXT = 131_072
"""`model_max_length` of our own tokenizers: a tokenizer knows no limit; the model's configuration has the real one."""

# GPT-4's words (cl100k): a word takes any one sign before it along, a line break the spaces before it, and numbers come
# in groups of three digits. On 12 MB of Python source, against GPT-2's words: 0.8 % fewer bytes per token with a
# vocabulary of 4,096, 1 % more with 16,384, at the same speed.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# WordPiece tries every substring of a word, and calls a word of over max_input_chars_per_word bytes unknown: cut them.
SHORT_WORDS = r"[\s\S]{1,64}"
MAX_WORD_BYTES = 4 * 64

TRAINING_PIECE = 1 << 14
"""Characters of a long document handed to the trainer at a time: a tenth faster than four times as many."""

DOCUMENT_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>")
TURN_ENDS = (END_OF_TURN, "<|eot_id|>", "<end_of_turn>", "<|end|>")

NO_TEXT = "this is not text: half of a surrogate pair, which UTF-8 cannot hold"

_text_backends: WeakKeyDictionary[Any, tuple[int, Tokenizer]] = WeakKeyDictionary()


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder (tokenizer, model, adapter, run, prepared data), of a tokenizer.json, or of a hub name.

    `tokenizer.json` is taken word for word, whatever class the configuration names; no code of the folder runs.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    path = Path(source)
    if path.exists():
        file = find_tokenizer_file(path)
        if file is None:
            return follow_adapter(path)
        return open_tokenizer(str(file.parent), where=str(source)) if file.name == "tokenizer.json" else open_file(file)
    check_hub_has(str(source))
    return open_tokenizer(str(source), where=str(source))


def find_tokenizer_file(path: Path) -> Path | None:
    """The tokenizer's file in a folder, or in the folders inside where prepared data and runs keep theirs."""
    if path.is_file():
        return path
    for folder in (path, path / "tokenizer", path / "model"):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    return None


def follow_adapter(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder without tokenizer.json: an adapter's base model's, or one of an older format."""
    for config in (folder / "adapter_config.json", folder / "model" / "adapter_config.json"):
        if config.is_file():
            base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
            if base and Path(base) != folder:
                return load_tokenizer(base)
    if any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt")):
        return open_tokenizer(str(folder), where=str(folder))
    check_ended(folder)
    raise ModelError("there is no tokenizer here (no tokenizer.json)", where=str(folder), fix=FIX_SOURCE)


def open_tokenizer(source: str, *, where: str) -> PreTrainedTokenizerFast:
    """Open a folder or hub name; older formats than tokenizer.json are converted by transformers."""
    is_local = Path(source).is_dir()
    try:
        if is_local and not (Path(source) / "tokenizer.json").is_file():
            # Not imported at the top: this name alone brings torch along (1.5 s).
            loaded = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        else:
            loaded = PreTrainedTokenizerFast.from_pretrained(source, trust_remote_code=False, local_files_only=is_local)
    except BaseException as error:
        raise_as_model_error(
            error, where, "cannot be opened" if is_local else "is not here, nor can it be had from the hub"
        )
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise ModelError(
            "this tokenizer has no form in tokenizer.json", where=where, fix="convert it with transformers first"
        )
    return loaded


def open_file(file: Path) -> PreTrainedTokenizerFast:
    """A tokenizer from a lone file in the format of tokenizer.json; it has no special roles and no template."""
    try:
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(file)))
    except BaseException as error:
        raise_as_model_error(error, str(file))


def raise_as_model_error(error: BaseException, where: str, what: str = "cannot be opened") -> NoReturn:
    """Raise what the libraries throw at a broken tokenizer as a ModelError; interrupts and our own errors pass."""
    # tokenizers raises bare Exceptions, and a PanicException that is a BaseException only.
    if isinstance(error, ModelError) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
        raise error
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(": ")
    reason = f"{reason} is missing" if isinstance(error, KeyError) else reason
    raise ModelError(f"the tokenizer {what} ({reason})", where=where, fix=FIX_SOURCE) from error


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a text, and of nothing else: no token is added, and what looks like a control token stays text."""
    try:
        return text_backend(tokenizer).encode(text, add_special_tokens=False).ids
    except TypeError as error:
        raise DataError(NO_TEXT, where=repr(text)[:80], fix="mend or leave out this text") from error


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[list[int]]:
    """`encode_text` of each text, on all cores. It takes 25 times the texts' memory: hand over a few MB at a time."""
    texts = list(texts)
    try:
        encodings = text_backend(tokenizer).encode_batch_fast(texts, add_special_tokens=False)
    except TypeError:
        return [encode_text(tokenizer, text) for text in texts]  # which names the culprit
    return [encoding.ids for encoding in encodings]


def decode_ids(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """The text of ids exactly, control tokens written out."""
    return tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False)  # type: ignore[no-any-return]


def text_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The tokenizer for text alone: the same ids on ordinary text, and no text that gives a control token.

    Neither `add_special_tokens=False` nor `split_special_tokens=True` does that: with the first all control tokens in a
    text still work, with the second those that are not marked as special. Kept up to date when tokens are added.
    """
    size = len(tokenizer)
    known = _text_backends.get(tokenizer)
    if known is None or known[0] != size:
        known = (size, build_text_backend(tokenizer))
        _text_backends[tokenizer] = known
    return known[1]


def build_text_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy that finds no control token in a text, neither as an added token nor as an entry of its model."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec.update(truncation=None, padding=None, post_processor=None)
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    hidden = {}
    for token in spec["added_tokens"]:
        if is_control(token, template):
            # A name that no text can guess: unigram and WordPiece models would find the entry by its name. Without the
            # entry, the ids of later ones would move.
            hidden[token["content"]] = token["content"] = f"\0{token['content']}\0{secrets.token_hex(16)}"
            token["special"], token["normalized"] = True, False
    rename_entries(spec["model"], {name.split("\0")[1]: name for name in hidden.values()})
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.encode_special_tokens = True
    return backend


def is_control(token: dict[str, Any], template: str) -> bool:
    """Whether an added token is control, not text. Text are plain words and runs of spaces not marked as special."""
    content = token["content"]
    is_plain = re.fullmatch(r"[\s▁]+|[\w'-]+", content) is not None
    return token["special"] or not is_plain or (not content.isspace() and content in template)


def rename_entries(model: dict[str, Any], names: dict[str, str]) -> None:
    """Rename entries of a serialised model's vocabulary, in place; ids stay."""
    vocab = model["vocab"]
    unknown = model.get("unk_token")
    if isinstance(vocab, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    else:
        model["vocab"] = {names.get(piece, piece): index for piece, index in vocab.items()}
    if unknown in names:
        model["unk_token"] = names[unknown]


def control_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The ids that no text can give: what the template and the end of a document are made of. Unknown is not one."""
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    control = {i for i, t in added.items() if is_control({"content": t.content, "special": t.special}, template)}
    is_unknown_alone = tokenizer.unk_token != tokenizer.eos_token  # GPT-2 has one token for both, and no unknown bytes
    return frozenset(control - {tokenizer.unk_token_id} if is_unknown_alone else control)


def end_of_document_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token between documents: <|endoftext|> where the vocabulary has it as a control token, else the eos token.

    Chat models name the end of a turn as their eos; what they saw between documents is <|endoftext|> all the same.

    Raises:
        ModelError: The tokenizer has neither.
    """
    found = named_special_ids(tokenizer, DOCUMENT_ENDS)
    if found:
        return found[0]
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "this tokenizer has no token that ends a document (no eos token, no <|endoftext|>)",
            where=str(tokenizer.name_or_path) or None,
            fix='name an "eos_token" in its tokenizer_config.json, or train one with `llmkit tokenizer train`',
        )
    return int(tokenizer.eos_token_id)


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids at which generation ends: eos, the end of a document, the end of a turn."""
    eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return sorted({*eos, *named_special_ids(tokenizer, (*DOCUMENT_ENDS, *TURN_ENDS))})


def named_special_ids(tokenizer: PreTrainedTokenizerFast, names: Iterable[str]) -> list[int]:
    """The ids of those names that are special tokens of the tokenizer, in the order of the names."""
    special = {t.content: i for i, t in tokenizer.backend_tokenizer.get_added_tokens_decoder().items() if t.special}
    return [special[name] for name in names if name in special]


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 over everything that decides about ids: vocabulary, rules, special tokens and the chat template."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    # State that calls leave behind, and that encode_text does not use.
    spec.update(truncation=None, padding=None)
    content = [spec, tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def train_tokenizer(
    texts: Iterable[str], *, algorithm: Algorithm = "bpe", vocab_size: int = 4096
) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer with control tokens and a chat template; every text comes back exactly.

    The texts are read once, as a stream; memory grows with the number of different words. Equal texts give an equal
    tokenizer. The vocabulary is smaller than asked for when the texts hold too little that repeats.

    Raises:
        UsageError: The vocabulary is too small, or there is no such algorithm.
        DataError: There is no text.
    """
    check_vocab_size(vocab_size)
    backend, trainer = build_trainer(algorithm, vocab_size)
    patterns = (WORDS, SHORT_WORDS) if algorithm == "wordpiece" else (WORDS,)
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(cut_long_texts(require_text(texts)), trainer=trainer)
    if algorithm == "wordpiece":
        backend.model.max_input_chars_per_word = MAX_WORD_BYTES
    elif algorithm == "unigram":
        backend.model = settle_unigram(backend)
    return wrap_tokenizer(backend)


def check_vocab_size(vocab_size: int) -> None:
    """Raise if a vocabulary has no room for what each of our tokenizers has."""
    if vocab_size < SMALLEST_VOCABULARY:
        raise UsageError(
            f"a vocabulary of {vocab_size} has no room for the 256 bytes and {len(CONTROL_TOKENS)} control tokens",
            where="--vocab-size",
            fix=f"give at least {SMALLEST_VOCABULARY}; 4096 suits a model of some million parameters",
        )


def build_trainer(algorithm: Algorithm, vocab_size: int) -> tuple[Tokenizer, Any]:
    """An empty tokenizer of a kind and what trains it. All start from the 256 bytes: nothing is ever unknown."""
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS],
        "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet()),
        "show_progress": False,
    }
    if algorithm == "bpe":
        return Tokenizer(models.BPE()), trainers.BpeTrainer(**common)
    if algorithm == "unigram":
        return Tokenizer(models.Unigram()), trainers.UnigramTrainer(**common)
    if algorithm == "wordpiece":
        # No "##": the byte of the space before it already tells the beginning of a word.
        return Tokenizer(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer(
            continuing_subword_prefix="", **common
        )
    raise UsageError(
        f"there is no algorithm {algorithm!r}", where="--algorithm", fix="choose bpe, unigram or wordpiece"
    )


def settle_unigram(backend: Tokenizer) -> models.Unigram:
    """The trained model with scores and ids that are the same each time.

    The trainer adds probabilities up in the order of its hash tables, which changes the last digits, and gives bytes
    that it has not seen the scores lowest, lowest + 0.0001, lowest + 0.0002 ... in that order too.
    """
    vocab = json.loads(backend.to_str())["model"]["vocab"]
    control, pieces = vocab[: len(CONTROL_TOKENS)], vocab[len(CONTROL_TOKENS) :]
    lowest = min(score for _, score in pieces)

    def settle(piece: str, score: float) -> tuple[str, float]:
        steps = (score - lowest) / 1e-4
        is_unseen = len(piece) == 1 and steps < 256 and abs(steps - round(steps)) < 1e-6
        return piece, round(lowest if is_unseen else score, 6)

    settled = sorted((settle(*entry) for entry in pieces), key=lambda entry: (-entry[1], entry[0]))
    return models.Unigram([*map(tuple, control), *settled], byte_fallback=False)


def require_text(texts: Iterable[str]) -> Iterator[str]:
    """The same texts; an error, before anything is trained, if all of them are empty."""
    rest = iter(texts)
    first = next(filter(None, rest), None)
    if first is None:
        raise DataError(
            "there is no text to train a tokenizer on: every document is empty", fix="name files that hold text"
        )
    return itertools.chain([first], rest)


def cut_long_texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts, those longer than TRAINING_PIECE cut at line breaks where there are some."""
    for text in texts:
        start = 0
        while len(text) - start > TRAINING_PIECE:
            newline = text.rfind("\n", start, start + TRAINING_PIECE)
            end = newline if newline > start else start + TRAINING_PIECE
            yield text[start:end]
            start = end
        yield text[start:]


def wrap_tokenizer(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """The Hugging Face tokenizer around a trained one: roles, template, and decoding that changes nothing."""
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_DOCUMENT,
        pad_token=PAD,
        extra_special_tokens=[START_OF_TURN, END_OF_TURN],
        chat_template=CHATML_TEMPLATE,
        model_max_length=LONGEST_TEXT,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
