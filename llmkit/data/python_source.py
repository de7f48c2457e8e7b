"""The standard library as text: its modules read with `ast` (nothing of it is run), and its language reference."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import pydoc_data.topics
import sys
import sysconfig
import tokenize
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.errors import DataError

LEFT_OUT = {
    "test", "idlelib.idle_test", "distutils.tests", "lib2to3.tests", "unittest.test", "ctypes.test", "tkinter.test",
    "encodings",  # 120 generated character tables, each nearly the copy of another: they would straddle the splits
    "pydoc_data",  # the topics themselves, read as topics
    "antigravity", "this", "__phello__", "__hello__",
}  # fmt: skip
"""Modules whose text is not worth learning, by dotted name; what lies below them is left out too."""

COMPILED = ("builtins", "cmath", "errno", "gc", "itertools", "math", "sys", "time", "unicodedata", "zlib")
"""Modules without Python source whose documentation is read from the live objects; importing them does nothing else."""


METHODS = (types.MethodDescriptorType, types.ClassMethodDescriptorType)


@dataclass(frozen=True)
class Definition:
    """Something documented: a module, a class, a function, a method or a property."""

    name: str
    """As it is reached from outside: `json`, `json.loads`, `json.JSONDecoder.decode`."""
    kind: str
    """module, class, function, method or property."""
    module: str
    signature: str
    """`loads(s, *, cls=None)` without the module's name; empty for a module, or where it is not known."""
    doc: str

    @property
    def spoken(self) -> str:
        """The name as people say it: `len`, not `builtins.len`."""
        return self.name.removeprefix("builtins.")

    @property
    def package(self) -> str:
        """The part of the module's name before the first dot."""
        return self.module.partition(".")[0]

    @property
    def is_public(self) -> bool:
        """Whether no part of the name starts with an underscore."""
        return not any(part.startswith("_") for part in self.name.split("."))


@dataclass(frozen=True)
class Module:
    """One module: its source (empty for compiled ones) and everything in it that has documentation."""

    name: str
    source: str
    items: tuple[Definition, ...]


@functools.cache
def read_modules() -> tuple[Module, ...]:
    """Every module of the standard library but its tests, sorted by name.

    Raises:
        DataError: This Python was installed without the sources of its library.
    """
    modules = [parse_module(name, path) for name, path in module_files()]
    if len(modules) < 100:
        where = sysconfig.get_path("stdlib")
        raise DataError("this Python has no sources of its standard library", where=where, fix="use your own text")
    modules += [inspect_module(name) for name in COMPILED if name in sys.stdlib_module_names]
    return tuple(sorted(modules, key=lambda module: module.name))


def read_topics() -> dict[str, str]:
    """The topics of the language reference, by name."""
    topics: dict[str, str] = pydoc_data.topics.topics
    return {name: text.strip() + "\n" for name, text in sorted(topics.items())}


def module_files() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of each module with source."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        name = ".".join(parts)
        if parts and parts[0] in sys.stdlib_module_names and not is_left_out(name) and name.isascii():
            yield name, path


def is_left_out(name: str) -> bool:
    """Whether a module or a package above it is in LEFT_OUT."""
    parts = name.split(".")
    above = {".".join(parts[: count + 1]) for count in range(len(parts))}
    return not above.isdisjoint(LEFT_OUT) or "tests" in parts


def parse_module(name: str, path: Path) -> Module:
    """A module from its source file."""
    with tokenize.open(path) as file:
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in old code
        tree = ast.parse(source)
    return Module(name, source, tuple(documented(tree, name, name)))


def documented(node: ast.Module | ast.ClassDef, name: str, module: str) -> Iterator[Definition]:
    """The items of a module or a class: itself, then what is defined in it, in the order of the source."""
    doc = ast.get_docstring(node)
    is_module = isinstance(node, ast.Module)
    if doc:
        signature = "" if isinstance(node, ast.Module) else class_signature(node)
        yield Definition(name, "module" if is_module else "class", module, signature, doc)
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from documented(child, f"{name}.{child.name}", module)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(child)
            if doc:
                yield function_item(child, f"{name}.{child.name}", module, doc, is_method=not is_module)


def function_item(
    node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, module: str, doc: str, *, is_method: bool
) -> Definition:
    """A function, a method, or a property, which is not called."""
    if is_method and any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Definition(name, "property", module, "", doc)
    kind = "method" if is_method else "function"
    return Definition(name, kind, module, function_signature(node, is_method=is_method), doc)


def class_signature(node: ast.ClassDef) -> str:
    """How an object of the class is made: the parameters of its __init__, where it has its own."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return node.name + function_signature(child, is_method=True).removeprefix("__init__")
    return f"{node.name}()" if not node.bases else ""


def function_signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, is_method: bool) -> str:
    """`name(parameters) -> result`, without `self`."""
    decorators = {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)}
    arguments = node.args
    if is_method and "staticmethod" not in decorators:
        arguments = copy.copy(arguments)
        if arguments.posonlyargs:
            arguments.posonlyargs = arguments.posonlyargs[1:]
        else:
            arguments.args = arguments.args[1:]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(arguments)}){returns}"


def inspect_module(name: str) -> Module:
    """A compiled module, from the docstrings of its live objects."""
    module = importlib.import_module(name)
    items = [Definition(name, "module", name, "", inspect.cleandoc(module.__doc__ or ""))]
    for key, value in sorted(vars(module).items()):
        if key.startswith("_"):
            continue
        if isinstance(value, type):
            items += inspect_class(f"{name}.{key}", value, module=name)
        elif isinstance(value, types.BuiltinFunctionType):
            items.append(Definition(f"{name}.{key}", "function", name, *signature_and_doc(value, key)))
    return Module(name, "", tuple(item for item in items if item.doc))


def inspect_class(name: str, cls: type, *, module: str) -> list[Definition]:
    """A compiled class and its public methods."""
    short = name.rpartition(".")[2]
    items = [Definition(name, "class", module, *signature_and_doc(cls, short))]
    for key, value in sorted(vars(cls).items()):
        if not key.startswith("_") and isinstance(value, METHODS):
            items.append(Definition(f"{name}.{key}", "method", module, *signature_and_doc(value, key)))
    return items


def signature_and_doc(value: Any, name: str) -> tuple[str, str]:
    """The signature of a compiled object, empty where it does not tell, and its documentation."""
    doc = inspect.cleandoc(value.__doc__ or "")
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):
        return "", doc
    parameters = list(signature.parameters.values())
    if isinstance(value, types.MethodDescriptorType):
        parameters = parameters[1:]
    text = str(signature.replace(parameters=parameters))
    return ("" if "<" in text else name + text), doc
