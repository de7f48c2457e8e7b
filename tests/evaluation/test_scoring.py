import random

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

from llmkit.errors import ModelError, RunError
from llmkit.evaluation import scoring
from llmkit.evaluation.scoring import can_branch, plan, score_continuations
from llmkit.evaluation.tree import Request
from llmkit.models.lora import attach_lora
from llmkit.recipe.schema import LoraSection

LLAMA = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0}
CONFIGS = {
    "llama": LlamaConfig(hidden_size=32, **LLAMA, **SIZES),
    "qwen3": Qwen3Config(hidden_size=32, head_dim=8, **LLAMA, **SIZES),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **SIZES),
}


def make_model(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def make_requests(num_questions=12, num_shared=8):
    """Questions with four choices each; the first eight begin with the same hundred ids."""
    generator = random.Random(0)

    def ids(least, most):
        return tuple(generator.randrange(300) for _ in range(generator.randint(least, most)))

    prefix = ids(100, 100)
    contexts = [(prefix if q < num_shared else ()) + ids(1, 30) for q in range(num_questions)]
    return [Request(context, ids(1, 9)) for context in contexts for _ in range(4)]


@torch.no_grad()
def score_naively(model, request):
    """One request, one forward, no tricks."""
    logits = model(torch.tensor([request.context + request.continuation])).logits[0].log_softmax(-1)
    start = len(request.context) - 1
    return sum(float(logits[start + i, token]) for i, token in enumerate(request.continuation))


@pytest.mark.parametrize("name", CONFIGS)
def test_tree_scores_are_those_of_one_request_at_a_time_whatever_the_batch_size(name):
    model, requests = make_model(CONFIGS[name]), make_requests()
    naive = [score_naively(model, request) for request in requests]
    for batch_tokens in (1, 64, 4096):
        scores = score_continuations(model, requests, batch_tokens=batch_tokens)
        assert [score.log_likelihood for score in scores] == pytest.approx(naive, abs=1e-4)
        assert [score.num_tokens for score in scores] == [len(request.continuation) for request in requests]


def test_a_shared_beginning_gets_one_cache_and_the_rest_none():
    clusters = plan(make_model(CONFIGS["llama"]), make_requests())
    assert [(len(cluster.prefix), len(cluster.groups)) for cluster in clusters] == [(100, 8), (0, 4)]


def test_a_model_with_a_sliding_window_is_scored_without_a_tree_and_gets_the_same_scores():
    model, requests = (
        make_model(MistralConfig(hidden_size=32, sliding_window=16, **LLAMA, **SIZES)),
        make_requests(4, 0),
    )
    assert not can_branch(model, 128)
    naive = [score_naively(model, request) for request in requests]
    assert [s.log_likelihood for s in score_continuations(model, requests)] == pytest.approx(naive, abs=1e-4)


def test_equal_requests_are_answered_each_in_its_place():
    model, requests = make_model(CONFIGS["llama"]), make_requests(2, 0)
    once = [score.log_likelihood for score in score_continuations(model, requests)]
    twice = [score.log_likelihood for score in score_continuations(model, [*reversed(requests), *requests])]
    assert twice == pytest.approx([*reversed(once), *once], abs=1e-4)


def test_greedy_is_told_from_likely():
    model = make_model(CONFIGS["llama"])
    with torch.no_grad():
        first = int(model(torch.tensor([[5, 6]])).logits[0, -1].argmax())
    said, other = score_continuations(model, [Request((5, 6), (first,)), Request((5, 6), ((first + 1) % 300,))])
    assert said.is_greedy
    assert not other.is_greedy


NO_MEMORY = [torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["GPU", "CPU"])
def test_batches_that_do_not_fit_into_memory_are_halved(monkeypatch, error):
    model, requests = make_model(CONFIGS["llama"]), make_requests()
    expected = score_continuations(model, requests)
    whole = scoring.score_batch

    def score_batch(model, groups, prefix):
        if len(groups) > 2:
            raise error
        return whole(model, groups, prefix)

    monkeypatch.setattr(scoring, "score_batch", score_batch)
    found = score_continuations(model, requests)
    assert [s.log_likelihood for s in found] == pytest.approx([s.log_likelihood for s in expected], abs=1e-4)


@pytest.mark.parametrize("part", ["score_batch", "prefill"])
def test_what_cannot_be_halved_is_an_error_that_says_what_to_do(monkeypatch, part):
    def fail(*arguments):
        raise NO_MEMORY[1]

    monkeypatch.setattr(scoring, part, fail)
    monkeypatch.setattr(scoring, "can_branch", lambda model, longest: True)
    requests = [Request((*range(3, 60), number), (1,)) for number in range(20)]
    with pytest.raises(RunError, match="not fit into memory") as caught:
        score_continuations(make_model(CONFIGS["llama"]), requests)
    assert "--shots" in str(caught.value.fix)


def test_an_adapter_is_scored_with_its_adapter():
    model, requests = make_model(CONFIGS["llama"]), make_requests(2, 0)
    tuned = attach_lora(model, LoraSection(), base="base", seed=0).eval()
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights)
    naive = [score_naively(tuned, request) for request in requests]
    assert [s.log_likelihood for s in score_continuations(tuned, requests)] == pytest.approx(naive, abs=1e-4)


