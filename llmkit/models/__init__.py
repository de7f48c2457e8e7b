"""Models: causal language models, adapters and the classical networks."""
