"""The conversation in real time: the audio path, the echo canceller, the loop and what is kept of it.

Everything here counts in frames of 80 ms. Nothing here draws on a terminal.
"""

from __future__ import annotations

SAMPLE_RATE = 24_000
"""Samples per second on the model's side; devices may run at any rate."""

FRAME_SAMPLES = 1_920
"""Samples of one frame: 80 ms, what one step of the model hears and says."""
