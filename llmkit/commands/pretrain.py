"""`llmkit pretrain`: prepared tokens to a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.commands.options import AsJson, DryRun, Output, Overrides, RecipeArgument, Resume
from llmkit.console import for_terminal, say, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.data.prepared import PreparedData
    from llmkit.recipe.schema import PretrainRecipe
    from llmkit.training.run import Run


def pretrain(
    recipe: RecipeArgument = None,
    data: Annotated[Path | None, typer.Option(help="Folder that `llmkit data prepare` wrote.")] = None,
    output: Output = None,
    overrides: Overrides = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train a causal language model from scratch.

    \b
    Examples:
      llmkit data prepare python-docs --tokenizer tok --output data
      llmkit pretrain --data data --output run
      llmkit pretrain laptop/pretrain-python --data data --output run --set train.lr=1e-3
      llmkit pretrain --data data --output run --resume --set train.steps=4000
      accelerate launch --num_processes 8 --multi_gpu -m llmkit pretrain gpt2-124m/pretrain --data data --output run

    The same command continues a run that was stopped, where its newest checkpoint is. Ctrl-C stops with a checkpoint
    (exit code 75); a second Ctrl-C stops at once.
    """
    from llmkit.data.prepared import open_prepared
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.load import load_recipe, saved_recipe
    from llmkit.recipe.schema import PretrainRecipe
    from llmkit.training.job import start_job

    source = recipe or saved_recipe(output, resume=resume)
    settings = load_recipe(PretrainRecipe, source, overrides or [], {"data.source": ("--data", data)})
    if settings.data.source is None:
        raise UsageError(
            "there is nothing to train on", where="--data", fix="name a folder that `llmkit data prepare` wrote"
        )
    if output is None and not dry_run:
        raise UsageError("a run needs a folder", where="--output", fix="add --output DIR")
    accelerator = start_job(settings.train)
    prepared = open_prepared(Path(settings.data.source))
    model = build_causal_lm(
        settings.model,
        vocab_size=len(prepared.tokenizer),
        seq_len=settings.train.seq_len,
        tokenizer=prepared.tokenizer,
        seed=settings.train.seed,
    )
    plan = describe_plan(settings, prepared, model, accelerator)
    show_plan(plan)
    if dry_run or output is None:
        if as_json:
            write_json(plan)
        return
    run_pretraining(settings, prepared, model, output, accelerator, resume=resume, as_json=as_json)


def run_pretraining(
    settings: PretrainRecipe,
    prepared: PreparedData,
    model: Any,
    output: Path,
    accelerator: Accelerator,
    *,
    resume: bool,
    as_json: bool,
) -> None:
    """Open the run, train, and tell what came out."""
    from llmkit.data.prepared import TokenRows
    from llmkit.losses import causal_lm_loss_sum
    from llmkit.models.attention import use_fast_attention
    from llmkit.models.causal_lm import load_weights, save_causal_lm
    from llmkit.training.job import job_dtype
    from llmkit.training.loop import conclude, earlier_summary, train
    from llmkit.training.run import open_run

    inputs = {"data": prepared.content_hash}
    use_fast_attention(model, dtype=job_dtype(accelerator), device=accelerator.device)
    with open_run(output, settings, accelerator, resume=resume, inputs=inputs) as run:
        summary = earlier_summary(run) or train(
            model,
            TokenRows(prepared.split("train"), settings.train.seq_len),
            causal_lm_loss_sum,
            settings.train,
            run,
            accelerator=accelerator,
            save_model=lambda folder, weights: save_causal_lm(model, prepared.tokenizer, folder, weights),
            load_model=lambda folder: load_weights(model, folder),
            validate=validation(settings, prepared, model),
            sample=sampler(settings, prepared.tokenizer, model, run),
        )
        conclude(summary, run, as_json=as_json)


def validation(
    settings: PretrainRecipe, prepared: PreparedData, model: Any
) -> Callable[[], Mapping[str, float]] | None:
    """Nats per token and bits per byte over the first whole documents of the validation split; None without one."""
    from llmkit.evaluation.perplexity import measure_stream

    if not prepared.has_split("validation"):
        return None
    stream, num_bytes = prepared.split("validation").first_documents(settings.data.validation_tokens)
    config = settings.train
    batch_size = config.micro_batch_size or config.batch_size
    return lambda: measure_stream(model, stream, num_bytes, seq_len=config.seq_len, batch_size=batch_size)


def sampler(settings: PretrainRecipe, tokenizer: Any, model: Any, run: Run) -> Callable[[int], None]:
    """Continues the recipe's prompts, says the first and logs all."""
    from llmkit.generation.generate import generate_ids
    from llmkit.generation.sampling import SamplingConfig
    from llmkit.tokenizer import encode_text, end_of_document_id

    end = end_of_document_id(tokenizer)
    texts = settings.data.sample_prompts
    # A document starts behind the end of the one before: so does every prompt.
    prompts = [[end, *encode_text(tokenizer, text)] for text in texts]

    def take(step: int) -> None:
        made = generate_ids(
            model,
            prompts,
            sampling=SamplingConfig(temperature=0.7, top_p=0.9),
            max_new_tokens=min(64, settings.train.seq_len // 2),
            stop_ids=[end],
            seed=settings.train.seed,
            tokenizer=tokenizer,
        )
        for text, completion in zip(texts, made, strict=True):
            run.sample({"step": step, "prompt": text, "text": completion.text})
        if texts:
            say(for_terminal(f"step {step:,}: {texts[-1]}{made[-1].text}").replace("\n", "\n    "))

    return take


def describe_plan(
    settings: PretrainRecipe, prepared: PreparedData, model: Any, accelerator: Accelerator
) -> dict[str, Any]:
    """What the run will be, before it is."""
    from llmkit.data.prepared import TokenRows
    from llmkit.models.causal_lm import count_parameters
    from llmkit.training.job import job_dtype
    from llmkit.training.step import plan_steps

    config = settings.train
    rows = len(TokenRows(prepared.split("train"), config.seq_len))
    steps = plan_steps(config, rows)
    tokens = steps * config.batch_size * config.seq_len
    embeddings = {
        p
        for e in (model.get_input_embeddings(), model.get_output_embeddings())
        if e is not None
        for p in e.parameters()
    }
    parameters = count_parameters(model)
    return {
        "model": settings.model.type if settings.model.config is None else settings.model.config,
        "parameters": parameters,
        "parameters_without_embeddings": parameters - sum(p.numel() for p in embeddings),
        "vocab_size": len(prepared.tokenizer),
        "rows": rows,
        "steps": steps,
        "tokens": tokens,
        "epochs": round(steps * config.batch_size / rows, 3),
        "tokens_per_parameter": round(tokens / parameters, 2),
        "flops": 6 * parameters * tokens,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": str(job_dtype(accelerator)).removeprefix("torch."),
    }


def show_plan(plan: Mapping[str, Any]) -> None:
    """The plan in two lines."""
    say(
        f"{plan['model']}: {plan['parameters']:,} parameters "
        f"({plan['parameters_without_embeddings']:,} without embeddings), vocabulary {plan['vocab_size']:,}; "
        f"{plan['device']} x {plan['processes']}, {plan['precision']}"
    )
    say(
        f"{plan['steps']:,} steps, {plan['tokens']:,} tokens: {plan['epochs']:.2f} epochs, "
        f"{plan['tokens_per_parameter']:.1f} tokens per parameter, {plan['flops']:.2g} FLOPs"
    )
