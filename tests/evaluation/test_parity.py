"""The same numbers as lm-evaluation-harness, item by item: the same text gives the same log-likelihood."""

import json
import warnings

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from llmkit.evaluation.encoding import encode_pairs
from llmkit.evaluation.evaluate import Setting, Subject, evaluate_task
from llmkit.evaluation.prompts import Pair
from llmkit.evaluation.scoring import score_continuations
from llmkit.evaluation.task import Example, Task

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("lm_eval", reason="pip install lm-eval")
    from lm_eval.api.instance import Instance
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

pytestmark = pytest.mark.filterwarnings("ignore")

SENTENCE = "the a model learns to guess next token from text and then we ask it what comes after that"
WORDS = SENTENCE.split()
ROWS = [
    {
        "id": str(n),
        "question": " ".join(WORDS[n : n + 4 + n % 3]) + "?",
        "choices": [
            WORDS[(n * 5 + k) % 19] + (" " + WORDS[(n + k) % 19]) * (k % 3) + " ✓é日本" * ((n + k) % 2)
            for k in range(2 + n % 3)
        ],
        "answer": n % 2,
    }
    for n in range(8)
]
ODD = [
    ("", "the model"),
    ("", " "),
    ("the model", " learns"),
    ("the model ", "learns"),
    ("the model\n\n", " learns to"),
    ("the model", " learns to guess"),
    ("the model", " learns to ask"),
    ("Ünïcödé 日本語", " ✓ 模型 é"),
    ("what", " " + " ".join(WORDS * 3)),
    (" ".join(WORDS * 8), " and then"),
    ("a", "b"),
    ("text", "!"),
]


def byte_level(*, prefix_space):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend, pre_tokenizers.ByteLevel.alphabet()


def metaspace():
    """As SentencePiece: words begin with a mark, the first one too, and a text begins with BOS."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return backend, list("▁abcdefghijklmnopqrstuvwxyz?!")


def make_tokenizer(name):
    backend, alphabet = metaspace() if name == "metaspace" else byte_level(prefix_space=name == "prefix space")
    special = ["<s>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS), "the model learns the model asks"] * 5, trainer)
    if name == "metaspace":
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=["byte level", "prefix space", "metaspace"])
def both(request):
    """Our subject and theirs: one tiny model, one tokenizer."""
    tokenizer = make_tokenizer(request.param)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=96,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
    return Subject(model, tokenizer, 96), theirs


def test_odd_pairs_have_their_log_likelihoods(both):
    subject, theirs = both
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=n) for n, pair in enumerate(ODD)]
    wanted = theirs.loglikelihood(requests, disable_tqdm=True)
    encoded = encode_pairs(subject.tokenizer, [Pair(*pair) for pair in ODD], subject.max_length)
    found = score_continuations(subject.model, encoded.requests)
    assert [score.log_likelihood for score in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert [score.is_greedy for score in found] == [greedy for _, greedy in wanted]
    assert len(encoded.cut) == 1


def their_samples(theirs, config, shots):
    """Items of lm-evaluation-harness for a task made of ROWS, the shots the first rows."""
    from datasets import Dataset, DatasetDict

    rows = DatasetDict({"test": Dataset.from_list(ROWS[4:]), "train": Dataset.from_list(ROWS[:4])})
    task = {
        "task": "exam",
        "custom_dataset": lambda **_: rows,
        "test_split": "test",
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "doc_to_target": "answer",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")],
        **config,
    }
    own_tasks_only = TaskManager(include_defaults=False)
    results = simple_evaluate(
        theirs, tasks=[task], num_fewshot=shots, bootstrap_iters=0, verbosity="ERROR", task_manager=own_tasks_only
    )
    return results["samples"]["exam"]


def our_task(prompt, labels=()):
    def load(split):
        rows = ROWS[4:] if split == "test" else ROWS[:4]
        return [
            Example(r["id"], r["id"], {"question": r["question"]}, labels or tuple(r["choices"]), r["answer"])
            for r in rows
        ]

    return Task("exam", "label" if labels else "choice", load, prompt=prompt, labels=labels)


SHAPES = {
    "own choices": ("Question: {question}\nAnswer:", (), "choices"),
    "labels": ("Text: {question}\nLabel:", ("asks", "learns"), json.dumps(["asks", "learns"])),
    "continuation": ("{question}", (), "choices"),
}


@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_items_of_a_task_have_their_log_likelihoods(both, shape, shots):
    subject, theirs = both
    prompt, labels, choices = SHAPES[shape]
    config = {
        "doc_to_text": prompt.replace("{question}", "{{question}}"),
        "doc_to_choice": list(labels) if labels else choices,
    }
    samples = their_samples(theirs, config, shots)
    result = evaluate_task(subject, our_task(prompt, labels), Setting(shots=shots, pmi=True))
    assert len(samples) == len(result.items) == 4
    for sample, item in zip(samples, result.items, strict=True):
        found = [c.log_likelihood for c in item.choices] + [c.unconditional for c in item.choices]
        assert found == pytest.approx([float(value) for value, _ in sample["filtered_resps"]], abs=1e-4)
        assert item.prompt == sample["arguments"][0][0] if isinstance(sample["arguments"], list) else True
        assert item.scores["accuracy"] == sample["acc"]
        assert item.scores["accuracy_characters"] == sample["acc_norm"]
        assert item.scores["accuracy_bytes"] == sample["acc_bytes"]
        assert item.scores["accuracy_pmi"] == sample["acc_mutual_info"]


def test_a_text_is_predicted_in_their_windows(both, monkeypatch):
    subject, theirs = both
    # Where the tokenizer adds a BOS, theirs puts one more before it and scores the second one.
    monkeypatch.setattr(theirs, "add_bos_token", False)
    text = " ".join(WORDS * 20)
    request = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
    (wanted,) = theirs.loglikelihood_rolling([request], disable_tqdm=True)
    task = Task("text", "perplexity", lambda split: [Example("0", "0", {"question": text})], prompt="")
    (item,) = evaluate_task(subject, task).items
    assert item.choices[0].log_likelihood == pytest.approx(float(wanted), rel=1e-5)
