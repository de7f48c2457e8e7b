"""Training: the one loop, its optimizer, its checkpoints and its run folder."""
