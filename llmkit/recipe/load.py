"""YAML and overrides to a typed recipe; every error names file:line or the flag, and unknown keys are never ignored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

import llmkit
from llmkit.errors import RecipeError, UsageError
from llmkit.recipe.schema import RECIPES, Section

R = TypeVar("R", bound=Section)
KeyPath = tuple[str, ...]

MAX_RECIPE_BYTES = 1 << 20

LAUNCHERS = "accelerate/"
"""Below recipes/: no recipes, but how `accelerate launch` is to start processes."""


class RecipeLoader(yaml.SafeLoader):
    """YAML as recipes are read: numbers may be written 1e-4, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping that is a part of a value; PyYAML would keep the last of two equal keys, silently."""
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise DoubledKeyError(f"{next(key for key in keys if keys.count(key) > 1)!r} is given twice")
        return super().construct_mapping(node, deep=deep)


class RecipeDumper(yaml.SafeDumper):
    """YAML as `RecipeLoader` reads it: a text that looks like a number stands in quotes."""


class DoubledKeyError(yaml.YAMLError):
    """A key stands twice in a mapping."""


FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    [*"-+.0123456789"],
)
"""Numbers of YAML 1.2 that PyYAML, which knows YAML 1.1, takes for texts; and how they begin."""

RecipeLoader.add_implicit_resolver(*FLOAT)
RecipeDumper.add_implicit_resolver(*FLOAT)


@dataclass
class Layer:
    """Values from one source, and where each was said: `file:line`, or the flag as it was typed."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)


def load_recipe(
    kind: type[R],
    source: str | Path | None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
    picks: Mapping[str, Any] | None = None,
) -> R:
    """The recipe that the defaults, a YAML file, flags and `--set` together say, the later winning over the earlier.

    Its sections know which of their fields were said, and which are at their defaults (`model_fields_set`).

    Args:
        kind: The class of recipe wanted.
        source: A file, or a name that `llmkit recipe list` shows; None for the defaults alone.
        overrides: `key.path=value` each, as given to --set; the value is read as YAML.
        flags: Dotted key -> (the flag's name, its value); a value of None was not given.
        picks: Dotted key -> a value in place of its default, which everything else wins over.

    Raises:
        RecipeError: Something is unknown, doubled, or of the wrong type; it says where.
    """
    layers = [Layer(said_defaults(kind)), *(single_layer(key, value, "") for key, value in (picks or {}).items())]
    if source is not None:
        layers.append(read_layer(find_recipe(str(source))))
    for key, (flag, value) in (flags or {}).items():
        if value is not None:
            layers.append(single_layer(key, str(value) if isinstance(value, Path) else value, flag))
    layers += [override_layer(text) for text in overrides]
    values, origins = merge_layers(kind, layers)
    check_keys(kind, values, origins)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error, origins) from error


