"""The tasks that `llmkit evaluate` is asked for: by name, as a task file, or as rows of one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.task_data import find_data, read_built_in_rows, read_rows
from llmkit.commands.terminal import write_table
from llmkit.console import say, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.evaluation.prompts import Chat, Turn
    from llmkit.evaluation.task import Task, TaskRow
    from llmkit.evaluation.task_file import TaskFile
    from llmkit.evaluation.tasks import BuiltIn

PERPLEXITY = "perplexity"
PYTHON_DOCS = "python-docs"


@dataclass(frozen=True)
class Flags:
    """What the command line says about tasks."""

    kind: str | None = None
    question: str | None = None
    choices: str | None = None
    answer: str | None = None
    prompt: str | None = None
    train: Path | None = None
    system: str | None = None
    """Stands before the system text of every task."""
    shot_order: str | None = None
    prompts: str = "1"
    """Which of the prompt's variants: a number from 1, or all."""

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


def open_tasks(name: str, flags: Flags, data: Sequence[str]) -> list[Task]:
    """The task of this name or file, once with each of the prompts that are wanted.

    Args:
        name: A built-in task, a task file, or rows.
        flags: What else was said.
        data: Where the rows of built-in tasks lie; task perplexity makes one of each.
    """
    from llmkit.evaluation.tasks import BUILT_IN

    if name == PERPLEXITY:
        found = perplexity_tasks(flags, data)
    elif name in BUILT_IN:
        found = [open_built_in(BUILT_IN[name], flags, data)]
    else:
        spec = read_spec(name, flags)
        if data:
            fix = "leave it out: a task file and rows name their data themselves"
            raise UsageError(f"--data is for built-in tasks, and {name} is none", where="--data", fix=fix)
        found = [build(spec)]
    return [variant for task in found for variant in asked_as(task, flags)]


def has_own_data(name: str) -> bool:
    """Whether a task brings its rows along, so that no data is to be named for it."""
    from llmkit.evaluation.tasks import BUILT_IN

    return name not in BUILT_IN or BUILT_IN[name].spec.test.startswith(PYTHON_DOCS)


def asked_as(task: Task, flags: Flags) -> list[Task]:
    """A task asked as the flags want it, once with each prompt."""
    from llmkit.evaluation.prompts import join

    changes: dict[str, Any] = {"shots": flags.shot_order} if flags.shot_order else {}
    if flags.system:
        # Braces in what was typed are text.
        typed = flags.system.replace("{", "{{").replace("}", "}}")
        changes["system"] = join(typed, task.system, task.separator)
    variants = replace(task, **changes).variants()
    if flags.prompts == "all":
        return variants
    if not flags.prompts.isdecimal() or not 1 <= int(flags.prompts) <= len(variants):
        fix = f"{task.name} has {len(variants)}: give a number from 1, or all"
        raise UsageError(f"{flags.prompts!r} is none of the prompts", where="--prompts", fix=fix)
    return [variants[int(flags.prompts) - 1]]


def perplexity_tasks(flags: Flags, data: Sequence[str]) -> list[Task]:
    """Task perplexity, once for each text."""
    from llmkit.evaluation.tasks import BUILT_IN

    if not data:
        raise UsageError("there is no text to predict", where="--data", fix="add --data FILE")
    named = [PERPLEXITY] if len(data) == 1 else [f"{PERPLEXITY}:{text}" for text in data]
    spec = BUILT_IN[PERPLEXITY].spec
    changes = [
        {"name": label, "test": text, "question": flags.question} for label, text in zip(named, data, strict=True)
    ]
    return [build(spec.model_copy(update=change)) for change in changes]


