"""Chat templates, which come from strangers: rendered in a process of their own, in a sandbox with bounds."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llmkit.errors import ModelError

WORKER = Path(__file__).with_name("template_worker.py")

SECONDS = 10.0
"""Time of computing that one rendering may take; a usual one takes a thousandth of a second."""

MEMORY = 2 << 30
"""Bytes of address space that the process may have."""


class RenderError(ModelError):
    """A dialogue that the chat template refuses, or would not show as it stands."""


class Template:
    """A chat template, compiled in a process that may neither compute for long nor take much memory.

    Args:
        source: The template, in Jinja.
        variables: What it may use besides the messages: the names of special tokens.
        now: The time that it is told whenever it asks: what it writes must not change while it is used.
    """

    def __init__(self, source: str, variables: dict[str, Any], now: datetime | None = None) -> None:
        self.source = source
        self.variables = variables
        self.now = now or datetime.now()
        self.process: subprocess.Popen[str] | None = None

    def render(self, data: dict[str, Any]) -> str:
        """What the template makes of its data.

        Raises:
            RenderError: It refuses or fails; the message says how.
        """
        text = self.render_all([data])[0]
        if isinstance(text, RenderError):
            raise text
        return text

    def render_all(self, several: Sequence[dict[str, Any]]) -> list[str | RenderError]:
        """`render` of several at once, which saves their way to the process and back; errors are in their places."""
        replies = self.ask(several)
        if isinstance(replies, dict):
            if len(several) > 1:
                return [text for data in several for text in self.render_all([data])]
            replies = [replies]
        return [read_reply(reply, data) for reply, data in zip(replies, several, strict=True)]

    def ask(self, several: Sequence[dict[str, Any]]) -> list[dict[str, str]] | dict[str, str]:
        """The process's answers, or one answer where it has ended; it is started when there is none."""
        if self.process is None:
            self.process = start(self)
            bounds = {"seconds": SECONDS, "memory": MEMORY}
            about = {"template": self.source, "variables": self.variables, "now": self.now.isoformat()}
            opening = self.exchange({**about, **bounds})
            if "failed" in opening:
                if self.process is not None:
                    end(self.process)
                    self.process = None
                return {"failed": str(opening["failed"])}
        return self.exchange(several)  # type: ignore[no-any-return]

    def exchange(self, document: Any) -> Any:
        """Send a line and read one. A process that ended instead was killed for what it took."""
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(document) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            end(process)
            self.process = None
            return {"failed": f"it computes for too long or takes too much memory (exit code {process.returncode})"}
        return json.loads(line)


def read_reply(reply: dict[str, str], data: dict[str, Any]) -> str | RenderError:
    """The text of a reply, or the error that it tells of."""
    if "refused" in reply:
        roles = " ".join(str(message.get("role")) for message in data["messages"])
        return RenderError(f"the chat template refuses turns in the order {roles}: {reply['refused']}")
    if "failed" in reply:
        return RenderError(f"the chat template fails: {reply['failed']}", fix="use another template")
    return reply["text"]


def start(template: Template) -> subprocess.Popen[str]:
    """Start the process of a template; it ends with the template."""
    # -P: the folder of the script, which is llmkit's own, is no place to import from. An interrupt is not for it.
    process = subprocess.Popen(
        [sys.executable, "-P", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    weakref.finalize(template, end, process)
    return process


def end(process: subprocess.Popen[str]) -> None:
    """Let the process end, and wait for it."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                continue
    process.wait()
