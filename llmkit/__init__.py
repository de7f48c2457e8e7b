"""llmkit: from a folder of text to a language model you can talk to and whose numbers you can trust."""

__version__ = "0.1.0"
