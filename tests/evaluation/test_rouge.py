import random

import pytest

from llmkit.evaluation.rouge import longest_common, rouge

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A quick fox jumped over a lazy dog, and the dog didn't mind.",
    "#Person1# asks Dr. O'Neil about the 3.5% rise; he's well-informed!",
    "the the the the",
    "dog",
    "Käse und Brötchen, naïve café — 25€",
    "我们今天去公园",
    "",
    "...",
]


def test_rouge_is_worked_out_by_hand():
    # said: a b c d (4 words), wanted: a c d e b (5). Words shared: a b c d = 4, so 8 / 9. Pairs: ab bc cd against
    # ac cd de eb: 1 shared of 3 and 4, so 2 / 7. Longest in order: a c d = 3, so 6 / 9.
    assert rouge("a b c d", ["a c d e b"]) == pytest.approx({"rouge1": 8 / 9, "rouge2": 2 / 7, "rougeL": 6 / 9})


def test_each_metric_takes_the_reference_that_suits_it_best():
    found = rouge("b a", ["a b", "b x a"])
    # Words: all of "a b". In order: b ... a of the second, 2 * 2 / (2 + 3).
    assert (found["rouge1"], found["rouge2"], found["rougeL"]) == pytest.approx((1, 0, 4 / 5))


def test_the_longest_common_sequence_is_that_of_all_subsequences():
    def slowly(a, b):
        if not a or not b:
            return 0
        return slowly(a[1:], b[1:]) + 1 if a[0] == b[0] else max(slowly(a[1:], b), slowly(a, b[1:]))

    generator = random.Random(0)
    for _ in range(30):
        a, b = (generator.choices("xyz", k=generator.randrange(8)) for _ in range(2))
        assert longest_common(a, b) == slowly(a, b)


def test_rouge_equals_the_rouge_score_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    generator = random.Random(1)
    words = " ".join(TEXTS).split()
    texts = [*TEXTS, *(" ".join(generator.choices(words, k=generator.randrange(1, 40))) for _ in range(20))]
    for said in texts:
        for wanted in texts:
            known = {name: score.fmeasure for name, score in scorer.score(wanted, said).items()}
            assert rouge(said, [wanted]) == pytest.approx(known, abs=1e-12)
        pair = texts[:2]
        best = {name: score.fmeasure for name, score in scorer.score_multi(pair, said).items()}
        assert rouge(said, pair) == pytest.approx(best, abs=1e-12)
