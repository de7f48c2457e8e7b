"""What a verb may write over: what llmkit wrote there before, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from llmkit.errors import UsageError


def check_replaceable(path: Path, flag: str, what: str, is_ours: Callable[[bytes], bool]) -> None:
    """Raise where a file that was named holds something else than what is to be written.

    Args:
        path: Of the file; it need not be there.
        flag: That named it.
        what: Is to be written: page, picture, certificate.
        is_ours: Whether a content is one of these, by llmkit.

    Raises:
        UsageError: It is a folder, or a file of another kind.
    """
    if path.is_dir():
        raise UsageError("this is a folder", where=f"{flag} {path}", fix="name a file in it")
    if path.is_file() and not is_ours(path.read_bytes()):
        fix = "name a new file, or remove it"
        raise UsageError(f"this file is no {what} of llmkit, and is not replaced", where=f"{flag} {path}", fix=fix)


def is_page(data: bytes) -> bool:
    """Whether a page of llmkit has this content."""
    return data.lstrip().lower().startswith(b"<!doctype html") and b" by llmkit " in data


def is_picture(data: bytes) -> bool:
    """Whether a picture of llmkit has this content, SVG or PNG: both say who drew them."""
    is_drawn = data.startswith(b"<svg") and b"<metadata>by llmkit</metadata>" in data
    return is_drawn or (data.startswith(b"\x89PNG") and b"Software\0llmkit" in data)


def is_certificate(data: bytes) -> bool:
    """Whether `llmkit verify` wrote this."""
    try:
        document = json.loads(data)
    except ValueError:
        return False
    return isinstance(document, dict) and {"subject", "passed", "hashes", "checks"} <= document.keys()
