"""A private copy of a tokenizer, which knows its control tokens under secret names only: no text can make one."""

from __future__ import annotations

import json
import secrets
import string
from typing import Any

from tokenizers import Tokenizer

from llmkit.errors import ModelError
from llmkit.tokenizer import is_control, rename_entries


def private_backend(tokenizer: Any) -> tuple[Tokenizer, dict[str, str]]:
    """A copy of a tokenizer that knows its control tokens under secret names only, and these names.

    Vocabulary entries are renamed too: some models would find the token of a control token's text by its name.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec.update(truncation=None, padding=None, post_processor=None)
    template = (
        tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else json.dumps(tokenizer.chat_template)
    )
    control = [token for token in spec["added_tokens"] if is_control(token, template)]
    ids = {token["content"]: token["id"] for token in control}
    names = {content: secret_name() for content in ids}
    for token in control:
        token["content"] = names[token["content"]]
    rename_entries(spec["model"], names)
    drop_merges(spec["model"], names)
    backend = Tokenizer.from_str(json.dumps(spec))
    if any(backend.token_to_id(names[content]) != i for content, i in ids.items()):
        raise ModelError(
            "this tokenizer numbers its control tokens in a way that is not known here",
            where=str(tokenizer.name_or_path) or None,
        )
    return backend, names


def secret_name() -> str:
    """A name that no text can guess, made of lower case letters alone, which no normalizer changes."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(32))


def drop_merges(model: dict[str, Any], names: dict[str, str]) -> None:
    """Take out of a BPE model, in place, the merges that make or use a token that was renamed."""
    if "merges" in model:
        pairs = (merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if not {pair[0], pair[1], pair[0] + pair[1]} & names.keys()]
