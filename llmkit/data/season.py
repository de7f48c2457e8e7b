"""Dates of a series, their step, and after how many steps the series repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np

from llmkit.data.columns import as_number

DATE_FORMATS = ("%Y-%m", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%Y %H:%M")
"""Beside all that ISO 8601 allows. Days and months that could change places (1/2/2024) are not read as dates."""
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
STEPS = (
    (HOUR, "an hour", (24, 168)),
    (DAY, "a day", (7, 365)),
    (7 * DAY, "a week", (52,)),
    (MINUTE, "a minute", (60, 1440)),
    (10 * MINUTE, "10 minutes", (144,)),
    (15 * MINUTE, "15 minutes", (96, 672)),
    (30 * MINUTE, "30 minutes", (48, 336)),
)
MONTHS = {1: ("a month", (12,)), 3: ("a quarter", (4,)), 12: ("a year", ())}
MONTH_LENGTHS = (timedelta(days=28), timedelta(days=31))
LEAST_CORRELATION = 0.3
"""A series repeats after a lag where its correlation with itself has a peak this high."""
NEARLY = 0.9
MOST_STEPS_BACK = 2000


@dataclass(frozen=True)
class Calendar:
    """The dates of a series: their column, the usual step in words, seasons of such a step, and what is odd."""

    column: str
    dates: list[datetime]
    step: str
    seasons: tuple[int, ...]


def read_date(value: Any) -> datetime | None:
    """A date, or a date with a time; None for anything else, numbers included."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if hasattr(value, "year") and hasattr(value, "month") and hasattr(value, "day"):
        return datetime(value.year, value.month, value.day)
    if not isinstance(value, str) or as_number(value) is not None:
        return None
    text = value.strip()
    for pattern in (None, *DATE_FORMATS):
        try:
            date = datetime.fromisoformat(text) if pattern is None else datetime.strptime(text, pattern)
        except ValueError:
            continue
        return date.replace(tzinfo=None)
    return None


def find_calendar(columns: Sequence[tuple[str, Sequence[Any]]]) -> Calendar | None:
    """The first column that holds a date in each row, and the step between them."""
    for name, values in columns:
        if not values or read_date(values[0]) is None or read_date(values[-1]) is None:
            continue
        dates = [date for value in values if (date := read_date(value)) is not None]
        if len(dates) == len(values):
            step, seasons = find_step(sorted(dates))
            return Calendar(name, dates, step, seasons)
    return None


def find_step(dates: Sequence[datetime]) -> tuple[str, tuple[int, ...]]:
    """The most frequent step of dates in order, in words, and the seasons of such a step."""
    gaps = Counter(after - before for before, after in pairwise(dates))
    months = Counter(
        (after.year - before.year) * 12 + after.month - before.month
        for before, after in pairwise(dates)
        if before.day == after.day and before.time() == after.time()
    )
    if not gaps:
        return "unknown", ()
    usual, count = gaps.most_common(1)[0]
    if months and months.most_common(1)[0][1] > count:
        number = months.most_common(1)[0][0]
        return MONTHS.get(number, (f"{number} months", ()))
    for step, name, seasons in STEPS:
        if usual == step:
            return name, seasons
    return str(usual), ()


def count_odd_steps(dates: Sequence[datetime]) -> tuple[int, int]:
    """(steps over twice as long as the usual one, dates that stand there again) of dates in order."""
    gaps = [(after - before).total_seconds() for before, after in pairwise(dates)]
    usual = float(np.median(gaps)) if gaps else 0.0
    return sum(gap > 2 * usual for gap in gaps), sum(gap == 0 for gap in gaps)


def seasonal_error(values: np.ndarray, season: int, horizon: int) -> float:
    """Mean absolute error of the seasonal-naive forecast of values (T,)."""
    back = lag_of(season, horizon)
    return float(np.abs(values[back:] - values[:-back]).mean()) if len(values) > back else float("inf")


def lag_of(season: int, horizon: int) -> int:
    """How far back the last value of the same place in the season lies that is known `horizon` steps ahead."""
    return season * -(-horizon // season)


def choose_season(values: np.ndarray, seasons: Sequence[int], horizon: int) -> tuple[int, str]:
    """After how many steps values (T,) repeat, and by what that was found; 0 where they do not.

    Of the seasons of the dates' step and the highest peak of the autocorrelation, the one whose seasonal-naive forecast
    errs least.
    """
    peak = autocorrelation_peak(values)
    able = [season for season in dict.fromkeys([*seasons, peak]) if season and 2 * season <= len(values)]
    if not able:
        return 0, "no season is known from the dates, and the series does not repeat itself"
    best = min(able, key=lambda season: seasonal_error(values, season, horizon))
    source = "the step of the dates" if best in seasons else "the series' correlation with itself"
    others = f", better than {', '.join(str(s) for s in able if s != best)}" if len(able) > 1 else ""
    return best, f"{source}{others}"


def autocorrelation_peak(values: np.ndarray) -> int:
    """The lag of the highest peak of the autocorrelation of values (T,) beyond its first fall; 0 where there is none.

    A straight line is taken out first: what only rises does not repeat.
    """
    count = len(values)
    if count < 8:
        return 0
    time = np.arange(count)
    residual = values - np.polyval(np.polyfit(time, values, 1), time)
    most = min(count // 2, MOST_STEPS_BACK)
    size = 1 << (2 * count - 1).bit_length()
    power = np.abs(np.fft.rfft(residual, size)) ** 2
    correlation = np.fft.irfft(power, size)[: most + 1]
    if correlation[0] <= 1e-12 * max(1.0, float(np.square(values).sum())):
        return 0
    correlation = correlation / correlation[0] * count / (count - np.arange(most + 1))
    inner = correlation[1:-1]
    peaks = np.flatnonzero((inner > correlation[:-2]) & (inner >= correlation[2:]) & (inner > LEAST_CORRELATION)) + 1
    peaks = peaks[peaks > 1]
    # Multiples of a season are peaks as well: the first that is about as high as the highest is the season.
    return int(peaks[correlation[peaks] >= NEARLY * correlation[peaks].max()][0]) if len(peaks) else 0
