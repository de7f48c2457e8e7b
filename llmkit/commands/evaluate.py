"""`llmkit evaluate`: numbers for a model, beside what guessing would reach."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmkit.console import Progress, format_table, is_main_process, say, warn, write, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.evaluation.evaluate import Subject, TaskResult
    from llmkit.evaluation.task import Row, Task
    from llmkit.evaluation.task_file import TaskFile

Kind = Literal["choice", "label", "generate", "perplexity"]
PERPLEXITY = "perplexity"
FUNCTIONS = "python-docs:functions@"


@dataclass(frozen=True)
class Described:
    """A row of our own making, in the form that `read_records` gives rows."""

    where: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Flags:
    """What the command line says about tasks that are files."""

    kind: str | None
    question: str | None
    choices: str | None
    answer: str | None
    prompt: str | None
    train: Path | None

    def given(self) -> dict[str, tuple[str, Any]]:
        """Field of a task file -> (flag, value), those that were not given left out."""
        pairs = {
            "kind": ("--kind", self.kind),
            "question": ("--question-column", self.question),
            "choices": ("--choices-column", self.choices),
            "answer": ("--answer-column", self.answer),
            "prompt": ("--prompt", self.prompt),
            "train": ("--train", None if self.train is None else str(self.train)),
        }
        return {field: pair for field, pair in pairs.items() if pair[1] is not None}


def evaluate(
    more_tasks: Annotated[list[str] | None, typer.Argument(metavar="[TASK]...", help="More tasks.")] = None,
    model: Annotated[str | None, typer.Option(help="Model folder, adapter folder, or hub name.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that --list shows, a YAML task file, or rows: jsonl, json, csv, tsv, parquet, hf:NAME."
        ),
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Texts for task perplexity: files, folders, hf:NAME.")] = None,
    shots: Annotated[
        str, typer.Option(help="Solved examples before each question; several numbers with commas.")
    ] = "0",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows of each task.")] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="What kind of task a file of rows is, if the columns mislead.")
    ] = None,
    question_column: Annotated[str | None, typer.Option(help="Column of the question or text.")] = None,
    choices_column: Annotated[str | None, typer.Option(help="Column of the choices, or one each with commas.")] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="Column of the answer: text, number from 0, or letter.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help='Prompt with {columns}, as in "Q: {question}\\nA:".')] = None,
    train: Annotated[Path | None, typer.Option(help="Rows that shots are drawn from.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the shots.")] = 0,
    dtype: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 where the hardware has it.")
    ] = "auto",
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per forward; changes no score.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for results.json and items. [default: a new one in evaluations/]")
    ] = None,
    show_tasks: Annotated[bool, typer.Option("--list", help="Show the built-in tasks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")] = False,
) -> None:
    """Measure a model: multiple choice, classification, free answers, perplexity.

    \b
    Examples:
      llmkit evaluate --list
      llmkit evaluate --model run/model --task python-docs-package --shots 0,5
      llmkit evaluate --model run/model --task perplexity --data book.txt
      llmkit evaluate --model run/model --task exam.csv --question-column q --answer-column right
      llmkit evaluate --model run/model --task exam.yaml --limit 200 --json
      torchrun --standalone --nproc_per_node 8 -m llmkit evaluate --model run/model --task exam.jsonl

    Each score stands beside what guessing would reach. What the model said to each item is kept in the output folder.
    """
    if show_tasks:
        list_tasks(as_json=as_json)
        return
    counts = parse_shots(shots)
    names = [*(task or []), *(more_tasks or [])]
    if model is None:
        raise UsageError("there is no model to evaluate", where="--model", fix="add --model DIR")
    if not names:
        raise UsageError(
            "there is no task to run",
            where="--task",
            fix="add --task NAME or FILE; `llmkit evaluate --list` shows names",
        )
    folder = choose_output(output, model)
    flags = Flags(kind, question_column, choices_column, answer_column, prompt, train)
    tasks = [found for name in names for found in open_tasks(name, flags, data or [])]
    for found in tasks:
        for note in found.notes:
            say(f"{found.name}: {note}")
    subject = load_subject(model, dtype, batch_tokens)
    plan = [(found, count) for found in tasks for count in (counts if found.kind != PERPLEXITY else [0])]
    results = [run_task(subject, found, count, seed=seed, limit=limit) for found, count in plan]
    finish(folder, results, subject, model=model, as_json=as_json)


def parse_shots(text: str) -> list[int]:
    """The numbers in `0,5`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"{text!r} is not a number, nor several with commas", where="--shots", fix="for example --shots 0,5"
        )
    return list(dict.fromkeys(int(part) for part in parts))


