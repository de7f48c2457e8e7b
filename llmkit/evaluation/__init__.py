"""Evaluation: tasks, prompts, scores and statistics."""
