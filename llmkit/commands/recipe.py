"""`llmkit recipe`: the recipes that come along, what can stand in one, and whether one is sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.commands.options import AsJson
from llmkit.console import format_table, paint, say, write, write_json
from llmkit.errors import RecipeError, UsageError

if TYPE_CHECKING:
    from llmkit.recipe.schema import Section

app = typer.Typer(
    name="recipe",
    help="Recipes: YAML files that describe a training run.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A file, or a name that `llmkit recipe list` shows.", show_default=False)
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the recipes that come with llmkit: name, verb, what it makes.

    \b
    Examples:
      llmkit recipe list
      llmkit pretrain NAME --data data --output run
    """
    from llmkit.recipe.load import list_recipes, recipe_kind

    recipes = [
        {"name": name, "kind": recipe_kind(path), "about": first_comment(path), "path": str(path)}
        for name, path in list_recipes().items()
    ]
    if as_json:
        write_json({"recipes": recipes})
    else:
        write(format_table(["name", "kind", "about"], [[r["name"], r["kind"], r["about"]] for r in recipes]))


@app.command("show")
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="A recipe; with --fields a kind: pretrain, finetune, baseline.", show_default=False
        ),
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Every field with its default and meaning.")] = False,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With all defaults filled in, as a run records it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a recipe, or all that can stand in one.

    \b
    Examples:
      llmkit recipe show tiny/pretrain
      llmkit recipe show tiny/pretrain --resolved
      llmkit recipe show --fields
      llmkit recipe show --fields finetune
    """
    if fields:
        show_fields(name, as_json=as_json)
        return
    if name is None:
        raise UsageError(
            "there is no recipe to show", where="NAME", fix="see `llmkit recipe list`, or ask for --fields"
        )
    from llmkit.recipe.load import dump_recipe, find_recipe, load_recipe, recipe_kind
    from llmkit.recipe.schema import RECIPES

    path = find_recipe(name)
    if not as_json and not resolved:
        write(path.read_text(encoding="utf-8"), end="")
        return
    kind = recipe_kind(path)
    recipe = load_recipe(RECIPES[kind], path)
    if as_json:
        write_json({"name": name, "kind": kind, "path": str(path), "recipe": recipe.model_dump(mode="json")})
    else:
        write(dump_recipe(recipe), end="")


@app.command("copy")
def copy(
    name: NameArgument,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Where to; the recipe's own file name if not given.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a recipe, or a configuration of `accelerate launch`, to change it.

    \b
    Examples:
      llmkit recipe copy tiny/pretrain mine.yaml
      llmkit pretrain mine.yaml --data data --output run
      llmkit recipe copy accelerate/fsdp
    """
    from llmkit.files import write_file
    from llmkit.recipe.load import find_recipe, list_launchers

    launcher = list_launchers().get(name)
    source = launcher or find_recipe(name)
    target = file or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        fix = "choose another file: llmkit recipe copy NAME FILE"
        raise UsageError("this file exists, and nothing already there is overwritten", where=str(target), fix=fix)
    write_file(target, source.read_bytes())
    if as_json:
        write_json({"name": name, "file": str(target)})
    else:
        use = f"accelerate launch --config_file {target} -m llmkit ..." if launcher else f"llmkit recipe check {target}"
        say(f"{target}: change it, then `{use}`")


