"""`llmkit finetune`: a language model and dialogues to a model that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llmkit.commands.options import (
    AsJson,
    DryRun,
    Extend,
    Fresh,
    Output,
    Overrides,
    RecipeArgument,
    RequireExact,
    Resume,
    TimeLimit,
)
from llmkit.commands.plan import Effort, plan_tuning, show_tuning
from llmkit.console import for_terminal, say, warn, write_json
from llmkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.data.dialogue import DialogueRows
    from llmkit.data.dialogue_forms import Dialogue
    from llmkit.data.dialogue_set import Account
    from llmkit.generation.generate import Completion
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.training.run import Run, RunOptions

LONGEST_SAMPLE = 200
"""New tokens of an answer that is sampled during training."""

NUM_SAMPLES = 3
"""Held-out questions that are answered during training, unless the recipe names some."""


class Question(NamedTuple):
    """What the model is asked during training: the last thing that is said to it, and all of it as ids."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Material:
    """All that a run is made from, ready to train."""

    model: Any
    tokenizer: Any
    train: DialogueRows
    validation: DialogueRows | None
    questions: list[Question]
    accounts: list[Account]
    trained_tokens: list[int]

    @property
    def report(self) -> dict[str, Any]:
        """What became of the rows, as in data-report.json."""
        return {account.name: account.to_json() for account in self.accounts}


class Planned(NamedTuple):
    """What is tuned and on what, and what that will take."""

    material: Material
    plan: dict[str, Any]
    effort: Effort


