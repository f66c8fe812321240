"""Whether echo is cancelled now: where the speaker is heard by the microphone, and not where it is worn on the ears.

Follows the devices of a conversation as they come and go. Knows no stream.
"""

from __future__ import annotations

import numpy as np

from .devices import Device, is_worn
from .echo import EchoCanceller


class EchoSwitch:
    """An echo canceller that is on or off.

    Args:
        canceller: does the work.
        always: keep it on whatever the speaker is.
    """

    def __init__(self, canceller: EchoCanceller, always: bool = False) -> None:
        self.on = True
        self._canceller, self._always = canceller, always
        self._speaker: str | None = None

    @property
    def reduction_db(self) -> float | None:
        """Echo return loss enhancement in dB; None while it is off, and before any echo."""
        return self._canceller.reduction_db if self.on else None

    def hear(self, speaker: Device) -> str | None:
        """Learn which speaker was opened; a sentence for the user where that switches it on or off.

        What was learned of the room is forgotten: the echo of another speaker, or of the same one opened again,
        takes another path.
        """
        first, self._speaker = self._speaker is None, speaker.name
        if not first:
            self._canceller.reset()
        before, self.on = self.on, self._always or not is_worn(speaker)
        return None if first or before == self.on else self.sentence()

    def sentence(self) -> str:
        """Which of the two it is, and why."""
        if self._always:
            return "echo cancellation is on: as you asked"
        why = "is heard by the microphone" if self.on else "is worn on the ears"
        option = "--no-echo-cancellation turns it off" if self.on else "--echo-cancellation turns it on"
        return f"echo cancellation is {'on' if self.on else 'off'}: {self._speaker} {why} ({option})"

    def cancel(self, mic: np.ndarray, played: np.ndarray) -> np.ndarray:
        """A frame [1920] of the microphone without what was `played`; as it is while the switch is off."""
        return self._canceller.cancel(mic, played) if self.on else mic
