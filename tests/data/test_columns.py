import numpy as np

from llmkit.data.columns import spread_of


def test_numbers_that_are_the_same_but_for_rounding_have_no_spread():
    assert np.full(100, 0.1).std() > 0, "which is why it matters"
    assert spread_of(np.full(100, 0.1)) == 1.0
    assert spread_of(np.array([0.0, 2e-12])) == 1e-12
