"""What Kyutai's PyTorch package answered on the same weights, this project answers too.

The goldens are written by scripts/make_goldens.py, whose docstring says what they hold and how its steps are
counted: column 0 of `text`, `audio` and `returned` is the initial step, so step k here is column k + 1 there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import Weights, digest, mlx_names, per_step_names, tensors
from safetensors import safe_open
from safetensors.numpy import save_file

import moshi_mlx
from moshi_mlx import Generator, Sampling
from moshi_mlx.economy import Economy
from moshi_mlx.model.conditions import Conditions

NAMES = ("delay1", "delay2", "dep16", "window", "stt", "mixed_delays", "speaker", "batch", "translating", "zero")
GOLDENS = [Path(__file__).parent / "goldens" / f"{name}.safetensors" for name in NAMES]
TOLERANCE = 1e-4
NOTHING = -2


@dataclass(frozen=True)
class Golden:
    config: dict[str, Any]
    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @staticmethod
    def read(path: Path) -> Golden:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads(file.metadata()["golden"])
            return Golden(metadata["config"], metadata, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118

    @property
    def weights(self) -> Weights:
        return tensors(self.config, self.metadata["seed"])

    @property
    def max_delay(self) -> int:
        return max(self.config["delays"])

    @property
    def guidance(self) -> float:
        return self.metadata.get("guidance", 1.0)

    def conditions(self, lm: moshi_mlx.LM, batch: int, guided: bool = True) -> Conditions | None:
        """The same words for every row, those of the null rows after them."""
        if "words" not in self.metadata:
            return None
        null = [self.metadata["null"]] * batch
        return lm.conditions([self.metadata["words"]] * batch + (null if guided else []))


@dataclass(frozen=True)
class Run:
    """S steps for B users; `audio` holds NOTHING where the frame had none."""

    text: np.ndarray  # [B, S]
    audio: np.ndarray  # [B, S, dep_q]
    text_logits: np.ndarray  # [B, S, V]
    audio_logits: np.ndarray  # [B, S, dep_q, card]; [B, S] zeros without a depth transformer
    extra: np.ndarray  # [B, S, heads, width]; [B, S] zeros without extra heads


def load(golden: Golden, weights: Weights, folder: Path) -> moshi_mlx.LM:
    (folder / "config.json").write_text(json.dumps(golden.config))
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / "model.safetensors")
    return moshi_mlx.load_lm(folder)


def generate(lm: moshi_mlx.LM, golden: Golden, user_codes: np.ndarray) -> Run:
    """Greedy generation for user_codes [B, S, user codebooks]."""
    batch, config = len(user_codes), golden.config
    greedy = Sampling(temp=0)
    told = {"conditions": golden.conditions(lm, batch), "guidance": golden.guidance}
    generator = Generator(lm, text_sampling=greedy, audio_sampling=greedy, seed=0, batch_size=batch, **told)
    text, audio, text_logits, audio_logits, extra = [], [], [], [], []
    for step in range(user_codes.shape[1]):
        codes = user_codes[:, step].astype(np.int32)
        frame = generator.step(codes if batch > 1 else codes[0], logits=True)
        text.append(np.reshape(frame.text, batch))
        nothing = np.full((batch, config["dep_q"]), NOTHING)
        audio.append(nothing if frame.audio is None else np.reshape(frame.audio, nothing.shape))
        assert frame.logits is not None
        text_logits.append(np.reshape(frame.logits.text, (batch, -1)))
        none, scores, heads = np.zeros(batch), frame.logits.audio, frame.extra
        audio_logits.append(none if scores is None else scores.reshape(batch, config["dep_q"], -1))
        extra.append(none if heads is None else heads.reshape(batch, config["extra_heads_num_heads"], -1))
    return Run(*(np.stack(x, axis=1) for x in (text, audio, text_logits, audio_logits, extra)))


@pytest.fixture(scope="module", params=GOLDENS, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden.read(request.param)


@pytest.fixture(scope="module")
def lm(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> moshi_mlx.LM:
    return load(golden, golden.weights, tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def run(lm: moshi_mlx.LM, golden: Golden) -> Run:
    return generate(lm, golden, golden.arrays["user_codes"])


def test_goldens_cover_what_parity_promises() -> None:
    found = {path.stem: Golden.read(path) for path in GOLDENS}
    for golden in found.values():
        assert golden.arrays["user_codes"].shape[1] >= 200
        assert golden.metadata["margin"] > 1e-3
    assert found["window"].arrays["text"].shape[1] > 10 * found["window"].config["context"]


def test_generated_weights_have_the_bits_that_the_reference_read(golden: Golden) -> None:
    assert digest(golden.weights) == golden.metadata["weights"]


def test_text_tokens_equal_the_reference(golden: Golden, run: Run) -> None:
    np.testing.assert_array_equal(run.text, golden.arrays["text"][:, 1:])


def test_audio_frames_equal_the_reference_and_come_when_it_has_them(golden: Golden, run: Run) -> None:
    returned = golden.arrays["returned"][:, 1:, 1:]
    np.testing.assert_array_equal(run.audio, returned)
    if golden.config["dep_q"]:
        first = (run.audio != NOTHING).all(axis=(0, 2)).argmax()
        assert first == golden.max_delay - 1


def test_streamed_logits_equal_the_reference(golden: Golden, run: Run) -> None:
    steps = golden.arrays["logit_steps"]
    np.testing.assert_allclose(run.text_logits[:, steps], golden.arrays["text_logits"], rtol=0, atol=TOLERANCE)
    if golden.config["dep_q"]:
        expected = golden.arrays["audio_logits"]
        np.testing.assert_allclose(run.audio_logits[:, steps], expected, rtol=0, atol=TOLERANCE)
    if "extra_heads" in golden.arrays:
        expected = golden.arrays["extra_heads"]
        np.testing.assert_allclose(run.extra[:, steps], expected, rtol=0, atol=TOLERANCE)


def test_teacher_forced_logits_equal_the_reference(golden: Golden, lm: moshi_mlx.LM) -> None:
    """Codes hold zero tokens too; a place whose code is the zero token has no logits to compare."""
    if "forward_codes" not in golden.arrays:
        pytest.skip("the others' teacher-forced parts are batches of two already")
    at = golden.arrays["forward_positions"]
    codes = mx.array(golden.arrays["forward_codes"].astype(np.int32))
    logits = lm(codes, golden.conditions(lm, len(codes), guided=False))
    text, text_mask = np.array(logits.text)[:, at], golden.arrays["forward_text_mask"][:, at]
    np.testing.assert_allclose(text[text_mask], golden.arrays["forward_text"][text_mask], rtol=0, atol=TOLERANCE)
    if golden.config["dep_q"]:
        expected, mask = golden.arrays["forward_audio"], golden.arrays["forward_audio_mask"][:, :, at]
        audio = np.array(logits.audio)[:, :, at]
        np.testing.assert_allclose(audio[mask], expected[mask], rtol=0, atol=TOLERANCE)
        assert np.isnan(audio[np.isnan(expected)]).all()


def test_streamed_logits_equal_teacher_forced_logits(golden: Golden, lm: moshi_mlx.LM, run: Run) -> None:
    """Position t of a stream delayed by d is predicted in step t + d - 1."""
    if golden.guidance != 1:
        pytest.skip("guided logits are those of two runs")
    config, codes = golden.config, spoken(golden, run)
    frames = codes.shape[-1]
    logits = lm(mx.array(codes))
    text = np.array(logits.text)
    np.testing.assert_allclose(run.text_logits[:, : frames - 1], text[:, 1:], rtol=0, atol=TOLERANCE)
    for codebook in range(config["dep_q"]):
        delay = config["delays"][1 + codebook]
        # The tokens of a stream's first columns have no place in undelayed codes, yet within their column the
        # next codebook reads them: where its delay is shorter, only later columns can agree.
        first = max(1, golden.max_delay + 1 - delay)
        forced = np.array(logits.audio)[:, codebook, first : frames - delay]
        streamed = run.audio_logits[:, first + delay - 1 : frames - 1, codebook]
        np.testing.assert_allclose(streamed, forced, rtol=0, atol=TOLERANCE)


def spoken(golden: Golden, run: Run) -> np.ndarray:
    """The conversation as undelayed codes [B, streams, T], as far as its audio is complete."""
    audio = run.audio[:, max(0, golden.max_delay - 1) :]
    frames = audio.shape[1]
    text, user = golden.arrays["text"][:, :frames, None], golden.arrays["user_codes"][:, :frames]
    return np.concatenate([text, audio, user], axis=2).swapaxes(1, 2).astype(np.int32)


def test_a_shorter_window_is_that_of_the_reference_configured_with_it(tmp_path: Path) -> None:
    golden = Golden.read(Path(__file__).parent / "goldens" / "window.safetensors")
    context, user_codes = golden.config["context"], golden.arrays["user_codes"]
    load(replace(golden, config={**golden.config, "context": 10 * context}), golden.weights, tmp_path)
    run = generate(moshi_mlx.load_lm(tmp_path, Economy(context=context)), golden, user_codes)
    np.testing.assert_array_equal(run.text, golden.arrays["text"][:, 1:])
    steps = golden.arrays["logit_steps"]
    np.testing.assert_allclose(run.text_logits[:, steps], golden.arrays["text_logits"], rtol=0, atol=TOLERANCE)
    longer = generate(moshi_mlx.load_lm(tmp_path), golden, user_codes)
    assert np.abs(longer.text_logits - run.text_logits)[:, context + 1 :].max() > TOLERANCE


@pytest.mark.parametrize("codebook", [0, 1, -1], ids=["semantic", "acoustic", "last"])
def test_what_the_user_says_counts_in_the_step_in_which_pytorch_counts_it(
    golden: Golden, lm: moshi_mlx.LM, run: Run, codebook: int
) -> None:
    if not golden.metadata.get("first_change"):
        pytest.skip("no single user to change")
    change = golden.metadata["change_step"]
    user = golden.arrays["user_codes"][:, : change + 6].copy()
    user[:, change, codebook] = (user[:, change, codebook] + 7) % golden.config["card"]
    changed = generate(lm, golden, user)
    difference = np.abs(changed.text_logits - run.text_logits[:, : change + 6]).max(axis=(0, 2))
    first = golden.metadata["first_change"][codebook]
    assert difference[:first].max() < 1e-6
    assert difference[first] > 1e-3


@pytest.mark.parametrize("layout", [per_step_names, mlx_names])
def test_every_layout_of_names_gives_the_same_model(layout: Any, golden: Golden, run: Run, tmp_path: Path) -> None:
    lm = load(golden, layout(golden.weights, golden.config), tmp_path)
    again = generate(lm, golden, golden.arrays["user_codes"][:, :8])
    np.testing.assert_array_equal(again.text_logits, run.text_logits[:, :8])
    np.testing.assert_array_equal(again.audio_logits, run.audio_logits[:, :8])
