"""Verbs: one file each; the signature, then the story from top to bottom. Heavy imports stand inside the functions."""
