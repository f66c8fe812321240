"""Frames cut where the host chooses the text, as Kyutai's PyTorch package takes them on the same weights.

Written by scripts/make_cut_golden.py, whose docstring says what the golden holds. Everything that a model that speaks
needs is in it at once; `test_nothing_of_it_can_be_left_out` sees to it that each counts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import digest, mlx_names, per_step_names, tensors
from safetensors import safe_open
from safetensors.numpy import save_file

import moshi_mlx
from moshi_mlx import Generator, MoshiError, Sampling
from moshi_mlx.bench.counting import counting
from moshi_mlx.guidance import Guidance
from moshi_mlx.model.conditions import Conditions, TensorCondition
from moshi_mlx.model.lm import LM

PATH = Path(__file__).parent / "goldens" / "cut.safetensors"
TOLERANCE = 1e-4
NOTHING = -2
GREEDY: dict[str, Any] = {"text_sampling": Sampling(temp=0), "audio_sampling": Sampling(temp=0)}


@dataclass(frozen=True)
class Run:
    """S steps of B conversations; `frames` holds NOTHING where there was none."""

    sampled: np.ndarray  # [B, S]
    frames: np.ndarray  # [B, S, 1 + dep_q]
    text_logits: np.ndarray  # [B, S, V]
    audio_logits: np.ndarray  # [B, S, dep_q, card], 0 where the depth transformer did not run


with safe_open(PATH, framework="numpy") as file:
    TOLD: dict[str, Any] = json.loads(file.metadata()["golden"])
    GOLDEN: dict[str, np.ndarray] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
CONFIG: dict[str, Any] = TOLD["config"]
BATCH, STEPS = GOLDEN["text"].shape


def load(weights: dict[str, np.ndarray], folder: Path) -> LM:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / "model.safetensors")
    return moshi_mlx.load_lm(folder)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return load(tensors(CONFIG, TOLD["seed"]), tmp_path_factory.mktemp("published"))


def conditions(lm: LM, guided: bool = True, **changes: Any) -> Conditions:
    """The conditioned rows, then the null ones, which are told nothing; `changes` are made to the first."""
    told = [
        {**words, "speaker_wavs": TensorCondition(tensor, mask), **changes}
        for words, tensor, mask in zip(TOLD["words"], GOLDEN["speakers"], GOLDEN["speakers_mask"], strict=True)
    ]
    return lm.conditions([*told, *([dict.fromkeys(lm.config.conditioners)] * BATCH if guided else [])])


def generator(lm: LM, **changes: Any) -> Generator:
    guidance = Guidance(TOLD["guidance"], without_text=True, masked_until=TOLD["masked_until"])
    options: dict[str, Any] = {"guidance": guidance, "conditions": conditions(lm)}
    options |= {"text_bonus": {int(token): bonus for token, bonus in TOLD["text_bonus"].items()}} | changes
    return Generator(lm, **GREEDY, batch_size=BATCH, cut=True, **options)


def generate(generator: Generator, steps: int = STEPS, text: np.ndarray = GOLDEN["text"]) -> Run:
    """Along the golden's script."""
    sampled, frames, text_logits, audio_logits = [], [], [], []
    for step in range(steps):
        sampled.append(generator.begin(logits=True))
        frame = generator.finish(text[:, step], GOLDEN["audio"][:, step])
        audio = np.full((BATCH, CONFIG["dep_q"]), NOTHING) if frame.audio is None else frame.audio
        assert frame.logits is not None
        frames.append(audio)
        text_logits.append(frame.logits.text)
        none = np.zeros((BATCH, CONFIG["dep_q"], CONFIG["card"]))
        audio_logits.append(none if frame.logits.audio is None else frame.logits.audio)
    return Run(*(np.stack(x, axis=1) for x in (sampled, frames, text_logits, audio_logits)))


@pytest.fixture(scope="module")
def run(lm: LM) -> Run:
    return generate(generator(lm))


def test_the_golden_is_what_it_says() -> None:
    assert digest(tensors(CONFIG, TOLD["seed"])) == TOLD["weights"]
    assert STEPS >= 120
    assert TOLD["margin"] > 1e-3


def test_tokens_equal_the_reference(run: Run) -> None:
    np.testing.assert_array_equal(run.sampled, GOLDEN["sampled"])
    np.testing.assert_array_equal(run.frames, GOLDEN["returned"][:, :, 1:])


