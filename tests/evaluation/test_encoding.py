import pytest

from llmkit.errors import DataError
from llmkit.evaluation.encoding import encode_pairs
from llmkit.evaluation.prompts import Pair
from llmkit.tokenizer import encode_text, end_of_document_id


def test_context_and_continuation_together_are_the_ids_of_the_whole(tiny_tokenizer):
    (request,) = encode_pairs(tiny_tokenizer, [Pair("the model learns", " to guess")], None).requests
    assert [*request.context, *request.continuation] == encode_text(tiny_tokenizer, "the model learns to guess")
    assert list(request.context) == encode_text(tiny_tokenizer, "the model learns")


def test_spaces_at_the_end_of_a_context_go_to_the_continuation(tiny_tokenizer):
    requests = encode_pairs(tiny_tokenizer, [Pair("the model ", "learns"), Pair("the model", " learns")], None).requests
    assert requests[0] == requests[1]


def test_an_empty_context_becomes_the_end_of_document(tiny_tokenizer):
    (request,) = encode_pairs(tiny_tokenizer, [Pair("", "the model")], None).requests
    assert request.context == (end_of_document_id(tiny_tokenizer),)
    assert list(request.continuation) == encode_text(tiny_tokenizer, "the model")


def test_a_continuation_that_merges_into_the_context_is_encoded_for_itself_and_counted(tiny_tokenizer):
    word = " learns"
    assert len(encode_text(tiny_tokenizer, word)) == 1
    encoded = encode_pairs(tiny_tokenizer, [Pair(word[:-1], word[-1])], None)
    assert encoded.num_apart == 1
    assert list(encoded.requests[0].continuation) == encode_text(tiny_tokenizer, word[-1])


def test_an_empty_continuation_names_its_row(tiny_tokenizer):
    with pytest.raises(DataError, match=r"rows.jsonl:7"):
        encode_pairs(tiny_tokenizer, [Pair("the", "", "rows.jsonl:7")], None)


def test_a_long_context_is_cut_from_the_left_and_counted(tiny_tokenizer):
    pairs = [Pair("the model learns to guess next token", " from text"), Pair("the", " model")]
    whole = encode_pairs(tiny_tokenizer, pairs, None).requests
    cut = encode_pairs(tiny_tokenizer, pairs, 8)
    room = 9 - len(whole[0].continuation)
    assert cut.cut == [0]
    assert cut.requests[0].context == whole[0].context[-room:]
    assert cut.requests[1] == whole[1]


def test_an_answer_longer_than_the_model_is_an_error(tiny_tokenizer):
    with pytest.raises(DataError, match="the model takes 2"):
        encode_pairs(tiny_tokenizer, [Pair("the", " model learns to guess", "r:1")], 2)


def test_control_tokens_in_a_question_stay_text(tiny_tokenizer):
    (request,) = encode_pairs(tiny_tokenizer, [Pair("a <|endoftext|> b", " c")], None).requests
    assert end_of_document_id(tiny_tokenizer) not in request.context
