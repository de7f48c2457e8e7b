"""The loop that one would write by hand over the model of transformers: bf16 autocast, fused AdamW, clipping."""

from __future__ import annotations

import torch
from setting import HIDDEN_SIZE, INTERMEDIATE_SIZE, LR, NUM_HEADS, NUM_LAYERS, SEQ_LEN, Clock, has_bf16
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Train until the clock stops it."""
    clock = Clock.from_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = LlamaConfig(
        vocab_size=clock.vocab_size,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=INTERMEDIATE_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS,
        max_position_embeddings=SEQ_LEN,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1, fused=True)
    for rows in clock.rows():
        ids = torch.from_numpy(rows).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bf16()):
            logits = model(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        clock.tick()


main()
