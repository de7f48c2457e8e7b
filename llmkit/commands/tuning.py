"""What a tuning is made from: the model with what is trained, and dialogues as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmkit.commands.answers import Question, choose_questions
from llmkit.console import say, warn
from llmkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from llmkit.batch import LossSum, Rows
    from llmkit.data.dialogue_forms import Dialogue
    from llmkit.data.dialogue_set import Account
    from llmkit.recipe.schema import FinetuneRecipe

NO_USE = {"prefer": ("label_smoothing", "z_loss"), "classify": ("z_loss",)}
"""Fields of the training section that belong to another loss."""

MERGED_BASE = "base"
"""Folder in a run of the model that an adapter was merged into before a new one is trained."""


class Base(NamedTuple):
    """The model that is tuned.

    Attributes:
        model: As it was loaded; with its adapter where that is to be trained on.
        tokenizer: With a chat template.
        new_ids: Tokens that the model lacked rows for.
        name: Its folder or hub name.
        is_flat: Whether the model keeps documents apart that lie end to end in one row.
        is_continued: Whether the source's own adapter is trained on.
    """

    model: Any
    tokenizer: Any
    new_ids: list[int]
    name: str
    is_flat: bool
    is_continued: bool


@dataclass(frozen=True)
class Tuning:
    """All that a run is made from, ready to train.

    Attributes:
        model: With what is trained.
        tokenizer: Its tokenizer.
        train: Rows to learn from.
        loss_sum: What is learned.
        validate: Metrics on held-out rows; None without any.
        save: Writes the model into a folder.
        load: Reads such a folder back into the model.
        content_hash: Of the training rows.
        accounts: What became of the rows that were read.
        num_targets: In all training rows.
        first_row: The first row as the model sees it.
        trained_tokens: Tokens whose rows of the embeddings are trained beside adapters.
        questions: What the model is asked during training.
        held_out_questions: What it is asked in the end.
    """

    model: Any
    tokenizer: Any
    train: Rows
    loss_sum: LossSum
    validate: Callable[[], Mapping[str, float]] | None
    save: Callable[[Path, dict[str, Any] | None], None]
    load: Callable[[Path], None]
    content_hash: str
    accounts: list[Account]
    num_targets: int
    first_row: str
    trained_tokens: list[int] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    held_out_questions: list[Question] = field(default_factory=list)

    @property
    def report(self) -> dict[str, Any]:
        """What became of the rows, as in data-report.json."""
        return {account.name: account.to_json() for account in self.accounts}


def gather(settings: FinetuneRecipe) -> Tuning:
    """Load the model, read and encode the data, and attach what is trained."""
    from llmkit.commands.classify import gather_texts
    from llmkit.commands.prefer import gather_pairs

    check_methods(settings)
    base = load_base(settings)
    by_task = {"instruct": gather_dialogues, "prefer": gather_pairs, "classify": gather_texts}
    return by_task[settings.task](settings, base)


def check_methods(settings: FinetuneRecipe) -> None:
    """Raise for parts of a recipe that do not go together."""
    adapts = settings.method in ("lora", "qlora")
    if settings.model.adapter == "continue" and not adapts:
        raise UsageError(
            f"an adapter cannot be trained on with method {settings.method}",
            where="model.adapter",
            fix="set method=lora, or model.adapter=merge",
        )
    if settings.data.packing and settings.task != "instruct":
        message = f"only dialogues are packed, and the task is {settings.task}"
        raise UsageError(
            message, where="data.packing", fix="leave it out: rows are laid end to end without padding anyway"
        )
    if settings.data.mix and settings.task != "instruct":
        fix = "name one source"
        raise UsageError(f"only dialogues are mixed, and the task is {settings.task}", where="data.mix", fix=fix)
    if settings.data.overlong == "cut-left" and settings.task == "prefer":
        fix = "set it to drop, cut-right or error"
        raise UsageError("pairs of answers are not cut at their beginning", where="data.overlong", fix=fix)
    for name in NO_USE.get(settings.task, ()):
        if getattr(settings.train, name):
            message = f"the task {settings.task} has no use for train.{name}"
            raise UsageError(message, where=f"train.{name}", fix="leave it out")
    if settings.lora.dora and settings.method == "qlora":
        raise UsageError("DoRA needs whole weights, not 4 bits", where="lora.dora", fix="set method=lora")
    tell_unused(settings)


def tell_unused(settings: FinetuneRecipe) -> None:
    """Warn of parts of a recipe that were changed and count for nothing."""
    from llmkit.recipe.unused import tell_unused_training

    tell_unused_training(settings.train)
    usual = type(settings)()
    unused = {
        "lora": settings.method not in ("lora", "qlora"),
        "last_layers": settings.method != "last-layers",
        "preference": settings.task != "prefer",
    }
    for name, is_unused in unused.items():
        if is_unused and getattr(settings, name) != getattr(usual, name):
            warn(f"{name} changes nothing: the task is {settings.task}, the method {settings.method}")


def gather_dialogues(settings: FinetuneRecipe, base: Base) -> Tuning:
    """Dialogues as rows, and the model with what is trained on them."""
    from llmkit.data.dialogue import DialogueRows, PackedRows, show_row
    from llmkit.data.dialogue_set import encode_set, tell
    from llmkit.data.dialogue_source import read_sets
    from llmkit.losses import causal_lm_loss_sum

    model, tokenizer, data, config = base.model, base.tokenizer, settings.data, settings.train
    train, validation, shared, num_same = read_sets(data)
    limit = longest_row(settings, model)
    encode = partial(encode_set, max_length=limit, overlong=data.overlong)
    rows, account = encode(train, tokenizer, name="train")
    account.add_held_out(shared)
    accounts, held_out = [account], None
    if validation:
        held_rows, held_account = encode(validation, tokenizer, name="validation")
        held_account.num_same_questions = num_same
        accounts.append(held_account)
        held_out = DialogueRows(held_rows, is_flat=base.is_flat)
    else:
        warn("no row is held out: whether the model learns more than its rows by heart will not be seen")
    tell(accounts)
    train_rows = DialogueRows(rows, is_flat=base.is_flat)
    if data.packing and not base.is_flat:
        message = "this architecture does not keep documents apart that lie in one row, so nothing can be packed"
        raise UsageError(message, where="data.packing", fix="leave it out: rows of like length go together anyway")
    model, trained_tokens = attach(settings, base, train_rows)
    ids, targets = train_rows.rows[0]
    return Tuning(
        model=model,
        tokenizer=tokenizer,
        train=PackedRows(train_rows, seq_len=limit) if data.packing else train_rows,
        content_hash=train_rows.content_hash,
        loss_sum=partial(causal_lm_loss_sum, label_smoothing=config.label_smoothing, z_loss=config.z_loss),
        validate=None if held_out is None else validation_of(settings, model, held_out),
        **keepers(settings, model, tokenizer),
        accounts=accounts,
        num_targets=sum(row.num_targets for row in rows),
        first_row=show_row(ids.tolist(), targets.tolist(), tokenizer),
        trained_tokens=trained_tokens,
        questions=choose_questions(settings, validation or train, tokenizer, longest=limit // 2),
        held_out_questions=held_out_questions(settings, validation, tokenizer, longest=limit // 2),
    )


def held_out_questions(
    settings: FinetuneRecipe, validation: Sequence[Dialogue], tokenizer: Any, *, longest: int
) -> list[Question]:
    """What is asked in the end, to see whether answers end by themselves."""
    from llmkit.commands.answers import questions_of

    return questions_of(validation, tokenizer, longest=longest, count=settings.end_check)


def longest_row(settings: FinetuneRecipe, model: Any) -> int:
    """Most tokens of a row: what the recipe says, or less where the model takes no more."""
    from llmkit.generation.decode import longest_sequence

    asked = settings.data.max_length or settings.train.seq_len
    limit = min(asked, longest_sequence(model) or asked)
    if limit < asked:
        say(f"rows hold up to {limit:,} tokens: the model takes no more")
    return limit


def load_base(settings: FinetuneRecipe) -> Base:
    """The model with a tokenizer that has a chat template; an adapter is merged, or kept to be trained on."""
    from llmkit.data.dialogue import end_of_turn_ids
    from llmkit.data.rendering import add_chat_template, set_day
    from llmkit.models.attention import keeps_documents_apart
    from llmkit.models.causal_lm import load_causal_lm, model_folder
    from llmkit.models.config_files import ADAPTER_CONFIG
    from llmkit.models.four_bits import four_bit_options
    from llmkit.models.lora import merge_lora
    from llmkit.models.vocabulary import fit_vocabulary, set_stop_tokens
    from llmkit.tokenizer import load_tokenizer

    options = four_bit_options() if settings.method == "qlora" else None
    source = str(model_folder(str(settings.model.source)))
    has_adapter = (Path(source) / ADAPTER_CONFIG).is_file()
    is_continued = has_adapter and settings.model.adapter == "continue"
    if settings.model.adapter == "continue" and not has_adapter:
        raise ModelError("this is no adapter to train on", where=source, fix="set model.adapter=merge, its default")
    if has_adapter and not is_continued and options:
        fix = "merge it first: llmkit model merge"
        raise ModelError("an adapter cannot be merged into a model in 4 bits", where=source, fix=fix)
    model, tokenizer = load_causal_lm(source, options=options), load_tokenizer(source)
    if has_adapter and not is_continued:
        model = merge_lora(model)
        say(f"{source} is an adapter: it is worked into its model, and a new one is trained on that")
    if settings.data.date is not None:
        set_day(tokenizer, settings.data.date)
    is_new = add_chat_template(tokenizer)
    if is_new and is_continued:
        fix = "set model.adapter=merge: the new adapter learns the tokens of ChatML"
        raise ModelError("an adapter without a chat template cannot be trained on as it is", where=source, fix=fix)
    if is_new:
        say(f"{source} has no chat template: it gets ChatML")
    new_ids = [] if is_continued else fit_vocabulary(model, tokenizer, can_grow=is_new)
    set_stop_tokens(model, end_of_turn_ids(tokenizer))
    # Where the recipe leaves it open, rows that lie end to end get products, or once compiled what a mask can do.
    chosen, open_to = settings.train.attention, "eager" if settings.train.compile is True else "products"
    is_flat = keeps_documents_apart(model, open_to if chosen == "auto" else chosen)
    return Base(model, tokenizer, new_ids, source, is_flat, is_continued)


def keep_merged_base(settings: FinetuneRecipe, material: Tuning, folder: Path) -> None:
    """Where an adapter was merged into the model that a new one stands on: write that model into the run."""
    from llmkit.commands.model import merge_into
    from llmkit.models.causal_lm import model_folder
    from llmkit.models.config_files import ADAPTER_CONFIG

    source = Path(model_folder(str(settings.model.source)))
    if settings.method != "lora" or settings.model.adapter != "merge" or not (source / ADAPTER_CONFIG).is_file():
        return
    path = (folder / MERGED_BASE).resolve()
    material.model.peft_config["default"].base_model_name_or_path = str(path)
    if not path.exists():
        say(f"{path}: the model that the new adapter belongs to")
        merge_into(path, [source])


def attach(settings: FinetuneRecipe, base: Base, rows: Rows) -> tuple[Any, list[int]]:
    """The model with what is trained, and the tokens whose rows are trained beside the adapters."""
    from llmkit.models.neftune import add_noise

    model, token_ids = choose_weights(settings, base, rows)
    if settings.neftune_alpha:
        add_noise(model, settings.neftune_alpha)
    return model, token_ids


def choose_weights(settings: FinetuneRecipe, base: Base, rows: Rows) -> tuple[Any, list[int]]:
    """`attach`, without noise."""
    from llmkit.data.dialogue import end_of_turn_ids, template_ids
    from llmkit.models.last_layers import train_last_layers
    from llmkit.models.lora import attach_lora, continue_adapter
    from llmkit.models.vocabulary import knows_tokens

    model, tokenizer = base.model, base.tokenizer
    if base.is_continued:
        say("the adapter of the model is trained on, as it was made: of lora only b_lr_ratio counts")
        return continue_adapter(model, settings.lora), []
    if settings.method == "full":
        return model.requires_grad_(True), []
    lengths = rows.lengths or ()
    shortest = sorted(range(len(rows)), key=lambda index: lengths[index])[:2]
    token_ids = list(base.new_ids)
    if base.new_ids or not knows_tokens(model, rows.batch(shortest), end_of_turn_ids(tokenizer)):
        token_ids = template_ids(tokenizer)
        names = ", ".join(tokenizer.convert_ids_to_tokens(token_ids))
        say(f"the model does not know the tokens {names} yet: their rows of the embeddings are trained too")
    if settings.method == "last-layers":
        return train_last_layers(model, settings.last_layers, with_embeddings=bool(token_ids)), []
    return attach_lora(model, settings.lora, base=base.name, seed=settings.train.seed, token_ids=token_ids), token_ids


def keepers(settings: FinetuneRecipe, model: Any, tokenizer: Any) -> dict[str, Any]:
    """How the model is written and read back: `save` and `load` of Tuning."""
    from llmkit.models.causal_lm import load_weights, save_causal_lm
    from llmkit.models.lora import load_adapter_weights

    load = load_adapter_weights if settings.method in ("lora", "qlora") else load_weights
    return {
        "save": lambda folder, weights: save_causal_lm(model, tokenizer, folder, weights),
        "load": lambda folder: load(model, folder),
    }


def validation_of(settings: FinetuneRecipe, model: Any, rows: Any) -> Callable[[], Mapping[str, float]]:
    """Nats per token and bits per byte over the answers of the held-out rows."""
    from llmkit.evaluation.held_out import measure_rows
    from llmkit.models.compile import uncompiled
    from llmkit.training.step import rows_per_forward, tokens_per_forward

    def validate() -> dict[str, float]:
        size, tokens = rows_per_forward(settings.train), tokens_per_forward(settings.train, model.device)
        with uncompiled(model):
            return measure_rows(model, rows, num_bytes=sum(rows.num_bytes), batch_size=size, batch_tokens=tokens)

    return validate
