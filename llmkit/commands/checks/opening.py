"""What `llmkit verify` is pointed at becomes a case: a recipe with its data, a run, or a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmkit.commands.checks.case import Case, Trainee, few, small
from llmkit.commands.run_verify import is_prepared
from llmkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from llmkit.data.messages import Dialogue
    from llmkit.recipe.schema import FinetuneRecipe, Section

LARGE = 2e7
"""Parameters from which training is tried on the first layers alone."""
LAYERS = 2
SHORT_ROW = 64
"""Positions of a row, for language models that are trained on text."""
NUM_TEXTS, TEXT_TOKENS = 6, 40
PLAIN_TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))\n",
    "In the year 1969, two people walked on the moon for the first time in history.",
    "Water boils at 100 degrees Celsius at sea level; higher up, it boils at less.",
    "To bake bread you need flour, water, salt, yeast and, above all, some patience.",
    "A list of numbers: 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4.",
)
"""What a model is tried on where no data was named."""


class Named(NamedTuple):
    """What the command line names."""

    subject: str
    data: str | None
    model: str | None
    overrides: Sequence[str]


def open_case(named: Named, scratch: Path) -> Case:
    """Recognise what was named, and put together what is to be checked.

    Args:
        named: A recipe, a run or a model, and what it lacks.
        scratch: A folder for what is needed for a while.

    Raises:
        UsageError: It is none of these.
    """
    from llmkit.recipe.load import find_recipe, recipe_kind

    path = Path(named.subject)
    recipe = path / "recipe.yaml" if path.is_dir() else path
    is_folder, is_hub_name = path.is_dir(), not path.exists() and named.subject.count("/") == 1
    if (is_folder or is_hub_name) and not recipe.is_file() and not is_recipe(named.subject):
        return open_model(named)
    source = recipe if recipe.is_file() else find_recipe(named.subject)
    opened = {"pretrain": open_pretrain, "finetune": open_finetune, "baseline": open_baseline}
    case = opened[recipe_kind(source)](named, source, scratch)
    if path.is_dir():
        case.folders.insert(0, path)
        add_result(case, path)
    return case


def hash_of(settings: Section) -> str:
    """Of a recipe as it is meant, with --set and flags; of a run's own, that of the file recipe.yaml."""
    from llmkit.recipe.load import dump_recipe

    return hashlib.sha256(dump_recipe(settings).encode()).hexdigest()


def is_recipe(name: str) -> bool:
    """Whether a shipped recipe has this name."""
    from llmkit.recipe.load import list_recipes

    return name.removesuffix(".yaml") in list_recipes()


def open_model(named: Named) -> Case:
    """A model folder or hub name: what it answers, how it is saved, how its template renders."""
    from llmkit.models.causal_lm import load_causal_lm, model_folder
    from llmkit.models.vocabulary import content_hash
    from llmkit.recipe.schema import TrainSection
    from llmkit.tokenizer import load_tokenizer, tokenizer_hash
    from llmkit.training.job import start_job

    for flag, value in (("--model", named.model), ("--data", named.data), ("--set", named.overrides or None)):
        if value is not None:
            raise UsageError("a model is verified by itself", where=flag, fix="name a recipe or a run to use it with")
    source = str(model_folder(named.subject))
    accelerator = start_job(small(TrainSection()))
    model, tokenizer = load_causal_lm(source), load_tokenizer(source)
    case = Case(named.subject, "model", accelerator, answerer=model, open_saved=load_causal_lm, tokenizer=tokenizer)
    case.texts = plain_texts(tokenizer)
    case.dialogues = plain_dialogues() if tokenizer.chat_template else []
    case.hashes = {"model": content_hash(source), "tokenizer": tokenizer_hash(tokenizer)}
    if (Path(source) / "manifest.json").is_file():
        case.folders.append(Path(source))
    return case


