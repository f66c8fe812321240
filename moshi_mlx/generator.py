"""The frame loop: the user's codes in, Moshi's text and audio tokens out, 12.5 times a second.

A frame is one compiled graph with the rings as inputs and outputs, so that they are updated in place, and one
wait on the device; or two of each, `begin` and `finish`, where the host chooses the text token in between. All of
it belongs to the thread that made the generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .config import ZERO_TOKEN
from .errors import MoshiError
from .frame import SAMPLE, Frame, FrameGraphs, FrameLogits, TokenChoice
from .guidance import Guidance
from .model.conditions import Conditions
from .model.kv_cache import KVCache, LayerCache
from .model.lm import LM, Told
from .sampling import AUDIO_SAMPLING, TEXT_SAMPLING, Sampling
from .streams import StreamGrid, check_codes, check_replacement, check_text

STRETCH = 512
"""Given positions that are read at once: more would take more memory for their scores, and not be faster."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Begun:
    """A frame between `begin` and `finish`."""

    hidden: mx.array
    control: mx.array
    arrays: Arrays
    logits: bool


class Generator:
    """A conversation with a language model.

    Args:
        lm: the model; any number of generators may share it.
        text_sampling: how the inner monologue is drawn.
        audio_sampling: how the codes are drawn.
        seed: with the same seed, model and input, a conversation repeats exactly.
        batch_size: independent conversations in step.
        conditions: what the model is told beside its tokens (`lm.conditions`), a row per conversation; with guidance
            as many null rows after them.
        guidance: how much the conditions count; 1 is no guidance.
        text_bonus: added to the logits of single text tokens.
        text_read_as: text tokens that are read back as others (Kyutai has Hibiki read an end of text as padding).
        codebooks: write only the first so many of the generated ones; the model reads the zero token for the others.
        cut: the host goes frame by frame through `begin` and `finish`, the very first one included, which reads
            initial tokens only (the step 0 of Kyutai's `LMGen`). Otherwise that one is done at once and `step` is
            what is made ready; `begin` and `finish` can be used all the same.

    Raises:
        MoshiError: an argument is out of its range, or the model lacks conditions or has too many.
    """

    def __init__(
        self,
        lm: LM,
        text_sampling: Sampling = TEXT_SAMPLING,
        audio_sampling: Sampling = AUDIO_SAMPLING,
        seed: int = 0,
        batch_size: int = 1,
        *,
        conditions: Conditions | None = None,
        guidance: float | Guidance = 1.0,
        text_bonus: Mapping[int, float] | None = None,
        text_read_as: Mapping[int, int] | None = None,
        codebooks: int | None = None,
        cut: bool = False,
    ):
        self.lm, self.config = lm, lm.config
        self.text_sampling, self.audio_sampling = text_sampling, audio_sampling
        self.seed, self.batch_size = seed, batch_size
        self.guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
        self.codebooks = self.config.dep_q if codebooks is None else codebooks
        self._cut, self._bonus, self._read_as = cut, dict(text_bonus or {}), dict(text_read_as or {})
        self._check()
        choice = TokenChoice(text_sampling, audio_sampling, self.guidance, self._bonus, self.codebooks)
        self._graphs = FrameGraphs(lm, choice, batch_size)
        self._rows = self.guidance.rows(batch_size)
        self._cache = KVCache(self.config.transformer, self._rows, lm.dtype)
        self._tell(conditions)
        self._graphs.compile_ahead(self._cache, self._told, cut)
        self.reset()

    @property
    def position(self) -> int:
        """Frames taken since the beginning."""
        return self._step - (not self._cut)

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values held now."""
        return self._cache.nbytes

    @property
    def rings(self) -> list[LayerCache]:
        """The keys and values, with room for the next step, for those who run parts of the network: they are given
        up, put back what comes out."""
        self._cache.make_room(self._step)
        return self._cache.layers

    @rings.setter
    def rings(self, rings: list[LayerCache]) -> None:
        self._cache.layers = rings

    @property
    def told(self) -> Told:
        """The conditions as frames read them, for those who run parts of the network."""
        return self._told

    def reset(self, conditions: Conditions | None = None) -> None:
        """Begin a new conversation with the same seed, and the same conditions unless others are given.

        Raises:
            MoshiError: they are not for this model or batch.
        """
        if conditions is not None:
            self._tell(conditions)
        self._start()
        if not self._cut:
            # The reference's first step reads initial tokens only. Done before the audio starts, it costs no frame.
            self._advance_freely()

    def skip_to(self, position: int) -> None:
        """Go on as after `position` frames of nothing, all of them in the window: a long conversation, to be timed.

        Args:
            position: 0 or more; past the window it is as full as it gets.

        Raises:
            MoshiError: it is negative.
        """
        if position < 0:
            raise MoshiError(f"a conversation cannot go on from frame {position}")
        self._start()
        self._cache.fill(position)
        self._step = position + (not self._cut)

    def step(self, user_codes: object = None, text: object = SAMPLE, logits: bool = False) -> Frame:
        """Take the user's frame, give Moshi's.

        Args:
            user_codes: whole numbers [user codebooks] or [B, user codebooks], 0 to card - 1; None without users.
            text: force this text token ([B] or one for all); -1 samples it.
            logits: also return the scores.

        Raises:
            MoshiError: codes or text of the wrong shape, type or range, or a frame is begun and not finished.
        """
        user = check_codes(user_codes, self._user_shape, self.config.card)
        return self._advance(user, check_text(text, self.batch_size, self.config.text_tokens), logits)

    def prefill(self, text: Sequence[int], logits: bool = False) -> Frame:
        """Begin anew with a text that is given, and write the token after it.

        What `step` with forced text would do token by token, in one pass (of several stretches where it is long) and
        one step. For models of text alone.

        Args:
            text: tokens; none of them is the one that begins.
            logits: also return the scores.

        Raises:
            MoshiError: the model has sound, conditions or guidance, or a token is out of range.
        """
        if self.config.n_q or self.config.fuser or self.guidance:
            raise MoshiError("only a model of text alone, told nothing beside it, can be given its beginning at once")
        given = [check_text(token, self.batch_size, self.config.text_tokens) for token in text]
        columns = np.stack([np.full(self.batch_size, self.config.text_initial, np.int32), *given], axis=1)
        self._start()
        self._cache.make_room(len(given))
        for first, last in stretches(len(given), self.config.transformer.context):
            read = mx.array(columns[:, first:last, None])
            self._cache.layers = self.lm.read(read, first, self._cache.layers)
            mx.eval(self._cache.layers)
        self._step = len(given)
        self._grid.finish(self._step - 1, columns[:, -1:])
        return self._advance_freely(logits)

    def begin(self, user_codes: object = None, logits: bool = False) -> int | np.ndarray:
        """The first half of a frame: take the user's, sample the text token; the host says which is to be.

        Args:
            user_codes: as for `step`.
            logits: the frame's scores are wanted.

        Returns:
            the sampled token, [B] for a batch.

        Raises:
            MoshiError: codes of the wrong shape, type or range, or a frame is begun and not finished.
        """
        user = check_codes(user_codes, self._user_shape, self.config.card)
        column, control, full = self._enter(user)
        outputs, self._cache.layers = self._graphs.hear(full, logits)(column, control, self._cache.layers, self._told)
        mx.eval(outputs)  # the first wait
        hidden = outputs.pop("hidden")
        self._begun = _Begun(hidden, control, {name: np.array(x) for name, x in outputs.items()}, logits)
        text = self._begun.arrays["text"]
        return int(text[0]) if self.batch_size == 1 else text

    def finish(self, text: object, audio: object = None) -> Frame:
        """The second half of a frame, with the host's text token.

        Args:
            text: the token ([B] or one for all), of both streams where the model has two; -1 is the zero token.
            audio: codes [codebooks] or [B, codebooks] that replace the depth transformer's own in what is read next
                and returned, -1 being the zero token; -2 keeps its own. The steps of this frame do not see them.
                Where none is kept, the depth transformer does not run.

        Raises:
            MoshiError: no frame is begun, or the tokens are of the wrong shape, type or range.
        """
        if self._begun is None:
            raise MoshiError("finish needs a frame that is begun: call begin first")
        tokens = check_text(text, self.batch_size, self.config.text_tokens)
        replaced = check_replacement(audio, (self.batch_size, self.codebooks), self.config.card)
        begun, self._begun = self._begun, None
        arrays = {name: x for name, x in begun.arrays.items() if name != "text"}
        codes = replaced
        if (replaced < ZERO_TOKEN).any():
            outputs = self._graphs.speak(begun.logits)(begun.hidden, mx.array(tokens), begun.control)
            mx.eval(outputs)  # the second wait
            arrays |= {name: np.array(x) for name, x in outputs.items()}
            codes = np.where(replaced < ZERO_TOKEN, arrays["tokens"], replaced)
        return self._leave(np.concatenate([tokens[:, None], codes], axis=1), arrays, begun.logits)

    @property
    def _user_shape(self) -> tuple[int, int]:
        return self.batch_size, self.config.user_codebooks

    def _start(self) -> None:
        self._cache.clear()
        self._grid = StreamGrid(self.config, self.batch_size, self.codebooks)
        self._step = 0
        self._begun: _Begun | None = None

    def _advance_freely(self, logits: bool = False) -> Frame:
        """A step without a user in which all is sampled."""
        return self._advance(np.zeros(self._user_shape, np.int32), np.full(self.batch_size, SAMPLE, np.int32), logits)

    def _advance(self, user: np.ndarray, forced: np.ndarray, logits: bool) -> Frame:
        column, control, full = self._enter(user)
        compiled = self._graphs.whole(full, logits)
        # The compiled step takes the rings over: no reference may stay here, or they would be copied.
        outputs, self._cache.layers = compiled(column, mx.array(forced), control, self._cache.layers, self._told)
        mx.eval(outputs)  # the one wait of a frame
        arrays = {name: np.array(x) for name, x in outputs.items()}
        return self._leave(arrays["tokens"], arrays, logits)

    def _enter(self, user: np.ndarray) -> tuple[mx.array, mx.array, bool]:
        """The column to read, [step, seed], and whether the rings have wrapped; makes room for the step."""
        if self._begun is not None:
            raise MoshiError("a frame is begun and not finished: call finish first")
        step = self._step
        column = self.guidance.column(self._grid.begin(step, user), step, np.array(self.config.delays))
        self._cache.make_room(step)
        control = mx.array(np.array([step, self.seed], np.uint32))
        return mx.array(column), control, step >= self.config.transformer.context

    def _leave(self, tokens: np.ndarray, arrays: Arrays, logits: bool) -> Frame:
        """Put the tokens [B, 1 + codebooks] where they are read next; the frame that is complete now."""
        read = tokens.copy()
        for token, other in self._read_as.items():
            read[:, 0][tokens[:, 0] == token] = other
        audio = self._grid.finish(self._step, read)
        self._step += 1
        text, scores, extra = tokens[:, 0], None, arrays.get("extra")
        if self.batch_size == 1:
            text, arrays = int(text[0]), {name: x[0] for name, x in arrays.items()}
            audio, extra = (None if x is None else x[0] for x in (audio, extra))
        if logits:
            scores = FrameLogits(arrays["text_logits"], arrays.get("audio_logits"))
        return Frame(text, audio, scores, extra)

    def _tell(self, conditions: Conditions | None) -> None:
        rows = None if conditions is None else conditions.rows
        if self.config.fuser and rows is None:
            names = ", ".join(self.config.conditioners)
            raise MoshiError(f"this model is told {names} beside its tokens, and conditions are missing: lm.conditions")
        if rows not in (None, self._rows):
            raise MoshiError(f"there are conditions for {rows} rows, and this generator has {self._rows}")
        self._told = self.lm.told(conditions)

    def _check(self) -> None:
        config = self.config
        if not 0 <= self.seed < 2**32:
            raise MoshiError(f"the seed must lie between 0 and {2**32 - 1}, not {self.seed}")
        if self.batch_size < 1:
            raise MoshiError(f"the batch size must be at least 1, not {self.batch_size}")
        if not min(1, config.dep_q) <= self.codebooks <= config.dep_q:
            raise MoshiError(f"this model writes 1 to {config.dep_q} codebooks, not {self.codebooks}")
        if any(not 0 <= token < config.text_card_out for token in self._bonus):
            raise MoshiError(f"a bonus is for text tokens between 0 and {config.text_card_out - 1}")
        for token in self._read_as.values():
            check_text(token, self.batch_size, config.text_tokens)
        self.guidance.check(self.batch_size, conditioned=bool(config.fuser))


def stretches(count: int, context: int) -> Iterator[tuple[int, int]]:
    """Positions 0 to count - 1, cut (first, after the last) so that none is long or passes the ring's end."""
    first = 0
    while first < count:
        last = min(count, first + STRETCH, first - first % context + context)
        yield first, last
        first = last
