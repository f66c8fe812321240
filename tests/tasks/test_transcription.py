from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import moshi_mlx
from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer
from moshi_mlx.errors import ConfigError
from moshi_mlx.generator import Generator
from moshi_mlx.moshi import Moshi
from moshi_mlx.rates import FRAME_SIZE
from moshi_mlx.tasks import transcription
from moshi_mlx.tasks.listening import Listening
from moshi_mlx.tasks.transcription import GREEDY, PAUSE_HEAD, Scribe, SttTiming, TimedWord, Transcript, Transcription
from moshi_mlx.text import TextTokenizer

PAD, EPAD = 3, 0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> TextTokenizer:
    return TextTokenizer(write_tiny_tokenizer(tmp_path_factory.mktemp("text") / "text.model"))


@pytest.fixture(scope="module")
def model() -> Moshi:
    return moshi_mlx.load("tiny-stt")


def written(tokenizer: TextTokenizer, timing: SttTiming, tokens: list[int]) -> list[TimedWord]:
    scribe = Scribe(tokenizer, timing)
    heard = [scribe.push(token, frame) for frame, token in enumerate(tokens)] + [scribe.flush(len(tokens))]
    assert [word for part in heard for word in part.words] == scribe.transcript.words
    return scribe.transcript.words


def blocks(sound: np.ndarray) -> list[np.ndarray]:
    return [sound[start : start + FRAME_SIZE] for start in range(0, len(sound), FRAME_SIZE)]


def transcripts(model: Moshi, sounds: list[np.ndarray]) -> list[Transcript]:
    work = Transcription(model, [blocks(sound) for sound in sounds])
    heard = list(work)
    for i, transcript in enumerate(work.transcripts):
        mine = [part for parts in heard if (part := parts[i]) is not None]
        assert "".join(part.text for part in mine) == transcript.text
        assert [word for part in mine for word in part.words] == transcript.words
    return work.transcripts


def with_prefix(model: Moshi, seconds: float) -> Moshi:
    """The model, wanting so much silence before the sound."""
    stt = {"audio_silence_prefix_seconds": seconds, "audio_delay_seconds": 0.5}
    config = replace(model.config, raw={**model.config.raw, "stt_config": stt})
    return replace(model, checkpoint=replace(model.checkpoint, config=config))


# When words were said.


def test_a_word_lasts_from_its_first_piece_to_the_next_boundary(tokenizer):
    hello, you = tokenizer.encode("hello"), tokenizer.encode("you")
    tokens = [PAD, PAD, EPAD, *hello, PAD, EPAD, *you, EPAD, PAD]
    first, second = written(tokenizer, SttTiming(0, 0.0), tokens)
    end = 3 + len(hello) + 1
    assert first == TimedWord("hello", 0.24, round(0.08 * end, 3))
    assert second == TimedWord("you", round(0.08 * (end + 1), 3), round(0.08 * (end + 1 + len(you)), 3))


def test_delay_and_prefix_are_taken_off_and_nothing_is_said_before_the_sound(tokenizer):
    piece = tokenizer.encode("you")
    late, delay = [PAD] * 30, 0.5
    tokens = [*late, EPAD, *piece, EPAD]
    (word,) = written(tokenizer, SttTiming(13, delay), tokens)
    assert word.start == round((31 - 13) * 0.08 - delay, 3)
    assert word.end == round((31 + len(piece) - 13) * 0.08 - delay, 3)
    (early,) = written(tokenizer, SttTiming(13, delay), [EPAD, *piece, EPAD])
    assert (early.start, early.end) == (0.0, 0.0)


def test_a_word_before_a_long_pause_lasts_a_second(tokenizer):
    piece = tokenizer.encode("you")
    tokens = [EPAD, *piece, *[PAD] * 60, EPAD, *piece]
    first, last = written(tokenizer, SttTiming(0, 0.0), tokens)
    assert first.end - first.start == pytest.approx(0.96)
    assert last.end == round(0.08 * len(tokens), 3)


def test_words_without_a_boundary_between_them_follow_each_other(tokenizer):
    tokens = [EPAD, *tokenizer.encode("hello"), *tokenizer.encode("you"), EPAD]
    first, second = written(tokenizer, SttTiming(0, 0.0), tokens)
    assert (first.text, second.text) == ("hello", "you")
    assert first.end == second.start


