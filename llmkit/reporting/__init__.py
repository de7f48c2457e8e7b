"""Reporting: plots and the self-contained page."""
