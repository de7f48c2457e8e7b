"""The parts of `llmkit compare`: its rows, its methods one after the other, what is kept of them, what is shown."""