def said_defaults(kind: type[Section]) -> dict[str, Any]:
    """What a kind of recipe says of its own that is not the default of its sections: pretraining has 1,000 steps."""
    values: dict[str, Any] = cast(BaseModel, kind()).__dict__
    return {
        name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for name, value in values.items()
    }


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or a name that `llmkit recipe list` shows (with or without `.yaml`)."""
    path = Path(name)
    if path.is_file():
        return path
    known = list_recipes()
    if name.removesuffix(".yaml") in known:
        return known[name.removesuffix(".yaml")]
    raise RecipeError(
        "there is no such recipe file, and no recipe of this name",
        where=name,
        fix=did_you_mean(name, list(known)) or "see `llmkit recipe list`",
    )


def list_recipes() -> dict[str, Path]:
    """Every shipped recipe, by its name: the path below recipes/ without `.yaml`."""
    return {name: path for name, path in list_shipped().items() if not name.startswith(LAUNCHERS)}


def list_launchers() -> dict[str, Path]:
    """The shipped configurations of `accelerate launch`, by names such as `accelerate/ddp`."""
    return {name: path for name, path in list_shipped().items() if name.startswith(LAUNCHERS)}


def list_shipped() -> dict[str, Path]:
    """Every YAML file below recipes/, by its path without the ending."""
    package = Path(llmkit.__file__).parent
    folder = next(f for f in (package / "recipes", package.parent / "recipes") if f.is_dir())
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(folder.rglob("*.yaml"))}


def saved_recipe(output: Path | None, *, resume: bool) -> Path | None:
    """The recipe of the run in `output`, when it is to be resumed and no other recipe was named.

    Raises:
        UsageError: There is no run to resume.
    """
    if not resume or output is None:
        return None
    if not (output / "recipe.yaml").is_file():
        fix = "name the folder of a run (--output), or leave --resume and --extend out to begin one"
        raise UsageError("there is no run to continue", where=str(output), fix=fix)
    return output / "recipe.yaml"


def recipe_kind(path: Path) -> str:
    """What a recipe file is for: the value of its `kind`."""
    kind = read_layer(path).values.get("kind")
    if kind not in RECIPES:
        raise RecipeError(
            f"kind is {kind!r}; it must be one of {', '.join(RECIPES)}",
            where=str(path),
            fix="add `kind: pretrain`, say",
        )
    return str(kind)


def read_layer(path: Path) -> Layer:
    """A YAML file as values and the line of each key."""
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError("this file is over 1 MiB, which no recipe is", where=str(path), fix="name a YAML recipe")
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=RecipeLoader)
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"not UTF-8 at byte {error.start}", where=str(path), fix="save the recipe as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"not YAML: {error.problem}", where=f"{path}:{line}", fix="mend the line") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"not YAML: {error}", where=str(path), fix="name a YAML recipe") from error
    layer = Layer()
    if root is None:
        return layer
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(
            "a recipe is a mapping of keys to values", where=f"{path}:1", fix="see `llmkit recipe show tiny/pretrain`"
        )
    layer.values = read_mapping(root, (), path, layer.origins)
    return layer


def read_mapping(node: yaml.MappingNode, at: KeyPath, path: Path, origins: dict[KeyPath, str]) -> dict[str, Any]:
    """A YAML mapping as a dict; a key that stands twice is an error (PyYAML would keep the last, silently)."""
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, where = str(key_node.value), f"{path}:{key_node.start_mark.line + 1}"
        if key in values:
            first = origins[(*at, key)].rpartition(":")[2]
            raise RecipeError(f"{key!r} is given twice (first on line {first})", where=where, fix="keep one of them")
        origins[(*at, key)] = where
        if isinstance(value_node, yaml.MappingNode):
            values[key] = read_mapping(value_node, (*at, key), path, origins)
        else:
            values[key] = read_value(value_node, where)
    return values


def read_value(node: yaml.Node, where: str) -> Any:
    """A scalar or a list of a recipe; a YAML tag that asks for an object is an error."""
    try:
        return RecipeLoader("").construct_document(node)
    except DoubledKeyError as error:
        raise RecipeError(str(error), where=where, fix="keep one of them") from error
    except yaml.YAMLError as error:
        fix = "write a number, a text, true, null or a list"
        raise RecipeError("not a plain YAML value", where=where, fix=fix) from error


def single_layer(key: str, value: Any, origin: str) -> Layer:
    """A layer that says one thing."""
    path = tuple(key.split("."))
    nested = value
    for part in reversed(path):
        nested = {part: nested}
    return Layer(nested, {path: origin})


def override_layer(text: str) -> Layer:
    """`key.path=value` as a layer; the value is read as YAML (numbers, true, [a, b], null, text)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            "an override has the form KEY=VALUE", where=f"--set {text}", fix="for example --set train.lr=1e-3"
        )
    try:
        parsed = RecipeLoader(value).get_single_data()
    except DoubledKeyError as error:
        raise RecipeError(str(error), where=f"--set {text}", fix="keep one of them") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError("the value is not YAML", where=f"--set {text}", fix="put quotes around it") from error
    return single_layer(key.strip(), parsed, f"--set {text}")


RIVALS = (("steps", "epochs"), ("warmup_steps", "warmup_share"))
"""Fields of `train` that say the same thing in two ways: who says one of them unsays the other of an earlier layer."""


def merge_layers(kind: type[Section], layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """All layers in one; who says `train.steps` unsays `train.epochs` of an earlier layer, and so on."""
    values: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}
    unsaid = {name: None for pair in RIVALS for name in pair} | {"warmup_steps": usual_warmup(kind)}
    for layer in layers:
        said = layer.values.get("train") if isinstance(layer.values.get("train"), dict) else {}
        check_rivals(said or {}, layer.origins, usual=unsaid)
        for one, other in [*RIVALS, *(pair[::-1] for pair in RIVALS)]:
            if said and said.get(one) is not None and other not in said and isinstance(values.get("train"), dict):
                values["train"][other] = unsaid[other]
        merge(values, layer.values, kind, layer.origins)
        origins.update(layer.origins)
    return values, origins


