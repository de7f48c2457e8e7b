"""What a model expects at each token."""

from __future__ import annotations

import math

import pytest
import torch

from llmkit.errors import DataError
from llmkit.evaluation.peek import (
    Guess,
    TextReading,
    compare_readings,
    cut_text,
    entropy_of,
    next_logits,
    read_dialogue,
    read_text,
    reshape,
    token_text,
)
from llmkit.generation.sampling import SamplingConfig
from llmkit.tokenizer import decode_ids, encode_text, end_of_document_id

TEXT = "the model learns 👍🏽 naïve\n\ttext <|im_end|> class"


def reading(pieces, bits):
    """A reading made by hand."""
    guesses = [Guess(i, -b * math.log(2), 1, 0.0, ()) for i, b in enumerate(bits)]
    return TextReading("".join(pieces), pieces, guesses, 0, [True] * len(pieces))


def test_pieces_of_a_text_are_the_text(tiny_tokenizer):
    ids, pieces = cut_text(tiny_tokenizer, TEXT)
    assert ids == encode_text(tiny_tokenizer, TEXT)
    assert "".join(pieces) == TEXT
    assert len(pieces) == len(ids)
    # The four bytes of the thumb are four tokens here; the last one shows it.
    assert pieces[pieces.index("👍") - 3 : pieces.index("👍")] == ["", "", ""]


def test_numbers_are_those_of_the_whole_softmax(tiny_model, tiny_tokenizer):
    found = read_text(tiny_model, tiny_tokenizer, TEXT, max_length=128, top=3)
    ids = [end_of_document_id(tiny_tokenizer), *encode_text(tiny_tokenizer, TEXT)]
    with torch.no_grad():
        shares = tiny_model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
    for guess, row, token in zip(found.guesses, shares, ids[1:], strict=False):
        order = row.argsort(descending=True).tolist()
        assert guess.token == token
        assert guess.probability == pytest.approx(float(row[token]), rel=1e-4)
        assert guess.surprise == pytest.approx(-math.log2(row[token]), rel=1e-4)
        assert guess.rank == order.index(token) + 1
        assert guess.entropy == pytest.approx(-float((row * row.log2()).sum()), rel=1e-4)
        assert [i for i, _ in guess.alternatives] == order[:3]


def test_a_long_text_is_read_in_windows_that_predict_each_token_once(tiny_model, tiny_tokenizer, texts):
    whole = read_text(tiny_model, tiny_tokenizer, texts[30], max_length=None)
    cut = read_text(tiny_model, tiny_tokenizer, texts[30], max_length=16)
    assert cut.ids == whole.ids
    assert len(cut.ids) > 32
    assert [g.log_probability for g in cut.guesses[:16]] == pytest.approx(
        [g.log_probability for g in whole.guesses[:16]], abs=1e-4
    )
    # The second window begins anew: one token of context is left to its first prediction.
    ids = [whole.ids[15], whole.ids[16]]
    with torch.no_grad():
        alone = tiny_model(input_ids=torch.tensor([ids[:1]])).logits[0, 0].log_softmax(-1)
    assert cut.guesses[16].log_probability == pytest.approx(float(alone[ids[1]]), abs=1e-4)


def test_a_text_without_tokens_is_an_error(tiny_model, tiny_tokenizer):
    with pytest.raises(DataError, match="no text"):
        read_text(tiny_model, tiny_tokenizer, "", max_length=128)


def test_control_tokens_of_a_dialogue_are_shown_and_not_counted(tiny_model, tiny_tokenizer):
    from llmkit.data.dialogue import Message, render_prompt

    ids = render_prompt([Message("user", "the 👍 model")], tiny_tokenizer)
    found = read_dialogue(tiny_model, tiny_tokenizer, ids, max_length=128)
    assert found.text == decode_ids(tiny_tokenizer, ids[1:])
    control = [piece for piece, counts in zip(found.pieces, found.is_counted, strict=True) if not counts]
    assert control == ["<|im_end|>", "<|im_start|>"]
    assert found.num_bytes == len("user\nthe 👍 model\nassistant\n".encode())


def test_what_comes_next_follows_the_whole_text(tiny_model, tiny_tokenizer):
    found = read_text(tiny_model, tiny_tokenizer, "the model", max_length=128)
    with torch.no_grad():
        wanted = tiny_model(input_ids=torch.tensor([[found.context, *found.ids]])).logits[0, -1]
    assert torch.allclose(next_logits(tiny_model, found, 128), wanted, atol=1e-5)


def test_sampling_reshapes_in_its_order():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    stages = reshape(logits, SamplingConfig(temperature=0.5, top_k=2, top_p=0.6))
    assert [name for name, _ in stages] == ["as it is", "temperature 0.5", "top-k 2", "top-p 0.6"]
    # Squared: 25, 9 and 4 of 38; of two 25 and 9 of 34; 25/34 alone is above 0.6.
    wanted = [[0.5, 0.3, 0.2], [25 / 38, 9 / 38, 4 / 38], [25 / 34, 9 / 34, 0], [1, 0, 0]]
    for (_, shares), values in zip(stages, wanted, strict=True):
        assert shares.tolist() == pytest.approx(values, abs=1e-6)
    assert reshape(logits, SamplingConfig())[-1][1].tolist() == [1, 0, 0]


def test_entropy_of_an_even_guess_is_the_logarithm():
    assert entropy_of(torch.zeros(8)) == pytest.approx(3)


def test_a_part_of_a_character_is_written_as_bytes(tiny_tokenizer):
    assert token_text(tiny_tokenizer, encode_text(tiny_tokenizer, "👍")[0]) == "\\xf0"
    piece, token = next((p, i) for p, i in tiny_tokenizer.get_vocab().items() if p.startswith("Ġ") and len(p) > 1)
    assert token_text(tiny_tokenizer, token) == f" {piece[1:]}"
    assert token_text(tiny_tokenizer, 999_999) == "[999999]"


def test_models_are_compared_where_both_have_a_boundary():
    stretches = compare_readings(reading(["ab", "c", "", "d"], [1, 2, 3, 4]), reading(["a", "bc", "d"], [5, 6, 7]))
    assert [(s.text, s.bits, s.other_bits) for s in stretches] == [
        ("abc", pytest.approx(3), pytest.approx(11)),
        ("d", pytest.approx(7), pytest.approx(7)),
    ]
    assert stretches[0].gain == pytest.approx(8)


def test_stretches_add_up_with_any_tokenizer(tiny_model, tiny_tokenizer):
    from llmkit.alphabet import bytes_tokenizer

    one = read_text(tiny_model, tiny_tokenizer, TEXT, max_length=128)
    other = read_text(tiny_model, bytes_tokenizer(), TEXT, max_length=128)
    stretches = compare_readings(one, other)
    assert "".join(s.text for s in stretches) == TEXT
    assert sum(s.bits for s in stretches) == pytest.approx(one.bits)
    assert sum(s.other_bits for s in stretches) == pytest.approx(other.bits)
