"""Transcribing live: the stages of a conversation in which the model only listens.

They run as any conversation's stages do, in the same threads; what is decoded is silence. The transcript gathers
here, so that nothing is lost however seldom somebody looks. Knows no device and no terminal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from ..generator import Frame, Generator
from ..moshi import Moshi
from ..pipeline import Stages
from ..rates import FRAME_SIZE
from ..sampling import Sampling
from .transcription import GREEDY, Heard, Scribe, SttTiming, Transcript, pause_of


class Listening(Stages):
    """A transcript in the making. All but `encode` belongs to the thread that loaded the model.

    Args:
        moshi: a model that listens.
        sampling: how the words are drawn.
        seed: for the sampling.
    """

    def __init__(self, moshi: Moshi, sampling: Sampling = GREEDY, seed: int = 0):
        super().__init__(moshi.encoder(), Generator(moshi.lm, text_sampling=sampling, seed=seed), decoder=None)
        self.heard: deque[Heard] = deque()
        """What each frame brought, until somebody takes it out."""
        self.missed: Callable[[], int] = lambda: 0
        """Tells how many frames have passed unheard until now: they move the times of what follows."""
        self._timing = SttTiming.of(moshi.config)
        self._scribe = Scribe(moshi.text, self._timing)
        self._frames = 0

    @property
    def delay(self) -> float:
        """Seconds that the text is behind the sound."""
        return self._timing.delay

    @property
    def transcript(self) -> Transcript:
        """All that was said so far."""
        return self._scribe.transcript

    def warm_up(self) -> None:
        """Let the model hear the silence that it wants before the first sound."""
        super().warm_up()
        self._hear_silence(self._timing.prefix)

    def think(self, codes: np.ndarray) -> tuple[int, np.ndarray | None]:
        """Codes of a frame -> text token; what it brought goes to `heard` and to the transcript."""
        frame = self._timed("lm", lambda: self.generator.step(codes))
        self._take(frame)
        return int(frame.text), None

    def finish(self) -> None:
        """Let the model tell the last words, which it is still behind."""
        frames = self._frames + self.missed()
        self._scribe.end(FRAME_SIZE * (frames - self._timing.prefix))
        self._hear_silence(self._timing.flush)
        self.heard.append(self._scribe.flush(frames + self._timing.flush))

    def _hear_silence(self, frames: int) -> None:
        for _ in range(frames):
            self._take(self.generator.step(self.encoder.encode(np.zeros(FRAME_SIZE, np.float32))))

    def _take(self, frame: Frame) -> None:
        token, pause = int(frame.text), pause_of(frame.extra)
        self.heard.append(self._scribe.push(token, self._frames + self.missed(), pause))
        self._frames += 1