def usual_warmup(kind: type[Section]) -> int:
    """`train.warmup_steps` where a recipe of this kind is silent; 0 of a task file, whose `train` is rows."""
    train = kind.model_fields["train"].default if "train" in kind.model_fields else None
    return int(getattr(train, "warmup_steps", 0))


def check_rivals(said: Mapping[str, Any], origins: Mapping[KeyPath, str], *, usual: Mapping[str, Any]) -> None:
    """Raise where one layer says the same thing in two ways, of which one would count for nothing.

    A recipe as a run saves it has all fields: what is at its default there was not said.
    """
    for one, other in RIVALS:
        if all(said.get(name) not in (None, usual[name]) for name in (one, other)):
            raise RecipeError(
                f"train.{one} and train.{other} are both given, and each says the same in its own way",
                where=origins.get(("train", other)),
                fix="keep one of them",
            )


def merge(
    base: dict[str, Any],
    new: Mapping[str, Any],
    kind: type[Section] | None,
    origins: Mapping[KeyPath, str],
    at: KeyPath = (),
) -> None:
    """Lay `new` over `base`, key by key. Sections are merged, everything else is replaced.

    A mapping of the user's own keys (`data.mix`) is replaced where it is given as a whole, and gets one key more or
    another value where a flag names a key of it (`--set data.mix.corpus=2`).
    """
    for key, value in new.items():
        path, section = (*at, key), None if kind is None else section_of(kind, key)
        if section is not None and value is None:
            continue  # a section in which all is commented out
        is_joined = section is not None or path not in origins
        if isinstance(value, Mapping) and isinstance(base.get(key), dict) and is_joined:
            merge(base[key], value, section, origins, path)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def section_of(kind: type[Section], key: str) -> type[Section] | None:
    """The section that a key of a recipe holds; None where it holds a value."""
    inner = kind.model_fields[key].annotation if key in kind.model_fields else None
    return inner if isinstance(inner, type) and issubclass(inner, Section) else None


def check_keys(
    kind: type[Section], values: Mapping[str, Any], origins: Mapping[KeyPath, str], at: KeyPath = ()
) -> None:
    """Raise for the first key that this kind of recipe does not know, with the nearest one it does."""
    for key, value in values.items():
        path = (*at, key)
        if key not in kind.model_fields:
            where = next((o for p, o in origins.items() if p[: len(path)] == path), None)
            hint = did_you_mean(key, list(kind.model_fields)) or f"known here: {', '.join(kind.model_fields)}"
            raise RecipeError(f"unknown key {'.'.join(path)!r}", where=where, fix=hint)
        section = section_of(kind, key)
        if section is not None and isinstance(value, Mapping):
            check_keys(section, value, origins, path)


UNION_MEMBER = re.compile(r"str|int|float|bool|none|(constrained|literal|list|dict|function)[-\[].*")
"""How pydantic names the types of a field that may be of several."""


def explain(error: ValidationError, origins: Mapping[KeyPath, str]) -> RecipeError:
    """The first thing that pydantic found, in our words: the place, the key, what it must be, what it is."""
    first = error.errors()[0]
    path = tuple(str(part) for part in first["loc"])
    if UNION_MEMBER.fullmatch(path[-1]):  # which of the types that a field may have was meant: no key of the recipe
        path = path[:-1]
    where = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "model_type":  # pydantic would name the class
        message = "a section must hold keys and values"
    return RecipeError(
        f"'{'.'.join(path)}': {message} (got {first['input']!r})",
        where=where,
        fix="give a value that fits; see `llmkit recipe show --fields`",
    )


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """A hint with the nearest known word, or None when none is near."""
    # Underscores and dashes are the usual slip: compare without them.
    plain = {k.replace("_", "").replace("-", ""): k for k in known}
    near = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), list(plain), n=1, cutoff=0.6)
    return f"did you mean {plain[near[0]]!r}?" if near else None


def dump_recipe(recipe: Section) -> str:
    """A resolved recipe as YAML that `load_recipe` reads back to the same recipe."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=RecipeDumper, sort_keys=False, allow_unicode=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flatten({"train": {"lr": 0.1, "track": []}})
    {'train.lr': 0.1, 'train.track': []}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
