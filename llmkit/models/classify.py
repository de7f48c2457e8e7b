"""A causal language model with a head that names a class, read at the last token of each text.

Shapes: B texts, T positions, D hidden size, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModelForSequenceClassification
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from llmkit.batch import IGNORE_INDEX, Batch, batches_by_length
from llmkit.errors import ModelError
from llmkit.losses import body_of, model_inputs, unwrap
from llmkit.models.causal_lm import load_base, load_pretrained, model_folder, save_causal_lm
from llmkit.models.config_files import ADAPTER_CONFIG, check_config, read_adapter_config
from llmkit.models.lora import load_adapter_weights, quiet_peft
from llmkit.tokenizer import encode_texts, load_tokenizer

HEAD_NAMES = ("score", "classifier")
"""What transformers calls the layer that gives the classes' logits."""

BATCH_TOKENS = 4096
"""Positions per forward when texts are classified."""

HEAD_SCALE = 0.02
"""Standard deviation of the new head's weights."""


class Classifier(NamedTuple):
    """A model that names classes, its tokenizer, and the classes in the order of its logits."""

    model: Any
    tokenizer: Any
    labels: list[str]


def add_class_head(model: Any, labels: Sequence[str], *, pad_id: int | None, seed: int) -> Any:
    """The classifier of transformers around the body of a causal language model, with a new head.

    Raises:
        ModelError: transformers has none for this architecture.
    """
    config = model.config
    config.num_labels = len(labels)
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    config.problem_type = "single_label_classification"
    # transformers looks for the last token that is not this one; llmkit itself counts.
    config.pad_token_id = pad_id
    body = body_of(model)
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ModelError(
            f"transformers has no classifier for {config.model_type} models", fix="use another model"
        ) from error
    setattr(classifier, classifier.base_model_prefix, body)
    name, head = head_of(classifier)
    generator = torch.Generator().manual_seed(seed)
    new = nn.Linear(head.in_features, len(labels), bias=head.bias is not None)
    with torch.no_grad():
        new.weight.normal_(0.0, HEAD_SCALE, generator=generator)
        if new.bias is not None:
            new.bias.zero_()
    setattr(classifier, name, new)
    return classifier.eval()


def head_of(classifier: Any) -> tuple[str, Any]:
    """The name of the layer that gives the classes' logits, and the layer."""
    return next((name, layer) for name, layer in unwrap(classifier).named_children() if name in HEAD_NAMES)


def class_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, K) of the texts in a batch; `ends` (B,) tells where each has its last token, in all (B * T)."""
    hidden = body_of(model)(**model_inputs(model, batch)).last_hidden_state
    logits: Tensor = head_of(model)[1](hidden.flatten(0, 1)[batch["ends"]])
    return logits.float()


def class_loss_sum(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Summed cross-entropy of the classes, () float32; `targets` (B,) int64."""
    logits = class_logits(model, batch)
    return F.cross_entropy(
        logits, batch["targets"], ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )


def save_classifier(model: Any, tokenizer: Any, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """A folder for `AutoModelForSequenceClassification`; of an adapter, with the classes in config.json beside it."""
    save_causal_lm(model, tokenizer, folder, weights)
    if hasattr(model, "peft_config"):
        unwrap(model).config.save_pretrained(str(folder))


def names_of_classes(folder: Path) -> list[str]:
    """The classes that the configuration of a folder names, in the order of the logits; or none."""
    path = folder / "config.json"
    names = json.loads(path.read_text(encoding="utf-8")).get("id2label", {}) if path.is_file() else {}
    return [names[key] for key in sorted(names, key=int)]


def load_classifier(source: str | Path) -> Classifier:
    """A classifier that `llmkit finetune` made with task classify, in eval mode on the CPU.

    Raises:
        ModelError: It is none, or not whole.
    """
    folder = Path(model_folder(source))
    labels = names_of_classes(folder)
    if not labels:
        raise ModelError(
            "this is no classifier: it names no classes", where=str(folder), fix="tune a model with task=classify"
        )
    tokenizer = load_tokenizer(str(folder))
    load = load_adapted if (folder / ADAPTER_CONFIG).is_file() else load_whole
    return Classifier(load(folder, labels), tokenizer, labels)


def load_adapted(folder: Path, labels: Sequence[str]) -> Any:
    """The adapter and the head of a folder on the base model that it names."""
    read_adapter_config(folder, is_classifier=True)
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = True
    base = add_class_head(load_base(folder, dtype=torch.float32), labels, pad_id=None, seed=0)
    with quiet_peft():
        model = PeftModelForSequenceClassification(base, config)
        load_adapter_weights(model, folder)
    return model.eval()


def load_whole(folder: Path, labels: Sequence[str]) -> Any:
    """A classifier whose weights were all trained."""
    check_config(folder / "config.json")
    return load_pretrained(AutoModelForSequenceClassification, str(folder), dtype=torch.float32)


@torch.no_grad()
def predict(
    classifier: Classifier, texts: Sequence[str], *, max_length: int | None = None, batch_tokens: int = BATCH_TOKENS
) -> Tensor:
    """The probabilities of the classes, (N, K) float32 on the CPU; rows of like length share a forward pass.

    Args:
        classifier: The model, on any device; its mode is put back afterwards.
        texts: N texts. One without a token is given the first of the vocabulary.
        max_length: Longer texts lose their end, as they did in training.
        batch_tokens: Positions per forward, padding included.
    """
    model = classifier.model
    device, was_training = next(model.parameters()).device, model.training
    encoded = [(ids or [0])[:max_length] for ids in encode_texts(classifier.tokenizer, texts)]
    out = torch.empty(len(encoded), len(classifier.labels))
    model.eval()
    for part in batches_by_length([len(ids) for ids in encoded], tokens=batch_tokens):
        width = len(encoded[part[0]])
        ids = torch.tensor([encoded[i] + [0] * (width - len(encoded[i])) for i in part], device=device)
        ends = torch.tensor([row * width + len(encoded[i]) - 1 for row, i in enumerate(part)], device=device)
        out[part] = class_logits(model, {"input_ids": ids, "ends": ends}).softmax(dim=1).cpu()
    model.train(was_training)
    return out
