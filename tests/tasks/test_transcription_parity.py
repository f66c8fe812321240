"""What Kyutai's PyTorch package hears in a recording, `transcribe` hears too: sound, silence, codec, model.

The golden is written by scripts/make_transcription_golden.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import task_goldens

import moshi_mlx
from moshi_mlx import pipeline
from moshi_mlx.rates import SAMPLE_RATE
from moshi_mlx.tasks import transcription
from moshi_mlx.tasks.transcription import PAUSE_HEAD, Scribe, SttTiming, Transcription

SOUND = Path(moshi_mlx.__file__).parent / "assets" / "hello.flac"


def test_codes_tokens_heads_words_and_pauses_are_those_of_the_reference(tmp_path, monkeypatch):
    metadata, arrays = task_goldens.read("transcription")
    model = task_goldens.built(metadata, tmp_path)
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
    voice, _ = soundfile.read(SOUND, dtype="float32")
    work = Transcription(model, [task_goldens.recording(metadata["seconds"], voice)])
    for _ in work:
        pass
    np.testing.assert_array_equal(np.concatenate(codes), arrays["codes"])
    np.testing.assert_array_equal([frame.text for frame in frames], arrays["text"])
    np.testing.assert_allclose([frame.extra for frame in frames], arrays["extra"], rtol=0, atol=1e-4)
    (transcript,) = work.transcripts
    timing = SttTiming.of(model.config)
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
