from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import rustymimi
from safetensors.numpy import load_file, save_file

from moshi_mlx.codec.process import living
from moshi_mlx.errors import AudioError, CheckpointError
from moshi_mlx.mimi import BIT_RATE_PER_CODEBOOK, MAX_FRAMES, OVERLAP, Mimi
from moshi_mlx.rates import FRAME_SIZE


def encode(mimi: Mimi, sound: np.ndarray) -> np.ndarray:
    encoder = mimi.encoder()
    return np.stack([encoder.encode(frame) for frame in sound.reshape(-1, FRAME_SIZE)], axis=1)


def decode(mimi: Mimi, codes: np.ndarray) -> np.ndarray:
    decoder = mimi.decoder()
    return np.concatenate([decoder.decode(column) for column in codes.T])


def rusty(path: Path, codebooks: int = 8, frames: int = 64) -> rustymimi.Tokenizer:
    """The codec itself, in this process."""
    return rustymimi.Tokenizer(str(path), num_codebooks=codebooks, max_seq_len=2 * frames)  # pyright: ignore


def rusty_encode(raw: rustymimi.Tokenizer, sound: np.ndarray) -> np.ndarray:
    frames = sound.reshape(-1, 1, 1, FRAME_SIZE)
    return np.concatenate([raw.encode_step(frame) for frame in frames], axis=2)[0]


def rusty_decode(raw: rustymimi.Tokenizer, codes: np.ndarray) -> np.ndarray:
    columns = np.ascontiguousarray(codes.T, np.uint32)[:, None, :, None]
    return np.concatenate([raw.decode_step(column) for column in columns], axis=2)[0, 0]


def random_codes(codebooks: int, frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2048, (codebooks, frames))


# The codec is rustymimi's, step by step.


def test_codes_and_sound_are_those_of_rustymimi(tiny_mimi, speechlike):
    sound = speechlike(6)
    raw = rusty(tiny_mimi, 5)
    codes = encode(Mimi(tiny_mimi, 5), sound)
    np.testing.assert_array_equal(codes, rusty_encode(raw, sound))
    assert codes.dtype == np.int32
    heard = decode(Mimi(tiny_mimi, 5), codes)
    np.testing.assert_array_equal(heard, rusty_decode(raw, codes))
    assert heard.dtype == np.float32
    assert heard.flags.writeable


def test_first_codebooks_do_not_depend_on_how_many_follow(tiny_mimi, speechlike):
    sound = speechlike(4)
    every = encode(Mimi(tiny_mimi, 32), sound)
    np.testing.assert_array_equal(encode(Mimi(tiny_mimi, 1), sound), every[:1])
    np.testing.assert_array_equal(encode(Mimi(tiny_mimi, 8), sound), every[:8])


def test_streams_in_one_object_are_each_coded_as_alone(tiny_mimi, speechlike):
    sounds = np.stack([speechlike(5, seed).reshape(5, FRAME_SIZE) for seed in range(3)])
    encoder = Mimi(tiny_mimi, 4).encoder()
    together = np.stack([encoder.encode_rows(sounds[:, i]) for i in range(5)], axis=2)
    for codes, sound in zip(together, sounds, strict=True):
        np.testing.assert_array_equal(codes, encode(Mimi(tiny_mimi, 4), sound))


def test_each_direction_has_its_own_number_of_codebooks(tiny_mimi, speechlike):
    mimi, frame = Mimi(tiny_mimi, 8), speechlike(1)
    every = mimi.encoder(32).encode(frame)
    assert every.shape == (32,)
    np.testing.assert_array_equal(mimi.encoder().encode(frame), every[:8])
    np.testing.assert_array_equal(mimi.decoder(16).decode(every[:16]), Mimi(tiny_mimi, 16).decoder().decode(every[:16]))
    with pytest.raises(AudioError, match="a column of codes is 16 integers"):
        mimi.decoder(16).decode(every)


def test_a_codebook_takes_eleven_bits_of_a_frame():
    assert np.log2(2048) * 12.5 == BIT_RATE_PER_CODEBOOK