def finetune(
    recipe: RecipeArgument = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub name.")] = None,
    data: Annotated[str | None, typer.Option(help="File, folder, python-docs:instructions or hf:owner/name.")] = None,
    output: Output = None,
    overrides: Overrides = None,
    resume: Resume = False,
    extend: Extend = False,
    fresh: Fresh = False,
    time_limit: TimeLimit = None,
    require_exact: RequireExact = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Teach a model to answer, with LoRA or all its weights.

    \b
    Examples:
      llmkit finetune --model run/model --data python-docs:instructions --output tuned
      llmkit finetune laptop/finetune-python --model run/model --output tuned
      llmkit finetune --model smollm2 --data chats.jsonl --output tuned --set lora.rank=8 --set train.steps=200
      llmkit finetune --model run/model --data alpaca.json --output tuned --set method=full --set train.lr=1e-4
      llmkit finetune --model run/model --data chats.jsonl --output tuned --dry-run

    Rows are instruction/input/output, prompt/completion, question/answer, messages (role/content) or conversations
    (from/value), recognised by their columns. Only what the assistant says is trained, and the end of its turn.
    The result, RUN/model, is an adapter folder, or a model folder with method=full; every other verb takes both.
    """
    from llmkit.recipe.load import load_recipe, saved_recipe
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.training.job import start_job
    from llmkit.training.run import run_options

    options = run_options(resume=resume, extend=extend, fresh=fresh, time_limit=time_limit, require_exact=require_exact)
    flags = {"model.source": ("--model", model), "data.source": ("--data", data)}
    settings = load_recipe(
        FinetuneRecipe, recipe or saved_recipe(output, resume=options.is_resumed), overrides or [], flags
    )
    check_settings(settings, output, dry_run=dry_run)
    accelerator = start_job(settings.train)
    material = gather(settings)
    plan, effort = plan_tuning(settings, material, accelerator)
    show_tuning(plan)
    if dry_run or output is None:
        show_first_row(material)
        if as_json:
            write_json({**plan, "data": material.report})
        return
    run_tuning(settings, Planned(material, plan, effort), output, accelerator, options=options, as_json=as_json)


def check_settings(settings: FinetuneRecipe, output: Path | None, *, dry_run: bool) -> None:
    """Raise for what has no default."""
    if settings.model.source is None:
        raise UsageError("there is no model to tune", where="--model", fix="name a model folder, for example RUN/model")
    if settings.data.source is None:
        raise UsageError("there is nothing to train on", where="--data", fix="name a file, or python-docs:instructions")
    if output is None and not dry_run:
        raise UsageError("a run needs a folder", where="--output", fix="add --output DIR")


def gather(settings: FinetuneRecipe) -> Material:
    """Load the model, read and encode the data, and attach what is trained."""
    from llmkit.data.dialogue import DialogueRows
    from llmkit.data.dialogue_set import encode_set, tell
    from llmkit.generation.decode import longest_sequence

    model, tokenizer, new_ids = load_base(str(settings.model.source))
    train, validation, shared = read_data(settings)
    asked = settings.data.max_length or settings.train.seq_len
    limit = min(asked, longest_sequence(model) or asked)
    if limit < asked:
        say(f"rows hold up to {limit:,} tokens: the model takes no more")
    rows, account = encode_set(train, tokenizer, name="train", max_length=limit, overlong=settings.data.overlong)
    account.add_held_out(shared)
    accounts, held_out = [account], None
    if validation:
        held_rows, held_account = encode_set(
            validation, tokenizer, name="validation", max_length=limit, overlong=settings.data.overlong
        )
        accounts.append(held_account)
        held_out = DialogueRows(held_rows)
    else:
        warn("no row is held out: whether the model learns more than its rows by heart will not be seen")
    tell(accounts)
    train_rows = DialogueRows(rows)
    model, trained_tokens = attach(settings, model, tokenizer, train_rows, new_ids)
    questions = choose_questions(settings, validation or train, tokenizer, longest=limit // 2)
    return Material(model, tokenizer, train_rows, held_out, questions, accounts, trained_tokens)


def load_base(source: str) -> tuple[Any, Any, list[int]]:
    """The model, its tokenizer with a chat template, and the ids that it lacked rows for."""
    from llmkit.data.dialogue import end_of_turn_ids
    from llmkit.data.rendering import add_chat_template
    from llmkit.models.causal_lm import load_causal_lm, model_folder
    from llmkit.models.vocabulary import fit_vocabulary, set_stop_tokens
    from llmkit.tokenizer import load_tokenizer

    source = str(model_folder(source))
    if (Path(source) / "adapter_config.json").is_file():
        raise ModelError(
            "this is an adapter; a new one is trained on a plain model",
            where=source,
            fix=f"merge it first: llmkit model merge {source} --output MERGED",
        )
    model, tokenizer = load_causal_lm(source), load_tokenizer(source)
    fit_vocabulary(model, tokenizer, can_grow=False)
    is_new = add_chat_template(tokenizer)
    if is_new:
        say(f"{source} has no chat template: it gets ChatML")
    new_ids = fit_vocabulary(model, tokenizer, can_grow=is_new)
    set_stop_tokens(model, end_of_turn_ids(tokenizer))
    return model, tokenizer, new_ids


def read_data(settings: FinetuneRecipe) -> tuple[list[Dialogue], list[Dialogue], list[Dialogue]]:
    """Training and validation dialogues, and the training ones that were left out since validation has them too."""
    from llmkit.data.dialogue_forms import read_dialogues
    from llmkit.data.dialogue_set import drop_shared, hold_out

    source, validation, roles = str(settings.data.source), settings.data.validation, settings.data.roles
    dialogues = list(read_dialogues(source, roles=roles))
    if source.startswith("python-docs:") and "@" not in source and not isinstance(validation, str):
        # Split by document already: a share of the training rows would not tell what is learned beyond them.
        validation = f"{source}@validation"
    if isinstance(validation, str):
        held_out = list(read_dialogues(validation, roles=roles))
        train, shared = drop_shared(dialogues, held_out)
        return train, held_out, shared
    train, held_out = hold_out(dialogues, validation)
    return train, held_out, []


def attach(
    settings: FinetuneRecipe, model: Any, tokenizer: Any, rows: DialogueRows, new_ids: Sequence[int]
) -> tuple[Any, list[int]]:
    """The model with what is trained, and the tokens whose rows are trained beside the adapters."""
    from llmkit.data.dialogue import end_of_turn_ids, template_ids
    from llmkit.models.lora import attach_lora
    from llmkit.models.vocabulary import knows_tokens

    if settings.method == "full":
        return model.requires_grad_(True), []
    shortest = sorted(range(len(rows)), key=lambda index: rows.rows[index][0].size)[:2]
    token_ids = list(new_ids)
    if new_ids or not knows_tokens(model, rows.batch(shortest), end_of_turn_ids(tokenizer)):
        token_ids = template_ids(tokenizer)
        names = ", ".join(tokenizer.convert_ids_to_tokens(token_ids))
        say(f"the model does not know the tokens {names} yet: their rows of the embeddings are trained too")
    base = str(settings.model.source)
    return attach_lora(model, settings.lora, base=base, seed=settings.train.seed, token_ids=token_ids), token_ids


def choose_questions(
    settings: FinetuneRecipe, dialogues: Sequence[Dialogue], tokenizer: Any, *, longest: int
) -> list[Question]:
    """What is asked for samples: the recipe's own questions, or those of the first held-out rows that leave room."""
    from llmkit.data.dialogue import Message, render_prompt
    from llmkit.data.rendering import RenderError

    own = [Question(text, render_prompt([Message("user", text)], tokenizer)) for text in settings.data.sample_prompts]
    for question in own:
        if len(question.ids) > longest:
            message = f"this question has {len(question.ids):,} tokens, and an answer needs as many again"
            raise UsageError(message, where="data.sample_prompts", fix=f"ask in {longest:,} tokens at most")
    chosen: list[Question] = []
    for dialogue in [] if own else dialogues:
        try:
            ids = render_prompt(dialogue.opening, tokenizer) if dialogue.opening else []
        except RenderError:  # counted where the rows are encoded
            continue
        if 0 < len(ids) <= longest:
            chosen.append(Question(dialogue.opening[-1].content, ids))
        if len(chosen) == NUM_SAMPLES:
            break
    return own or chosen


def run_tuning(
    settings: FinetuneRecipe,
    planned: Planned,
    output: Path,
    accelerator: Accelerator,
    *,
    options: RunOptions,
    as_json: bool,
) -> None:
    """Open the run, train, and tell what came out."""
    from functools import partial

    from llmkit.losses import causal_lm_loss_sum
    from llmkit.models.causal_lm import load_weights, save_causal_lm
    from llmkit.models.compile import use_engine
    from llmkit.models.lora import load_adapter_weights
    from llmkit.models.vocabulary import content_hash
    from llmkit.training.loop import conclude, earlier_summary, train
    from llmkit.training.run import open_run

    material, plan, effort = planned
    model, tokenizer, config = material.model, material.tokenizer, settings.train
    use_engine(model, effort.engine, config, is_ragged=True)
    load = load_adapter_weights if settings.method == "lora" else load_weights
    inputs = {"model": content_hash(str(settings.model.source)), "data": material.train.content_hash}
    with open_run(output, settings, accelerator, options=options, inputs=inputs) as run:
        run.fingerprint |= effort.engine.to_json()
        run.write_json("data-report.json", material.report)
        run.write_json("plan.json", plan)
        summary = earlier_summary(run) or train(
            model,
            material.train,
            partial(causal_lm_loss_sum, label_smoothing=config.label_smoothing, z_loss=config.z_loss),
            config,
            run,
            accelerator=accelerator,
            save_model=lambda folder, weights: save_causal_lm(model, tokenizer, folder, weights),
            load_model=lambda folder: load(model, folder),
            validate=validation(settings, material),
            sample=sampler(settings, material, run),
            flops_per_token=effort.flops_per_token,
            matrix_rate=effort.matrix_rate,
        )
        conclude(summary, run, as_json=as_json, extra={"method": settings.method, "data": material.report})


def validation(settings: FinetuneRecipe, material: Material) -> Callable[[], Mapping[str, float]] | None:
    """Nats per token and bits per byte over the answers of the held-out rows; None without any."""
    from llmkit.evaluation.held_out import measure_rows
    from llmkit.models.compile import uncompiled
    from llmkit.training.step import rows_per_forward

    rows = material.validation
    if rows is None:
        return None
    size = rows_per_forward(settings.train)

    def validate() -> dict[str, float]:
        with uncompiled(material.model):
            return measure_rows(material.model, rows, num_bytes=sum(rows.num_bytes), batch_size=size)

    return validate


def sampler(settings: FinetuneRecipe, material: Material, run: Run) -> Callable[[int], None] | None:
    """Asks the model the sample questions, says the first answer and logs all; None without questions."""
    questions = material.questions
    if not questions:
        return None

    def take(step: int) -> None:
        answers = ask(material, settings.train.seed)
        for question, answer in zip(questions, answers, strict=True):
            values = {"step": step, "prompt": question.text, "text": answer.text}
            run.sample({**values, "finish_reason": answer.finish_reason})
        shown = f"{questions[0].text.strip()}\n> {answers[0].text.strip()}"
        say(for_terminal(f"step {step:,}: {shown}").replace("\n", "\n    "))

    return take


def ask(material: Material, seed: int) -> list[Completion]:
    """The model's answers to the sample questions, the likeliest token at each place."""
    import torch

    from llmkit.data.dialogue import end_of_turn_ids
    from llmkit.generation.generate import generate_ids
    from llmkit.generation.sampling import SamplingConfig
    from llmkit.models.compile import uncompiled
    from llmkit.tokenizer import stop_ids

    tokenizer, kind = material.tokenizer, next(material.model.parameters()).device.type
    # Autocast would turn all frozen weights into bf16 anew for every token.
    with uncompiled(material.model), torch.autocast(kind, enabled=False):
        return generate_ids(
            material.model,
            [question.ids for question in material.questions],
            sampling=SamplingConfig(),
            max_new_tokens=LONGEST_SAMPLE,
            stop_ids={*stop_ids(tokenizer), *end_of_turn_ids(tokenizer)},
            seed=seed,
            tokenizer=tokenizer,
        )


def show_first_row(material: Material) -> None:
    """The first row as the model sees it, with brackets around what is trained."""
    from llmkit.data.dialogue import show_row

    say("the first row; what is trained stands in [[ ]]:")
    input_ids, targets = material.train.rows[0]
    say(show_row(input_ids.tolist(), targets.tolist(), material.tokenizer))
