"""`llmkit baseline predict` as it is typed: new rows in, labels and probabilities out."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from llmkit.data.labelled import read_labelled
from llmkit.models.baselines import load_baseline, predict
from llmkit.recipe.schema import BaselineData

FAST = ["--set", "train.validate_every=0", "--set", "train.warmup_steps=5"]
FILMS = [("a joy to watch", "good"), ("a bore to watch", "bad"), ("such joy", "good"), ("what a bore", "bad")]


def train(run_cli, folder, *arguments, steps=60):
    result = run_cli("baseline", *arguments, *FAST, "--set", f"train.steps={steps}", "--output", folder)
    assert result.exit_code == 0, result.stderr
    return folder


def answers(run_cli, *arguments, input=None):
    result = run_cli("baseline", "predict", *arguments, input=input)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def cli():
    """Like run_cli, for what is trained once for all tests of this file."""
    from typer.testing import CliRunner

    from llmkit.cli import app

    return lambda *arguments, input=None: CliRunner().invoke(app, [str(a) for a in arguments], input=input)


@pytest.fixture(scope="module")
def people(cli, tmp_path_factory):
    """A run on a table with numbers, categories and gaps, and the table."""
    folder = tmp_path_factory.mktemp("people")
    rows = [(i % 40, "blue" if i % 3 else "red", "old" if i % 40 > 20 else "young") for i in range(200)]
    path = folder / "people.csv"
    path.write_text("age,colour,group\n" + "".join(f"{a},{c},{g}\n" for a, c, g in rows))
    return train(cli, folder / "run", "--kind", "mlp", "--data", path), path


@pytest.fixture(scope="module")
def films(cli, tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    path = folder / "films.jsonl"
    rows = [{"text": f"{text} {'really ' * (i % 5)}{i}", "label": label} for i in range(40) for text, label in FILMS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = ["--set", "model.hidden_size=16", "--set", "model.embedding_size=16", "--set", "train.lr=1e-2"]
    return train(cli, folder / "run", "--kind", "cnn", "--data", path, *sizes)


def test_answers_are_those_of_the_network(run_cli, people, tmp_path):
    folder, path = people
    labelled = read_labelled(BaselineData(source=str(path)), vocab_size=10, max_words=10)
    rows = labelled.splits["test"]
    model, _ = load_baseline(folder / "model")
    expected = predict(model, rows).softmax(1)
    table = [
        dict(zip(("age", "colour"), line.split(",")[:2], strict=True)) for line in path.read_text().splitlines()[1:]
    ]
    encoded = labelled.encoder.encode(table)
    new = tmp_path / "new.csv"
    places = [int((encoded == row).all(1).nonzero()[0]) for row in rows.inputs]
    # No column of the target, and the columns in another order.
    new.write_text("colour,age\n" + "".join(f"{table[i]['colour']},{table[i]['age']}\n" for i in places))
    found = answers(run_cli, folder, new)
    # By file and line, below the header.
    assert [row["row"] for row in found] == [f"{new}:{line}" for line in range(2, len(rows) + 2)]
    for row, chances in zip(found, expected.tolist(), strict=True):
        assert row["probabilities"] == {
            name: pytest.approx(p, abs=2e-6) for name, p in zip(["old", "young"], chances, strict=True)
        }
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert row["probability"] == max(row["probabilities"].values())


def test_every_way_of_writing_rows_gives_the_same(run_cli, people, tmp_path):
    folder, _ = people
    rows = [{"age": 35, "colour": "red"}, {"age": 3, "colour": "blue"}, {"age": None, "colour": "blue"}]
    files = {
        "a.csv": "age,colour,group\n35,red,?\n3,blue,?\n,blue,?\n",
        "a.tsv": "age\tcolour\n35\tred\n3\tblue\n\tblue\n",
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "a.json": json.dumps(rows),
    }
    results = []
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        results += [answers(run_cli, folder, tmp_path / name), answers(run_cli, folder, "-", input=text)]
    assert [row["label"] for row in results[0][:2]] == ["old", "young"]
    chances = [[row["probabilities"] for row in result] for result in results]
    assert all(found == chances[0] for found in chances)


def test_csv_and_json_come_out_whole(run_cli, people):
    folder, _ = people
    text = "age,colour\n35,red\n3,blue\n"
    result = run_cli("baseline", "predict", folder, "-", "--format", "csv", input=text)
    table = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(table[0]) == ["row", "label", "probability", "p(old)", "p(young)"]
    document = json.loads(run_cli("baseline", "predict", folder, "-", "--json", input=text).stdout)
    assert [row["label"] for row in document["predictions"]] == [row["label"] for row in table] == ["old", "young"]


def test_texts_may_stand_one_a_line(run_cli, films):
    lines = answers(run_cli, films, "-", input="such a joy\nwhat a bore\n")
    assert [row["label"] for row in lines] == ["good", "bad"]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ("such a joy", "what a bore"))
    for other in (rows, "text\nsuch a joy\nwhat a bore\n"):
        found = answers(run_cli, films, "-", input=other)
        assert [row["probabilities"] for row in found] == [row["probabilities"] for row in lines]


def test_labels_that_are_there_are_compared(run_cli, films):
    rows = "".join(json.dumps({"text": text, "label": "good"}) + "\n" for text in ("such a joy", "what a bore"))
    result = run_cli("baseline", "predict", films, "-", input=rows)
    assert "the rows have 'label' too: 1 of 2 are as predicted" in result.stderr


def test_pictures_of_any_size_are_read(run_cli, tmp_path):
    from PIL import Image

    for split, count in (("train", 30), ("test", 10)):
        for name in ("dark", "light"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                level = i + (10 if name == "dark" else 200)
                picture = Image.fromarray(np.full((8, 8), level, dtype=np.uint8))
                picture.save(tmp_path / "set" / split / name / f"{i}.png")
    folder = train(
        run_cli, tmp_path / "run", "--kind", "mlp", "--data", tmp_path / "set", "--set", "model.hidden_size=8"
    )
    (tmp_path / "new").mkdir()
    Image.new("RGB", (30, 20), (240, 230, 235)).save(tmp_path / "new" / "b.jpg")
    Image.new("L", (8, 8), 12).save(tmp_path / "new" / "a.png")
    result = run_cli("baseline", "predict", folder, tmp_path / "new")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["row"], row["label"]) for row in found] == [("a.png", "dark"), ("b.jpg", "light")]
    assert "1 of 2 pictures are scaled to 8 x 8" in result.stderr
    np.savez(tmp_path / "new.npz", x=np.full((3, 8, 8), 220, dtype=np.uint8))
    assert [row["label"] for row in answers(run_cli, folder, tmp_path / "new.npz")] == ["light"] * 3


def test_a_series_is_forecast_from_its_end(run_cli, tmp_path):
    values = [100 + 10 * math.sin(t / 3) for t in range(300)]
    path = tmp_path / "wave.csv"
    path.write_text("t,x\n" + "".join(f"{t},{value:.4f}\n" for t, value in enumerate(values[:250])))
    arguments = ["--kind", "mlp", "--data", path, "--set", "data.task=forecast", "--set", "data.look_back=12"]
    arguments += ["--set", "data.leave_out=[t]"]
    folder = train(run_cli, tmp_path / "run", *arguments, "--set", "data.horizon=2", steps=300)
    (forecast,) = answers(run_cli, folder, path)
    assert forecast["row"] == f"2 after {path}:251"
    assert forecast["x"] == pytest.approx(values[251], abs=1.0)
    short = tmp_path / "short.csv"
    short.write_text("t,x\n" + "".join(f"{t},{value:.4f}\n" for t, value in enumerate(values[:9])))
    result = run_cli("baseline", "predict", folder, short)
    assert result.exit_code == 2
    assert "9 rows are too few: the network looks back over 12" in result.stderr


def test_a_language_model_measures_texts(run_cli, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("".join(f"{'ab' * (i % 4 + 1)}{i % 7}\n" for i in range(200)))
    arguments = ["--kind", "rnn", "--data", path, "--set", "data.task=language", "--set", "model.hidden_size=16"]
    folder = train(run_cli, tmp_path / "run", *arguments, "--set", "train.lr=1e-2")
    likely, unlikely = answers(run_cli, folder, "-", input="abab3\nb6aab\n")
    assert likely["bytes"] == 6
    assert likely["bits_per_byte"] < 2 < unlikely["bits_per_byte"]
    assert likely["bits"] == pytest.approx(6 * likely["bits_per_byte"], abs=1e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"age": 3, "hue": "red"}\n', "not there: colour"),
        ("age,colour\n", "there are no rows"),
        ("", "this is empty"),
    ],
)
def test_rows_that_do_not_fit_say_why(run_cli, people, text, message):
    result = run_cli("baseline", "predict", people[0], "-", input=text)
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_training_never_saw_is_told(run_cli, people):
    result = run_cli("baseline", "predict", people[0], "-", input="age,colour\n3,green\n")
    assert result.exit_code == 0
    assert "colour: 1 values are new ('green')" in result.stderr


def test_a_folder_that_is_no_run_is_named(run_cli, tmp_path):
    result = run_cli("baseline", "predict", tmp_path, "-", input="a,b\n1,2\n")
    assert result.exit_code == 2
    assert "holds no baseline" in result.stderr


def test_the_verb_itself_takes_recipes_and_not_two(run_cli):
    assert "predict" in run_cli("baseline", "--help").stdout
    result = run_cli("baseline", "tiny/baseline-mlp", "tiny/baseline-cnn")
    assert result.exit_code == 2
    assert "unexpected extra argument" in result.stderr