def test_reset_starts_anew(tiny_mimi, speechlike):
    frames = speechlike(5).reshape(-1, FRAME_SIZE)
    encoder, decoder = Mimi(tiny_mimi).encoder(), Mimi(tiny_mimi).decoder()
    codes = [encoder.encode(frame) for frame in frames]
    heard = [decoder.decode(column) for column in codes]
    encoder.reset()
    decoder.reset()
    np.testing.assert_array_equal([encoder.encode(frame) for frame in frames], codes)
    np.testing.assert_array_equal([decoder.decode(column) for column in codes], heard)


def test_what_was_prepared_is_used_once(tiny_mimi):
    mimi = Mimi(tiny_mimi)
    mimi.prepare(encoder=4, decoder=8)
    prepared = {process.task.direction: process.pid for process in living() if process.task.path == tiny_mimi}
    with mimi.encoder(4), mimi.decoder(), mimi.encoder(4):
        pids = [process.pid for process in living() if process.task.path == tiny_mimi]
        assert len(pids) == 3
        assert set(prepared.values()) < set(pids)


def test_encoder_and_decoder_work_in_threads_of_their_own(tiny_mimi, speechlike):
    sound, codes = speechlike(8), random_codes(8, 8)
    alone = encode(Mimi(tiny_mimi), sound), decode(Mimi(tiny_mimi), codes)
    together: dict[int, np.ndarray] = {}
    jobs = [lambda: encode(Mimi(tiny_mimi), sound), lambda: decode(Mimi(tiny_mimi), codes)]
    threads = [threading.Thread(target=lambda n=n: together.update({n: jobs[n]()})) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_array_equal(together[1], alone[1])


# Without end. How one process takes over from another is in codec/test_relay.py.


def test_rustymimi_alone_ends(tiny_mimi, speechlike):
    """Why there is a relay; and that the relay's arithmetic of two positions a frame is right."""
    raw = rusty(tiny_mimi, frames=10)
    frames = speechlike(11).reshape(-1, 1, 1, FRAME_SIZE)
    for frame in frames[:10]:
        raw.encode_step(frame)
    with pytest.raises(ValueError, match="narrow"):
        raw.encode_step(frames[10])


def test_reset_during_an_overlap_starts_anew(tiny_mimi, speechlike):
    frames = speechlike(7).reshape(-1, FRAME_SIZE)
    encoder = Mimi(tiny_mimi, max_frames=8, overlap=4).encoder()
    first = [encoder.encode(frame) for frame in frames]
    encoder.reset()
    np.testing.assert_array_equal([encoder.encode(frame) for frame in frames], first)


@pytest.mark.long
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_ten_thousand_frames_equal_an_unbroken_codec(tiny_mimi, speechlike, direction):
    """Seams with full attention against one object made with a table long enough; printed with -s."""
    total, period = 10_000, MAX_FRAMES - OVERLAP
    mimi, raw = Mimi(tiny_mimi), rusty(tiny_mimi, frames=total)
    if direction == "encode":
        items = speechlike(total).reshape(-1, FRAME_SIZE)
        ours, theirs = mimi.encoder().encode, lambda frame: rusty_encode(raw, frame)[:, 0]
        seams = range(MAX_FRAMES, total, period)
    else:
        items = random_codes(8, total).T
        ours, theirs = mimi.decoder().decode, lambda column: rusty_decode(raw, column[:, None])
        seams = range(MAX_FRAMES - period // 2, total, period)
    difference = np.array([np.abs(ours(item) - theirs(item)).max() for item in items])
    assert len(seams) >= 2
    for seam in seams:
        around = difference[seam : seam + 250]
        print(
            f"{direction} seam {seam}: largest difference {around.max():.2e}, frames equal {np.mean(around == 0):.4f}"
        )
    print(f"{direction} all frames: largest {difference.max():.2e}, equal {np.mean(difference == 0):.4f}")
    if direction == "encode":
        assert np.mean(difference > 0) < 0.01
    else:
        assert difference.max() < 1e-4


# What goes in is checked.


def test_broken_samples_are_mended_counted_and_do_no_lasting_harm(tiny_mimi, speechlike):
    frames = speechlike(6).reshape(-1, FRAME_SIZE)
    broken, mended = frames.copy(), frames.copy()
    broken[1, :4] = np.nan, np.inf, -np.inf, 3e38
    mended[1, :4] = 0, 0, 0, 1
    broken[3, 7], mended[3, 7] = -1.5, -1
    encoder = Mimi(tiny_mimi).encoder()
    codes = np.stack([encoder.encode(frame) for frame in broken], axis=1)
    np.testing.assert_array_equal(codes, encode(Mimi(tiny_mimi), mended))
    assert (encoder.mended_samples, encoder.clipped_samples) == (3, 2)
    assert np.isnan(broken[1, 0])  # the caller's frame is left alone


@pytest.mark.parametrize(
    "change", [lambda x: x.astype(np.float64), lambda x: np.stack([x, x], 1)[:, 0], lambda x: x.tolist()]
)
def test_frames_of_other_layouts_count_the_same(tiny_mimi, speechlike, change):
    frame = speechlike(1)
    expected = Mimi(tiny_mimi).encoder().encode(frame)
    np.testing.assert_array_equal(Mimi(tiny_mimi).encoder().encode(change(frame)), expected)


@pytest.fixture(scope="module")
def encoder(tiny_mimi):
    return Mimi(tiny_mimi).encoder()


@pytest.fixture(scope="module")
def decoder(tiny_mimi):
    return Mimi(tiny_mimi).decoder()


@pytest.mark.parametrize(
    "frame", [np.zeros(0), np.zeros(1919), np.zeros((1, 1920)), np.zeros(1920, np.int16), "hello", None]
)
def test_frames_that_are_none_are_refused(encoder, frame):
    with pytest.raises(AudioError, match="a frame of sound is 1920 floating-point samples"):
        encoder.encode(frame)


@pytest.mark.parametrize(
    "codes", [[0] * 7, [0] * 9, [], np.zeros((8, 1), int), np.zeros(8), [True] * 8, None, [0] * 7 + ["x"]]
)
def test_columns_that_are_none_are_refused(decoder, codes):
    with pytest.raises(AudioError, match="a column of codes is 8 integers"):
        decoder.decode(codes)


@pytest.mark.parametrize("wrong", [2048, -1, 2**31, -(2**62)])
def test_codes_out_of_range_are_refused(decoder, wrong):
    with pytest.raises(AudioError, match=f"between 0 and 2047, not {wrong}"):
        decoder.decode([0] * 7 + [wrong])


@pytest.mark.parametrize("codebooks", [0, -1, 33])
def test_codebooks_that_mimi_has_not_are_refused(tiny_mimi, codebooks):
    with pytest.raises(CheckpointError, match="1 to 32 codebooks"):
        Mimi(tiny_mimi, codebooks)
    with pytest.raises(CheckpointError, match="1 to 32 codebooks"):
        Mimi(tiny_mimi).encoder(codebooks)


# Weights that are none.


def broken_weights(source: Path, folder: Path) -> dict[str, Path]:
    whole = source.read_bytes()
    weights = {name: value for name, value in load_file(source).items() if "vq.layers.2" not in name}
    files = {"missing": folder / "none.safetensors", "folder": folder}
    for name, content in {
        "empty": b"",
        "text": b"not a model\n" * 50,
        "header cut": whole[:1000],
        "tail cut": whole[:-1],
        "huge header": b"\xff" * 8 + whole[8:100],
    }.items():
        files[name] = folder / f"{name}.safetensors"
        files[name].write_bytes(content)
    files["tensor missing"] = folder / "tensor missing.safetensors"
    save_file(weights, files["tensor missing"])
    name = "encoder.model.0.conv.conv.weight"
    files["tensor misshapen"] = folder / "misshapen.safetensors"
    save_file(load_file(source) | {name: np.zeros((64, 1, 9), np.float32)}, files["tensor misshapen"])
    return files


def test_weights_that_are_none_end_in_one_sentence(tiny_mimi, tmp_path, capfd):
    for name, path in broken_weights(tiny_mimi, tmp_path).items():
        with pytest.raises(CheckpointError) as caught:
            Mimi(path).encoder()
        message = str(caught.value)
        assert str(path) in message, name
        assert "\n" not in message, name
        assert "backtrace" not in message, name
        assert len(message) < len(str(path)) + 200, name
    assert capfd.readouterr() == ("", "")
