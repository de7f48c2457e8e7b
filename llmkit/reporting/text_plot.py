"""Curves in a terminal: braille dots, eight to a character, or plain characters where those cannot be shown.

Own code, since what a run ends with must be there always, at every width, and in a log that knows ASCII alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from llmkit.console import COLORS
from llmkit.reporting.plots import Point, finite, short, thin, ticks

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a braille character, by row and column."""

MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What tells several lines apart, with colours or without; from the 27th on they come again."""

LINE_COLORS = ("blue", "yellow", "green", "magenta", "cyan", "red")

GAP = 12
"""Columns between two marks on a line, at least."""


def plot_lines(
    series: Mapping[str, Sequence[Point]],
    *,
    width: int,
    height: int = 12,
    x_label: str,
    y_label: str,
    is_utf8: bool,
    has_colors: bool = False,
) -> str:
    """Lines over a common x axis as text; an empty text when no point is finite.

    Several lines carry a letter each, which the legend explains; a name without points keeps its letter for itself.

    Args:
        series: Name -> points, in the order of x. What is not finite is left out.
        width: Columns of the whole; no line of the text is longer.
        height: Lines of the drawing itself. Labels, legend and axis come besides.
        x_label: What the x axis measures, below it.
        y_label: What the y axis measures, above it.
        is_utf8: Whether braille and box characters can be shown.
        has_colors: Whether escape codes for colours may be used.

    >>> lines = {"loss": [(0, 1), (3, 0)]}
    >>> plot_lines(lines, width=10, height=2, x_label="step", y_label="", is_utf8=False).splitlines()
    ['1 +****', '0 +    ***', '  ++------', '   0  step']
    """
    lines = [finite(points) for points in series.values()]
    xs, ys = [x for points in lines for x, _ in points], [y for points in lines for _, y in points]
    if not xs:
        return ""
    canvas = Canvas(height, is_utf8, x=spread(xs), y=spread(ys, pad=True))
    beside = {canvas.row(y): short(y) for y in ticks(*canvas.y, max(2, height // 3))}
    margin = max(map(len, beside.values())) + 1
    canvas.columns = max(4, width - margin - 1)
    for number, points in enumerate(lines):
        if points:
            canvas.draw(number, thin(points, canvas.columns * canvas.across))
    canvas.mark(len(lines))
    tick, side = "┤│" if is_utf8 else "+|"
    body = [
        f"{beside.get(row, ''):>{margin - 1}} {tick if row in beside else side}{canvas.text(row, has_colors)}".rstrip()
        for row in range(height)
    ]
    head = [y_label[:width]] if y_label else []
    names = {number: name for number, name in enumerate(series) if lines[number]}
    keys = list(legend(names, width, has_colors)) if len(lines) > 1 else []
    numbers = [x for x in ticks(*canvas.x, max(1, canvas.columns // GAP)) if x % 1 == 0 or any(x % 1 for x in xs)]
    return "\n".join([*head, *keys, *body, *x_axis(canvas, numbers, x_label, margin)])


class Canvas:
    """A grid of characters; values between `x` and `y` bounds are drawn as dots, or as letters without braille."""

    def __init__(self, rows: int, is_utf8: bool, *, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.columns, self.rows, self.is_utf8, self.x, self.y = 4, rows, is_utf8, x, y
        self.across, self.down = (2, 4) if is_utf8 else (1, 1)
        self.cells: dict[tuple[int, int], tuple[str, int]] = {}
        """(row, column) -> its character, and the number of the line that was there last."""
        self.tracks: dict[int, dict[int, int]] = {}
        """Number of a line -> column -> the row where it leaves that column."""

    def place(self, point: Point) -> tuple[int, int]:
        """The dot of a point, counted from the upper left."""
        (x0, x1), (y0, y1) = self.x, self.y
        across, down = (point[0] - x0) / (x1 - x0), (y1 - point[1]) / (y1 - y0)
        return round(across * (self.columns * self.across - 1)), round(down * (self.rows * self.down - 1))

    def row(self, y: float) -> int:
        """The line of text on which a value lies."""
        return self.place((self.x[0], y))[1] // self.down

    def column(self, x: float) -> int:
        """The column in which a value lies."""
        return self.place((x, self.y[0]))[0] // self.across

    def draw(self, number: int, points: Sequence[Point]) -> None:
        """Join points with straight lines."""
        places = [self.place(point) for point in points]
        for (x0, y0), (x1, y1) in pairwise([places[0], *places]):
            count = max(abs(x1 - x0), abs(y1 - y0), 1)
            for i in range(count + 1):
                self.dot(number, round(x0 + (x1 - x0) * i / count), round(y0 + (y1 - y0) * i / count))

    def dot(self, number: int, x: int, y: int) -> None:
        """Set one dot."""
        cell = y // self.down, x // self.across
        glyph = "*"
        if self.is_utf8:
            before = ord(self.cells[cell][0]) if cell in self.cells else 0x2800
            glyph = chr(before | DOTS[y % 4][x % 2])
        self.cells[cell] = glyph, number
        self.tracks.setdefault(number, {})[cell[1]] = cell[0]

    def mark(self, count: int) -> None:
        """Put the letters of `count` lines onto them, in turn; without braille a line is nothing but its letter."""
        if count == 1:
            return
        if not self.is_utf8:
            self.cells = {cell: (letter(number), number) for cell, (_, number) in self.cells.items()}
        gap = max(GAP, 2 * count)
        for number, track in self.tracks.items():
            place = gap * number // count
            for column, row in track.items():
                if column % gap == place or column == max(track):
                    self.cells[row, column] = letter(number), number

    def text(self, row: int, has_colors: bool) -> str:
        """One line of the drawing."""
        cells = (self.cells.get((row, column), (" ", -1)) for column in range(self.columns))
        return "".join(colored(glyph, number, has_colors) for glyph, number in cells)


def letter(number: int) -> str:
    """The mark of a line."""
    return MARKS[number % len(MARKS)]


def colored(text: str, number: int, has_colors: bool) -> str:
    """Text in the colour of a line; -1 for that of none."""
    if not has_colors or number < 0:
        return text
    return f"\x1b[{COLORS[LINE_COLORS[number % len(LINE_COLORS)]]}m{text}\x1b[0m"


def spread(values: Sequence[float], *, pad: bool = False) -> tuple[float, float]:
    """The lowest and the highest value; equal ones are set apart, around them with `pad`."""
    low, high = min(values), max(values)
    if low < high:
        return low, high
    gap = abs(low) * 0.05 or 1.0
    return (low - gap, high + gap) if pad else (low, low + gap)


def legend(names: Mapping[int, str], width: int, has_colors: bool) -> Iterator[str]:
    """Which letter stands for which line, in as few lines as it takes."""
    line, length = "", 0
    for number, name in names.items():
        entry = f"{letter(number)} {name}"[:width]
        if length and length + 3 + len(entry) > width:
            yield line
            line, length = "", 0
        line += ("   " if length else "") + colored(entry, number, has_colors)
        length += (3 if length else 0) + len(entry)
    yield line


def x_axis(canvas: Canvas, values: Sequence[float], label: str, margin: int) -> Iterator[str]:
    """The axis below the drawing with those of `values` that there is room for, and what they count at its end."""
    corner, rule, tick = "└─┬" if canvas.is_utf8 else "+-+"
    label = label[: canvas.columns]
    room = canvas.columns - len(label) - 1
    axis, numbers = [rule] * canvas.columns, ""
    for x in values:
        text, column = short(x), canvas.column(x)
        start = max(0, column - len(text) // 2)
        if start >= len(numbers) + (2 if numbers else 0) and start + len(text) <= room:
            axis[column] = tick
            numbers = numbers.ljust(start) + text
    yield " " * margin + corner + "".join(axis)
    yield (" " * (margin + 1) + numbers.ljust(room + 1) + label).rstrip()