def open_pretrain(named: Named, source: Path, scratch: Path) -> Case:
    """Prepared text and a model with random weights, or one to go on with."""
    from functools import partial

    from llmkit.commands.pretrain import build_model, load_model
    from llmkit.data.pretraining import open_pretraining
    from llmkit.losses import causal_lm_loss_sum
    from llmkit.models.causal_lm import load_causal_lm, load_weights, save_causal_lm
    from llmkit.models.size import section_for_size
    from llmkit.models.vocabulary import content_hash
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import PretrainRecipe
    from llmkit.tokenizer import tokenizer_hash
    from llmkit.training.job import start_job

    flags = {"model.source": ("--model", named.model), "data.source": ("--data", named.data)}
    settings = load_recipe(PretrainRecipe, source, named.overrides, flags)
    hashes = {"recipe": hash_of(settings)}
    if settings.model.source is not None:
        hashes["model"] = content_hash(settings.model.source)
    seq_len = min(settings.train.seq_len, SHORT_ROW)
    settings = settings.model_copy(update={"train": small(settings.train, seq_len=seq_len)})
    accelerator = start_job(settings.train)
    data = open_pretraining(settings.data, tokenizer_source=settings.model.source)
    sized = section_for_size(settings.model, vocab_size=len(data.tokenizer), seq_len=seq_len)
    settings = settings.model_copy(update={"model": sized})
    model = load_model(settings, data) if settings.model.source else build_model(settings, data)
    case = Case(named.subject, "pretrain", accelerator, open_saved=load_causal_lm, tokenizer=data.tokenizer)
    if is_large(model):
        case.notes.append(cut_layers(model))
    trainee = Trainee(
        model=model,
        rows=few(data.rows(seq_len, folder=scratch)),
        loss_sum=partial(
            causal_lm_loss_sum, label_smoothing=settings.train.label_smoothing, z_loss=settings.train.z_loss
        ),
        save=lambda folder, weights: save_causal_lm(model, data.tokenizer, folder, weights),
        load=lambda folder: load_weights(model, folder),
        settings=settings,
        is_fresh=settings.model.source is None,
    )
    case.trainee, case.answerer, case.packs = trainee, model, settings.data.document_mask
    case.texts = [row[:TEXT_TOKENS].tolist() for row in trainee.rows.batch(range(NUM_TEXTS))["input_ids"]]
    sources = [Path(name) for name in (settings.data.source, *settings.data.mix) if name]
    case.folders = list(filter(is_prepared, sources))  # a stream has no checksums
    case.hashes = {**hashes, "data": data.content_hash, "tokenizer": tokenizer_hash(data.tokenizer)}
    return case


def open_finetune(named: Named, source: Path, scratch: Path) -> Case:
    """A model, and the rows that it is tuned on."""
    from llmkit.commands.finetune import check_settings, usual_lr
    from llmkit.commands.tuning import gather
    from llmkit.models.causal_lm import load_causal_lm
    from llmkit.models.vocabulary import content_hash
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.tokenizer import tokenizer_hash
    from llmkit.training.job import start_job

    flags = {"model.source": ("--model", named.model), "data.source": ("--data", named.data)}
    settings = load_recipe(FinetuneRecipe, source, named.overrides, flags)
    check_settings(settings, None, dry_run=True)
    recipe = hash_of(settings)
    settings = settings.model_copy(update={"train": small(settings.train, lr=usual_lr(settings))})
    accelerator = start_job(settings.train)
    case = Case(named.subject, "finetune", accelerator)
    case.hashes = {"recipe": recipe, "model": content_hash(str(settings.model.source))}
    settings = with_small_model(settings, scratch, case)
    material = gather(settings)
    rows = few(material.train)
    case.trainee = Trainee(
        model=material.model,
        rows=rows,
        loss_sum=material.loss_sum,
        save=material.save,
        load=material.load,
        settings=settings,
        has_adapter=settings.method in ("lora", "qlora") and settings.model.adapter == "merge",
    )
    note_reference(case.trainee, material.train, scratch)
    case.tokenizer = material.tokenizer
    case.texts = plain_texts(material.tokenizer)
    case.hashes |= {"data": material.content_hash, "tokenizer": tokenizer_hash(material.tokenizer)}
    if settings.task != "classify":
        case.answerer, case.open_saved = material.model, load_causal_lm
    case.packs = bool(getattr(material.train, "is_flat", False)) or settings.data.packing
    if settings.task == "instruct":
        add_dialogues(case, settings, material)
    return case


def add_dialogues(case: Case, settings: FinetuneRecipe, material: Any) -> None:
    """What the recipe's data says, and which of it is trained."""
    from llmkit.data.dialogue_source import read_sets

    case.dialogues = read_sets(settings.data).train
    rows = getattr(material.train, "rows", None)
    case.supervised = [] if rows is None or settings.data.packing else rows
    case.may_cut = settings.data.overlong == "cut-right"


def with_small_model(settings: FinetuneRecipe, scratch: Path, case: Case) -> FinetuneRecipe:
    """The recipe on the first layers of its model, where that is large; an adapter is merged before."""
    from llmkit.models.causal_lm import load_causal_lm, save_causal_lm
    from llmkit.models.lora import merge_lora
    from llmkit.tokenizer import load_tokenizer

    source = str(settings.model.source)
    model = load_causal_lm(source)
    if not is_large(model) or settings.model.adapter == "continue":
        return settings
    if hasattr(model, "peft_config"):
        model = merge_lora(model)
    case.notes.append(cut_layers(model))
    folder = scratch / "small"
    folder.mkdir()
    save_causal_lm(model, load_tokenizer(source), folder)
    return settings.model_copy(update={"model": settings.model.model_copy(update={"source": str(folder)})})


