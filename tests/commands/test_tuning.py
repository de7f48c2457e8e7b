"""Ways of tuning, from the command line to the model that comes out."""

from __future__ import annotations

import json

import pytest
import torch

QUICK = {"train.steps": 4, "train.batch_size": 4, "train.warmup_steps": 0, "train.precision": "fp32", "end_check": 0}
WORDS = ["the", "next", "token", "from", "text", "and", "then", "we", "ask", "it", "what", "comes", "after"]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"instruction": f"say {a} {b}", "output": f"{b} {a} " * (1 + i)} for a in WORDS for i, b in enumerate(WORDS[:6])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tune(run_cli, tiny_model_folder, rows, tmp_path):
    def run(output, *arguments, model=tiny_model_folder, data=rows, **settings):
        sets = [word for k, v in {**QUICK, **settings}.items() for word in ("--set", f"{k}={v}")]
        options = ["--model", model, "--data", data, "--output", tmp_path / output, "--json"]
        return run_cli("finetune", *options, *arguments, *sets)

    return run


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(source):
    from llmkit.models.causal_lm import load_causal_lm

    return load_causal_lm(source).state_dict()


@pytest.mark.parametrize(
    "other", [{"train.batch_tokens": 60}, {"train.batch_tokens": "null"}, {"train.micro_batch_size": 1}]
)
def test_how_rows_go_through_the_model_changes_nothing_but_rounding(tune, tmp_path, other):
    assert tune("auto").exit_code == 0
    assert tune("other", **other).exit_code == 0
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "auto"), abs=2e-5)


def test_packed_rows_teach_what_all_rows_teach_together(tune, tmp_path):
    """One step over everything: 76 rows, or the packs that hold them."""
    whole = {"train.steps": 1, "train.batch_size": 200, "train.epochs": 1, "data.validation": 0}
    assert tune("rows", **whole | {"train.steps": "null", "train.batch_size": 78}).exit_code == 0
    packed = tune("packed", **whole | {"train.steps": "null"}, **{"data.packing": "true"})
    assert packed.exit_code == 0, packed.stderr
    assert "packed rows" in packed.stderr
    assert losses(tmp_path / "packed") == pytest.approx(losses(tmp_path / "rows"), abs=2e-5)


def test_batch_tokens_and_a_fitted_number_of_rows_contradict_each_other(tune):
    result = tune("run", **{"train.micro_batch_size": "auto", "train.batch_tokens": 64})
    assert result.exit_code == 2
    assert "train.batch_tokens" in result.stderr


def test_last_layers_are_trained_and_all_others_stay_to_the_last_bit(tune, tiny_model_folder, tmp_path):
    result = tune("run", method="last-layers", last_layers=1)
    assert result.exit_code == 0, result.stderr
    before, after = weights(tiny_model_folder), weights(tmp_path / "run" / "model")
    changed = {name.split(".")[2] for name in before if "layers" in name and not torch.equal(before[name], after[name])}
    assert changed == {"1"}


def test_noise_changes_the_training_and_not_the_validation_before_it(tune, tmp_path):
    assert tune("plain").exit_code == 0
    assert tune("noisy", neftune_alpha=5).exit_code == 0
    assert losses(tmp_path / "plain") != losses(tmp_path / "noisy")


