"""Several models or results side by side, and what must hold of them."""

import json

import pytest
import torch

SENTENCE = "the a model learns to guess next token from text and then we ask it what"
WORDS = SENTENCE.split()
ROWS = [
    {"question": f"the model {WORDS[n]}", "choices": [WORDS[n - 5], WORDS[n - 9]], "answer": n % 2} for n in range(16)
]


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def other_model_folder(tmp_path, tiny_tokenizer):
    """A model of the same form with other random weights."""
    from llmkit.models.causal_lm import build_causal_lm, save_causal_lm
    from llmkit.recipe.schema import ModelSection

    section = ModelSection(num_layers=2, hidden_size=32, num_heads=2)
    model = build_causal_lm(section, vocab_size=len(tiny_tokenizer), seq_len=128, tokenizer=tiny_tokenizer, seed=1)
    torch.nn.init.normal_(model.lm_head.weight)
    save_causal_lm(model, tiny_tokenizer, tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def results(run_cli, tmp_path, tiny_model_folder, other_model_folder, rows_file):
    """The results of two models on the same rows."""
    for name, model in (("a", tiny_model_folder), ("b", other_model_folder)):
        assert run_cli("evaluate", "--model", model, "--task", rows_file, "--output", tmp_path / name).exit_code == 0
    return tmp_path / "a", tmp_path / "b"


def items_of(folder):
    return [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]


def test_results_are_compared_item_by_item(run_cli, results):
    found = run_cli("evaluate", "--compare", *results, "--json")
    assert found.exit_code == 0, found.output
    (comparison,) = json.loads(found.stdout)["comparisons"]
    pairs = [(a["id"], a["correct"], b["correct"]) for a, b in zip(*map(items_of, results), strict=True)]
    assert comparison["gained"] == [name for name, a, b in pairs if b and not a]
    assert comparison["lost"] == [name for name, a, b in pairs if a and not b]
    assert comparison["gained"] or comparison["lost"]
    difference = comparison["differences"]["accuracy"]
    assert difference["difference"] == pytest.approx((len(comparison["gained"]) - len(comparison["lost"])) / 16)


def test_flipped_items_are_shown_where_they_are_wanted(run_cli, results):
    plain = run_cli("evaluate", "--compare", *results)
    shown = run_cli("evaluate", "--compare", *results, "--items")
    assert plain.stdout.splitlines()[0].split()[:5] == ["task", "of", "items", "metric", "first"]
    assert "first said" in shown.stdout
    assert "first said" not in plain.stdout
    assert shown.exit_code == plain.exit_code == 0


@pytest.mark.parametrize(("bound", "code"), [(-1, 0), (1.5, 3)])
def test_a_gate_on_a_comparison_is_about_the_difference(run_cli, results, bound, code):
    found = run_cli("evaluate", "--compare", *results, "--gate", f"accuracy >= {bound}")
    assert found.exit_code == code
    assert ("NOT met" in found.stderr) == (code == 3)


@pytest.mark.parametrize(("gate", "code"), [("accuracy >= 0", 0), ("rows:accuracy > 1", 3), ("accuracy.high < 0", 3)])
def test_a_gate_on_one_model_is_about_its_score(run_cli, tmp_path, tiny_model_folder, rows_file, gate, code):
    command = ("evaluate", "--model", tiny_model_folder, "--task", rows_file, "--output", tmp_path / "o", "--json")
    found = run_cli(*command, "--gate", gate)
    assert found.exit_code == code, found.output
    (verdict,) = json.loads(found.stdout)["gates"]
    assert verdict["is_met"] == (code == 0)
    assert (tmp_path / "o" / "results.json").is_file()


def test_a_gate_can_be_about_what_is_no_mean_over_items(run_cli, tmp_path, tiny_model_folder, other_model_folder):
    path = tmp_path / "labels.jsonl"
    rows = [{"text": f"the model {word} {n}", "label": word} for n in range(6) for word in ("learns", "asks")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    models = ("--model", tiny_model_folder, "--model", other_model_folder)
    command = ("evaluate", *models, "--task", path, "--output", tmp_path / "o", "--json")
    found = run_cli(*command, "--gate", "macro_f1 >= -1", "--gate", "matthews > 2")
    assert found.exit_code == 3, found.output
    document = json.loads(found.stdout)
    assert [verdict["is_met"] for verdict in document["gates"]] == [True, False]
    one, other = (entry["results"][0]["metrics"]["macro_f1"]["value"] for entry in document["models"])
    difference = document["comparisons"][0]["differences"]["macro_f1"]
    assert (difference["a"], difference["b"]) == (pytest.approx(one), pytest.approx(other))
    assert difference["difference"] == pytest.approx(other - one)


def test_several_models_are_evaluated_and_compared_with_the_first(
    run_cli, tmp_path, tiny_model_folder, other_model_folder, rows_file
):
    models = ("--model", tiny_model_folder, "--model", other_model_folder)
    found = run_cli("evaluate", *models, "--task", rows_file, "--shots", "0,1", "--output", tmp_path / "o", "--json")
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert [entry["model"] for entry in document["models"]] == [str(tiny_model_folder), str(other_model_folder)]
    assert [c["b"] for c in document["comparisons"]] == ["other", "other"]
    assert json.loads((tmp_path / "o" / "comparison.json").read_text()) == document["comparisons"]
    folders = [folder.parent for folder in sorted((tmp_path / "o").glob("*/results.json"))]
    again = run_cli("evaluate", "--compare", *sorted(folders, key=lambda f: f.name == "other"), "--json")
    assert [c["differences"] for c in json.loads(again.stdout)["comparisons"]] == [
        c["differences"] for c in document["comparisons"]
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compare", "one"), "one result cannot be compared"),
        (("--compare", "one", "two"), "no results.json"),
        (("--compare", "one", "two", "--model", "m"), "--model"),
        (("--compare", "one", "two", "--chat"), "--chat"),
        (("--compare", "one", "two", "--shots", "5"), "--shots"),
        (("--compare", "one", "two", "--answer-column", "a"), "--answer-column"),
        (("--model", "m", "--task", "t", "--gate", "accuracy about 1"), "is not a condition"),
        (("--model", "m", "--task", "t", "--gate", "accuracy about 1"), "--gate"),
    ],
)
def test_what_cannot_be_compared_is_an_error_of_the_user(run_cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    found = run_cli("evaluate", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr


def test_other_rows_under_the_same_ids_are_refused(run_cli, tmp_path, tiny_model_folder, rows_file):
    for name in ("a", "b"):
        rows_file.write_text(rows_file.read_text().replace("model", f"model {name}"), encoding="utf-8")
        command = ("evaluate", "--model", tiny_model_folder, "--task", rows_file, "--output", tmp_path / name)
        assert run_cli(*command).exit_code == 0
    found = run_cli("evaluate", "--compare", tmp_path / "a", tmp_path / "b")
    assert found.exit_code == 2
    assert "ask something else" in found.stderr
