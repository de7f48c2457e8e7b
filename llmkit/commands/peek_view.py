"""What `llmkit peek` found, for a terminal: a text in colours and its hardest places; or a line for each token."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from llmkit.commands.terminal import is_utf8, widths, write_table, write_text
from llmkit.console import for_terminal, has_colors, paint, say, terminal_width, write

LEVELS = ((1.0, ("dim",)), (4.0, ()), (8.0, ("yellow",)), (12.0, ("magenta",)), (float("inf"), ("red", "bold")))
"""Up to how many bits of surprise a token is painted how."""

DECISIVE_BITS = 1.0
"""A difference of fewer bits is not painted."""

NUM_CONTEXT = 16
"""Characters shown before a place."""

MOST_DEPTHS = 16
"""Layers shown; of more, some are left out."""

NUM_LENS_PLACES = 3
SHADES = " ░▒▓█"
PLAIN_SHADES = " .:*#"


def show(document: dict[str, Any], places: int) -> None:
    """Everything that was asked for, on stdout; how to read it, on stderr."""
    if "compare" in document:
        show_comparison(document, places)
    else:
        show_text(document, places)
    for name, view in (("next", show_next), ("layers", show_layers), ("attention", show_attention)):
        if name in document:
            write("")
            view(document)


def show_text(document: dict[str, Any], places: int) -> None:
    """The text by surprise and its hardest places; without colours all tokens; the sums."""
    tokens = document["tokens"]
    shown, is_painted = list(range(len(tokens))), has_colors(sys.stdout)
    if is_painted:
        say(legend())
        write_text("".join(paint_surprise(t) for t in tokens))
        write("")
        shown = sorted(shown, key=lambda i: -tokens[i]["surprise"])[:places]

    def table_of(likelier: int) -> list[list[str]]:
        table = [HEADERS, *(row_of(tokens[i], likelier) for i in shown)]
        before = ["after", *(context_of(document, i) for i in shown)]
        return [[name, *row] for name, row in zip(before, table, strict=True)] if is_painted else table

    headers, *rows = largest_table(table_of, len(tokens[0]["alternatives"]), spare=SPARE)
    write_table(headers, rows, spare=SPARE)
    write("")
    write_text(sum_up(document["summary"]))


HEADERS = ["token", "id", "probability", "rank", "bits", "entropy", "likelier here"]
SPARE = ["id", "entropy"]


def largest_table(
    table_of: Callable[[int], list[list[str]]], most: int, *, spare: Sequence[str] = ()
) -> list[list[str]]:
    """The table with as many things as the terminal has room for: half of a number says nothing.

    Args:
        table_of: Makes the table, headers first, with so many things.
        most: Things.
        spare: Headers of columns that may be left out.
    """
    for count in range(most, 1, -1):
        table = table_of(count)
        sizes = [size for size, name in zip(widths(table), table[0], strict=True) if name not in spare]
        if not sys.stdout.isatty() or sum(sizes) + 2 * (len(sizes) - 1) <= terminal_width():
            return table
    return table_of(1)


def row_of(token: dict[str, Any], likelier: int | None = None) -> list[str]:
    """A token with its numbers, and what the model would rather have had there: all that was kept, or so many."""
    instead = [a for a in token["alternatives"] if a["id"] != token["id"]][:likelier]
    return [
        quote(token["token"]),
        str(token["id"]),
        percent(token["probability"]),
        f"{token['rank']:,}",
        f"{token['surprise']:.2f}",
        f"{token['entropy']:.2f}",
        ", ".join(f"{quote(a['token'])} {percent(a['probability'])}" for a in instead),
    ]


def paint_surprise(token: dict[str, Any]) -> str:
    """A token's stretch of the text in the colour of its surprise."""
    styles = next(styles for limit, styles in LEVELS if token["surprise"] < limit)
    return painted(token["text"], styles if token["counted"] else ("dim",))


def painted(text: str, styles: Sequence[str]) -> str:
    """Text made safe for the terminal, in these styles."""
    safe = for_terminal(text)
    return paint(safe, *styles, stream=sys.stdout) if styles and safe else safe


def legend() -> str:
    """What the colours mean."""
    limits = [limit for limit, _ in LEVELS[:-1]]
    names = [f"below {limits[0]:g} bit", *(f"below {limit:g}" for limit in limits[1:]), f"{limits[-1]:g} and more"]
    return "surprise: " + "  ".join(paint(n, *s) if s else n for n, (_, s) in zip(names, LEVELS, strict=True))


def sum_up(summary: dict[str, Any]) -> str:
    """The sums in a sentence."""
    tokens, right = summary["num_tokens"], summary["first_guesses"]
    return (
        f"{tokens:,} token{'s' * (tokens != 1)}, {summary['num_bytes']:,} bytes, {summary['bits']:.1f} bits: "
        f"{summary['bits_per_byte']:.4f} bits per byte; {right:,} of {tokens:,} first guesses were right"
    )


