"""The multi-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn

from llmkit.models.baselines.spec import ACTIVATIONS, BaselineSpec, WordVectors, prod, real_words
from llmkit.recipe.schema import BaselineModel


class MLP(nn.Module):
    """A multi-layer perceptron: layers of weights with a non-linearity between them.

    Without the non-linearity any number of layers would be one matrix. Pictures and windows of a series are laid out
    flat: the network does not know which numbers were neighbours. A text is the mean of its words' vectors, whatever
    their order (Iyyer et al. 2015, deep averaging network).
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        self.embedding = WordVectors(spec.num_words, section) if spec.form == "text" else None
        width = section.embedding_size if spec.form == "text" else prod(spec.input_shape)
        layers: list[nn.Module] = []
        for _ in range(section.num_layers or 1):
            layers += [
                nn.Linear(width, section.hidden_size),
                ACTIVATIONS[section.activation](),
                nn.Dropout(section.dropout),
            ]
            width = section.hidden_size
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, ...) -> (B, K)."""
        if self.embedding is not None:
            is_word = real_words(inputs)[..., None]  # (B, T, 1)
            flat = (self.embedding(inputs) * is_word).sum(1) / is_word.sum(1)  # (B, D)
        else:
            flat = inputs.flatten(1)  # (B, F)
        return self.head(self.layers(flat))  # type: ignore[no-any-return]
