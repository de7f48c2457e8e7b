"""Streams of text within a budget."""

from llmkit.console import Progress
from llmkit.data.budget import BudgetedTexts, Sample
from llmkit.data.document import Document


def test_a_sample_stays_within_its_budget_and_covers_the_stream():
    sample = Sample(budget=100)
    for i in range(1000):
        sample.add(f"{i:010d}")
    numbers = [int(text) for text in sample.texts]
    assert sample.size <= 100
    assert numbers == list(range(0, 1000, sample.stride))


def test_text_beyond_the_budget_is_thinned_out_to_the_end():
    documents = [Document("x" * 10, str(i)) for i in range(1000)]
    with Progress("reading") as progress:
        feed = BudgetedTexts(progress, Sample(), budget=2000)
        kept = list(feed.texts(documents))
    assert feed.num_documents == 1000
    assert 1500 <= feed.num_kept == 10 * len(kept) <= 2000
