"""Training, loading and encoding; above all that no text becomes a control token."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmkit.errors import DataError, ModelError, UsageError
from llmkit.models.config_files import check_config
from llmkit.tokenizer import (
    CONTROL_TOKENS,
    LONGEST_TEXT,
    MAX_WORD_BYTES,
    TRAINING_PIECE,
    control_ids,
    cut_long_texts,
    decode_ids,
    encode_text,
    encode_texts,
    end_of_document_id,
    load_tokenizer,
    stop_ids,
    tokenizer_hash,
    train_tokenizer,
)

ALGORITHMS = ["bpe", "unigram", "wordpiece"]
TEXTS = [f"def name_{i}(value):\n    return value + {i * 37}  # wörter\n" for i in range(60)]
NASTY = [
    "",
    " ",
    "plain text",
    "  two  spaces\t\ttabs\r\n\n\n\n lines \u2028 and nothing",
    "Grüße, 日本語, ελληνικά, עברית, 👩\u200d👩\u200d👧, e\u0301",
    "\x00\x01\x1f\x7f\ufeff\ufffd\ufdd0\U0010ffff",
    "a" * 3000 + " " * 3000 + "9" * 3000 + "=" * 3000 + "\n" * 3000 + "語" * 3000,
    "▁Ġ##x <unk> [UNK] <0x0A> </s>",
    "".join(CONTROL_TOKENS) + " ".join(CONTROL_TOKENS),
]


@pytest.fixture(scope="module", params=ALGORITHMS)
def own(request):
    """One of our own tokenizers."""
    return train_tokenizer(TEXTS, algorithm=request.param, vocab_size=320)


@pytest.fixture(scope="module")
def foreign():
    """A unigram tokenizer whose vocabulary holds its control tokens, with added tokens of all sorts and a BOS."""
    pieces = ["▁", "a", "b", "▁ab", "<", ">", "/", "s", "[", "]", "T", "O", "L", "|", "x", "i", "m"]
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((piece, -3.0 - len(piece)) for piece in pieces)]
    backend = Tokenizer(models.Unigram(vocab, unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.add_tokens([AddedToken("[TOOL]", special=False), AddedToken("    ", special=False, normalized=False)])
    tokenizer.add_tokens([AddedToken("abba", special=False)])
    return tokenizer


def word_level(**roles):
    """A tokenizer of two words, with these roles."""
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<|endoftext|>": 2}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


@pytest.mark.parametrize("text", NASTY)
def test_every_text_comes_back_exactly(own, text):
    ids = encode_text(own, text)
    assert decode_ids(own, ids) == text
    assert own.decode(ids) == text


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_unicode_comes_back_exactly(tiny_tokenizer, text):
    assert decode_ids(tiny_tokenizer, encode_text(tiny_tokenizer, text)) == text


FRAGMENTS = [*CONTROL_TOKENS, "<|", "|>", "im_", "end", "user\n", "[TOOL]", "</s>", "<s>", " ", "a"]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
@settings(max_examples=60, deadline=None)
def test_no_text_makes_a_control_token(tiny_tokenizer, foreign, text):
    for tokenizer in (tiny_tokenizer, foreign):
        assert control_ids(tokenizer).isdisjoint(encode_text(tokenizer, text))


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_a_control_token_in_a_text_stays_text_with_each_algorithm(own, token):
    ids = encode_text(own, f"a{token}b")
    assert control_ids(own) == {0, 1, 2, 3}
    assert control_ids(own).isdisjoint(ids)


def test_an_added_token_that_is_not_marked_as_special_stays_text(foreign):
    tool = foreign.convert_tokens_to_ids("[TOOL]")
    assert tool in foreign("a[TOOL]", split_special_tokens=True).input_ids, "this is what transformers does"
    assert tool not in encode_text(foreign, "a[TOOL]")


def test_a_control_token_that_the_model_knows_as_a_piece_stays_text(foreign):
    assert foreign.convert_ids_to_tokens(encode_text(foreign, "ab</s>")) == ["▁ab", "<", "/", "s", ">"]


@pytest.mark.parametrize("text", ["ab ab", "a    b", "abba ab", "  ab xxx"])
def test_ordinary_text_has_its_ordinary_ids(foreign, text):
    assert encode_text(foreign, text) == foreign(text, add_special_tokens=False).input_ids


def test_ordinary_text_has_its_ordinary_ids_in_our_own(own):
    for text in TEXTS[:5]:
        assert encode_text(own, text) == own(text, add_special_tokens=False).input_ids


def test_nothing_is_added_to_a_text(foreign):
    assert foreign("a").input_ids[0] == foreign.bos_token_id
    assert encode_text(foreign, "a") == foreign("a").input_ids[1:]
    assert encode_text(foreign, "") == []


def test_a_batch_has_the_ids_of_its_texts(own, foreign):
    for tokenizer in (own, foreign):
        assert encode_texts(tokenizer, NASTY) == [encode_text(tokenizer, text) for text in NASTY]


def test_truncation_and_padding_of_another_call_change_nothing(tiny_tokenizer):
    before, hash_before = encode_text(tiny_tokenizer, TEXTS[0]), tokenizer_hash(tiny_tokenizer)
    tiny_tokenizer([TEXTS[0], "a"], truncation=True, max_length=3, padding="max_length")
    assert encode_text(tiny_tokenizer, TEXTS[0]) == before
    assert tokenizer_hash(tiny_tokenizer) == hash_before


def test_a_token_added_later_is_control_at_once():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    before = encode_text(tokenizer, "<|new|>")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|new|>"]})
    assert encode_text(tokenizer, "<|new|>") == before


def test_half_a_surrogate_pair_is_an_error_that_shows_the_text(tiny_tokenizer):
    with pytest.raises(DataError, match="ud800"):
        encode_texts(tiny_tokenizer, ["fine", "bad \ud800"])


def test_our_own_control_tokens_have_their_roles(own):
    assert own.convert_tokens_to_ids(list(CONTROL_TOKENS)) == [0, 1, 2, 3]
    assert (own.eos_token, own.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert set(own.all_special_tokens) == set(CONTROL_TOKENS)
    assert own.model_max_length == LONGEST_TEXT
    assert (end_of_document_id(own), stop_ids(own)) == (0, [0, 2])


def test_the_chat_template_is_chatml(own):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    text = own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_equal_texts_give_an_equal_tokenizer(algorithm):
    few = ["the cat sat on the mat\n"] * 5 + TEXTS[:9]
    assert len({tokenizer_hash(train_tokenizer(few, algorithm=algorithm, vocab_size=300)) for _ in range(4)}) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_vocabulary_has_the_size_asked_for(algorithm):
    words = [f"{first}{second} " * 9 for first in "abcdefgh" for second in ("ing", "ed", "ment", "ness", "ity", "er")]
    assert len(train_tokenizer(words, algorithm=algorithm, vocab_size=290)) == 290


def test_too_little_text_gives_a_smaller_vocabulary():
    assert len(train_tokenizer(["abc"], vocab_size=5000)) == 256 + 4 + 2


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(UsageError, match="no room for the 256 bytes"):
        train_tokenizer(TEXTS, vocab_size=259)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_text_at_all_is_an_error(algorithm):
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(iter(["", ""]), algorithm=algorithm, vocab_size=300)


def test_an_error_of_the_reader_comes_through():
    def texts():
        yield "abc"
        raise DataError("bad line", where="file:7")

    with pytest.raises(DataError, match="file:7"):
        train_tokenizer(texts(), vocab_size=300)


def test_long_texts_are_cut_and_lose_nothing():
    text = ("word " * 50 + "\n") * 2000
    pieces = list(cut_long_texts([text, "", "x" * (TRAINING_PIECE + 1)]))
    assert "".join(pieces) == text + "x" * (TRAINING_PIECE + 1)
    assert max(map(len, pieces)) <= TRAINING_PIECE


def test_no_word_is_too_long_for_wordpiece():
    tokenizer = train_tokenizer(TEXTS, algorithm="wordpiece", vocab_size=300)
    text = "\U0001f600" * MAX_WORD_BYTES
    assert decode_ids(tokenizer, encode_text(tokenizer, text)) == text


@pytest.mark.parametrize("model_type", [None, "llama", "gpt2", "qwen3"])
def test_a_saved_tokenizer_is_the_same_when_loaded_here_or_by_transformers(own, tmp_path, model_type):
    own.save_pretrained(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer_hash(loaded) == tokenizer_hash(own)
        assert encode_texts(loaded, NASTY) == encode_texts(own, NASTY)
        assert (loaded.pad_token_id, loaded.eos_token_id, loaded.model_max_length) == (3, 0, LONGEST_TEXT)


@pytest.mark.parametrize("inner", ["", "model", "tokenizer"])
def test_a_tokenizer_is_found_in_runs_and_prepared_data(tiny_tokenizer, tmp_path, inner):
    tiny_tokenizer.save_pretrained(tmp_path / inner)
    assert tokenizer_hash(load_tokenizer(tmp_path)) == tokenizer_hash(tiny_tokenizer)


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    config = {"base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    assert tokenizer_hash(load_tokenizer(tmp_path / "adapter")) == tokenizer_hash(tiny_tokenizer)


def test_a_lone_tokenizer_file_will_do(tiny_tokenizer, tmp_path):
    tiny_tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tiny_tokenizer.backend_tokenizer.save(str(tmp_path / "other.json"))
    expected = encode_text(tiny_tokenizer, TEXTS[0])
    assert encode_text(load_tokenizer(tmp_path), TEXTS[0]) == expected
    assert encode_text(load_tokenizer(tmp_path / "other.json"), TEXTS[0]) == expected


@pytest.mark.parametrize("content", [None, "{", "{}", '{"added_tokens": [], "model": {"type": "BPE"}}', "\x00"])
def test_a_folder_without_a_sound_tokenizer_is_a_model_error(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="tokenizer") as error:
        load_tokenizer(tmp_path)
    assert error.value.where == str(tmp_path)
    assert error.value.fix


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere", "owner/never-downloaded"])
def test_a_name_that_is_nothing_is_a_model_error(name):
    with pytest.raises(ModelError, match=name):
        load_tokenizer(name)


def test_of_a_run_that_has_not_ended_the_newest_checkpoint_is_named(tmp_path):
    for step in ("step-00000004", "step-00000008"):
        (tmp_path / "run/checkpoints" / step).mkdir(parents=True)
    for load in (load_tokenizer, lambda folder: check_config(folder / "config.json")):
        with pytest.raises(ModelError, match="has not ended") as error:
            load(tmp_path / "run")
        assert str(error.value.fix).endswith("step-00000008")


def test_loading_a_tokenizer_imports_no_torch(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    code = "import sys, llmkit.tokenizer as t; t.load_tokenizer(sys.argv[1]); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_documents_end_with_endoftext_even_where_eos_ends_a_turn():
    backend = train_tokenizer(TEXTS, vocab_size=300).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    assert end_of_document_id(tokenizer) == 0
    assert stop_ids(tokenizer) == [0, 2]


def test_documents_end_with_eos_where_there_is_no_endoftext():
    assert end_of_document_id(word_level(eos_token="b")) == 1


def test_endoftext_that_is_only_a_word_ends_no_document():
    assert end_of_document_id(word_level(eos_token="b")) != 2


def test_a_tokenizer_without_any_end_is_an_error():
    with pytest.raises(ModelError, match="no token that ends a document"):
        end_of_document_id(word_level())


def test_the_hash_tells_templates_and_vocabularies_apart(tiny_tokenizer):
    other = train_tokenizer(TEXTS, vocab_size=300)
    same = train_tokenizer(TEXTS, vocab_size=300)
    assert tokenizer_hash(other) == tokenizer_hash(same) != tokenizer_hash(tiny_tokenizer)
    same.chat_template += " "
    assert tokenizer_hash(other) != tokenizer_hash(same)