def open_built_in(task: BuiltIn, flags: Flags, data: Sequence[str]) -> Task:
    """A built-in task with its rows from where they are."""
    from llmkit.evaluation.task_file import build_task

    own = {field: pair for field, pair in flags.given().items() if field != "train"}
    if own:
        flag = next(iter(own.values()))[0]
        fix = "leave the flag out, or write a task file"
        raise UsageError(f"task {task.spec.name} has its own columns and prompt", where=flag, fix=fix)
    if task.spec.test.startswith(PYTHON_DOCS):
        if data:
            fix = f"take task {PERPLEXITY} for a text, or name rows with --task"
            raise UsageError(f"task {task.spec.name} has its own data", where="--data", fix=fix)
        built = build(task.spec, make=task.examples)
        return replace(built, prompt_by=task.prompt_by, variants_by="llmkit")
    found = find_data(task, data, None if flags.train is None else str(flags.train))
    spec = task.spec.model_copy(update={"test": found.test, "train": found.train})
    built = build_task(spec, partial(read_built_in_rows, task, found), make=task.examples)
    notes = (*built.notes, *found.notes, *other_choices(task, built))
    return replace(built, prompt_by=task.prompt_by, variants_by="llmkit", notes=notes)


def other_choices(task: BuiltIn, built: Task) -> list[str]:
    """What is to be told where rows have more or fewer choices than the set: another chance level, or other rows."""
    if task.num_choices is None:
        return []
    sizes = Counter(len(example.choices) for example in built.examples("test"))
    usual = sizes.most_common(1)[0][0]
    if usual == task.num_choices:
        return []
    return [f"most rows here have {usual} choices, and those of {task.spec.name} as published {task.num_choices}"]


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


def build(spec: TaskFile, make: Any = None) -> Task:
    """The task with its rows, read by the readers of `llmkit.data`."""
    from llmkit.evaluation.task_file import build_task

    def read_texts(source: str) -> Iterator[TaskRow]:
        from llmkit.data.documents import read_documents
        from llmkit.evaluation.task import PlainRow

        for document in read_documents([source], text_column=spec.question):
            yield PlainRow(document.source, {spec.question or "text": document.text})

    return build_task(spec, read_texts if spec.kind == PERPLEXITY else read_rows, make=make)


def make_chat(tokenizer: Any, *, is_one_turn: bool) -> Chat:
    """How a model is asked through its chat template; nothing that a row says becomes a control token.

    Raises:
        ModelError: The model has no chat template.
    """
    from llmkit.data.dialogue import end_of_turn_ids
    from llmkit.data.rendering import Message, renderer_of
    from llmkit.evaluation.prompts import Chat

    renderer = renderer_of(tokenizer)
    names = {secret: name for name, secret in renderer.secret_names.items()}

    def render(turns: Sequence[Turn]) -> str:
        return renderer.render([Message(turn.role, turn.content) for turn in turns], wants_answer=True).text

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in renderer.backend.encode_batch(list(texts), add_special_tokens=False)]

    def show(text: str) -> str:
        for secret, name in names.items():
            text = text.replace(secret, name)
        return text

    # A template reads the clock under this name alone.
    day = str(renderer.now.date()) if "strftime_now" in str(tokenizer.chat_template) else None
    return Chat(render, encode, show, frozenset(end_of_turn_ids(tokenizer)), is_one_turn, day)


def list_tasks(*, as_json: bool) -> None:
    """The built-in tasks, and where their data is looked for."""
    from llmkit.evaluation.tasks import BUILT_IN

    found = [
        {
            "task": name,
            "kind": task.spec.kind,
            "metric": task.metric,
            "chance": task.chance,
            "about": task.about,
            "data": task.spec.test or None,
            "train": task.spec.train,
            "files": list(task.test_files),
            "prompt_by": None if task.spec.kind == PERPLEXITY else task.prompt_by,
            "prompts": [text for text in (task.spec.prompt, *task.spec.prompts) if text],
        }
        for name, task in BUILT_IN.items()
    ]
    if as_json:
        write_json({"tasks": found})
        return
    columns = ("task", "kind", "metric", "chance", "about", "data")
    write_table(columns, [[shorten_chance(row[column]) for column in columns] for row in found])
    say("data is read from --data FILE or FOLDER; without it from the hub (hf:), which needs a network")
    say("--json adds the prompts, who worded them, and the names of the files that are looked for in a folder")
    say("perplexity: BOS stands once before a text; lm-evaluation-harness puts two where the tokenizer adds one itself")


def shorten_chance(value: Any) -> Any:
    """A chance level with two decimals; all else as it is."""
    return f"{value:.2f}" if isinstance(value, float) else value
