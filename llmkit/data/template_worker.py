"""The process that renders a chat template: a sandbox with bounds on time and memory. Started by `template`.

It reads JSON lines, the template first, then lists of what is to be rendered, and answers with one line each. A
template that computes for too long is killed by the system, which the other side sees. Nothing of llmkit is imported.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MOST_CHARACTERS = 1 << 27
"""A rendering that is longer is refused."""


class Generation(Extension):
    """Renders what stands between {% generation %} and {% endgeneration %} as it is."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares a set

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's statements, in a scope that changes nothing."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class SafeNamespace(Namespace):
    """A namespace whose names do not begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template may not set {name!r}")
        super().__setitem__(name, value)


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """What `dict(...)` gives in a template, without the methods of the type."""
    return dict(*args, **kwargs)


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """The filter tojson as transformers has it: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """What a template calls to refuse a dialogue."""
    raise jinja2.exceptions.TemplateError(message)


def compile_template(source: str, now: datetime) -> jinja2.Template:
    """A template in the sandbox, with the filters and functions that transformers gives it, and a time that stands."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(
        raise_exception=raise_exception, strftime_now=now.strftime, dict=make_dict, namespace=SafeNamespace
    )
    return environment.from_string(source)


def answer(template: jinja2.Template, variables: dict[str, Any]) -> dict[str, str]:
    """{"text"} of a rendering, or {"refused"} or {"failed"} with the reason."""
    try:
        text = template.render(**variables)
    except jinja2.exceptions.TemplateError as error:
        return {"refused": error.message or type(error).__name__}
    except MemoryError:
        return {"failed": "it takes more memory than it may"}
    except Exception as error:  # a stranger's template may raise anything
        return {"failed": str(error) or type(error).__name__}
    if len(text) > MOST_CHARACTERS:
        return {"failed": f"it makes a text of {len(text):,} characters"}
    return {"text": text}


def set_bounds(memory: int) -> None:
    """Bound the address space of this process, in bytes. Where the system has no such bound it has none."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Answer lines until there are none."""
    first = json.loads(sys.stdin.readline())
    set_bounds(first["memory"])
    # Computing time alone counts, so that a busy machine kills nothing; the signal's default ends the process.
    # To compile is to compute: constants are worked out then.
    signal.setitimer(signal.ITIMER_VIRTUAL, first["seconds"])
    try:
        template = compile_template(first["template"], datetime.fromisoformat(first["now"]))
        reply: Any = {}
    except (jinja2.exceptions.TemplateError, RecursionError, MemoryError) as error:
        reply = {"failed": f"it is no template ({error})"}
    while True:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        signal.setitimer(signal.ITIMER_VIRTUAL, first["seconds"])
        reply = [answer(template, first["variables"] | data) for data in json.loads(line)]


if __name__ == "__main__":
    main()
