"""A frame as compiled graphs: whole, or cut where the host chooses the text token.

Both ways are made of the same two functions, `hear` (the temporal transformer, up to the text token) and `speak`
(the depth transformer). They are pure: rings, tokens and conditions go in, rings and tokens come out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from .config import ZERO_TOKEN
from .guidance import NO_GUIDANCE, Guidance
from .model.kv_cache import KVCache, LayerCache
from .model.lm import LM, Told
from .sampling import Sampling

SAMPLE = -1
"""As a forced text token: none, sample it."""

Outputs = dict[str, mx.array]
Compiled = Callable[..., Any]


@dataclass(frozen=True)
class FrameLogits:
    """The scores behind a frame, float32, guidance and bonus in them; with a batch axis where the generator has one."""

    text: np.ndarray
    """[text vocabulary]."""
    audio: np.ndarray | None
    """[codebooks, card], those of the column: acoustic codebooks belong to the frame before."""


@dataclass(frozen=True)
class Frame:
    """What one step gives. A generator with batch_size > 1 puts a batch axis in front of everything."""

    text: int | np.ndarray
    """The token of this step, ahead of the audio beside it by the longest delay."""
    audio: np.ndarray | None
    """Codes [codebooks] int32 of the newest complete audio frame; None before, and for models without speech."""
    logits: FrameLogits | None = None
    extra: np.ndarray | None = None
    """Probabilities of the extra heads [heads, extra_heads_dim], for models that have them."""


@dataclass(frozen=True)
class TokenChoice:
    """How tokens are chosen from logits."""

    text: Sampling
    audio: Sampling
    guidance: Guidance = NO_GUIDANCE
    text_bonus: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of single text tokens."""
    codebooks: int = 0
    """How many the depth transformer writes."""


class _Halves:
    """The two functions that a frame is made of. They know nothing of the graphs, so that neither keeps the other."""

    def __init__(self, lm: LM, choice: TokenChoice, batch_size: int):
        self._lm, self._choice, self._batch = lm, choice, batch_size
        bonus = np.zeros(lm.config.text_card_out, np.float32)
        for token, value in choice.text_bonus.items():
            bonus[token] = value
        self._bonus = mx.array(bonus) if choice.text_bonus else None

    def hear(
        self,
        column: mx.array,
        position: mx.array,
        key: mx.array,
        cache: list[LayerCache],
        told: Told,
        full: bool,
        forced: mx.array | None = None,
    ) -> tuple[mx.array, Outputs, mx.array, list[LayerCache]]:
        """The text token [B], scores, the depth transformer's input [rows, dim] and the rings."""
        choice, config = self._choice, self._lm.config
        noise = choice.text.noise((self._batch, config.text_card_out), key)
        heard = self._lm.hear(column, position.astype(mx.int32), cache, full, told)
        scores = choice.guidance.text(heard.text_logits)
        if self._bonus is not None:
            scores = scores + self._bonus.astype(scores.dtype)
        text = choice.text.draw(scores, noise)
        if forced is not None:
            text = mx.where(forced == SAMPLE, text, forced.astype(mx.uint32))
        outputs = {"text_logits": scores}
        if extra := self._lm.extra(heard.hidden[: self._batch] if choice.guidance else heard.hidden):
            outputs["extra"] = mx.stack(extra, axis=1)
        return text, outputs, heard.hidden, heard.cache

    def speak(self, hidden: mx.array, text: mx.array, key: mx.array) -> tuple[mx.array | None, Outputs]:
        """The column's codes [B, codebooks] and their scores; None without a depth transformer."""
        choice, config = self._choice, self._lm.config
        if config.depth is None:
            return None, {}
        guidance = choice.guidance
        noise = choice.audio.noise((choice.codebooks, self._batch, config.card), key)
        scores: list[mx.array] = []

        def choose(step: int, logits: mx.array) -> mx.array:
            scores.append(guidance.audio(logits))
            return guidance.both(choice.audio.draw(scores[-1], None if noise is None else noise[step]))

        tokens, _ = self._lm.depformer(hidden, guidance.both(text), choose, choice.codebooks)
        return tokens[: self._batch] if guidance else tokens, {"audio_logits": mx.stack(scores, axis=1)}


