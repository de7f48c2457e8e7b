"""Generation: the cache changes nothing, the batch changes nothing, and every end has its reason."""

from __future__ import annotations

import pytest
import torch

from llmkit.errors import UsageError
from llmkit.generation.decode import Memory, decode, new_row
from llmkit.generation.generate import generate_ids, split_batches, stream
from llmkit.generation.sampling import SamplingConfig
from llmkit.models.causal_lm import build_causal_lm
from llmkit.recipe.schema import LoraSection, ModelSection
from llmkit.tokenizer import encode_text

GREEDY = SamplingConfig()
WARM = SamplingConfig(1.0, top_k=40, top_p=0.95)
PROMPTS = [[5, 6, 7], [9], [20, 21, 22, 23, 24, 25, 26], [40, 41]]
LOUD = 12.0


def make_model(tokenizer, type="llama", **overrides):
    """A random model with logits so far apart that rounding decides nothing."""
    section = ModelSection(
        type=type, num_layers=2, hidden_size=32, num_heads=2, tie_embeddings=False, overrides=overrides
    )
    model = build_causal_lm(section, vocab_size=len(tokenizer), seq_len=64, tokenizer=tokenizer, seed=1).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(LOUD)
    return model


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return make_model(tiny_tokenizer)


def run(model, prompts, **options):
    """The ids made of each prompt."""
    settings = {"sampling": GREEDY, "max_new_tokens": 12} | options
    return [completion.ids for completion in generate_ids(model, prompts, **settings)]


@pytest.mark.parametrize(
    ("type", "overrides"),
    [("llama", {}), ("gpt2", {}), ("qwen3", {}), ("mistral", {"sliding_window": 4}), ("gpt_neox", {}), ("bloom", {})],
)
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_a_batch_with_cache_gives_what_each_prompt_gives_alone_without_cache(tiny_tokenizer, type, overrides, sampling):
    model = make_model(tiny_tokenizer, type, **overrides)
    together = run(model, PROMPTS, sampling=sampling)
    for index, prompt in enumerate(PROMPTS):
        row = new_row(model, prompt, max_new_tokens=12, seed=0, row=index)
        list(decode(model, [row], sampling=sampling, use_cache=False))
        assert row.ids == together[index]


def test_greedy_equals_the_likeliest_token_of_a_plain_forward(model):
    ids = list(PROMPTS[0])
    for _ in range(8):
        with torch.no_grad():
            ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    assert run(model, [PROMPTS[0]], max_new_tokens=8) == [ids[3:]]


def test_samples_are_a_function_of_seed_and_row_and_not_of_the_batch(model):
    whole = run(model, PROMPTS, sampling=WARM, seed=3)
    assert run(model, PROMPTS, sampling=WARM, seed=3, batch_rows=1) == whole
    assert run(model, PROMPTS[2:], sampling=WARM, seed=3, first_row=2) == whole[2:]
    assert run(model, PROMPTS, sampling=WARM, seed=4) != whole
    first, second = run(model, [PROMPTS[0]] * 2, sampling=WARM)
    assert first != second


def test_a_row_that_is_done_leaves_the_batch_and_the_others_go_on(model):
    whole = run(model, PROMPTS)
    stop = whole[2][3]
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    stopped = run(model, PROMPTS, stop_ids=[stop])
    hook.remove()
    assert stopped == [ids[: ids.index(stop)] if stop in ids else ids for ids in whole]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 4
    assert sizes[-1] < 4


def test_one_forward_per_token_over_one_position_with_the_cache(model):
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _, __, i: shapes.append(tuple(i["input_ids"].shape)), with_kwargs=True
    )
    run(model, [PROMPTS[2]], max_new_tokens=4)
    hook.remove()
    assert shapes == [(1, 7), (1, 1), (1, 1), (1, 1)]


def test_reasons_for_the_end(model, tiny_tokenizer):
    ids = run(model, [PROMPTS[0]])[0]

    def reason(**options):
        settings = {"sampling": GREEDY, "max_new_tokens": 12, "tokenizer": tiny_tokenizer} | options
        (completion,) = generate_ids(model, [PROMPTS[0]], **settings)
        return completion.finish_reason, completion.num_tokens

    assert reason() == ("length", 12)
    assert reason(max_new_tokens=0) == ("length", 0)
    assert reason(stop_ids={ids[0]}) == ("stop", 0)
    assert reason(max_new_tokens=None) == ("context", 61)
    assert reason(max_new_tokens=61)[0] == "length"
    assert reason(max_new_tokens=62) == ("context", 61)


