"""`llmkit evaluate`: numbers for a model, beside what guessing would reach."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmkit.commands.evaluate_compare import compare_folders
from llmkit.commands.evaluate_view import Shown, finish, labels_of
from llmkit.commands.evaluation_job import EvaluationPlan, evaluate_model
from llmkit.commands.options import AsJson
from llmkit.commands.tasks import Flags, list_tasks, open_tasks
from llmkit.console import is_main_process, say
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.evaluation.task import Task

Kind = Literal["choice", "label", "generate", "perplexity"]


def evaluate(
    more_tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="More tasks; with --compare, more results.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model folder, adapter folder, or hub name; several are compared, each with the first."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that --list shows, a YAML task file, or rows: jsonl, json, csv, tsv, parquet, hf:NAME."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Texts for task perplexity; file or folder with the rows of a built-in task; hf:NAME."),
    ] = None,
    shots: Annotated[
        str, typer.Option(help="Solved examples before each question; several numbers with commas.")
    ] = "0",
    shot_order: Annotated[
        Literal["fixed", "random", "balanced"] | None,
        typer.Option(help="Which: the first rows, others for each question, as many of each answer. [default: task's]"),
    ] = None,
    shot_draws: Annotated[
        int, typer.Option(min=1, help="Draw the shots so many times; shows mean, spread and worst case.")
    ] = 1,
    prompts: Annotated[
        str, typer.Option(help="Which wording of the prompt, a number from 1, or all: mean, spread and worst case.")
    ] = "1",
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the chat template, shots as turns.")] = False,
    one_turn: Annotated[bool, typer.Option("--one-turn", help="With --chat: shots in the question's turn.")] = False,
    system: Annotated[str | None, typer.Option(help="System text before everything.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Kind label: also divide out what the prompt alone leans to.")
    ] = False,
    pmi: Annotated[
        bool, typer.Option("--pmi", help="Also compare how much likelier the question makes each choice.")
    ] = False,
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
    train_data: Annotated[
        list[str] | None,
        typer.Option(help="What the model was trained on, to find items in it; none: not. [default: that of its run]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the shots and the intervals.")] = 0,
    dtype: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 where the hardware has it; fp32 is exact.")
    ] = "auto",
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens per forward; scores differ by rounding.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="RESULT RESULT...", help="Compare results of earlier evaluations, item by item."),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION", help='Exit with 3 unless it is met: "accuracy >= 0.6"; of several, a difference.'
        ),
    ] = None,
    items: Annotated[bool, typer.Option("--items", help="Show the worst items, and those that flipped.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for results.json and items. [default: a new one in evaluations/]")
    ] = None,
    show_tasks: Annotated[bool, typer.Option("--list", help="Show the built-in tasks.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model: multiple choice, classification, free answers, perplexity. Compare models item by item.

    \b
    Examples:
      llmkit evaluate --list
      llmkit evaluate --model run/model --task python-docs-package --shots 0,5
      llmkit evaluate --model run/model --task perplexity --data book.txt
      llmkit evaluate --model run/model --task exam.csv --question-column q --answer-column right
      llmkit evaluate --model run/model --task exam.yaml --shots 5 --shot-draws 5 --prompts all
      llmkit evaluate --model base --model run/model --task exam.yaml --gate "accuracy >= -0.01"
      llmkit evaluate --compare evaluations/before evaluations/after --items
      torchrun --standalone --nproc_per_node 8 -m llmkit evaluate --model run/model --task exam.jsonl

    Each score stands beside what guessing would reach, with its 95% interval. What the model saw and said to each item
    is kept in the output folder. A command that was stopped goes on where it stood when it is run again.

    --gate takes [TASK:]METRIC[.low|.high] >=|>|<=|< NUMBER. Of one model the number is a score; where several are
    compared it is a difference, the later one minus the first. .low and .high are the ends of the 95% interval.
    """
    if show_tasks:
        list_tasks(as_json=as_json)
        return
    flags = Flags(
        kind=kind,
        question=question_column,
        choices=choices_column,
        answer=answer_column,
        prompt=prompt,
        train=train,
        system=system,
        shot_order=shot_order,
        prompts=prompts,
    )
    shown = Shown(gate or [], items, as_json)
    if compare:
        others = {"--model": model, "--task": task, "--output": output, "--data": data, "--limit": limit}
        others |= {"--shots": shots != "0", "--prompts": prompts != "1", "--shot-draws": shot_draws > 1}
        others |= {"--chat": chat, "--calibrate": calibrate, "--pmi": pmi, "--train-data": train_data}
        refuse_with_compare({**others, **dict(flags.given().values())})
        compare_folders([*compare, *(more_tasks or [])], shown, seed=seed)
        return
    check_asked(model or [], names := [*(task or []), *(more_tasks or [])], shown)
    from llmkit.evaluation.subject import Setting

    folder = choose_output(output, model or [])
    plan = EvaluationPlan(
        tasks=find_tasks(names, flags, data or []),
        counts=parse_shots(shots),
        setting=Setting(seed=seed, limit=limit, calibrate=calibrate, pmi=pmi),
        draws=shot_draws,
        dtype=dtype,
        batch_tokens=batch_tokens,
        chat=("one" if one_turn else "turns") if chat else None,
    )
    check_plan(plan, one_turn=one_turn)
    if prompts == "all":
        check_wordings(plan.tasks)
    shown.check_names(*plan.metrics(is_compared=len(model or []) > 1))
    evaluated = [evaluate_model(name, plan, folder, train_data or []) for name in model or []]
    if is_main_process():
        finish(folder, evaluated, shown, seed=seed)


