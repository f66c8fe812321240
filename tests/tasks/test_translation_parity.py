"""What Kyutai's `moshi.run_inference` makes of a recording to translate, `translate` makes of it too.

The golden is written by scripts/make_translation_golden.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import task_goldens

import moshi_mlx
from moshi_mlx.sampling import Sampling
from moshi_mlx.tasks.translation import END_OF_TEXT, Translating, translator

SOUND = Path(moshi_mlx.__file__).parent / "assets" / "hello.flac"
GREEDY = Sampling(temp=0)


def test_codes_and_tokens_are_those_of_the_reference_to_the_end_of_the_translation(tmp_path, monkeypatch):
    metadata, arrays = task_goldens.read("translation")
    model = task_goldens.built(metadata, tmp_path)
    stages = Translating(model, translator(model, GREEDY, GREEDY, guidance=metadata["guidance"]))
    heard, said, decode = [], [], stages.decode
    step = stages.generator.step
    monkeypatch.setattr(stages.generator, "step", lambda codes, text: heard.append(codes) or step(codes, text=text))
    monkeypatch.setattr(stages, "decode", lambda codes: said.append(codes) or decode(codes))
    voice, _ = soundfile.read(SOUND, dtype="float32")
    source = task_goldens.recording(metadata["seconds"], voice)
    tokens = [reply.token for reply in stages.translate(source, most=1.5)]
    text, end = arrays["text"].tolist(), len(source)
    frames = len(tokens)
    assert metadata["margin"] > 1e-3
    assert frames > end >= 100
    assert END_OF_TEXT in text[: end - 1]  # where it is a slip
    np.testing.assert_array_equal(tokens, text[:frames])
    np.testing.assert_array_equal(heard[:frames], arrays["codes"][:frames])
    assert (arrays["codes"][end] == model.config.card).all()  # the end of the source
    longest, delays = model.config.max_delay, model.config.delays[1 : 1 + model.config.dep_q]
    assert all(codes is None for codes in said[: longest - 1])
    for frame in range(longest - 1, frames):  # of a frame each codebook is sampled with its delay
        whole = [arrays["audio"][frame - longest + delay, i] for i, delay in enumerate(delays) if frame >= longest]
        if whole:
            np.testing.assert_array_equal(said[frame], whole)
    assert stages.ended
    assert frames == end + text[end:].index(END_OF_TEXT) + 1 + longest