@app.command("check")
def check(
    files: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="Files, or names that `llmkit recipe list` shows.", show_default=False),
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Check with this field changed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check recipes: every key known, every value of its type. What is wrong is named by file and line (exit code 2).

    \b
    Examples:
      llmkit recipe check mine.yaml
      llmkit recipe check mine.yaml --set train.lr=1e-3
      llmkit recipe check recipes/*/*.yaml
    """
    from llmkit.recipe.load import find_recipe, load_recipe, recipe_kind
    from llmkit.recipe.schema import RECIPES

    results: list[dict[str, Any]] = []
    errors: list[RecipeError] = []
    for name in files:
        try:
            path = find_recipe(name)
            kind = recipe_kind(path)
            load_recipe(RECIPES[kind], path, set_ or [])
        except RecipeError as error:
            errors.append(error)
            found = {"where": error.where, "message": error.message, "fix": error.fix}
            results.append({"file": name, "kind": None, "ok": False, "error": found})
        else:
            results.append({"file": name, "kind": kind, "ok": True, "error": None})
            if not as_json:
                write(f"{name}: ok ({kind})")
    if as_json:
        write_json({"recipes": results})
    report(errors, num_files=len(files))


def report(errors: list[RecipeError], *, num_files: int) -> None:
    """Raise the error there is; of several, say all but leave with one."""
    if len(errors) == 1:
        raise errors[0]
    for error in errors:
        say(f"{paint('error:', 'red', 'bold')} {error}")
    if errors:
        raise RecipeError(f"{len(errors)} of {num_files} recipes are not sound", fix="mend what is named above")


def first_comment(path: Path) -> str:
    """The first line of a recipe that says something to people."""
    with path.open(encoding="utf-8") as file:
        comments = (line.strip("# \n") for line in file if line.startswith("#"))
        return next((line for line in comments if line), "")


def show_fields(kind: str | None, *, as_json: bool) -> None:
    """Every field of a kind of recipe, or of all kinds, by its dotted name."""
    from llmkit.recipe.load import did_you_mean
    from llmkit.recipe.schema import RECIPES

    if kind is not None and kind not in RECIPES:
        fix = did_you_mean(kind, list(RECIPES)) or f"one of {', '.join(RECIPES)}"
        raise UsageError(f"there is no kind of recipe {kind!r}", where="--fields", fix=fix)
    kinds = {name: list(walk_fields(section)) for name, section in RECIPES.items() if kind in (None, name)}
    if as_json:
        write_json({"kinds": kinds})
        return
    for number, (name, fields) in enumerate(kinds.items()):
        write(f"{'' if number == 0 else chr(10)}kind: {name}")
        for field in fields:
            shown = paint_out(field["field"], "bold")
            write(f"\n  {shown}  ({field['type']}, default {field['default']})\n      {field['description']}")


def paint_out(text: str, style: str) -> str:
    """Text for stdout, coloured where that is a terminal."""
    import sys

    return paint(text, style, stream=sys.stdout)


def walk_fields(section: type[Section], at: str = "", values: Section | None = None) -> Iterator[dict[str, str]]:
    """Each field of a recipe and of the sections in it, with the default that holds in this place."""
    import json

    from llmkit.recipe.schema import Section

    values = values or section()
    for name, info in section.model_fields.items():
        kind, value = info.annotation, getattr(values, name)
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from walk_fields(kind, f"{at}{name}.", value)
        else:
            yield {
                "field": f"{at}{name}",
                "type": type_name(kind, info.metadata),
                "default": "none" if value is None else json.dumps(value, ensure_ascii=False),
                "description": info.description or "",
            }


def type_name(annotation: Any, metadata: list[Any]) -> str:
    """A type as people say it: the choices of a Literal, none for None, bounds where there are some."""
    import types
    from datetime import date
    from typing import Literal, Union, get_args, get_origin

    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0], [*metadata, *arguments[1:]])
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(a, [] if a is type(None) else metadata) for a in arguments)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0], [])}"
    if origin is dict:
        return "mapping"
    names = {int: "whole number", float: "number", str: "text", bool: "true|false", date: "date", type(None): "none"}
    bounds = [f"{sign} {value}" for info in metadata for sign, value in bounds_of(info)]
    return " ".join([names.get(annotation, str(annotation)), *bounds])


def bounds_of(info: Any) -> Iterator[tuple[str, Any]]:
    """The limits that a pydantic constraint sets."""
    nested = getattr(info, "metadata", None)
    for part in nested if isinstance(nested, list) else [info]:
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            value = getattr(part, name, None)
            if value is not None:
                yield sign, value