class FrameGraphs:
    """The compiled functions of a generator's frames."""

    def __init__(self, lm: LM, choice: TokenChoice, batch_size: int):
        self._halves = _Halves(lm, choice, batch_size)
        self._config, self._batch, self._rows = lm.config, batch_size, choice.guidance.rows(batch_size)
        self._compiled: dict[tuple[object, ...], Compiled] = {}

    def whole(self, full: bool, logits: bool) -> Compiled:
        """(column, forced text, [step, seed], rings, told) -> (tokens and what else there is, rings)."""
        halves = self._halves

        def frame(
            column: mx.array, forced: mx.array, control: mx.array, cache: list[LayerCache], told: Told
        ) -> tuple[Outputs, list[LayerCache]]:
            text_key, audio_key = mx.random.split(control)
            text, heard, hidden, cache = halves.hear(column, control[0], text_key, cache, told, full, forced)
            audio, spoken = halves.speak(hidden, text, audio_key)
            tokens = text[:, None] if audio is None else mx.concatenate([text[:, None], audio], axis=1)
            return {"tokens": tokens.astype(mx.int32)} | _scores(heard, spoken, logits), cache

        return self._compile(("whole", full, logits), frame)

    def hear(self, full: bool, logits: bool) -> Compiled:
        """(column, [step, seed], rings, told) -> (the text token, the depth transformer's input …, rings)."""
        halves = self._halves

        def begin(
            column: mx.array, control: mx.array, cache: list[LayerCache], told: Told
        ) -> tuple[Outputs, list[LayerCache]]:
            key = mx.random.split(control)[0]
            text, heard, hidden, cache = halves.hear(column, control[0], key, cache, told, full)
            return {"text": text.astype(mx.int32), "hidden": hidden} | _scores(heard, {}, logits), cache

        return self._compile(("hear", full, logits), begin)

    def speak(self, logits: bool) -> Compiled:
        """(the depth transformer's input, text token, [step, seed]) -> the column's codes, and perhaps scores."""
        halves = self._halves

        def finish(hidden: mx.array, text: mx.array, control: mx.array) -> Outputs:
            audio, spoken = halves.speak(hidden, text, mx.random.split(control)[1])
            assert audio is not None
            return {"tokens": audio.astype(mx.int32)} | _scores({}, spoken, logits)

        return self._compile(("speak", logits), finish)

    def compile_ahead(self, cache: KVCache, told: Told, cut: bool) -> None:
        """Trace the frame, whole or cut, for every size of the ring, so that none of it happens in a conversation."""
        config = self._config
        column = mx.full((self._rows, config.num_streams), ZERO_TOKEN, mx.int32)
        text = mx.full((self._batch,), SAMPLE, mx.int32)
        control = mx.array([0, 0], mx.uint32)
        sizes = cache.sizes_ahead()
        for capacity, full in [*((size, False) for size in sizes), (sizes[-1], True)]:
            rings = cache.blank(capacity)
            if not cut:
                self.whole(full, False)(column, text, control, rings, told)
                continue
            outputs, _ = self.hear(full, False)(column, control, rings, told)
            if config.depth is not None:
                self.speak(False)(outputs["hidden"], text, control)

    def _compile(self, key: tuple[object, ...], function: Compiled) -> Compiled:
        if key not in self._compiled:
            self._compiled[key] = mx.compile(function)
        return self._compiled[key]


def _scores(heard: Outputs, spoken: Outputs, logits: bool) -> Outputs:
    """What goes out beside the tokens: extra heads always, logits where they are asked for."""
    found = heard | spoken
    return {name: x.astype(mx.float32) for name, x in found.items() if logits or name == "extra"}
