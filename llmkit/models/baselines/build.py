"""From a recipe's section to a network."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from llmkit.errors import RecipeError
from llmkit.models.baselines.augment import Augment
from llmkit.models.baselines.cnn import CNN
from llmkit.models.baselines.language import RecurrentLanguageModel, Transformer
from llmkit.models.baselines.mlp import MLP
from llmkit.models.baselines.rnn import RNN
from llmkit.models.baselines.spec import BaselineSpec
from llmkit.models.baselines.text_cnn import TextCNN
from llmkit.recipe.schema import BaselineModel


def build_baseline(section: BaselineModel, spec: BaselineSpec, *, seed: int = 0) -> nn.Module:
    """The network that `section` describes, for data of `spec`: inputs -> (B, K). Its weights are a function of `seed`.

    Raises:
        RecipeError: This kind of network is not made for this form of data.
    """
    check_kind(section, spec)
    if section.num_layers is None:
        is_deep = section.kind == "transformer" or (section.kind != "rnn" and spec.form != "text")
        section = section.model_copy(update={"num_layers": 2 if is_deep else 1})
    make = network_of(section, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(section, spec)
    if not (section.shift or section.flip):
        return network
    augment = Augment(shift=section.shift, flips=section.flip)
    return nn.Sequential(OrderedDict(augment=augment, network=network))


def network_of(section: BaselineModel, spec: BaselineSpec) -> type[nn.Module]:
    """The class of a kind of network for a form of data."""
    if spec.form == "language":
        return RecurrentLanguageModel if section.kind == "rnn" else Transformer
    kinds: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": TextCNN if spec.form == "text" else CNN, "rnn": RNN}
    return kinds[section.kind]


def check_kind(section: BaselineModel, spec: BaselineSpec) -> None:
    """Raise where a network would not fit its data.

    Raises:
        RecipeError: With the kinds that do.
    """
    kind, where = section.kind, "model.kind"
    if spec.form == "language" and kind not in ("rnn", "transformer"):
        reason = f"a {kind.upper()} reads a whole row at once, and would see the symbol that it is to predict"
        raise RecipeError(reason, where=where, fix="use --kind rnn or --kind transformer")
    if spec.form != "language" and kind == "transformer":
        fix = "use mlp, cnn or rnn here; `llmkit finetune` makes classifiers of transformers"
        raise RecipeError("this transformer is a language model (data.task=language)", where=where, fix=fix)
    if spec.form == "table" and kind != "mlp":
        reason = f"a {kind.upper()} needs neighbours or an order, and the columns of a table have neither"
        raise RecipeError(reason, where=where, fix="use --kind mlp")
    if kind == "transformer" and section.hidden_size % section.num_heads:
        reason = f"{section.hidden_size} units cannot be dealt out to {section.num_heads} heads"
        raise RecipeError(reason, where="model.num_heads", fix="choose a number that divides model.hidden_size")
    if spec.form == "language" and section.bidirectional:
        reason = "read from its end, a text gives away what comes next"
        raise RecipeError(reason, where="model.bidirectional", fix="set it to false")
    if (section.shift or section.flip) and spec.form != "image":
        reason = f"only pictures can be moved and mirrored, and these are {spec.form} rows"
        raise RecipeError(reason, where="model.shift" if section.shift else "model.flip", fix="leave it out")


def count_parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
