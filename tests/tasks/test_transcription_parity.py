"""What Kyutai's PyTorch package hears in a recording, `transcribe` hears too: sound, silence, codec, model.

The golden is written by scripts/make_transcription_golden.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from golden_weights import digest, tensors
from safetensors import safe_open
from safetensors.numpy import save_file

import moshi_mlx
from moshi_mlx import pipeline
from moshi_mlx.checkpoint.tiny import tiny_folder
from moshi_mlx.mimi import FRAME_SIZE, SAMPLE_RATE
from moshi_mlx.moshi import Moshi
from moshi_mlx.tasks import transcription
from moshi_mlx.tasks.transcription import PAUSE_HEAD, Scribe, Timing, Transcription

GOLDEN = Path(__file__).parents[1] / "goldens" / "tasks" / "transcription.safetensors"
SOUND = Path(moshi_mlx.__file__).parent / "assets" / "hello.flac"


@pytest.fixture(scope="module")
def golden() -> tuple[dict, dict[str, np.ndarray]]:
    with safe_open(GOLDEN, framework="numpy") as file:
        return json.loads(file.metadata()["golden"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory) -> Moshi:
    """The golden's weights with the codec and the tokenizer of the built-in models."""
    metadata, _ = golden
    weights = tensors(metadata["config"], metadata["seed"])
    assert digest(weights) == metadata["weights"]
    folder = tmp_path_factory.mktemp("stt")
    for file in tiny_folder("tiny-stt").glob("tokenizer*"):
        (folder / file.name).symlink_to(file)
    (folder / "config.json").write_text(json.dumps(metadata["config"]))
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, folder / "model.safetensors")
    return moshi_mlx.load(folder)


def test_codes_tokens_heads_words_and_pauses_are_those_of_the_reference(golden, model, monkeypatch):
    metadata, arrays = golden
    assert len(arrays["text"]) >= 100
    assert metadata["margin"] > 1e-3
    codes, frames = [], []

    def listen(encoders, generator, sound):
        step = generator.step
        generator.step = lambda column: codes.append(column) or step(column)
        for frame in pipeline.listen(encoders, generator, sound):
            frames.append(frame)
            yield frame

    monkeypatch.setattr(transcription, "listen", listen)
    work = Transcription(model, [recording(metadata["seconds"])])
    for _ in work:
        pass
    np.testing.assert_array_equal(np.concatenate(codes), arrays["codes"])
    np.testing.assert_array_equal([frame.text for frame in frames], arrays["text"])
    np.testing.assert_allclose([frame.extra for frame in frames], arrays["extra"], rtol=0, atol=1e-4)
    (transcript,) = work.transcripts
    timing = Timing.of(model.config)
    assert (timing.prefix, timing.flush) == (13, 19)
    sound = slice(timing.prefix, len(frames) - timing.flush)
    np.testing.assert_allclose(transcript.pauses, arrays["extra"][sound, PAUSE_HEAD, 0], rtol=0, atol=1e-4)
    scribe = Scribe(model.text, timing)
    for frame, token in enumerate(arrays["text"].tolist()):
        if frame == sound.stop:
            scribe.end(round(metadata["seconds"] * SAMPLE_RATE))
        scribe.push(token, frame)
    scribe.flush(len(frames))
    assert (transcript.text, transcript.words) == (scribe.transcript.text, scribe.transcript.words)


def recording(seconds: float) -> list[np.ndarray]:
    """The recording that the golden was made of, in blocks."""
    sound, rate = soundfile.read(SOUND, dtype="float32")
    sound = np.resize(sound, round(seconds * rate))
    return [sound[start : start + FRAME_SIZE] for start in range(0, len(sound), FRAME_SIZE)]