def test_what_was_scored_is_told_as_it_comes():
    told = {}
    requests = make_requests()
    scores = score_continuations(make_model(CONFIGS["gpt2"]), requests, on_scored=told.update)
    assert [told[number] for number in range(len(requests))] == scores


def test_choices_that_begin_alike_and_end_at_different_places_get_their_own_scores():
    model = make_model(CONFIGS["llama"])
    ends = [(1, 2, 3, 4), (1, 2, 3), (1, 2, 9, 9, 9), (1,), (8,), (1, 2, 9)]
    requests = [Request(context, end) for context in ((5, 6, 7), (0,)) for end in ends]
    naive = [score_naively(model, request) for request in requests]
    assert [s.log_likelihood for s in score_continuations(model, requests)] == pytest.approx(naive, abs=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_contexts_that_run_ahead_of_their_branches_give_the_same_scores(name, monkeypatch):
    model, requests = make_model(CONFIGS[name]), make_requests(8, 0)
    ahead = []
    prefill = scoring.prefill
    monkeypatch.setattr(scoring, "prefill", lambda *arguments: ahead.append(1) or prefill(*arguments))
    monkeypatch.setattr(scoring, "LONG_CONTEXT", 2)
    naive = [score_naively(model, request) for request in requests]
    for batch_tokens in (1, 4096):
        found = score_continuations(model, requests, batch_tokens=batch_tokens)
        assert [score.log_likelihood for score in found] == pytest.approx(naive, abs=1e-4)
    assert len(ahead) > 1


def test_scores_do_not_depend_on_how_many_logits_exist_at_once(monkeypatch):
    model, requests = make_model(CONFIGS["llama"]), make_requests()
    expected = score_continuations(model, requests)
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", 1)
    found = score_continuations(model, requests)
    assert [s.log_likelihood for s in found] == pytest.approx([s.log_likelihood for s in expected], abs=1e-4)
    assert [s.is_greedy for s in found] == [s.is_greedy for s in expected]


def test_large_logits_keep_the_last_digits_of_their_likelihoods():
    torch.manual_seed(0)
    # At 1,000 a float has steps of 6e-5.
    logits = torch.randn(4, 50) + 1000
    targets = torch.arange(4)
    wanted = logits.double().log_softmax(-1)[torch.arange(4), targets]
    found, _ = scoring.look_up(logits.clone(), torch.arange(4), targets)
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equally_likely_ids_the_first_is_the_likeliest(dtype, monkeypatch):
    monkeypatch.setattr(scoring, "CACHED_LOGITS", 120)
    torch.manual_seed(0)
    # Whole numbers below 4 leave every row with several that are highest.
    logits = torch.randint(4, (7, 50)).to(dtype)
    spots = torch.arange(7).repeat_interleave(50)
    targets = torch.arange(50).repeat(7)
    found, is_top = scoring.look_up(logits, spots, targets)
    assert is_top.tolist() == (logits.argmax(-1)[spots] == targets).tolist()
    assert is_top.sum() == 7
    assert found.tolist() == pytest.approx(logits.double().log_softmax(-1).flatten().tolist(), abs=2e-6)


def test_a_model_that_gives_no_numbers_is_an_error():
    model = make_model(CONFIGS["llama"])
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(ModelError, match="not a number"):
        score_continuations(model, make_requests(1))
