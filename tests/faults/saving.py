"""One save of a real language model and its optimizer, as the loop makes it."""

from __future__ import annotations

from pathlib import Path


def save(folder: str, tokenizer: str, number: str) -> None:
    """Write the checkpoint of a step into `folder`, average included, and delete all but it."""
    import torch
    from accelerate import Accelerator

    from llmkit.models.causal_lm import build_causal_lm, save_causal_lm
    from llmkit.recipe.schema import ModelSection
    from llmkit.tokenizer import load_tokenizer
    from llmkit.training.checkpoint import prune_checkpoints, save_checkpoint

    step = int(number)
    words = load_tokenizer(tokenizer)
    section = ModelSection(num_layers=1, hidden_size=16, num_heads=2)
    model = build_causal_lm(section, vocab_size=len(words), seq_len=16, tokenizer=words, seed=step)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_checkpoint(
        Path(folder),
        step,
        accelerator=Accelerator(cpu=True),
        model=model,
        optimizer=optimizer,
        state={"tokens": step},
        save_model=lambda path, weights: save_causal_lm(model, words, path, weights),
        average={name: parameter.detach().clone() for name, parameter in model.named_parameters()},
    )
    prune_checkpoints(Path(folder), keep_last=1)
