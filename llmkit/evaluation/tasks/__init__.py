"""The built-in tasks: each a task file in Python, and the functions that read its rows as they are published."""

from __future__ import annotations

from llmkit.evaluation.tasks.answers import ANSWERS
from llmkit.evaluation.tasks.built_in import BuiltIn
from llmkit.evaluation.tasks.knowledge import KNOWLEDGE
from llmkit.evaluation.tasks.labels import LABELS
from llmkit.evaluation.tasks.python_docs import PERPLEXITY, PYTHON_DOCS
from llmkit.evaluation.tasks.sentences import SENTENCES
from llmkit.evaluation.tasks.texts import TEXTS

__all__ = ["BUILT_IN", "BuiltIn"]

BUILT_IN: dict[str, BuiltIn] = {
    task.spec.name: task for task in (*SENTENCES, *KNOWLEDGE, *LABELS, *ANSWERS, *TEXTS, *PYTHON_DOCS, PERPLEXITY)
}
"""By name, as `evaluate --task` takes them."""
