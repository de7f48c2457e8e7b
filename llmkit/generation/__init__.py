"""Generation: logits to tokens to text."""