def test_a_prompt_that_fills_the_context_gives_nothing_and_a_longer_one_is_an_error(model):
    (full,) = generate_ids(model, [[5] * 64], sampling=GREEDY, max_new_tokens=3)
    assert (full.ids, full.finish_reason) == ([], "context")
    with pytest.raises(UsageError, match=r"prompt 2: it has 65 tokens, and the model takes at most 64"):
        generate_ids(model, [[5], [5] * 65], sampling=GREEDY, max_new_tokens=3)
    with pytest.raises(UsageError, match="no tokens"):
        generate_ids(model, [[]], sampling=GREEDY, max_new_tokens=3)


def test_a_stop_string_ends_the_row_and_is_not_shown(model, tiny_tokenizer):
    settings = {"sampling": GREEDY, "max_new_tokens": 30, "tokenizer": tiny_tokenizer}
    whole = generate_ids(model, PROMPTS, **settings)
    stop = whole[0].text[4:7]
    stopped = generate_ids(model, PROMPTS, stop_strings=[stop], **settings)
    for before, after in zip(whole, stopped, strict=True):
        assert after.text == before.text.split(stop)[0]
        assert after.finish_reason == ("stop" if stop in before.text else "length")
    assert stopped[0].num_tokens < 30


def test_a_stream_says_what_the_batch_says(model, tiny_tokenizer):
    completions = generate_ids(model, PROMPTS, sampling=WARM, max_new_tokens=20, seed=5, tokenizer=tiny_tokenizer)
    for row, prompt in enumerate(PROMPTS):
        answer = stream(model, tiny_tokenizer, prompt, sampling=WARM, max_new_tokens=20, seed=5, row=row)
        assert "".join(answer) == completions[row].text
        assert answer.completion == completions[row]


def test_a_stream_that_is_stopped_keeps_what_it_said(model, tiny_tokenizer):
    answer = stream(model, tiny_tokenizer, PROMPTS[0], sampling=GREEDY, max_new_tokens=20)
    pieces = [next(iter(answer))]
    pieces.append(answer.stop())
    assert answer.completion.finish_reason == "interrupted"
    assert "".join(pieces) == answer.completion.text != ""


def turn(model, tokenizer, prompt, memory):
    """Ids of an answer, and how many positions went through the model for it."""
    seen = []
    hook = model.register_forward_pre_hook(lambda _, __, i: seen.append(i["input_ids"].shape[1]), with_kwargs=True)
    answer = stream(model, tokenizer, prompt, sampling=GREEDY, max_new_tokens=5, memory=memory)
    list(answer)
    hook.remove()
    return answer.completion.ids, sum(seen)


@pytest.mark.parametrize("overrides", [{}, {"sliding_window": 4}], ids=["llama", "mistral"])
def test_a_remembered_dialogue_gives_the_same_answers_with_less_work(tiny_tokenizer, overrides):
    model = make_model(tiny_tokenizer, "mistral" if overrides else "llama", **overrides)
    memory = Memory()
    first = [5, 6, 7, 8, 9, 10]
    said, work = turn(model, tiny_tokenizer, first, memory)
    assert work == 6 + 4
    for prompt in ([*first, *said, 11, 12], [*first, *said[:2], 30, 31], [40, 41], [40, 41]):
        with_memory, work = turn(model, tiny_tokenizer, prompt, memory)
        without, all_work = turn(model, tiny_tokenizer, prompt, None)
        assert with_memory == without
        assert work <= all_work
        if prompt[: len(first) + 5] == [*first, *said]:
            assert work == all_work - len(first) - 4


def test_an_adapter_speaks_and_training_mode_is_put_back(tiny_tokenizer):
    from llmkit.models.lora import attach_lora

    base = make_model(tiny_tokenizer)
    expected = run(base, PROMPTS)
    adapted = attach_lora(base, LoraSection(rank=2), base="base", seed=0).train()
    assert run(adapted, PROMPTS) == expected
    assert adapted.training
    assert not torch.is_inference_mode_enabled()


def test_batches_hold_like_lengths_and_a_bounded_number_of_positions(model):
    rows = [new_row(model, [5] * n, max_new_tokens=2, seed=0, row=n) for n in (1, 30, 2, 31, 3)]
    batches = list(split_batches(rows, 2))
    assert [[len(row.prompt) for row in batch] for batch in batches] == [[31, 30], [3, 2], [1]]


def test_text_of_a_prompt_goes_on_with_its_space(model, tiny_tokenizer):
    prompt = encode_text(tiny_tokenizer, "the model")
    (completion,) = generate_ids(model, [prompt], sampling=WARM, max_new_tokens=20, tokenizer=tiny_tokenizer)
    whole = tiny_tokenizer.decode([*prompt, *completion.ids], skip_special_tokens=True)
    assert whole.rstrip("\ufffd") == "the model" + completion.text
