"""What a run will take, before it begins: how the model is computed, memory, arithmetic, time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmkit.console import format_seconds, say
from llmkit.errors import RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.commands.tuning import Tuning
    from llmkit.data.pretraining import PretrainingData
    from llmkit.models.compile import Engine
    from llmkit.recipe.schema import FinetuneRecipe, PretrainRecipe, TrainSection

TYPICAL_MFU = 0.5
"""Share of the matrix products' speed that training reaches: 0.4 to 0.6 with models of some millions of parameters,
less with smaller ones."""


MOSTLY_VOCABULARY = 4
"""A model is said to be mostly vocabulary when less than this part of its parameters is outside the embeddings."""


@dataclass(frozen=True)
class Effort:
    """What training a model will take.

    Attributes:
        engine: How the model is computed.
        flops_per_token: Of the forward and the backward pass.
        flops: Of the whole run.
        matrix_rate: FLOP/s of matrix products on the device of this process.
        memory_bytes: Of each process beside Python and its libraries: an estimate, to about a third.
        seconds: An estimate, by TYPICAL_MFU.
        flops_per_target: What training costs for each target that is counted, where those are not all tokens.
    """

    engine: Engine
    flops_per_token: float
    flops: float
    matrix_rate: float
    memory_bytes: float
    seconds: float
    flops_per_target: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For the plan."""
        return {
            "flops": round(self.flops),
            "flops_per_token": round(self.flops_per_token),
            "matrix_flops_per_second": round(self.matrix_rate),
            "memory_bytes_estimated": round(self.memory_bytes),
            "seconds_estimated": round(self.seconds, 1),
            **self.engine.to_json(),
        }


def plan_pretraining(
    settings: PretrainRecipe, data: PretrainingData, model: Any, accelerator: Accelerator
) -> tuple[dict[str, Any], Effort]:
    """What the run will be, before it is, and how the model is computed."""
    from llmkit.models.causal_lm import count_parameters
    from llmkit.training.job import job_dtype
    from llmkit.training.step import plan_steps

    config = settings.train
    rows = len(data.rows(config.seq_len))
    steps = plan_steps(config, rows)
    tokens = steps * config.batch_size * config.seq_len
    effort = reckon(
        model,
        config,
        accelerator,
        tokens=tokens,
        row_tokens=config.seq_len,
        has_documents=settings.data.document_mask,
    )
    if settings.data.document_mask:
        check_documents(model, effort.engine.attention)
    parameters = count_parameters(model)
    precision = "pure-bf16" if config.precision == "pure-bf16" else str(job_dtype(accelerator)).removeprefix("torch.")
    plan = {
        "model": settings.model.source or settings.model.config or settings.model.type,
        "parameters": parameters,
        "parameters_without_embeddings": parameters - count_embeddings(model),
        "layers": model.config.get_text_config().num_hidden_layers,
        "hidden_size": model.config.get_text_config().hidden_size,
        "vocab_size": len(data.tokenizer),
        "rows": rows or None,
        "steps": steps,
        "tokens": tokens,
        "epochs": round(steps * config.batch_size / rows, 3) if rows else None,
        "tokens_per_parameter": round(tokens / parameters, 2),
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": precision,
        **effort.to_json(),
        "data": data.describe(config.seq_len),
    }
    return plan, effort


def check_documents(model: Any, attention: str) -> None:
    """Raise when documents of one row would see each other all the same.

    Raises:
        RecipeError: With this attention the model does not keep them apart.
    """
    from llmkit.models.attention import keeps_documents_apart

    if not all(keeps_documents_apart(model, attention, num_rows=rows) for rows in (1, 2)):
        raise RecipeError(
            f"{model.config.model_type} with {attention} attention does not keep the documents of a row apart",
            where="data.document_mask",
            fix="set it to false, or try another train.attention",
        )


