"""The checks of `llmkit verify`: small functions of a case, which say what they found and how far off it may be."""