def test_logits_equal_the_reference(run: Run) -> None:
    steps = GOLDEN["logit_steps"]
    np.testing.assert_allclose(run.text_logits[:, steps], GOLDEN["text_logits"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(run.audio_logits[:, steps], GOLDEN["audio_logits"], rtol=0, atol=TOLERANCE)


def test_teacher_forced_logits_equal_the_reference(lm: LM) -> None:
    at, codes = GOLDEN["forward_positions"], GOLDEN["forward_codes"].astype(np.int32)
    logits = lm(mx.array(codes), conditions(lm, guided=False))
    mask = GOLDEN["forward_text_mask"][:, at]
    text = np.array(logits.text)[:, at]
    np.testing.assert_allclose(text[mask], GOLDEN["forward_text"][mask], rtol=0, atol=TOLERANCE)
    mask, audio = GOLDEN["forward_audio_mask"][:, :, at], np.array(logits.audio)[:, :, at]
    np.testing.assert_allclose(audio[mask], GOLDEN["forward_audio"][mask], rtol=0, atol=TOLERANCE)


def without_second_stream(text: np.ndarray) -> np.ndarray:
    rows = CONFIG["text_card"] + 1
    return np.where(text < 0, text, text % rows)


def guidance(**changes: Any) -> Callable[[LM], Generator]:
    whole = Guidance(TOLD["guidance"], without_text=True, masked_until=TOLD["masked_until"])
    return lambda lm: generator(lm, guidance=dataclasses.replace(whole, **changes))


LEFT_OUT: dict[str, Callable[[LM], Generator]] = {
    "a speaker": lambda lm: generator(lm, conditions=conditions(lm, speaker_wavs=None)),
    "a word": lambda lm: generator(lm, conditions=conditions(lm, cfg=None)),
    "all that is summed": lambda lm: generator(lm, conditions=dataclasses.replace(conditions(lm), sum=None)),
    "guidance": lambda lm: generator(lm, guidance=1.0, conditions=conditions(lm, guided=False)),
    "guidance without text": guidance(without_text=False),
    "guidance without the beginning": guidance(masked_until=None),
    "the bonus": lambda lm: generator(lm, text_bonus={}),
}


@pytest.mark.parametrize("make", LEFT_OUT.values(), ids=list(LEFT_OUT))
def test_nothing_of_it_can_be_left_out(make: Callable[[LM], Generator], lm: LM, run: Run) -> None:
    other = generate(make(lm), 40)
    text = np.abs(other.text_logits - run.text_logits[:, :40]).max()
    audio = np.abs(other.audio_logits - run.audio_logits[:, :40]).max()
    assert max(text, audio) > 100 * TOLERANCE


def test_the_second_text_stream_is_read_by_both_transformers(lm: LM, run: Run) -> None:
    one = generate(generator(lm), 40, without_second_stream(GOLDEN["text"]))
    first = next(k for k in range(40) if (GOLDEN["text"][:, k] > CONFIG["text_card"]).any() and k >= 8)
    np.testing.assert_array_equal(one.text_logits[:, 0], run.text_logits[:, 0])
    assert np.abs(one.text_logits - run.text_logits[:, :40]).max() > 100 * TOLERANCE
    fresh, text = generator(lm), GOLDEN["text"]
    generate(fresh, first)
    fresh.begin(logits=True)
    scores = fresh.finish(without_second_stream(text[:, first]), GOLDEN["audio"][:, first]).logits
    assert scores is not None
    assert np.abs(scores.audio - run.audio_logits[:, first]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("layout", [per_step_names, mlx_names])
def test_every_layout_of_names_gives_the_same_model(layout: Any, run: Run, tmp_path: Path) -> None:
    weights = layout(tensors(CONFIG, TOLD["seed"]), CONFIG)
    again = generate(generator(load(weights, tmp_path)), 12)
    np.testing.assert_array_equal(again.text_logits, run.text_logits[:, :12])
    np.testing.assert_array_equal(again.audio_logits, run.audio_logits[:, :12])


def test_keys_and_values_of_the_conditions_are_worked_out_once(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a cut frame is two waits, or one where every code is the host's."""
    cross = lm.transformer.layers[0].cross_attention
    remember, calls = type(cross).remember, []
    monkeypatch.setattr(type(cross), "remember", lambda self, x: calls.append(x.shape) or remember(self, x))
    told = generator(lm)
    assert calls == [(2 * BATCH, 12, CONFIG["dim"])] * CONFIG["num_layers"]
    generate(told, 20)
    told.reset()
    generate(told, 3)
    assert len(calls) == CONFIG["num_layers"]
    for audio, waits in ((None, 2), (np.full((BATCH, CONFIG["dep_q"]), -1), 1)):
        told.begin()
        told.finish(3, audio)
        with counting() as count:
            told.begin()
            told.finish(3, audio)
        assert count.waits == waits


def test_whole_frames_write_what_cut_ones_write(lm: LM) -> None:
    cut = generator(lm, text_bonus={})
    whole = Generator(lm, **GREEDY, batch_size=BATCH, conditions=conditions(lm), guidance=cut.guidance)
    cut.finish(cut.begin())
    for _ in range(20):
        frame, other = whole.step(), cut.finish(cut.begin())
        np.testing.assert_array_equal(frame.text, other.text)
        np.testing.assert_array_equal(frame.audio, other.audio)


def test_fewer_codebooks_are_a_model_whose_others_read_nothing(lm: LM) -> None:
    few = generator(lm, codebooks=8)
    forced = generator(lm)
    none = np.full((BATCH, CONFIG["dep_q"]), -2)
    none[:, 8:] = -1
    for _ in range(12):
        frame, other = few.finish(few.begin()), forced.finish(forced.begin(), none)
        np.testing.assert_array_equal(frame.text, other.text)
        assert (frame.audio is None) == (other.audio is None)
        if frame.audio is not None and other.audio is not None:
            assert frame.audio.shape == (BATCH, 8)
            np.testing.assert_array_equal(frame.audio, other.audio[:, :8])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"conditions": None}, "conditions are missing"),
        ({"guidance": 1.0}, "for 4 rows, and this generator has 2"),
        ({"guidance": float("nan")}, "finite"),
        ({"guidance": Guidance(2.0, masked_until=[1])}, "masked_until has 1"),
        ({"text_bonus": {CONFIG["text_card"]: 1.0}}, "bonus"),
        ({"codebooks": 0}, "1 to 16 codebooks"),
        ({"codebooks": 17}, "1 to 16 codebooks"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str, lm: LM) -> None:
    with pytest.raises(MoshiError, match=said):
        generator(lm, **{"conditions": conditions(lm), **wrong})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cfg": "3.0"}, "one of 1.0, 1.5, 2.0, not '3.0'"),
        ({"speaker_wavs": "anna"}, "an embedding, not the word"),
        ({"cfg": TensorCondition(np.zeros((4, 16)))}, "a word, not an embedding"),
        ({"speaker_wavs": TensorCondition(np.zeros((4, 25)))}, r"\[T, 24\], and is \[4, 25\]"),
        ({"speaker_wavs": TensorCondition(np.zeros((4, 24)), np.ones(3, bool))}, "4 vectors, and a mask for 3"),
        ({"mood": "good"}, "'mood' is not one of this model's"),
    ],
)
def test_conditions_that_cannot_be_are_refused(wrong: dict[str, Any], said: str, lm: LM) -> None:
    with pytest.raises(MoshiError, match=said):
        conditions(lm, **wrong)
    with pytest.raises(MoshiError, match="'control' is missing"):
        lm.conditions([{"cfg": None, "speaker_wavs": None}])


def test_a_frame_is_begun_and_finished_in_turn(lm: LM) -> None:
    told = generator(lm)
    with pytest.raises(MoshiError, match="call begin"):
        told.finish(3)
    told.begin()
    with pytest.raises(MoshiError, match="call finish"):
        told.begin()
    with pytest.raises(MoshiError, match="call finish"):
        told.step()
    limit = (CONFIG["text_card"] + 1) ** 2
    for text in (limit, -2, 0.5, [1, 2, 3]):
        with pytest.raises(MoshiError, match="forced text"):
            told.finish(text)
    for audio in (np.full((BATCH, 16), 49), np.full((BATCH, 16), -3), np.zeros((BATCH, 15), int), 1.5):
        with pytest.raises(MoshiError, match="in place of the model's"):
            told.finish(3, audio)
    assert told.finish([limit - 1, -1]).audio is None
