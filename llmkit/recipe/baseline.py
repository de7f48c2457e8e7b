"""The recipe of `llmkit baseline`: an MLP, a CNN or an RNN."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from llmkit.recipe.section import Section, Share, TrainSection


class BaselineModel(Section):
    """A small classical network."""

    kind: Literal["mlp", "cnn", "rnn"] = "mlp"
    """MLP: flat numbers. CNN: neighbourhoods in pictures, texts and series. RNN: order in texts and series (--kind)."""
    hidden_size: PositiveInt = 64
    """Units per layer (MLP, RNN) or channels of the first block (CNN)."""
    num_layers: PositiveInt | None = None
    """Hidden layers (MLP), blocks (CNN), stacked cells (RNN). None: 2, but 1 for an RNN and for texts."""
    activation: Literal["sigmoid", "tanh", "relu", "gelu", "silu"] = "relu"
    """The non-linearity between layers of MLP and CNN."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent cell of an RNN."""
    bidirectional: bool = False
    """Let an RNN read from both ends: better for texts, at twice the work."""
    dropout: Share = 0.2
    """Share of units that are silent in each training step."""
    embedding_size: PositiveInt = 64
    """Width of the word vectors of text models."""
    vocab_size: PositiveInt = 8192
    """Most words that text models know, by frequency in the training split; the rest share one vector."""


class BaselineData(Section):
    """A labelled set or a series."""

    source: str | None = None
    """digits, wine, breast-cancer, diabetes, mackey-glass, python-docs:labelled, or a file of rows (--data)."""
    task: Literal["auto", "classification", "regression", "forecast"] = "auto"
    """auto: by the target's values; a series is asked for by `forecast`."""
    target: str | None = None
    """Column to predict. None: label, target, class or y, whichever is there, else the last column."""
    text: str | None = None
    """Column with text, for text classification. None: text, sentence or document, or a column of long texts."""
    leave_out: list[str] = []
    """Columns of a table that the network must not see."""
    look_back: PositiveInt = 32
    """Forecasting: past values the network sees."""
    horizon: PositiveInt = 1
    """Forecasting: how many steps ahead the predicted value lies."""
    validation: Share = 0.1
    """Share of the rows that is held out for validation; series hold out a stretch of time."""
    test: Share = 0.2
    """Share of the rows that is held out for the final figure; series hold out their end."""


class BaselineRecipe(Section):
    """Train an MLP, a CNN or an RNN."""

    kind: Literal["baseline"] = "baseline"
    """What this recipe is for."""
    model: BaselineModel = BaselineModel()
    """The network."""
    data: BaselineData = BaselineData()
    """What it learns from."""
    train: TrainSection = TrainSection(
        steps=500,
        lr=3e-3,
        batch_size=64,
        warmup_steps=20,
        weight_decay=0.1,
        precision="fp32",
        save_every=0,
        validate_every=100,
    )
    """The training loop. seq_len is the most words of a text that are read; tokens_per_second counts rows."""
