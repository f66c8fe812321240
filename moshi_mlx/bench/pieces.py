"""The language model's parts, each compiled on its own: they tell where a frame's time goes, not what it adds up to."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ..generator import Generator
from ..model.kv_cache import LayerCache
from ..model.lm import Told

PIECES = ("temporal", "depth", "sampling")


class Pieces:
    """The language model's parts at the frame where the conversation stands, each a compiled graph of its own."""

    def __init__(self, generator: Generator):
        self._generator, self._config = generator, generator.config
        self._hidden = mx.zeros((1, self._config.transformer.dim), generator.lm.dtype)

    def of(self, piece: str) -> Callable[[], None]:
        """A function that runs a piece once and waits for it."""
        return {"temporal": self._temporal, "depth": self._depth, "sampling": self._sampling}[piece]()

    def _temporal(self) -> Callable[[], None]:
        generator, lm = self._generator, self._generator.lm
        full = generator.position >= self._config.transformer.context
        column = mx.zeros((len(self._hidden), self._config.num_streams), mx.int32)

        @mx.compile
        def step(
            column: mx.array, position: mx.array, rings: list[LayerCache], told: Told
        ) -> tuple[mx.array, list[LayerCache]]:
            heard = lm.hear(column, position, rings, full, told)
            return heard.text_logits, heard.cache

        def run() -> None:
            # Writes the newest slot again, or the next: there is room for no more, and nothing keeps a step within.
            logits, generator.rings = step(column, mx.array(generator.position), generator.rings, generator.told)
            mx.eval(logits)

        return run

    def _depth(self) -> Callable[[], None]:
        """Each codebook's most likely token, so that nothing is sampled."""
        lm, text = self._generator.lm, mx.zeros((1,), mx.uint32)

        @mx.compile
        def step(hidden: mx.array, text: mx.array) -> mx.array:
            return lm.depformer(hidden, text, lambda _, logits: mx.argmax(logits, axis=-1))[0]

        return lambda: mx.eval(step(self._hidden, text))

    def _sampling(self) -> Callable[[], None]:
        config, generator = self._config, self._generator
        text, audio = generator.text_sampling, generator.audio_sampling
        text_logits = mx.random.normal((1, config.text_card_out)).astype(generator.lm.dtype)
        audio_logits = mx.random.normal((max(config.dep_q, 1), 1, max(config.card, 1))).astype(generator.lm.dtype)

        @mx.compile
        def draw(text_logits: mx.array, audio_logits: mx.array, key: mx.array) -> list[mx.array]:
            text_key, audio_key = mx.random.split(key)
            noise = audio.noise(audio_logits.shape, audio_key)
            tokens = [text.draw(text_logits, text.noise(text_logits.shape, text_key))]
            return tokens + [
                audio.draw(audio_logits[i], None if noise is None else noise[i]) for i in range(config.dep_q)
            ]

        return lambda: mx.eval(draw(text_logits, audio_logits, mx.random.key(0)))
