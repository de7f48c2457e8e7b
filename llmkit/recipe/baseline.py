"""The recipe of `llmkit baseline`: an MLP, a CNN, an RNN or a small transformer."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from llmkit.recipe.section import Section, Share, TrainSection


class BaselineModel(Section):
    """A small classical network."""

    kind: Literal["mlp", "cnn", "rnn", "transformer"] = "mlp"
    """MLP: flat numbers. CNN: neighbourhoods in pictures, texts and series. RNN: order in texts and series, and
    language models. transformer: a language model to hold against an RNN (--kind)."""
    hidden_size: PositiveInt = 64
    """Units per layer (MLP, RNN, transformer) or channels of the first block (CNN)."""
    num_layers: PositiveInt | None = None
    """Hidden layers (MLP), blocks (CNN, transformer), stacked cells (RNN). None: 2, but 1 for an RNN and for texts."""
    activation: Literal["sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu"] = "relu"
    """The non-linearity between layers of MLP, CNN and transformer."""
    blocks: Literal["plain", "residual"] = "plain"
    """Blocks of a CNN for pictures and series: filters and pooling, or two layers of filters that the input also goes
    past: deeper networks stay trainable."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation in a CNN for pictures and series. batch: over the rows of a forward pass, so that the result
    depends on micro_batch_size and the number of processes. group: over channels of one row; it does not."""
    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """The recurrent cell of an RNN: plain (tanh), or with gates that remember over many steps."""
    bidirectional: bool = False
    """Let an RNN read from both ends: better for texts, at twice the work."""
    num_heads: PositiveInt = 4
    """Heads of attention (transformer); they share hidden_size."""
    dropout: Share = 0.2
    """Share of units that are silent in each training step."""
    shift: NonNegativeInt = 0
    """Pixels by which pictures are moved at most, anew in every step: as good as more pictures."""
    flip: bool = False
    """Mirror every second picture in training: for what has no left and right, so not for digits or letters."""
    embedding_size: PositiveInt = 64
    """Width of the word vectors of text models."""
    vocab_size: PositiveInt = 8192
    """Most words that text models know, by frequency in the training split; the rest share one vector."""


class BaselineLoss(Section):
    """What is made small. Classes are learnt by cross-entropy; train.label_smoothing softens its targets."""

    numbers: Literal["mse", "huber"] = "mse"
    """For numbers: the squared error, or the Huber loss, in which errors beyond one spread count only in proportion:
    outliers pull less."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rows weigh in inverse proportion to how frequent their class is, so that each class counts alike. Rare
    classes are found more often then, and more rows are taken for them by mistake."""


class BaselineData(Section):
    """A labelled set, a series, or a text to learn to write."""

    source: str | None = None
    """Where the rows are (--data). Built in: digits, wine, breast-cancer, diabetes, mackey-glass, python-docs:labelled.
    A file or folder of rows, a folder or archive of pictures or texts by class, idx or npz arrays, or hf:owner/name."""
    task: Literal["auto", "classification", "regression", "forecast", "language"] = "auto"
    """auto: by the target's values. A series is asked for by `forecast`, a text to learn to write by `language`."""
    target: str | list[str] | None = None
    """Column to predict; a forecast may have several. None: label, target, class or y, whichever is there, else the
    column that looks most like one (the last, mostly), which is shown."""
    text: str | list[str] | None = None
    """Columns with text, joined in this order. None: text, sentence or document, or the columns of long texts."""
    labels: str | None = None
    """A file with one label a line, for a source with one text a line. None: found by its name beside the source."""
    class_names: str | None = None
    """A file with the names of classes that are numbers, one a line. None: classes.txt, say, beside the source."""
    header: Literal["auto"] | bool = "auto"
    """Whether the first line of csv and tsv names the columns. auto: by what stands in it, which is shown."""
    encoding: str = "utf-8"
    """How the bytes of texts are to be read; utf-8, latin-1 or cp1252 are usual. A wrong one is an error."""
    leave_out: list[str] = []
    """Columns of a table or a series that the network must not see."""
    image_size: PositiveInt | None = None
    """Pixels a side to which pictures are scaled, their middle kept. None: pictures of different sizes are an error."""
    look_back: PositiveInt = 32
    """Forecasting: past values the network sees."""
    horizon: PositiveInt = 1
    """Forecasting: how many steps ahead the predicted value lies."""
    season: Literal["auto"] | NonNegativeInt = "auto"
    """Forecasting: steps after which a series repeats, for the seasonal reference; 0: none. auto: by the dates' step
    and the series' correlation with itself, which is shown."""
    symbols: str = "characters"
    """Language: what is predicted one after the other: characters, bytes, or the tokens of a tokenizer's folder."""
    documents: Literal["auto", "lines", "whole"] = "auto"
    """Language: whether each line is a text of its own, as in a list of names, or the source is one text."""
    validation: Share | str = 0.1
    """Share of the training rows that is held out for validation, or the file with these rows. Series and texts to
    learn to write hold out a stretch. A source's own validation split comes first."""
    test: Share | str = 0.2
    """Share of the rows that is held out for the final figure, or the file with these rows. A source's own test split
    comes first."""


class BaselineRecipe(Section):
    """Train an MLP, a CNN, an RNN or a small transformer."""

    kind: Literal["baseline"] = "baseline"
    """What this recipe is for."""
    model: BaselineModel = BaselineModel()
    """The network."""
    data: BaselineData = BaselineData()
    """What it learns from."""
    loss: BaselineLoss = BaselineLoss()
    """What is made small."""
    train: TrainSection = TrainSection(
        steps=500,
        lr=3e-3,
        batch_size=64,
        warmup_steps=20,
        weight_decay=0.1,
        precision="fp32",
        save_every=0,
        validate_every=100,
        log_every=10,
    )
    """The training loop. seq_len is the most words of a text that are read; tokens_per_second counts rows."""