def context_of(document: dict[str, Any], index: int) -> str:
    """The end of the text before a token."""
    before = "".join(token["text"] for token in document["tokens"][max(0, index - NUM_CONTEXT) : index])
    return quote(before[-NUM_CONTEXT:]) if before else document["context"]


def quote(text: str) -> str:
    """Text between quotation marks, on one line, all that is not seen written out."""
    return "'" + "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text) + "'"


def percent(share: float) -> str:
    """A probability as people read it."""
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.1g}%"


def show_comparison(document: dict[str, Any], places: int) -> None:
    """The text by who found it easier, where the two differ most, the sums of both."""
    other = document["compare"]
    stretches = other["stretches"]
    name, other_name = document["model"], other["model"]
    if has_colors(sys.stdout):
        say(f"{paint(name, 'blue')} or {paint(other_name, 'yellow')}: who found it easier by {DECISIVE_BITS:g} bit")
        write_text("".join(painted(s["text"], side_of(s)) for s in stretches))
        write("")
        stretches = sorted(stretches, key=lambda s: -abs(s["other_bits"] - s["bits"]))[:places]
    rows = [
        [quote(s["text"]), *(f"{value:.2f}" for value in (s["bits"], s["other_bits"], s["other_bits"] - s["bits"]))]
        for s in stretches
    ]
    write_table(["text", "bits", "bits of other", "gain"], rows)
    write("")
    write_text(f"{name}: {sum_up(document['summary'])}")
    write_text(f"{other_name}: {sum_up(other['summary'])}")


def side_of(stretch: dict[str, Any]) -> Sequence[str]:
    """The colour of the model that found a stretch easier; none where it hardly matters."""
    gain = stretch["other_bits"] - stretch["bits"]
    if abs(gain) < DECISIVE_BITS:
        return ()
    return ("blue",) if gain > 0 else ("yellow",)


def show_next(document: dict[str, Any]) -> None:
    """The likeliest next tokens, a column for each stage of sampling."""
    found = document["next"]
    rows = [
        [quote(token["token"]), *(percent(p) if p > 0 else "" for p in token["probabilities"])]
        for token in found["tokens"]
    ]
    rows.append(["tokens that can be drawn", *(f"{stage['kept']:,}" for stage in found["stages"])])
    write_table(["next", *(stage["name"] for stage in found["stages"])], rows)
    write_text(f"entropy of the guess: {found['entropy']:.2f} bits")


def show_layers(document: dict[str, Any]) -> None:
    """The guess of each layer at the hardest places and after the text, beside the share of what stands there."""
    from llmkit.reporting.plots import spread

    tokens, depths = document["tokens"], document["layers"]
    hardest = sorted(range(len(tokens)), key=lambda i: -tokens[i]["surprise"])

    def table_of(places: int) -> list[list[str]]:
        columns = [*sorted(hardest[:places]), len(tokens)]
        names = ["next" if i == len(tokens) else quote(tokens[i]["token"]) for i in columns]
        rows = [
            ["embeddings" if depth == 0 else f"layer {depth - 1}", *(lens_cell(depths[depth][i]) for i in columns)]
            for depth in spread(range(len(depths)), MOST_DEPTHS)
        ]
        return [["in the place of", *names], *rows]

    headers, *rows = largest_table(table_of, NUM_LENS_PLACES)
    write_table(headers, rows)
    write_text(
        "each cell: the layer's guess there and, behind the slash, the probability of the token that stands there"
    )


def lens_cell(guess: dict[str, Any]) -> str:
    """A layer's guess in a cell."""
    own = "" if guess["own"] is None else f" / {percent(guess['own'])}"
    return f"{quote(guess['token'])} {percent(guess['probability'])}{own}"


def show_attention(document: dict[str, Any]) -> None:
    """A map of who looks where: a row for each token, a shade for each that it looks at, and the strongest by name."""
    found = document["attention"]
    names = [document["context"], *(token["token"] for token in document["tokens"])]
    width = max(len(quote(name)) for name in names)
    room = max(4, (terminal_width() if sys.stdout.isatty() else 120) - 2 * width - 14)
    first = max(0, len(names) - room)
    if first:
        say(f"attention: the last {room} of {len(names)} tokens")
    write_text(f"attention of layer {found['layer']}, head {found['head']}: rows look at columns, in the same order")
    for name, row in list(zip(names, found["weights"], strict=True))[first:]:
        best = max(range(len(row)), key=row.__getitem__)
        cells = "".join(shade(value) for value in row[first:]).ljust(len(names) - first)
        write_text(f"{quote(name).rjust(width)} |{cells}| {percent(row[best])} {quote(names[best])}")


def shade(weight: float) -> str:
    """A sign for a share of attention; half of it or more is full."""
    signs = SHADES if is_utf8() else PLAIN_SHADES
    return signs[min(len(signs) - 1, round(weight * 2 * (len(signs) - 1)))]
