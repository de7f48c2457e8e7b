"""How right a free answer is: SQuAD's exact match and F1, numbers at the end of a calculation, ROUGE."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from llmkit.evaluation.rouge import rouge

Grading = Literal["answer", "squad", "number", "rouge"]
"""answer: exact match in normal form, contained, F1. squad: exact match and F1 as SQuAD defines them. number: the
number after `####`, and the last number there is. rouge: ROUGE-1, -2 and -L."""

METRICS: dict[Grading, tuple[str, ...]] = {
    "answer": ("exact_match", "contains", "f1"),
    "squad": ("f1", "exact_match"),
    "number": ("exact_match", "exact_match_flexible"),
    "rouge": ("rougeL", "rouge1", "rouge2"),
}
"""What each gives; the first stands for the others."""

UNANSWERABLE = "unanswerable"
"""What says that a text holds no answer (SQuAD 2)."""

PLAIN_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\$?(?P<minus>-?)"
    r"(?P<digits>(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?)\.?"
)
"""A number in digits: commas stand between thousands; a currency sign and a final full stop are no part of it."""
STRICT_NUMBER = re.compile(r"#### (-?[0-9.,]+)")
ANY_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def grade(grading: Grading, text: str, references: Sequence[str]) -> dict[str, float]:
    """The scores of a text against the accepted answers, by metric."""
    graders = {"answer": score_answer, "squad": score_squad, "number": score_number, "rouge": rouge}
    return graders[grading](text, references)


def score_answer(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """exact_match, contains and f1 against the best of the accepted answers."""
    said = normalise(prediction)
    accepted = [normalise(reference) for reference in references]
    return {
        "exact_match": float(any(is_same(prediction, reference) for reference in references)),
        "contains": float(any(f" {reference} " in f" {said} " for reference in accepted if reference)),
        "f1": max((word_f1(said, reference) for reference in accepted), default=0.0),
    }


def score_squad(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """exact_match and f1 by the definition of SQuAD; an empty reference means that there is no answer."""
    said = normalise(prediction)
    said = "" if said == UNANSWERABLE else said
    accepted = [normalise(reference) for reference in references]
    return {
        "exact_match": float(said in accepted),
        "f1": max(word_f1(said, reference) for reference in accepted),
    }


def score_number(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """exact_match of the number after `####`, and of the last number in the text, as lm-evaluation-harness reads them.

    The first asks for the form of the shots too, the second for the number alone.
    """
    strict, found = STRICT_NUMBER.search(prediction), ANY_NUMBER.findall(prediction)
    accepted = {plain_number(reference) for reference in references}
    return {
        "exact_match": float(strict is not None and plain_number(strict[1]) in accepted),
        "exact_match_flexible": float(bool(found) and plain_number(found[-1]) in accepted),
    }


def plain_number(text: str) -> str:
    """A number without currency sign, thousands' commas and a final full stop."""
    return text.strip().replace(",", "").replace("$", "").removesuffix(".")


def is_same(prediction: str, reference: str) -> bool:
    """Whether two answers are the same: as numbers where the reference is one, else in their normal form."""
    number = as_number(reference)
    if number is not None:
        return as_number(prediction) == number
    wanted = normalise(reference)
    # An answer such as "A" or "-" has no normal form: nothing must not pass for it.
    return normalise(prediction) == wanted if wanted else prediction.strip().lower() == reference.strip().lower()


def as_number(text: str) -> Decimal | None:
    """The number that a text is and nothing else, however many digits it has."""
    match = PLAIN_NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    value = Decimal(match["digits"].replace(",", ""))
    return -value if "-" in match["sign"] + match["minus"] else value


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, without punctuation and articles, single spaces."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(prediction: str, reference: str) -> float:
    """F1 over the bags of words of two normalised texts."""
    said, wanted = prediction.split(), reference.split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))
