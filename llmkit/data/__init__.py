"""Data: text on its way to tensors."""
