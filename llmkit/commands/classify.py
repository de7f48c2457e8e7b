"""Task classify: labelled texts as rows, and a head on the language model that names the class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from llmkit.console import say, warn
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.commands.tuning import Base, Material
    from llmkit.data.dialogue_set import Account
    from llmkit.data.text_labels import LabelledText
    from llmkit.recipe.schema import FinetuneRecipe


def gather_texts(settings: FinetuneRecipe, base: Base) -> Material:
    """Texts as rows, and the classifier with what is trained on them."""
    from llmkit.commands.tuning import Material, longest_row
    from llmkit.data.dialogue_set import tell
    from llmkit.data.text_labels import TextRows, collect_labels, encode_labelled
    from llmkit.models.classify import class_loss_sum, save_classifier

    train, validation, accounts = read_labelled_texts(settings)
    labels = collect_labels(train)
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
    return Material(
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
) -> tuple[list[LabelledText], list[LabelledText], list[Account]]:
    """Training and validation texts, and an account of each set."""
    from llmkit.data.dialogue_set import Account
    from llmkit.data.text_labels import read_texts, split_texts

    data = settings.data
    texts, account = read_texts(str(data.source), columns=data.columns)
    account.name = "train"
    if isinstance(data.validation, str):
        validation, held_account = read_texts(data.validation, columns=data.columns)
        held_account.name = "validation"
        known = {text.text for text in validation}
        for text in texts:
            if text.text in known:
                account.drop("also in the validation data", text.where)
        return [text for text in texts if text.text not in known], validation, [account, held_account]
    train, validation = split_texts(texts, data.validation)
    if not validation:
        warn("no text is held out: how well the classifier does beyond its rows will not be seen")
        return train, [], [account]
    account.num_read -= len(validation)
    return train, validation, [account, Account("validation", num_read=len(validation))]


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
        from llmkit.batch import to_device
        from llmkit.models.classify import class_logits
        from llmkit.models.compile import uncompiled
        from llmkit.training.step import rows_per_forward, tokens_per_forward

        # Every process measures all: there are few texts, and macro-F1 is no sum.
        config, device = settings.train, next(model.parameters()).device
        tokens, found, order = tokens_per_forward(config, device) or 2**60, [], list(range(len(rows)))
        with uncompiled(model):
            while order:
                size = max(1, min(rows_per_forward(config), tokens // max(rows.lengths[i] for i in order)))
                part, order = order[:size], order[size:]
                found.append(class_logits(model, to_device(rows.batch(part), device)).cpu())
        return classification_metrics(torch.cat(found), held)

    return validate