def test_silence_goes_around_the_sound_as_the_config_says(model):
    published = {"audio_silence_prefix_seconds": 1.0, "audio_delay_seconds": 2.5}  # stt-2.6b-en
    timing = SttTiming.of(replace(model.config, raw={"stt_config": published}))
    assert (timing.prefix, timing.delay, timing.flush) == (13, 2.5, 44)
    assert SttTiming.of(replace(model.config, raw={})) == SttTiming(0, 0.0)
    for broken in ({"audio_delay_seconds": "half"}, {"audio_delay_seconds": -1}, [0.5]):
        with pytest.raises(ConfigError, match="audio_delay_seconds"):
            SttTiming.of(replace(model.config, raw={"stt_config": broken}))


# From sound to text.


def test_a_transcript_is_what_the_model_makes_of_the_sound_and_the_silence_around_it(model, speechlike):
    """Frame by frame through codec and model by hand, with a prefix as the 2.6B model has one."""
    sound = speechlike(9)[:-700]
    (transcript,) = transcripts(with_prefix(model, 0.2), [sound])
    padded = np.concatenate([np.zeros(3 * FRAME_SIZE), sound, np.zeros(700 + 19 * FRAME_SIZE)]).astype(np.float32)
    encoder, generator = model.encoder(), Generator(model.lm, text_sampling=GREEDY)
    frames = [generator.step(encoder.encode(frame)) for frame in padded.reshape(-1, FRAME_SIZE)]
    tokens = [int(frame.text) for frame in frames]
    assert transcript.words == [
        replace(word, start=min(word.start, transcript.seconds), end=min(word.end, transcript.seconds))
        for word in written(model.text, SttTiming(3, 0.5), tokens)
    ]
    pauses = [frame.extra[PAUSE_HEAD, 0] for frame in frames if frame.extra is not None]
    np.testing.assert_array_equal(transcript.pauses, np.array(pauses[3 : 3 + 9], float))
    assert transcript.seconds == round(len(sound) / 24_000, 3)


def test_recordings_in_one_batch_come_out_as_alone(model, speechlike, monkeypatch):
    monkeypatch.setattr(transcription, "_ROWS_PER_ENCODER", 2)
    sounds = [speechlike(length, seed)[: length * FRAME_SIZE - 17 * seed] for seed, length in enumerate((14, 3, 1))]
    together = transcripts(model, sounds)
    for transcript, sound in zip(together, sounds, strict=True):
        (alone,) = transcripts(model, [sound])
        assert transcript.text == alone.text
        assert transcript.words == alone.words
        assert len(transcript.pauses) == math.ceil(len(sound) / FRAME_SIZE)
        np.testing.assert_allclose(transcript.pauses, alone.pauses, rtol=0, atol=1e-6)


# Live.


def listen(model: Moshi, sound: np.ndarray) -> Listening:
    """Frame by frame, as a conversation's stages."""
    listening = Listening(model)
    listening.warm_up()
    for frame in blocks(sound):
        _, codes = listening.think(listening.encode(frame))
        assert not listening.decode(codes).any()
    listening.finish()
    return listening


def test_what_is_heard_live_comes_out_as_from_a_file(model, speechlike):
    sound = speechlike(5, 4)
    late = with_prefix(model, 0.2)
    (transcript,) = transcripts(late, [sound])
    listening = listen(late, sound)
    assert listening.transcript == transcript
    assert "".join(heard.text for heard in listening.heard) == transcript.text
    assert [word for heard in listening.heard for word in heard.words] == transcript.words


def test_frames_that_were_missed_move_the_words_after_them_and_leave_a_gap_in_the_pauses(tokenizer):
    tokens = [EPAD, *tokenizer.encode("you"), EPAD]
    scribe = Scribe(tokenizer, SttTiming(0, 0.0))
    for frame in (*range(len(tokens)), *range(40, 40 + len(tokens))):
        scribe.push(tokens[frame % 40], frame, pause=frame / 100)
    first, second = scribe.transcript.words
    assert (second.start - first.start, second.end - first.end) == pytest.approx((3.2, 3.2))
    assert len(scribe.transcript.pauses) == 40 + len(tokens)
    assert scribe.transcript.pauses[39] == 0.4  # what was missed has the next probability that is known
