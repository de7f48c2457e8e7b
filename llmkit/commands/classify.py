"""Task classify: labelled texts as rows, and a head on the language model that names the class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from llmkit.console import say, warn
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.commands.tuning import Base, Tuning
    from llmkit.data.dialogue_set import Account
    from llmkit.data.text_labels import LabelledText
    from llmkit.recipe.schema import FinetuneRecipe

OF_DIALOGUES = ("roles", "paths", "strip", "train_on", "thinking", "sample_prompts")
"""Fields of data that say something of dialogues alone."""


def gather_texts(settings: FinetuneRecipe, base: Base) -> Tuning:
    """Texts as rows, and the classifier with what is trained on them."""
    from llmkit.commands.tuning import Tuning, longest_row
    from llmkit.data.dialogue_set import tell
    from llmkit.data.dialogue_source import check_meant
    from llmkit.data.text_labels import TextRows, encode_labelled
    from llmkit.models.classify import class_loss_sum, save_classifier

    check_meant(settings.data, OF_DIALOGUES, "classify")
    train, validation, labels, accounts = read_labelled_texts(settings)
    say(f"{len(labels)} labels: {', '.join(labels[:20])}{' ...' if len(labels) > 20 else ''}")
    limit = longest_row(settings, base.model)
    rows = []
    for texts, account in zip((train, validation), accounts, strict=False):
        ids, classes = encode_labelled(
            texts, labels, base.tokenizer, account, max_length=limit, overlong=settings.data.overlong
        )
        rows.append(TextRows(ids, classes, is_flat=base.is_flat))
    tell(accounts)
    model = attach_head(settings, base, labels)
    first = train[0]
    return Tuning(
        model=model,
        tokenizer=base.tokenizer,
        train=rows[0],
        content_hash=rows[0].content_hash,
        loss_sum=partial(class_loss_sum, label_smoothing=settings.train.label_smoothing),
        validate=validation_of(settings, model, rows[1], rows[0]) if validation else None,
        save=lambda folder, weights: save_classifier(model, base.tokenizer, folder, weights),
        load=loader(settings, model),
        accounts=accounts,
        num_targets=len(rows[0]),
        first_row=f"{first.text} [[{first.label}]]",
    )


def read_labelled_texts(
    settings: FinetuneRecipe,
) -> tuple[list[LabelledText], list[LabelledText], list[str], list[Account]]:
    """Training and validation texts, the labels of the training data, and an account of each set.

    A label whose texts are all held out is one of the training data's too: that nobody learns it is told.
    """
    from llmkit.data.dialogue_set import HELD_OUT, Account
    from llmkit.data.dialogue_source import held_apart
    from llmkit.data.text_labels import collect_labels, read_texts

    data, accounts = settings.data, {}

    def read(split: str, source: str) -> list[LabelledText]:
        texts, accounts[split] = read_texts(source, columns=data.columns)
        accounts[split].name = split
        return texts

    texts = read("train", str(data.source))
    train, validation, shared, _ = held_apart(texts, data, partial(read, "validation"))
    for text in shared:
        accounts["train"].drop(HELD_OUT, text.where)
    if not validation:
        warn("no text is held out: how well the classifier does beyond its rows will not be seen")
    elif "validation" not in accounts:
        accounts["train"].num_read -= len(validation)
        accounts["validation"] = Account("validation", num_read=len(validation))
    labels = collect_labels(texts)
    taught = {text.label for text in train}
    if untaught := [label for label in labels if label not in taught]:
        warn(f"all texts of the label {', '.join(untaught)} are held out: it is not learned")
    return train, validation, labels, list(accounts.values())


def attach_head(settings: FinetuneRecipe, base: Base, labels: list[str]) -> Any:
    """The classifier with its new head, and what is trained besides."""
    from llmkit.models.classify import add_class_head, head_of
    from llmkit.models.last_layers import train_last_layers
    from llmkit.models.lora import attach_lora
    from llmkit.models.neftune import add_noise

    if base.is_continued:
        fix = "set model.adapter=merge"
        raise UsageError("an adapter for answers cannot go on as one for classes", where="model.adapter", fix=fix)
    seed = settings.train.seed
    model = add_class_head(base.model, labels, pad_id=base.tokenizer.pad_token_id, seed=seed)
    if settings.neftune_alpha:
        add_noise(model, settings.neftune_alpha)
    name, head = head_of(model)
    if settings.method == "full":
        return model.requires_grad_(True)
    if settings.method == "last-layers":
        train_last_layers(model, settings.last_layers)
        head.requires_grad_(True)
        return model
    return attach_lora(model, settings.lora, base=base.name, seed=seed, trained_modules=[name])


def loader(settings: FinetuneRecipe, model: Any) -> Callable[[Any], None]:
    """Reads a checkpoint back into the model."""
    from llmkit.models.causal_lm import load_weights
    from llmkit.models.lora import load_adapter_weights

    load = load_adapter_weights if settings.method in ("lora", "qlora") else load_weights
    return lambda folder: load(model, folder)


def validation_of(
    settings: FinetuneRecipe, model: Any, rows: Any, train_rows: Any
) -> Callable[[], Mapping[str, float]]:
    """Accuracy, macro-F1 and loss over held-out texts; what always naming the commonest class gives is said once."""
    import torch

    from llmkit.evaluation.predictions import classification_metrics, majority_metrics

    labels = model.config.id2label
    trained, held = torch.tensor(train_rows.classes), torch.tensor(rows.classes)
    majority = majority_metrics(trained, held, num_classes=len(labels))
    say(f"always naming the commonest class is right on {majority['accuracy']:.1%} of the held-out texts")

    def validate() -> dict[str, float]:
        from llmkit.batch import batches_by_length, to_device
        from llmkit.models.classify import class_logits
        from llmkit.models.compile import uncompiled
        from llmkit.training.step import rows_per_forward, tokens_per_forward

        # Every process measures all: there are few texts, and macro-F1 is no sum.
        config, device = settings.train, next(model.parameters()).device
        size, tokens = rows_per_forward(config), tokens_per_forward(config, device)
        logits = torch.empty(len(rows), len(labels))
        with uncompiled(model):
            for part in batches_by_length(rows.lengths, tokens=tokens, rows=size):
                logits[part] = class_logits(model, to_device(rows.batch(part), device)).cpu()
        return classification_metrics(logits, held)

    return validate
