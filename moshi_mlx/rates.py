"""The clock that everything here runs by: frames of 80 ms, 12.5 a second, of sound at 24 kHz."""

from __future__ import annotations

SAMPLE_RATE = 24_000
"""Samples per second on the model's side; devices and files may have any rate."""

FRAME_RATE = 12.5
"""Frames per second, and so text tokens and columns of codes."""

FRAME_SIZE = 1_920
"""Samples of a frame: what one step of the model hears, and what it says."""

FRAME_S = 0.08
"""Seconds of a frame: what one step may take in a conversation."""
