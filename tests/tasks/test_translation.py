from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import moshi_mlx
from moshi_mlx.errors import ConfigError, MoshiError
from moshi_mlx.moshi import Moshi
from moshi_mlx.rates import FRAME_SIZE
from moshi_mlx.sampling import AUDIO_SAMPLING, TEXT_SAMPLING, Sampling
from moshi_mlx.tasks import translation
from moshi_mlx.tasks.lag import Lag, LagMeter
from moshi_mlx.tasks.translation import Translating, translator, usual_sampling

GREEDY = Sampling(temp=0)


@pytest.fixture(scope="module")
def model() -> Moshi:
    return moshi_mlx.load("tiny-hibiki")


def stages(model: Moshi, **told: object) -> Translating:
    return Translating(model, translator(model, GREEDY, GREEDY, **told))  # pyright: ignore[reportArgumentType]


def test_quality_and_guidance_change_what_is_said(model):
    codes = np.random.default_rng(0).integers(0, model.config.card, (12, model.config.user_codebooks))
    said = set()
    for quality, guidance in (("very_good", 1.0), ("very_bad", 1.0), ("very_good", 3.0)):
        generator = translator(model, GREEDY, GREEDY, quality=quality, guidance=guidance)
        said.add(tuple(int(generator.step(column).text) for column in codes))
    assert len(said) == 3


def test_it_ends_when_nothing_has_been_said_for_seconds(model, speechlike, monkeypatch):
    monkeypatch.setattr(translation, "QUIET_SECONDS", 0.4)
    work = stages(model)
    monkeypatch.setattr(work.generator, "step", quiet_after(9, work.generator.step))
    replies = list(work.translate(list(speechlike(4).reshape(-1, FRAME_SIZE)), 8.0))
    assert work.ended
    assert len(replies) == 9 + 5 + 1 + 2  # the last text in frame 8


def quiet_after(frames: int, step):
    count = iter(range(10**9))

    def quietly(codes, text=-1):
        return step(codes, text=3 if next(count) >= frames else 100)

    return quietly


def test_sampling_is_the_checkpoints_own(model):
    assert usual_sampling(model.config) == (TEXT_SAMPLING, AUDIO_SAMPLING)
    published = {"temp": 0.8, "temp_text": 0.8, "top_k": 250, "top_k_text": 50}  # hibiki-2b
    assert usual_sampling(replace(model.config, raw={"lm_gen_config": published})) == (
        Sampling(0.8, 50),
        Sampling(0.8, 250),
    )
    for broken in ([], {"temp": -1}, {"temp": "warm"}):
        with pytest.raises(ConfigError, match="lm_gen_config"):
            usual_sampling(replace(model.config, raw={"lm_gen_config": broken or "hot"}))


def test_an_unknown_quality_is_refused_by_name(model):
    with pytest.raises(MoshiError, match="very_bad, bad, neutral, good, very_good"):
        stages(model, quality="splendid")


# How far behind.


def test_lag_is_told_at_the_start_on_average_and_at_the_end():
    meter = LagMeter(
        source=[0, 0, *[0.1] * 50, *[0] * 48],
        translation=[0] * 27 + [0.2] * 50 + [0] * 23,
        words=[27 + 5 * i for i in range(10)],
    )
    assert meter.lag() == Lag(start=2.0, mean=2.0, end=2.0)


def test_a_pause_of_the_source_is_no_lag():
    """The second half of the words follows the second half of the speech, wherever that is."""
    meter = LagMeter(source=[*[0.1] * 10, *[0] * 50, *[0.1] * 10, *[0] * 20], translation=[], words=[5, 65])
    assert meter.lag() == Lag(start=None, mean=0.4, end=None)


def test_where_nobody_speaks_there_is_no_lag():
    assert LagMeter([0.0] * 9, [0.1] * 9, [3]).lag() == Lag(None, None, None)
    assert LagMeter().lag() == Lag(None, None, None)
