"""Chat templates in the language of Ollama's Modelfiles.

Ollama writes templates in Go's language. A Jinja template cannot be translated as such, but nearly all put the same
texts around each role's content: these are found by rendering, and written down.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, NamedTuple

from llmkit.data.rendering import renderer_of
from llmkit.data.template import RenderError

ROLES = ("system", "user", "assistant")


class Turns(NamedTuple):
    """What a template puts around contents."""

    begin: str
    """Before the first turn: a BOS token, or nothing."""
    around: dict[str, tuple[str, str]]
    """Role -> what stands before and after its content."""
    default_system: str | None
    """What the template says as system where the dialogue does not."""
    ask: str
    """What asks for the assistant's turn."""

    def render(self, messages: list[tuple[str, str]]) -> str:
        """A dialogue that asks for an answer, as Ollama will write it."""
        if self.default_system is not None and messages[0][0] != "system":
            messages = [("system", self.default_system), *messages]
        return self.begin + "".join(self.around[r][0] + text + self.around[r][1] for r, text in messages) + self.ask


def find_turns(tokenizer: Any) -> Turns | None:
    """What the tokenizer's template puts around each role's content; None where that depends on more than the role."""
    try:
        turns = take_turns(tokenizer)
        dialogues = [
            [("user", "Hello")],
            [("system", "Be brief."), ("user", "Hello"), ("assistant", "Yes?"), ("user", "Why?")],
            [("user", "One"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")],
        ]
        is_same = all(turns.render(d) == render(tokenizer, d) for d in dialogues)
    except (RenderError, ValueError):
        return None
    # Ollama leaves an empty system message out.
    return turns if is_same and turns.default_system != "" else None


def render(tokenizer: Any, dialogue: list[tuple[str, str]], *, asks: bool = True) -> str:
    """A dialogue by the template itself, which comes from strangers."""
    messages = [{"role": role, "content": text} for role, text in dialogue]
    return renderer_of(tokenizer).apply({"messages": messages, "tools": None}, wants_answer=asks)


def take_turns(tokenizer: Any) -> Turns:
    """The texts of a dialogue with all roles, told apart by those of shorter dialogues.

    Raises:
        ValueError: They do not fit together.
        RenderError: The template refuses such dialogues.
    """
    whole = texts_around(tokenizer, "system", "user", "assistant", "user")
    user_end = whole[-1]
    ask = remove_prefix(texts_around(tokenizer, "system", "user", asks=True)[-1], user_end)
    assistant_end = texts_around(tokenizer, "user", "assistant")[-1]
    before_user = remove_prefix(whole[3], assistant_end)
    before_assistant = remove_prefix(whole[2], user_end)
    system_end = remove_suffix(whole[1], before_user)
    bos = str(tokenizer.bos_token or "")
    begin = bos if bos and whole[0].startswith(bos) and not before_user.startswith(bos) else ""
    before_system = remove_prefix(whole[0], begin)
    first = remove_suffix(remove_prefix(texts_around(tokenizer, "user")[0], begin), before_user)
    default = remove_suffix(remove_prefix(first, before_system), system_end) if first else None
    around = {
        "system": (before_system, system_end),
        "user": (before_user, user_end),
        "assistant": (before_assistant, assistant_end),
    }
    return Turns(begin, around, default, ask)


def texts_around(tokenizer: Any, *roles: str, asks: bool = False) -> list[str]:
    """What the template writes before, between and after contents of these roles: random words, cut out again."""
    words = [secrets.token_hex(12) for _ in roles]
    text = render(tokenizer, list(zip(roles, words, strict=True)), asks=asks)
    if re.findall("|".join(words), text) != words:
        raise ValueError("the template leaves contents out, or shows them in another order")
    return re.split("|".join(words), text)


def remove_prefix(text: str, prefix: str) -> str:
    """The rest of a text that begins with `prefix`."""
    if not text.startswith(prefix):
        raise ValueError(f"{text!r} does not begin with {prefix!r}")
    return text[len(prefix) :]


def remove_suffix(text: str, suffix: str) -> str:
    """The beginning of a text that ends with `suffix`."""
    if not text.endswith(suffix):
        raise ValueError(f"{text!r} does not end with {suffix!r}")
    return text[: len(text) - len(suffix)]


def modelfile(weights: str, turns: Turns | None, *, stops: list[str], adds_bos: bool, context: int) -> str:
    """A Modelfile for Ollama.

    Args:
        weights: Name of the GGUF file beside it.
        turns: The template; None leaves it to what the GGUF file says.
        stops: Texts of the control tokens at which an answer ends.
        adds_bos: Whether the tokenizer puts BOS first, so that the template must not.
        context: Longest sequence.
    """
    lines = [f"FROM ./{weights}"]
    template = None if turns is None else go_template(turns, adds_bos=adds_bos)
    if turns is not None and template is not None:
        lines.append(f'TEMPLATE """{template}"""')
        if turns.default_system is not None:
            lines.append(f'SYSTEM """{turns.default_system}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join(lines) + "\n"


def go_template(turns: Turns, *, adds_bos: bool) -> str | None:
    """The template in Go's language; None where its own texts would be taken for Go's signs."""
    written = [turns.begin, turns.ask, *(text for pair in turns.around.values() for text in pair)]
    if any(sign in text for text in [*written, turns.default_system or ""] for sign in ("{{", "}}", '"""')):
        return None
    cases = " else ".join(
        f'if eq .Role "{role}" }}}}{turns.around[role][0]}{{{{ .Content }}}}{turns.around[role][1]}{{{{'
        for role in ROLES
    )
    begin = "" if adds_bos else turns.begin
    return f"{begin}{{{{ range .Messages }}}}{{{{ {cases} end }}}}{{{{ end }}}}{turns.ask}"