@pytest.fixture
def bare_model_folder(tmp_path, texts):
    """A model whose tokenizer has no chat template, and none of its tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from llmkit.models.causal_lm import build_causal_lm, save_causal_lm
    from llmkit.recipe.schema import ModelSection

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    section = ModelSection(num_layers=1, hidden_size=32, num_heads=2)
    model = build_causal_lm(section, vocab_size=len(tokenizer), seq_len=128, tokenizer=tokenizer, seed=0)
    save_causal_lm(model, tokenizer, tmp_path / "bare")
    return tmp_path / "bare"


def test_noise_reaches_embeddings_whose_new_rows_are_trained(tune, tmp_path, bare_model_folder):
    for name, alpha in (("plain", 0), ("noisy", 5)):
        result = tune(name, model=bare_model_folder, neftune_alpha=alpha, **{"data.validation": 0})
        assert result.exit_code == 0, result.stderr
        assert "their rows of the embeddings are trained too" in result.stderr
    assert losses(tmp_path / "plain")[0] != losses(tmp_path / "noisy")[0]


def test_a_model_with_noise_is_sampled_between_its_steps(tune, tmp_path):
    result = tune("run", neftune_alpha=5, **{"train.sample_every": 2})
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "run/samples.jsonl").is_file()


@pytest.mark.parametrize("option", ["lora.rslora=true", "lora.dora=true", "lora.b_lr_ratio=16"])
def test_each_kind_of_lora_runs_and_its_adapter_is_read_by_the_other_verbs(tune, run_cli, tmp_path, option):
    key, value = option.split("=")
    result = tune("run", **{key: value})
    assert result.exit_code == 0, result.stderr
    result = run_cli("generate", "--model", tmp_path / "run", "--prompt", "the next", "--max-new-tokens", "4", "--json")
    assert result.exit_code == 0, result.stderr


def test_an_adapter_is_trained_on(tune, tmp_path):
    assert tune("first").exit_code == 0
    result = tune("second", model=tmp_path / "first", **{"model.adapter": "continue"})
    assert result.exit_code == 0, result.stderr
    assert losses(tmp_path / "second")[0] < losses(tmp_path / "first")[0]
    first, second = (json.loads((tmp_path / n / "model/adapter_config.json").read_text()) for n in ("first", "second"))
    assert first["base_model_name_or_path"] == second["base_model_name_or_path"]


def test_an_adapter_is_merged_into_its_model_which_is_kept_for_the_next(tune, tmp_path, tiny_model_folder):
    assert tune("first").exit_code == 0
    result = tune("second", model=tmp_path / "first")
    assert result.exit_code == 0, result.stderr
    base = json.loads((tmp_path / "second/model/adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str((tmp_path / "second/base").resolve())
    ids = torch.arange(20)[None]
    from llmkit.models.causal_lm import load_causal_lm

    with torch.no_grad():
        wanted = load_causal_lm(tmp_path / "first/model")(ids).logits
        assert torch.allclose(load_causal_lm(base)(ids).logits, wanted, atol=1e-5)
        assert not torch.allclose(load_causal_lm(tmp_path / "second/model")(ids).logits, wanted, atol=1e-3)


def test_what_cannot_be_trained_on_is_told(tune, tmp_path):
    result = tune("run", **{"model.adapter": "continue"})
    assert result.exit_code == 2
    assert "no adapter to train on" in result.stderr
    result = tune("run", method="qlora")
    assert result.exit_code == 2
    assert "NVIDIA GPU" in result.stderr


def test_an_adapter_without_a_template_is_not_trained_on_and_may_be_merged(tune, tmp_path):
    assert tune("first").exit_code == 0
    adapter = tmp_path / "first/model"
    (adapter / "chat_template.jinja").unlink()
    result = tune("second", model=adapter, **{"model.adapter": "continue"})
    assert result.exit_code == 2
    assert "an adapter without a chat template cannot be trained on as it is" in result.stderr
    assert tune("second", model=adapter).exit_code == 0


@pytest.mark.parametrize(
    ("task", "field"), [("prefer", "label_smoothing"), ("prefer", "z_loss"), ("classify", "z_loss")]
)
def test_parts_of_another_loss_are_refused(tune, task, field):
    result = tune("run", task=task, **{f"train.{field}": 0.1})
    assert result.exit_code == 2
    assert f"the task {task} has no use for train.{field}" in result.stderr


def test_what_counts_for_nothing_is_told(tune):
    result = tune("run", "--dry-run", method="full", last_layers=1, **{"lora.rank": 4, "preference.beta": 1})
    assert result.exit_code == 0, result.stderr
    for name in ("lora", "last_layers", "preference"):
        assert f"{name} changes nothing: the task is instruct, the method full" in result.stderr
    assert "changes nothing" not in tune("run", "--dry-run", **{"lora.rank": 4}).stderr


def test_a_classifier_has_no_tasks_to_forget(tune, tmp_path):
    result = tune("run", task="classify", forget_check="[piqa]")
    assert result.exit_code == 2
    assert "a classifier writes no text to evaluate on other tasks" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_end_tells_how_many_answers_end(tune, tmp_path):
    result = tune("run", end_check=2, **{"data.validation": 0.2})
    assert result.exit_code == 0, result.stderr
    ends = json.loads(result.stdout)["ends"]
    assert ends["asked"] == 2
    assert ends == json.loads((tmp_path / "run/ends.json").read_text())
    assert f"{ends['ended']} of 2 answers" in result.stderr
    report = json.loads((tmp_path / "run/data-report.json").read_text())
    assert ends["longest_allowed"] == report["train"]["length"]["p99"]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.jsonl"
    rows = [{"question": f"say {a}", "choices": [a, "def"], "answer": 0} for a in WORDS[:6]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_was_forgotten_is_measured_before_and_after(tune, run_cli, task, tmp_path, tiny_model_folder, method):
    result = tune("run", method=method, forget_check=json.dumps([str(task)]))
    assert result.exit_code == 0, result.stderr
    document = json.loads((tmp_path / "run/forget-check.json").read_text())
    assert set(document) == {"before", "after", "step"}
    assert json.loads(result.stdout)["forgotten"] == document
    assert "change" in result.stderr
    for when, model in (("before", tiny_model_folder), ("after", tmp_path / "run")):
        output = ["--output", tmp_path / when, "--json"]
        found = run_cli("evaluate", "--model", model, "--task", task, "--shots", "0", *output)
        assert found.exit_code == 0, found.stderr
        [values] = document[when].values()
        [wanted] = json.loads(found.stdout)["results"]
        assert values["metrics"]["accuracy"]["value"] == wanted["metrics"]["accuracy"]["value"]


def test_known_tasks_are_watched_on_the_first_rows_of_a_folder(tune, tmp_path):
    rows = [{"query": f"Question: say {a}", "choices": [a, "def"], "gold": 0} for a in WORDS[:6]]
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    watched = {"forget_check": "[piqa]", "forget_data": tmp_path / "sets", "forget_limit": 4}
    result = tune("run", **watched)
    assert result.exit_code == 0, result.stderr
    document = json.loads((tmp_path / "run/forget-check.json").read_text())
    assert [len(document[when]["piqa"]["correct"]) for when in ("before", "after")] == [4, 4]
    assert f"piqa: rows: {tmp_path / 'sets/piqa.jsonl'}" in result.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forget_check": "[piqua]"}, "did you mean 'piqa'"),
        ({"forget_check": "[piqa]", "forget_data": "none"}, "there is no such file or folder"),
        ({"forget_check": "[python-docs-package]", "forget_data": "."}, "no task of forget_check takes its rows"),
    ],
)
def test_what_cannot_be_watched_is_told_before_anything_is_made(tune, tmp_path, settings, message):
    result = tune("run", **settings)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_what_is_told_of_the_end_is_told_anew_when_the_run_is_made_longer(tune, task, tmp_path):
    options = {"end_check": 2, "data.validation": 0.2, "forget_check": json.dumps([str(task)])}
    options |= {"train.schedule": "constant", "train.lr": 3e-2}
    assert tune("run", **options).exit_code == 0
    files = [tmp_path / "run" / name for name in ("ends.json", "forget-check.json")]
    first = [json.loads(path.read_text()) for path in files]
    files[1].write_text(json.dumps(first[1] | {"after": {}}))
    result = tune("run", "--extend", **options | {"train.steps": 12})
    assert result.exit_code == 0, result.stderr
    second = [json.loads(path.read_text()) for path in files]
    assert [found["step"] for found in (*first, *second)] == [4, 4, 12, 12]
    assert second[1]["before"] == first[1]["before"]
    assert second[1]["after"].keys() == first[1]["after"].keys()
    # A run that is finished and as long as it was is not asked again.
    files[0].write_text(json.dumps(second[0] | {"ended": -1}))
    assert json.loads(tune("run", **options | {"train.steps": 12}).stdout)["ends"]["ended"] == -1


def test_a_run_that_was_stopped_before_it_asked_asks_when_it_is_called_again(tune, tmp_path):
    options = {"end_check": 2, "data.validation": 0.2}
    asked = json.loads(tune("run", **options).stdout)["ends"]
    (tmp_path / "run/ends.json").unlink()
    assert json.loads(tune("run", **options).stdout)["ends"] == asked
