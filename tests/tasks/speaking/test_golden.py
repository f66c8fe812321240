"""The PyTorch reference's whole TTSModel on a script: what is fed in every step, and every code that comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from speech_weights import SCRIPT, voice, weights

from moshi_mlx.checkpoint.load import load_lm
from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer
from moshi_mlx.model.lm import LM
from moshi_mlx.sampling import Sampling
from moshi_mlx.tasks.speaking.machine import Pace, WordFeeder
from moshi_mlx.tasks.speaking.manner import Manner, make_generator
from moshi_mlx.tasks.speaking.script import ScriptReader
from moshi_mlx.tasks.speaking.speech import Speech, TtsTiming
from moshi_mlx.tasks.speaking.voice_file import read_vectors
from moshi_mlx.text import TextTokenizer

GOLDENS = Path(__file__).parents[2] / "goldens"


class Golden:
    """What the reference did, and a model with the same weights."""

    def __init__(self, name: str, folder: Path):
        with safe_open(GOLDENS / f"speech_{name}.safetensors", "numpy") as file:
            self.about: dict[str, Any] = json.loads(file.metadata()["golden"])
            self.arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.folder = folder
        config, seed = self.about["config"], self.about["seed"]
        made = weights(self.about["shapes"], seed, config["n_q"])
        (folder / "config.json").write_text(json.dumps(config | {"moshi_name": "model.safetensors"}))
        save_file(made, folder / "model.safetensors")
        self.lm: LM = load_lm(folder)
        self.tokenizer = TextTokenizer(write_tiny_tokenizer(folder / "spm.model", self.about["vocabulary"]))

    def voices(self) -> list[np.ndarray]:
        """The speakers' vectors, through files as a user has them."""
        width, read = self.lm.config.conditioners["speaker_wavs"].dim, []
        for seed, length in self.about["voices"]:
            path = self.folder / f"{seed}.safetensors"
            save_file({"speaker_wavs": voice(seed, width, length)}, path)
            read.append(read_vectors(path, self.lm.config))
        return read

    def speech(self, voices: list[np.ndarray], prefix: np.ndarray | None, lines: list[str]) -> Speech:
        config, about = self.lm.config, self.about
        timing, greedy = TtsTiming.of(config), Sampling(0.0)
        manner = Manner(
            about["guidance"], 1, about["padding_bonus"], text_sampling=greedy, audio_sampling=greedy,
            codebooks=about["codebooks"],
        )  # fmt: skip
        feeder = WordFeeder(Pace(timing.ahead, manner.max_padding), config.text_card)
        reader = ScriptReader(self.tokenizer, dialogue=bool(voices), speakers=bool(voices))
        for entry in [*reader.push("\n".join(lines)), *reader.close()]:
            feeder.push(entry)
        feeder.close()
        generator = make_generator(self.lm, voices, prefix, timing.delay, manner)
        return Speech(generator, feeder, timing.delay, prefix)


@pytest.mark.parametrize("name", ["dialogue", "fewer", "prefix"])
def test_a_script_is_said_as_by_the_reference(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden(name, tmp_path)
    arrays, every = golden.arrays, golden.about["logits_every"]
    if name == "prefix":
        speech = golden.speech([], arrays["prefix"].astype(np.int32), [" ".join(SCRIPT)])
    else:
        speech = golden.speech(golden.voices(), None, SCRIPT)
    generator, proposed, fed, text_logits, audio_logits = speech.generator, [], [], [], []
    begin, finish = generator.begin, generator.finish

    def begin_watched() -> int:
        proposed.append(begin(logits=True))
        return proposed[-1]

    def finish_watched(text: int, audio: np.ndarray) -> Any:
        frame = finish(text, audio)
        fed.append(text)
        assert frame.logits is not None
        text_logits.append(frame.logits.text)
        audio_logits.append(frame.logits.audio)
        return frame

    monkeypatch.setattr(generator, "begin", begin_watched)
    monkeypatch.setattr(generator, "finish", finish_watched)
    heard = []
    while not speech.finished:
        codes = speech.advance()
        if codes is not None:
            heard.append(codes)

    np.testing.assert_array_equal(proposed, arrays["proposed"])
    np.testing.assert_array_equal(fed, arrays["fed"])
    assert len(fed) > 200
    assert speech.feeder.end_step == arrays["end_step"]
    assert [list(word) for word in speech.feeder.spoken] == golden.about["spoken"]
    delay = TtsTiming.of(golden.lm.config).delay
    np.testing.assert_array_equal(np.stack(heard, axis=1), arrays["frames"][:, delay + speech.prefix_frames :])
    np.testing.assert_allclose(text_logits[::every], arrays["text_logits"], atol=1e-4, rtol=0)
    # The reference scores codes from the end of the delay on; here also those are left out that the prefix gives.
    scored = [(ours, wanted) for ours, wanted in zip(audio_logits[delay::every], arrays["audio_logits"], strict=True)
              if ours is not None]  # fmt: skip
    assert len(scored) >= len(arrays["audio_logits"]) - (speech.prefix_frames + every - 1) // every
    for ours, wanted in scored:
        np.testing.assert_allclose(ours, wanted, atol=1e-4, rtol=0)
