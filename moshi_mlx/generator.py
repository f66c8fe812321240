"""The frame loop: the user's codes in, Moshi's text and audio tokens out, 12.5 times a second.

A frame is one compiled graph with the rings as inputs and outputs, so that they are updated in place, and one
wait on the device. All of it belongs to the thread that made the generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .config import ZERO_TOKEN
from .errors import MoshiError
from .model.kv_cache import KVCache, LayerCache
from .model.lm import LM
from .sampling import AUDIO_SAMPLING, TEXT_SAMPLING, Sampling
from .streams import StreamGrid, check_codes

SAMPLE = -1
"""As a forced text token: none, sample it."""

Compiled = Callable[..., tuple[list[mx.array], list[LayerCache]]]


@dataclass(frozen=True)
class FrameLogits:
    """The scores behind a frame, float32; with a batch axis in front where the generator has one."""

    text: np.ndarray
    """[text vocabulary]."""
    audio: np.ndarray | None
    """[dep_q, card], those of the column: acoustic codebooks belong to the frame before."""


@dataclass(frozen=True)
class Frame:
    """What one step gives. A generator with batch_size > 1 puts a batch axis in front of everything."""

    text: int | np.ndarray
    """The token sampled in this step, ahead of the audio beside it by the longest delay."""
    audio: np.ndarray | None
    """Codes [dep_q] int32 of the newest complete audio frame; None before, and for models without speech."""
    logits: FrameLogits | None = None
    extra: np.ndarray | None = None
    """Probabilities of the extra heads [heads, extra_heads_dim], for models that have them."""


class Generator:
    """A conversation with a language model.

    Args:
        lm: the model; any number of generators may share it.
        text_sampling: how the inner monologue is drawn.
        audio_sampling: how the codes are drawn.
        seed: with the same seed, model and input, a conversation repeats exactly.
        batch_size: independent conversations in step.
    """

    def __init__(
        self,
        lm: LM,
        text_sampling: Sampling = TEXT_SAMPLING,
        audio_sampling: Sampling = AUDIO_SAMPLING,
        seed: int = 0,
        batch_size: int = 1,
    ):
        if not 0 <= seed < 2**32:
            raise MoshiError(f"the seed must lie between 0 and {2**32 - 1}, not {seed}")
        if batch_size < 1:
            raise MoshiError(f"the batch size must be at least 1, not {batch_size}")
        self.lm, self.config = lm, lm.config
        self.text_sampling, self.audio_sampling = text_sampling, audio_sampling
        self.seed, self.batch_size = seed, batch_size
        self._cache = KVCache(self.config.transformer, batch_size, lm.dtype)
        self._compiled: dict[tuple[bool, bool], Compiled] = {}
        self._compile_ahead()
        self.reset()

    @property
    def position(self) -> int:
        """Frames taken since the beginning."""
        return self._step - 1

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values held now."""
        return self._cache.nbytes

    @property
    def rings(self) -> list[LayerCache]:
        """The keys and values, for those who run parts of the network: they are given up, put back what comes out."""
        return self._cache.layers

    @rings.setter
    def rings(self, rings: list[LayerCache]) -> None:
        self._cache.layers = rings

    def reset(self) -> None:
        """Begin a new conversation with the same seed."""
        self._cache.clear()
        self._grid = StreamGrid(self.config, self.batch_size)
        self._step = 0
        # The reference's first step reads initial tokens only. Done before the audio starts, it costs no frame.
        self._advance(np.zeros(self._user_shape, np.int32), np.full(self.batch_size, SAMPLE, np.int32), False)

    def skip_to(self, position: int) -> None:
        """Go on as after `position` frames of nothing, all of them in the window: a long conversation, to be timed.

        Args:
            position: 0 or more; past the window it is as full as it gets.

        Raises:
            MoshiError: it is negative.
        """
        if position < 0:
            raise MoshiError(f"a conversation cannot go on from frame {position}")
        self._cache.fill(position)
        self._grid = StreamGrid(self.config, self.batch_size)
        self._step = position + 1

    def step(self, user_codes: object, text: object = SAMPLE, logits: bool = False) -> Frame:
        """Take the user's frame, give Moshi's.

        Args:
            user_codes: whole numbers [user codebooks] or [B, user codebooks], 0 to card - 1.
            text: force this text token ([B] or one for all); -1 samples it.
            logits: also return the scores.

        Raises:
            MoshiError: codes or text of the wrong shape, type or range.
        """
        user = check_codes(user_codes, self._user_shape, self.config.card)
        return self._advance(user, self._forced(text), logits)

    @property
    def _user_shape(self) -> tuple[int, int]:
        return self.batch_size, self.config.user_codebooks

    def _forced(self, text: object) -> np.ndarray:
        tokens = np.asarray(text)
        if tokens.dtype.kind not in "iu" or tokens.shape not in ((), (self.batch_size,)):
            raise MoshiError(f"forced text must be one token, or one for each of {self.batch_size}")
        if tokens.min() < SAMPLE or tokens.max() >= self.config.text_card:
            raise MoshiError(f"forced text must lie between -1 (sample) and {self.config.text_card - 1}, not {text}")
        return np.broadcast_to(tokens, self.batch_size).astype(np.int32)

    def _advance(self, user: np.ndarray, forced: np.ndarray, logits: bool) -> Frame:
        step = self._step
        column = self._grid.begin(step, user)
        self._cache.make_room(step)
        compiled = self._function(step >= self.config.transformer.context, logits)
        control = mx.array(np.array([step, self.seed], np.uint32))
        # The compiled step takes the rings over: no reference may stay here, or they would be copied.
        outputs, self._cache.layers = compiled(mx.array(column), mx.array(forced), control, self._cache.layers)
        mx.eval(outputs)  # the one wait of a frame
        self._step += 1
        tokens, *others = (np.array(output) for output in outputs)
        return self._frame(tokens, self._grid.finish(step, tokens), others, logits)

    def _frame(self, tokens: np.ndarray, audio: np.ndarray | None, others: list[np.ndarray], logits: bool) -> Frame:
        if self.batch_size == 1:
            tokens, others = tokens[0], [x[0] for x in others]
            audio = None if audio is None else audio[0]
        extra = others.pop() if self.config.extra_heads else None
        scores = FrameLogits(others[0], others[1] if self.config.dep_q else None) if logits else None
        text = tokens[..., 0]
        return Frame(int(text) if self.batch_size == 1 else text, audio, scores, extra)

    def _function(self, full: bool, logits: bool) -> Compiled:
        if (full, logits) not in self._compiled:
            self._compiled[full, logits] = mx.compile(self._traced(full, logits))
        return self._compiled[full, logits]

    def _traced(self, full: bool, logits: bool) -> Compiled:
        """The frame as a pure function of (column, forced text, [step, seed], rings)."""

        def frame(
            column: mx.array, forced: mx.array, control: mx.array, cache: list[LayerCache]
        ) -> tuple[list[mx.array], list[LayerCache]]:
            config, batch = self.config, self.batch_size
            text_key, audio_key = mx.random.split(control)
            text_noise = self.text_sampling.noise((batch, config.text_card_out), text_key)
            audio_noise = self.audio_sampling.noise((config.dep_q, batch, config.card), audio_key)

            def choose_text(scores: mx.array) -> mx.array:
                drawn = self.text_sampling.draw(scores, text_noise)
                return mx.where(forced == SAMPLE, drawn, forced.astype(mx.uint32))

            def choose_audio(step: int, scores: mx.array) -> mx.array:
                return self.audio_sampling.draw(scores, None if audio_noise is None else audio_noise[step])

            position = control[0].astype(mx.int32)
            step = self.lm.step(column, position, cache, full, choose_text, choose_audio)
            tokens = step.text[:, None]
            if step.audio is not None:
                tokens = mx.concatenate([tokens, step.audio], axis=1)
            outputs = [tokens.astype(mx.int32)]
            if logits:
                scores = (step.text_logits, step.audio_logits)
                outputs += [x.astype(mx.float32) for x in scores if x is not None]
            if step.extra:
                outputs.append(mx.stack(step.extra, axis=1).astype(mx.float32))
            return outputs, step.cache

        return frame

    def _compile_ahead(self) -> None:
        """Trace the frame for every size of the ring, so that none of it happens in a conversation."""
        column = mx.full((self.batch_size, self.config.num_streams), ZERO_TOKEN, mx.int32)
        forced = mx.full((self.batch_size,), SAMPLE, mx.int32)
        control = mx.array([0, self.seed], mx.uint32)
        sizes = self._cache.sizes_ahead()
        for capacity, full in [*((size, False) for size in sizes), (sizes[-1], True)]:
            self._function(full, False)(column, forced, control, self._cache.blank(capacity))
