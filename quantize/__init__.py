"""Quantizing checkpoints, and saying what it cost."""
