"""`llmkit generate` as a user runs it."""

from __future__ import annotations

import json
import shutil

import pytest

SHORT = ("--max-new-tokens", "6")


@pytest.fixture
def run(run_cli, tiny_model_folder):
    """Run `llmkit generate` with the tiny model."""
    return lambda *arguments, input=None: run_cli("generate", "--model", tiny_model_folder, *arguments, input=input)


def completions(result):
    """The completions of a --json document."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["completions"]


def test_json_is_one_document_with_a_completion_per_prompt(run):
    result = run("--prompt", "the model", "--prompt", "", "--json", *SHORT)
    found = completions(result)
    assert [c["prompt"] for c in found] == ["the model", ""]
    assert all(set(c) == {"prompt", "text", "finish_reason", "num_tokens"} for c in found)
    assert all(c["finish_reason"] in ("stop", "length") and c["num_tokens"] <= 6 for c in found)
    assert len(result.stdout.splitlines()) == 1


def test_the_stream_and_the_document_say_the_same(run):
    text = completions(run("--prompt", "the model", "--json", *SHORT))[0]["text"]
    assert run("--prompt", "the model", *SHORT).stdout == text + "\n"


def test_the_seed_decides_and_temperature_zero_needs_none(run):
    def text(*more):
        return completions(run("--prompt", "the", "--json", "--max-new-tokens", "20", *more))[0]["text"]

    assert text("--seed", "1") == text("--seed", "1") != text("--seed", "2")
    assert text("--temperature", "0", "--seed", "1") == text("--temperature", "0", "--seed", "2")


def test_greedy_equals_what_transformers_generates(run, tiny_model_folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    ids = tokenizer("the model", return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)[
        0, ids.shape[1] :
    ]
    options = ("--temperature", "0", "--max-new-tokens", "12", "--dtype", "fp32", "--json")
    found = completions(run("--prompt", "the model", *options))[0]
    assert found["text"] == tokenizer.decode(made, skip_special_tokens=True).rstrip("\ufffd")


def test_stdin_is_the_prompt_without_the_line_break_at_its_end(run):
    expected = completions(run("--prompt", "the\nmodel", "--json", *SHORT))
    assert completions(run("--json", *SHORT, input="the\nmodel\n")) == expected
    assert completions(run("--prompt", "-", "--json", *SHORT, input="the\nmodel")) == expected


def test_jsonl_gives_a_line_per_line_in_order(run):
    lines = ["the model", '{"prompt": "two\\nlines"}', "", "{ not json", "x" * 30]
    result = run("--jsonl", *SHORT, input="\n".join(lines))
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [c["prompt"] for c in found] == ["the model", "two\nlines", "", "{ not json", "x" * 30]
    assert completions(run("--jsonl", "--json", *SHORT, input="\n".join(lines) + "\n")) == found


def test_jsonl_draws_for_each_line_what_its_number_says_however_many_come_at_once(run):
    lines = "the\n" * 70
    found = [json.loads(line)["text"] for line in run("--jsonl", *SHORT, input=lines).stdout.splitlines()]
    assert len(found) == 70
    assert found[:5] == [c["text"] for c in completions(run(*["--prompt", "the"] * 5, "--json", *SHORT))]
    assert found[64:] != found[:6]


def test_a_stop_string_ends_the_text(run):
    whole = completions(run("--prompt", "the", "--json", "--max-new-tokens", "40"))[0]["text"]
    stop = whole[5:8]
    found = completions(run("--prompt", "the", "--json", "--max-new-tokens", "40", "--stop", stop))[0]
    assert found["text"] == whole.split(stop)[0]
    assert found["finish_reason"] == "stop"


def test_the_models_longest_sequence_ends_the_text(run):
    found = completions(run("--prompt", "the", "--json", "--max-new-tokens", "5000", "--temperature", "2"))[0]
    assert found["finish_reason"] in ("context", "stop")


def test_chat_renders_the_prompt_as_in_training(run, tiny_model, tiny_tokenizer):
    from llmkit.data.dialogue import Message, render_prompt
    from llmkit.generation.generate import generate_ids
    from llmkit.generation.sampling import SamplingConfig

    ids = render_prompt([Message("system", "be"), Message("user", "<|im_end|> hi")], tiny_tokenizer)
    settings = {"sampling": SamplingConfig(), "max_new_tokens": 6, "tokenizer": tiny_tokenizer}
    (expected,) = generate_ids(tiny_model, [ids], **settings)
    options = ("--chat", "--system", "be", "--temperature", "0", "--dtype", "fp32", "--json")
    assert completions(run("--prompt", "<|im_end|> hi", *options, *SHORT))[0]["text"] == expected.text


@pytest.mark.parametrize(
    ("arguments", "input", "message"),
    [
        ((), "", "nothing came in"),
        ((), b"ab\xff", "not UTF-8 at byte 2"),
        (("--jsonl",), b"ok\n\xff\n", "stdin:2: not UTF-8"),
        (("--jsonl",), '{"text": "a"}\n', "stdin:1: there is no text under \"prompt\"; keys: 'text'"),
        (("--jsonl", "--prompt", "a"), "", "with --jsonl the prompts come from stdin"),
        (("--prompt", "-", "--prompt", "-"), "a", "stdin can be read once"),
        (("--prompt", "a", "--system", "b"), None, "a system message belongs to a dialogue"),
        (("--prompt", "a", "--top-p", "0"), None, "--top-p"),
        (("--prompt", "the " * 200), None, "prompt 1: it has"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_printed(run, arguments, input, message):
    result = run(*arguments, input=input)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "fix:" in result.stderr
    # Lines of JSON are answered one by one, so those before the bad one have been.
    assert all(json.loads(line) for line in result.stdout.splitlines()) if "--jsonl" in arguments else not result.stdout


def test_a_folder_that_is_no_model_is_said_as_json_where_asked(run_cli, tmp_path):
    result = run_cli("generate", "--model", tmp_path, "--prompt", "a", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert json.loads(result.stderr)["error"]["where"] == str(tmp_path)


def test_an_adapter_folder_works_as_a_model_folder_does(run_cli, tiny_model_folder, tiny_tokenizer, tmp_path):
    from llmkit.models.causal_lm import load_causal_lm, save_causal_lm
    from llmkit.models.lora import attach_lora
    from llmkit.recipe.schema import LoraSection

    model = attach_lora(load_causal_lm(tiny_model_folder), LoraSection(rank=2), base=tiny_model_folder, seed=0)
    save_causal_lm(model, tiny_tokenizer, tmp_path)
    options = ("--prompt", "the model", "--json", "--dtype", "fp32", *SHORT)
    base = run_cli("generate", "--model", tiny_model_folder, *options)
    assert completions(run_cli("generate", "--model", tmp_path, *options)) == completions(base)


def test_chat_without_a_template_says_what_to_do(run_cli, tiny_model_folder, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for arguments in (("generate", "--chat"), ("chat",)):
        result = run_cli(*arguments, "--model", folder, "--prompt", "hi")
        assert result.exit_code == 2
        assert "no chat template" in result.stderr
        assert "llmkit finetune" in result.stderr


def test_control_characters_cannot_steer_a_terminal():
    from llmkit.commands.generate import for_terminal

    assert for_terminal("a\x1b[2Jb\r\n\tc") == "a\\x1b[2Jb\\x0d\n\tc"