def choose_output(output: Path | None, model: str) -> Path:
    """The folder for results: the one that was named, which must be free, or a new one below evaluations/."""
    from llmkit.files import check_output_free

    if output is None:
        path = Path(model)
        name = path.resolve().parent.name if path.name == "model" else path.name
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
        free = (Path("evaluations") / (f"{stem}-{n}" if n else stem) for n in range(1000))
        return next(path for path in free if not path.exists())
    check_output_free(output)
    return output


def open_tasks(name: str, flags: Flags, data: Sequence[str]) -> list[Task]:
    """The task of this name or file; task perplexity makes one of each text it is given."""
    from llmkit.evaluation.tasks import BUILT_IN

    if name == PERPLEXITY:
        if not data:
            raise UsageError("there is no text to predict", where="--data", fix="add --data FILE")
        named = [PERPLEXITY] if len(data) == 1 else [f"{PERPLEXITY}:{text}" for text in data]
        spec = BUILT_IN[name].spec
        changes = [
            {"name": label, "test": text, "question": flags.question} for label, text in zip(named, data, strict=True)
        ]
        return [build(spec.model_copy(update=change)) for change in changes]
    if data and PERPLEXITY not in name:
        raise UsageError(
            "--data belongs to task perplexity", where="--data", fix=f"name the rows with --task {data[0]}"
        )
    if name in BUILT_IN:
        if flags.given():
            flag = next(iter(flags.given().values()))[0]
            raise UsageError(
                f"task {name} has its own columns and prompt",
                where=flag,
                fix="leave the flag out, or write a task file",
            )
        return [build(BUILT_IN[name].spec, shape=BUILT_IN[name].shape)]
    return [build(read_spec(name, flags))]


def read_spec(name: str, flags: Flags) -> TaskFile:
    """What a YAML task file, or a file of rows together with the flags, says."""
    from llmkit.evaluation.task_file import NO_PATHS, TaskFile, relative_to
    from llmkit.evaluation.tasks import BUILT_IN
    from llmkit.recipe.load import did_you_mean, load_recipe

    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        spec = relative_to(load_recipe(TaskFile, name), Path(name).parent)
        said = {field: value for field, (_, value) in flags.given().items()}
        return spec.model_copy(update={"name": spec.name or Path(name).stem, **said})
    if not (Path(name).exists() or name == "-" or name.startswith(NO_PATHS) or any(c in name for c in "*?[")):
        fix = did_you_mean(name, list(BUILT_IN)) or "see `llmkit evaluate --list`, or name a file"
        raise UsageError("there is no task of this name and no such file", where=f"--task {name}", fix=fix)
    return load_recipe(TaskFile, None, flags={"test": ("--task", name), **flags.given()})


def build(spec: TaskFile, shape: Any = None) -> Task:
    """The task with its rows, read by the readers of `llmkit.data`."""
    from llmkit.evaluation.task_file import build_task

    def read_texts(source: str) -> Iterator[Row]:
        from llmkit.data.documents import read_documents

        for document in read_documents([source], text_column=spec.question):
            yield Described(document.source, {spec.question or "text": document.text})

    return build_task(spec, read_texts if spec.kind == PERPLEXITY else read_rows, shape=shape)


def read_rows(source: str) -> Iterator[Row]:
    """The rows of a file, or of what a name stands for."""
    from llmkit.data import python_docs
    from llmkit.data.documents import read_records

    if not source.startswith(FUNCTIONS):
        yield from read_records(source)
        return
    for item in python_docs.items(source.removeprefix(FUNCTIONS)):
        if item.kind in ("function", "method") and item.is_public and item.signature:
            signature = python_docs.headline(item)
            yield Described(f"{source}:{item.name}", {"name": item.name, "signature": signature, "doc": item.doc})