def refuse_with_compare(others: dict[str, Any]) -> None:
    """Raise for a flag that --compare would leave unread."""
    for flag, value in others.items():
        if value:
            fix = "leave it out: what is compared are the folders of earlier evaluations"
            raise UsageError("--compare measures nothing anew", where=flag, fix=fix)


def check_asked(models: Sequence[str], tasks: Sequence[str], shown: Shown) -> None:
    """Raise unless there is a model and a task, and the gates can be read."""
    if not models:
        raise UsageError("there is no model to evaluate", where="--model", fix="add --model DIR")
    if not tasks:
        fix = "add --task NAME or FILE; `llmkit evaluate --list` shows names"
        raise UsageError("there is no task to run", where="--task", fix=fix)
    shown.parse_gates()


def check_plan(plan: EvaluationPlan, *, one_turn: bool) -> None:
    """Raise for flags that would do nothing, and where there are too few rows for the shots."""
    from llmkit.evaluation.evaluate import check_shots

    kinds = {task.kind for task in plan.tasks}
    if one_turn and not plan.chat:
        raise UsageError("shots share a turn in dialogues only", where="--one-turn", fix="add --chat")
    if plan.draws > 1 and not any(plan.counts):
        raise UsageError("there are no shots to draw", where="--shot-draws", fix="add --shots 5, say")
    if plan.setting.calibrate and "label" not in kinds:
        raise UsageError("no task here is of kind label", where="--calibrate", fix="leave it out, or try --pmi")
    if plan.setting.pmi and not kinds & {"choice", "label"}:
        raise UsageError("no task here has choices", where="--pmi", fix="leave it out")
    for asked, setting in plan.runs():
        check_shots(asked, setting)


def check_wordings(tasks: Sequence[Task]) -> None:
    """Tell which tasks have one wording, so that all of them are no more; raise where none has several."""
    counts = Counter(task.name for task in tasks)
    alone = [name for name, count in counts.items() if count == 1]
    if len(alone) == len(counts):
        fix = "leave it out, or list more under `prompts` in a task file"
        raise UsageError("no task here has more than one wording", where="--prompts all", fix=fix)
    for name in alone:
        say(f"{name}: there is one wording of its prompt, so --prompts all changes nothing for it")


def find_tasks(names: Sequence[str], flags: Flags, data: Sequence[str]) -> list[Task]:
    """The tasks of these names; what was recognised in their data is told.

    Raises:
        UsageError: Two are called the same, and their results could not be told apart.
    """
    opened = [open_tasks(name, flags, data) for name in names]
    called = [name for found in opened for name in dict.fromkeys(task.name for task in found)]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        fix = "name each once; a task file can give another `name`"
        raise UsageError(f"two of the tasks are called {twice}", where="--task", fix=fix)
    tasks = [task for found in opened for task in found]
    for name, note in dict.fromkeys((task.name, note) for task in tasks for note in task.notes):
        say(f"{name}: {note}")
    return tasks


def parse_shots(text: str) -> list[int]:
    """The numbers in `0,5`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"{text!r} is not a number, nor several with commas", where="--shots", fix="for example --shots 0,5"
        )
    return list(dict.fromkeys(int(part) for part in parts))


def choose_output(output: Path | None, models: Sequence[str]) -> Path:
    """The folder for results: the one that was named, which must be free, or a new one below evaluations/."""
    from llmkit.files import check_output_free

    if output is None:
        stem = "-".join([time.strftime("%Y%m%d-%H%M%S"), *labels_of(models)])[:120]
        free = (Path("evaluations") / (f"{stem}-{n}" if n else stem) for n in range(1000))
        return next(path for path in free if not path.exists())
    check_output_free(output)
    return output
