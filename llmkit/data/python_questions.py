"""Questions about a documented thing, and their answers: all from its real documentation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from llmkit.data.python_source import Definition

LONGEST_ANSWER = 500
"""Characters. Longer documentation is cut after whole paragraphs."""
SHORTEST_ANSWER = 20
LONGEST_SIGNATURE = 200
NOT_ASKED_ABOUT = {"idlelib", "lib2to3", "distutils", "turtledemo"}
"""Packages that nobody asks about: an editor's insides, and tools that Python has left behind."""

WHAT_IS = {
    "module": (
        "What is the Python module {name} for?",
        "Describe the module {name}.",
        "What does the module {name} provide?",
        "Explain the Python module {name}.",
    ),
    "class": (
        "What is {name} in Python?",
        "Describe the class {name}.",
        "What is the class {name} for?",
        "Explain the Python class {name}.",
    ),
    "function": (
        "What does {name} do?",
        "Describe the function {name}.",
        "What is the function {name} for?",
        "Explain what {name}() does in Python.",
    ),
    "method": (
        "What does {name} do?",
        "Describe the method {name}.",
        "What is the method {name} for?",
        "Explain what {name}() does in Python.",
    ),
    "property": (
        "What is {name}?",
        "Describe the property {name}.",
        "What does the property {name} tell?",
    ),
}
WHAT_IS_THIS = {
    "class": ("Describe this Python class.", "What is this class for?"),
    "function": ("Describe this Python function.", "What does this function do?"),
    "method": ("Describe this Python method.", "What does this method do?"),
}
"""Instructions whose input is the signature."""
WHICH_SIGNATURE = (
    "What is the signature of {name}?",
    "Which parameters does {name} take?",
    "How is {name} called?",
    "Show me the signature of {name}.",
)
WHICH_SIGNATURE_THEN = ("What is its signature?", "Which parameters does it take?", "How do I call it?")
ABOUT_TOPIC = (
    "What does the Python language reference say about {name}?",
    "Explain {name} in Python.",
    "Describe {name} in the Python language.",
)
SYSTEM = "You answer questions about Python from its documentation."


def choose(options: Sequence[str], key: str) -> str:
    """One of the options, by a hash of the key."""
    return options[int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % len(options)]


def trim(text: str, limit: int) -> str:
    """The first paragraphs that fit whole into `limit` characters; of a longer first one its whole sentences."""
    text = text.strip()
    if len(text) <= limit:
        return text
    cut = text.rfind("\n\n", 0, limit)
    if cut <= 0:
        first = text.split("\n\n")[0]
        cut = len(first) if len(first) <= limit else max(first.rfind(end, 0, limit) + 1 for end in (". ", ".\n", "\n"))
    return text[: cut or limit].rstrip().removesuffix(":").rstrip()


def is_asked_about(item: Definition) -> bool:
    """Whether questions are made of it: public, and with documentation long enough to answer one."""
    is_known = item.is_public and item.package not in NOT_ASKED_ABOUT
    return is_known and len(trim(item.doc, LONGEST_ANSWER)) >= SHORTEST_ANSWER


def called(item: Definition) -> str:
    """The full name with its parameters, or nothing where they are not known or fill a page."""
    if not item.signature or len(item.signature) > LONGEST_SIGNATURE:
        return ""
    above = item.spoken.rpartition(".")[0]
    return f"{above}.{item.signature}" if above else item.signature


def instructions(item: Definition) -> list[dict[str, str]]:
    """What it is, asked by name or with its signature as the input; and for two of three its signature."""
    if not is_asked_about(item):
        return []
    answer = trim(item.doc, LONGEST_ANSWER)
    signature = called(item)
    if signature and choose("abcd", f"input {item.name}") == "a":
        rows = [pair(choose(WHAT_IS_THIS[item.kind], item.name), answer, signature)]
    else:
        rows = [pair(choose(WHAT_IS[item.kind], item.name).format(name=item.spoken), answer)]
    if signature and choose("abc", f"signature {item.name}") != "a":
        question = choose(WHICH_SIGNATURE, item.name).format(name=item.spoken)
        rows.append(pair(question, signature))
    return rows


def topic_instructions(name: str, text: str) -> list[dict[str, str]]:
    """What the language reference says about a topic; its title and underline are left out of the answer."""
    body = "\n\n".join(part for part in text.split("\n\n") if not set(part.strip()[-4:]) <= set('*=-~"^'))
    answer = trim(body, LONGEST_ANSWER)
    if len(answer) < SHORTEST_ANSWER:
        return []
    return [pair(choose(ABOUT_TOPIC, name).format(name=f"'{name}'"), answer)]


def pair(instruction: str, output: str, given: str = "") -> dict[str, str]:
    """A row of the alpaca form."""
    return {"instruction": instruction, "input": given, "output": output}


def dialogue(item: Definition, neighbours: Mapping[str, Sequence[Definition]]) -> list[dict[str, str]]:
    """Messages about one thing: what is it, its signature, a follow-up; empty where there is no signature.

    Args:
        item: What the dialogue is about.
        neighbours: The items of each module and class, by its name.
    """
    signature = called(item)
    if not is_asked_about(item) or not signature:
        return []
    first = trim(item.doc, LONGEST_ANSWER)
    turns = [(choose(WHAT_IS[item.kind], f"dialogue {item.name}").format(name=item.spoken), first)]
    turns.append((choose(WHICH_SIGNATURE_THEN, f"dialogue {item.name}"), signature))
    turns.append(follow_up(item, neighbours, said=first))
    messages = [{"role": "system", "content": SYSTEM}] if choose("abcd", f"system {item.name}") == "a" else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def follow_up(item: Definition, neighbours: Mapping[str, Sequence[Definition]], *, said: str) -> tuple[str, str]:
    """A third question and its answer: more of the documentation, what is in it, what is beside it, or where it is."""
    options = [("Which module is it in?", f"It is in the module {item.module}.")]
    rest = trim(item.doc.strip().removeprefix(said), LONGEST_ANSWER)
    if item.doc.strip().startswith(said) and len(rest) >= SHORTEST_ANSWER:
        options.append((choose(("Tell me more.", "What else should I know about it?"), item.name), rest))
    methods = names_of(neighbours.get(item.name, ()))
    if methods:
        options.append(("Which methods does it have?", f"It has {listed(methods)}."))
    beside = [other for other in neighbours.get(item.name.rpartition(".")[0], ()) if other.name != item.name]
    if names_of(beside):
        options.append(("What else is there beside it?", f"There is also {listed(names_of(beside))}."))
    return options[int(choose("0123456789", f"follow {item.name}")) % len(options)]


def names_of(items: Sequence[Definition]) -> list[str]:
    """The last parts of the first public names."""
    return [item.name.rpartition(".")[2] for item in items if item.is_public][:6]


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