def load_subject(model: str, dtype: str, batch_tokens: int | None) -> Subject:
    """The model on its device, in this process's place of the job."""
    from llmkit.device import pick_device, pick_dtype
    from llmkit.evaluation.evaluate import Subject
    from llmkit.generation.decode import longest_sequence
    from llmkit.models.causal_lm import load_causal_lm
    from llmkit.tokenizer import load_tokenizer

    device, rank, num_processes = join_job()
    tokenizer = load_tokenizer(model)
    device = device or pick_device()
    loaded = load_causal_lm(model, dtype=pick_dtype(dtype, device)).to(device).eval()
    return Subject(
        model=loaded,
        tokenizer=tokenizer,
        max_length=longest_sequence(loaded),
        batch_tokens=batch_tokens,
        rank=rank,
        num_processes=num_processes,
    )


def join_job() -> tuple[Any, int, int]:
    """(device, rank, number of processes); alone there is no device to be given."""
    from llmkit.training.job import check_processes

    check_processes()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None, 0, 1
    from accelerate import PartialState

    from llmkit.device import pick_device

    state = PartialState(cpu=pick_device().type == "cpu")
    return state.device, state.process_index, state.num_processes


def run_task(subject: Subject, task: Task, shots: int, *, seed: int, limit: int | None) -> TaskResult:
    """One task with so many shots, with a bar."""
    from llmkit.evaluation.evaluate import evaluate_task

    label = f"{task.name}, {shots} shots" if shots else task.name
    with Progress(label, unit="requests") as progress:

        def on_progress(done: int, total: int) -> None:
            progress.total = total
            progress.update(done - progress.done)

        return evaluate_task(subject, task, shots=shots, seed=seed, limit=limit, on_progress=on_progress)


def finish(folder: Path, results: Sequence[TaskResult], subject: Subject, *, model: str, as_json: bool) -> None:
    """Write the results from the main process, then show them."""
    from llmkit.evaluation.results import save_results

    if is_main_process():
        document = save_results(folder, results, subject, model=model)
        show_results(document, results, folder, as_json=as_json)


def show_results(document: dict[str, Any], results: Sequence[TaskResult], folder: Path, *, as_json: bool) -> None:
    """The table or the JSON document on stdout, and on stderr what one should know about it."""
    for result in results:
        label = f"{result.task.name}, {result.shots} shots"
        if result.num_cut:
            warn(f"{label}: {result.num_cut:,} contexts were longer than the model takes; cut from the left")
        if result.num_apart:
            say(f"{label}: {result.num_apart:,} choices merged with the last token before them; encoded by themselves")
    say(f"results and items: {folder}")
    if as_json:
        write_json(document)
        return
    rows = [
        [
            r.task.name,
            r.shots,
            len(r.items),
            name,
            format_estimate(e.value),
            format_error(e.stderr),
            chance_of(r, name),
            f"{r.seconds:.1f}",
        ]
        for r in results
        for name, e in r.metrics.items()
    ]
    for r in results:
        bits = (r.compressors or {}).items()
        rows += [
            [r.task.name, None, None, f"bits_per_byte of {n.replace('_', ' -')}", format_estimate(b), None, None, None]
            for n, b in bits
        ]
    write(format_table(["task", "shots", "items", "metric", "value", "+-", "chance", "seconds"], rows))


def format_estimate(value: float) -> str:
    """A value with four decimals, or short where it is large."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def format_error(stderr: float | None) -> str | None:
    """A standard error, or nothing."""
    return None if stderr is None else format_estimate(stderr)


def chance_of(result: TaskResult, metric: str) -> str | None:
    """The chance level beside the metrics that it is one of."""
    return format_estimate(result.chance) if result.chance is not None and metric.startswith("accuracy") else None


def list_tasks(*, as_json: bool) -> None:
    """The built-in tasks."""
    from llmkit.evaluation.tasks import BUILT_IN

    rows = [(name, task.spec.kind, task.metric, task.chance, task.about) for name, task in BUILT_IN.items()]
    columns = ("task", "kind", "metric", "chance", "about")
    if as_json:
        write_json({"tasks": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        write(format_table(columns, rows))
