"""Checkpoints: finding, inspecting and loading them, and the built-in model."""
