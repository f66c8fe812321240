"""Writing: a text in, its continuation out, token by token, by Helium alone.

The prompt is read in one pass; after it every token is the frame loop's one graph and one wait. Knows no terminal.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import MoshiError
from ..generator import Generator
from ..helium import end_tokens
from ..moshi import Moshi
from ..sampling import Sampling
from ..text import TextStream

SAMPLING = Sampling(temp=0.8, top_p=0.95)
"""How Kyutai's run_helium draws."""

MAX_TOKENS = 256


class Writing:
    """A prompt and what is written after it, once: iterate over it to write.

    Args:
        moshi: a model of text alone, as `load` returns it.
        prompt: what to continue.
        sampling: how tokens are drawn.
        seed: with the same seed, model and prompt, the text is the same.
        max_tokens: write no more than these; a token that ends the text may come before.

    Raises:
        MoshiError: the prompt is empty, there is nothing to write, or the model is not of text alone.
    """

    def __init__(
        self, moshi: Moshi, prompt: str, sampling: Sampling = SAMPLING, seed: int = 0, max_tokens: int = MAX_TOKENS
    ):
        if not prompt.strip():
            raise MoshiError("the prompt is empty: give it at least a word")
        if max_tokens < 1:
            raise MoshiError(f"at least one token is to be written, not {max_tokens}")
        self.prompt_tokens = moshi.text.encode(prompt)
        self.tokens: list[int] = []
        self.text = ""
        """What has been written so far."""
        self.ended = False
        """Whether the model has ended the text itself."""
        self._most, self._ends = max_tokens, end_tokens(moshi.config)
        self._stream = TextStream(moshi.text, started=True)
        self._generator = Generator(moshi.lm, text_sampling=sampling, seed=seed)

    def __iter__(self) -> Iterator[str]:
        """Write: what each token adds to the text, empty while a character of several tokens is incomplete."""
        frame = self._generator.prefill(self.prompt_tokens)
        while (token := int(frame.text)) not in self._ends:
            self.tokens.append(token)
            yield self._add(self._stream.push(token))
            if len(self.tokens) == self._most:
                return
            frame = self._generator.step()
        self.ended = True
        yield self._add(self._stream.flush())

    def _add(self, text: str) -> str:
        self.text += text
        return text