def note_reference(trainee: Trainee, rows: Any, scratch: Path) -> None:
    """What the model says to the few pairs before it is tuned, where DPO cannot switch an adapter off to ask."""
    settings: FinetuneRecipe = trainee.settings
    if settings.task != "prefer" or settings.preference.loss != "dpo" or trainee.has_adapter:
        return
    import torch

    from llmkit.commands.prefer import keep_reference, load_reference

    path = scratch / "reference.npy"
    keep_reference(settings, trainee.model, trainee.rows, path)
    rows.reference = torch.zeros(len(rows), 2)
    rows.reference[trainee.rows.indices] = load_reference(path)  # type: ignore[attr-defined]


def open_baseline(named: Named, source: Path, scratch: Path) -> Case:
    """A classical network and its rows."""
    from llmkit.commands.baseline import choose_loss, prepare, use_one_thread
    from llmkit.models.baselines import load_baseline, load_weights, save_baseline
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import BaselineRecipe
    from llmkit.training.job import start_job

    settings = load_recipe(BaselineRecipe, source, named.overrides, {"data.source": ("--data", named.data)})
    if settings.data.source is None:
        raise UsageError("there is nothing to train on", where="--data", fix="add --data digits, say, or --data FILE")
    recipe = hash_of(settings)
    settings = settings.model_copy(update={"train": small(settings.train)})
    accelerator = start_job(settings.train)
    use_one_thread()
    experiment = prepare(settings)
    model, labelled = experiment.model, experiment.labelled
    case = Case(named.subject, "baseline", accelerator)
    case.trainee = Trainee(
        model=model,
        rows=few(labelled.splits["train"]),
        loss_sum=choose_loss(settings, labelled),
        save=lambda folder, weights: save_baseline(
            model, folder, section=settings.model, spec=experiment.spec, data=labelled.to_json()
        ),
        load=lambda folder: load_weights(model, folder),
        settings=settings,
        is_fresh=True,
    )
    case.hashes = {"recipe": recipe, "data": labelled.content_hash}
    case.open_saved = lambda folder: load_baseline(folder)[0]
    return case


def add_result(case: Case, run: Path) -> None:
    """The model that a run came to answers in the place of one that is not trained."""
    from llmkit.models.causal_lm import load_causal_lm
    from llmkit.models.vocabulary import content_hash

    result = run / "model"
    if not result.is_dir():
        return
    case.hashes["result"] = content_hash(str(result))
    if case.answerer is None:
        return
    try:
        case.answerer = load_causal_lm(result)
    except ModelError as error:  # its files are checked too: what is wrong with them will be in the table
        case.notes.append(f"the result of the run cannot be loaded: {error}")


def is_large(model: Any) -> bool:
    """Whether a model is too large to be trained several times within a minute."""
    return bool(sum(parameter.numel() for parameter in model.parameters()) > LARGE)


def cut_layers(model: Any) -> str:
    """Leave a model its first layers only, in place; what was done, in words."""
    from torch import nn

    config = model.config.get_text_config()
    count = config.num_hidden_layers
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ModuleList) and len(child) == count:
                setattr(module, name, nn.ModuleList(list(child)[:LAYERS]))
    config.num_hidden_layers = min(LAYERS, count)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:LAYERS]
    return f"training is tried on the first {min(LAYERS, count)} of {count} layers"


def plain_texts(tokenizer: Any) -> list[list[int]]:
    """A few texts as ids."""
    from llmkit.tokenizer import encode_texts

    return [ids[:TEXT_TOKENS] for ids in encode_texts(tokenizer, list(PLAIN_TEXTS)[:NUM_TEXTS])]


def plain_dialogues() -> list[Dialogue]:
    """Dialogues that every chat template should take: one turn, two, white space at the ends, a typed control token."""
    from llmkit.data.messages import Dialogue, Message

    turns = [
        [("user", "What is 2 + 2?"), ("assistant", "4")],
        [("user", "Hello!"), ("assistant", "Hi."), ("user", "Who are you?"), ("assistant", "A language model.")],
        [("user", " Say <|im_end|> twice.\n"), ("assistant", "<|im_end|> <|im_end|>")],
        [("user", "def f():\n    return 1"), ("assistant", "It returns 1.\n\nAlways.")],
    ]
    return [
        Dialogue(tuple(Message(role, text) for role, text in messages), f"built-in dialogue {number}")
        for number, messages in enumerate(turns, start=1)
    ]