def count_embeddings(model: Any) -> int:
    """Parameters of the input embeddings and of the output head, shared ones once."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    return sum(p.numel() for p in {p for layer in layers for p in layer.parameters()})


def show_plan(plan: Mapping[str, Any], config: TrainSection) -> None:
    """The plan in a few lines."""
    say(
        f"{plan['model']}: {plan['parameters']:,} parameters "
        f"({plan['parameters_without_embeddings']:,} without embeddings), "
        f"{plan['layers']} layers {plan['hidden_size']} wide, vocabulary {plan['vocab_size']:,}; "
        f"{plan['device']} x {plan['processes']}, {plan['precision']}"
    )
    if plan["parameters_without_embeddings"] * MOSTLY_VOCABULARY < plan["parameters"]:
        say("most of the parameters are those of the vocabulary: a smaller tokenizer would leave more to the layers")
    for line in plan["data"]:
        say(line)
    epochs = "" if plan["epochs"] is None else f"{plan['epochs']:.2f} epochs, "
    say(
        f"{plan['steps']:,} steps of {config.batch_size} x {config.seq_len}: {plan['tokens']:,} tokens, {epochs}"
        f"{plan['tokens_per_parameter']:.1f} tokens per parameter; lr {config.lr:g}, {config.optimizer}, "
        f"{config.schedule}"
    )
    show_effort(plan)
    if plan.get("minutes") is not None:
        say(f"the run ends {plan['minutes']:g} minutes after its beginning, however many steps those are")


def plan_tuning(settings: FinetuneRecipe, material: Tuning, accelerator: Accelerator) -> tuple[dict[str, Any], Effort]:
    """What the run will be, before it is, and how the model is computed."""
    from llmkit.models.causal_lm import count_parameters
    from llmkit.training.step import plan_steps, tokens_per_forward

    config, rows, lengths = settings.train, len(material.train), material.train.lengths or ()
    steps = plan_steps(config, rows)
    row_tokens = sum(lengths) / rows
    effort = reckon(
        material.model,
        config,
        accelerator,
        tokens=steps * config.batch_size * row_tokens,
        row_tokens=max(lengths),
        is_ragged=True,
        is_flat=bool(getattr(material.train, "is_flat", False)),
    )
    # What is counted while training are targets; prompts, and the reference of preferences, cost as well.
    effort = replace(effort, flops_per_target=effort.flops_per_token * sum(lengths) / material.num_targets)
    plan = {
        "model": settings.model.source,
        "task": settings.task,
        "method": settings.method,
        "parameters": count_parameters(material.model),
        "trained_parameters": sum(p.numel() for p in material.model.parameters() if p.requires_grad),
        "trained_tokens": material.trained_tokens,
        "frozen_in_bf16": freezes_in_bf16(settings, accelerator),
        "rows": rows,
        "packed": settings.data.packing,
        "batch_tokens": tokens_per_forward(config, accelerator.device),
        "steps": steps,
        "epochs": round(steps * config.batch_size / rows, 3),
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": "bf16" if accelerator.mixed_precision == "bf16" else "fp32",
        **effort.to_json(),
    }
    if plan["frozen_in_bf16"]:
        # Half their size, and no copies.
        plan["memory_bytes_estimated"] -= 4 * (plan["parameters"] - plan["trained_parameters"])
    return plan, effort


def freezes_in_bf16(settings: FinetuneRecipe, accelerator: Accelerator) -> bool:
    """Whether frozen matrices are held in bf16: where autocast would round them so in every forward pass."""
    from accelerate.utils import DistributedType

    from llmkit.training.job import job_dtype

    # FSDP wants the parameters of a block in one format.
    is_sharded = accelerator.distributed_type == DistributedType.FSDP
    is_rounded = str(job_dtype(accelerator)) == "torch.bfloat16" and settings.train.precision != "pure-bf16"
    return settings.method == "lora" and is_rounded and not is_sharded and not settings.lora.dora


def show_tuning(plan: Mapping[str, Any]) -> None:
    """The plan in a few lines."""
    frozen = ", frozen matrices held in bf16" if plan["frozen_in_bf16"] else ""
    say(
        f"{plan['model']}: {plan['parameters']:,} parameters, {plan['trained_parameters']:,} trained "
        f"({plan['task']}, {plan['method']}); {plan['device']} x {plan['processes']}, {plan['precision']}{frozen}"
    )
    packed = " packed" if plan["packed"] else ""
    budget = f"; {plan['batch_tokens']:,} tokens at once" if plan["batch_tokens"] else ""
    say(f"{plan['steps']:,} steps over {plan['rows']:,}{packed} rows: {plan['epochs']:.2f} epochs{budget}")
    show_effort(plan)
    if plan.get("minutes") is not None:
        say(f"the run ends {plan['minutes']:g} minutes after its beginning, however many steps those are")


def reckon(
    model: Any,
    config: TrainSection,
    accelerator: Accelerator,
    *,
    tokens: float,
    row_tokens: int,
    has_documents: bool = False,
    is_ragged: bool = False,
    is_flat: bool = False,
) -> Effort:
    """Choose how `model` is computed, and reckon what it will take to train it.

    Args:
        model: As it was built or loaded, adapters attached.
        config: Of the recipe.
        accelerator: Of this process.
        tokens: Of the whole run.
        row_tokens: Positions of a row.
        has_documents: Rows hold documents that are kept apart.
        is_ragged: Rows differ in length.
        is_flat: Rows are laid end to end, as documents that are kept apart.
    """
    from accelerate.utils import DistributedType

    from llmkit.device import measure_matrix_rate
    from llmkit.models.compile import choose_engine, fit_engine
    from llmkit.models.flops import flops_per_token
    from llmkit.training.job import job_dtype

    per_token = flops_per_token(model, row_tokens)
    dtype, is_sharded = job_dtype(accelerator), accelerator.distributed_type == DistributedType.FSDP
    engine = choose_engine(
        config,
        dtype=dtype,
        device=accelerator.device,
        total_flops=per_token * tokens,
        has_documents=has_documents,
        is_ragged=is_ragged,
        is_flat=is_flat,
        is_sharded=is_sharded,
    )
    engine = fit_engine(engine, model, config)
    rate = measure_matrix_rate(accelerator.device, dtype)
    sharers = accelerator.num_processes if is_sharded else 1
    memory = estimate_memory(model, config, accelerator, engine=engine, row_tokens=row_tokens, sharers=sharers)
    seconds = per_token * tokens / (rate * accelerator.num_processes * TYPICAL_MFU)
    return Effort(engine, per_token, per_token * tokens, rate, memory, seconds)


def estimate_memory(
    model: Any, config: TrainSection, accelerator: Accelerator, *, engine: Engine, row_tokens: int, sharers: int
) -> float:
    """Bytes of weights, gradients, the optimizer's state, the running average and activations in one process."""
    from llmkit.models.flops import activation_bytes
    from llmkit.training.disk import optimizer_bytes
    from llmkit.training.job import job_dtype
    from llmkit.training.step import rows_per_forward, rows_within, tokens_per_forward

    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    size = 2 if config.precision == "pure-bf16" else 4
    # The running average is in fp32 whatever the weights are in.
    fixed = size * (frozen + 2 * trained) + optimizer_bytes(model, config) + (4 * trained if config.ema_decay else 0)
    rows = rows_per_forward(config, num_processes=accelerator.num_processes)
    rows = rows_within(rows, tokens_per_forward(config, accelerator.device), row_tokens)
    activations = activation_bytes(
        model,
        rows=rows,
        seq_len=row_tokens,
        dtype=job_dtype(accelerator),
        engine=engine,
        is_checkpointed=config.gradient_checkpointing,
    )
    return float(fixed / sharers + activations)


def show_effort(effort: Mapping[str, Any]) -> None:
    """What it will take, in one line."""
    rate = effort["matrix_flops_per_second"]
    computed = f"{effort['attention']} attention, {'' if effort['compiled'] else 'not '}compiled"
    say(
        f"{computed}; {effort['flops']:.2g} FLOPs: about {format_seconds(effort['seconds_estimated'])} at "
        f"{TYPICAL_MFU:.0%} of the {describe_rate(rate)} of matrix products here; "
        f"about {effort['memory_bytes_estimated'] / 1e9:.1f} GB of memory beside Python's own"
    )


def describe_rate(flops_per_second: float) -> str:
    """FLOP/s as people say them."""
    unit, size = ("TFLOP/s", 1e12) if flops_per_second >= 1e12 else ("GFLOP/s", 1e9)
    return f"{flops_per_second / size:,.3g} {unit}"
