from __future__ import annotations

import time

import numpy as np
import pytest

from moshi_mlx.live.speaker import Speaker, SpeakerStats
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

BLOCK = 480
FADE = 120  # 5 ms


def tone(samples: int, start: int = 0, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency / SAMPLE_RATE * np.arange(start, start + samples))).astype(np.float32)


def speaker(drifting: bool = False, rate: int = SAMPLE_RATE) -> Speaker:
    return Speaker(rate, drifting, SpeakerStats())


def render(speaker: Speaker, blocks: int, size: int = BLOCK) -> np.ndarray:
    out = np.full((blocks, size), np.nan, np.float32)
    for block in out:
        speaker.render(block)
    return out.ravel()


@pytest.mark.parametrize("size", [1920, 480, 240, 512, 77])
def test_frames_play_sample_exact_whatever_the_block(size: int) -> None:
    line, sent, played = speaker(), tone(20 * FRAME_SIZE), []
    for frame in sent.reshape(20, FRAME_SIZE):
        line.write(frame)
        while len(line._ring) >= size:
            played.append(render(line, 1, size))
    sound = np.concatenate(played)
    np.testing.assert_array_equal(sound, sent[: len(sound)])
    assert len(sound) > 19 * FRAME_SIZE
    assert line.stats == SpeakerStats()


def test_silence_before_the_first_frame_is_no_underrun() -> None:
    line = speaker()
    assert not render(line, 10).any()
    assert line.stats == SpeakerStats()


@pytest.mark.parametrize("size", [1920, 480, 240, 100])
def test_a_starving_speaker_fades_to_silence_and_back_without_a_click(size: int) -> None:
    line = speaker()
    line.write(np.full(FRAME_SIZE, 0.5, np.float32))
    starving = render(line, -(-2 * FRAME_SIZE // size), size)
    assert (starving[:FRAME_SIZE] == 0.5).all()
    assert not starving[FRAME_SIZE + FADE :].any()
    line.write(np.full(FRAME_SIZE, 0.5, np.float32))
    back = render(line, FRAME_SIZE // size, size)
    assert (back[FADE:] == 0.5).all()
    steps = np.abs(np.diff(np.concatenate([starving, back])))
    assert steps.max() < 0.5 / FADE * 1.1
    assert line.stats.underruns == 1


def test_what_runs_out_because_nothing_shall_follow_is_no_underrun() -> None:
    line = speaker()
    for rests in (True, False):
        line.write(tone(FRAME_SIZE))
        if rests:
            line.rest()
        render(line, 6)
        assert line.stats.underruns == (not rests)


def test_a_tone_that_stops_anywhere_leaves_no_jump() -> None:
    steepest = float(np.abs(np.diff(tone(1000))).max())
    for start in range(0, 60, 7):
        line = speaker()
        line.write(tone(FRAME_SIZE, start))
        steps = np.abs(np.diff(render(line, 6)))
        assert steps.max() < 1.1 * steepest, start


def test_output_more_than_a_frame_late_is_discarded_oldest_first() -> None:
    line = speaker()
    for number in range(4):  # as after a stall: four frames at once
        line.write(np.full(FRAME_SIZE, number / 10, np.float32))
    sound = render(line, 12)
    assert line.stats.discarded_samples == 2 * FRAME_SIZE
    assert line.stats.underruns == 1  # at the very end
    assert (sound[FADE:FRAME_SIZE] == np.float32(0.2)).all()
    assert (sound[FRAME_SIZE : 2 * FRAME_SIZE] == np.float32(0.3)).all()


def test_a_jump_to_newer_output_is_crossfaded() -> None:
    line = speaker()
    line.write(np.full(FRAME_SIZE, 0.5, np.float32))
    first = render(line, 1)
    for _ in range(4):
        line.write(np.full(FRAME_SIZE, -0.5, np.float32))
    sound = np.concatenate([first, render(line, 8)])
    assert np.abs(np.diff(sound)).max() < 1.0 / FADE * 1.1
    assert line.stats.discarded_samples == 3 * FRAME_SIZE - BLOCK


@pytest.mark.parametrize("surplus_blocks", [1, 2, 3, 4])
def test_delay_that_no_frame_needs_is_gone_within_three_seconds(surplus_blocks: int) -> None:
    line, stream = speaker(), tone(60 * FRAME_SIZE).reshape(60, FRAME_SIZE)
    line.write(stream[0])
    render(line, 4 - surplus_blocks)  # the next frames come early by that many blocks, for ever
    played = []
    for frame in stream[1:]:
        line.write(frame)
        played.append(render(line, 4))
    assert line.stats.cut_samples == surplus_blocks * BLOCK
    assert line.stats.underruns == 0
    assert len(line._ring) == 0
    steepest = float(np.abs(np.diff(stream.ravel())).max())
    assert np.abs(np.diff(np.concatenate(played))).max() < 1.1 * steepest


def test_delay_that_one_frame_in_a_window_needs_is_kept() -> None:
    line = speaker()
    line.write(tone(FRAME_SIZE))
    for number in range(100):
        late = number % 10 == 9
        render(line, 2 + late * 2)  # every tenth frame comes just in time
        line.write(tone(FRAME_SIZE))
        render(line, 2 - late * 2)
    assert line.stats.cut_samples == 0
    assert line.stats.underruns == 0


def play(line: Speaker, stream: np.ndarray, late_ms: list[float], block: int = BLOCK) -> tuple[np.ndarray, list[int]]:
    """Write the frames of `stream`, each by its milliseconds late; returns the sound, and what waits after each."""
    played, waiting, now, block_ms = [], [], 0.0, 1000 * block / SAMPLE_RATE
    for number, (frame, late) in enumerate(zip(stream, late_ms, strict=True)):
        at = 80 * number + late
        while now + block_ms <= at:
            played.append(render(line, 1, block))
            now += block_ms
        line.write(frame)
        waiting.append(line.waiting - FRAME_SIZE)
    return np.concatenate(played), waiting


@pytest.mark.parametrize("stall_ms", [50, 110, 170])
def test_after_a_stall_the_delay_is_gone_with_the_fifth_frame(stall_ms: float) -> None:
    """The frames behind it come as fast as a stage of 20 ms can make them; what is usual is 25 ms late at times."""
    late = [25.0 if number % 7 == 0 else 0.0 for number in range(120)]
    for behind in range(5):
        late[80 + behind] = max(late[80 + behind], stall_ms - 60 * behind)
    line, stream = speaker(), tone(120 * FRAME_SIZE).reshape(120, FRAME_SIZE)
    sound, waiting = play(line, stream, late)
    over = next(number for number in range(81, 120) if late[number] <= 25)
    assert max(waiting[40:80]) <= 2 * BLOCK
    assert max(waiting[81 : over + 3]) > 2 * BLOCK or stall_ms < 60
    assert max(waiting[over + 5 :]) <= 2 * BLOCK
    assert line.stats.underruns <= 3  # the first that is usually late, the stall, and what came with it
    steepest = float(np.abs(np.diff(stream.ravel())).max())
    assert np.abs(np.diff(sound)).max() < 1.2 * steepest


@pytest.mark.parametrize("late_ms", [30, 50, 70])
def test_frames_that_are_often_late_are_given_time_and_not_cut_short_again_and_again(late_ms: float) -> None:
    late = [0.0] * 60 + [late_ms if number % 10 == 0 else 0.0 for number in range(600)]
    line = speaker()
    play(line, tone(len(late) * FRAME_SIZE).reshape(-1, FRAME_SIZE), late)
    assert line.stats.underruns <= 3


@pytest.mark.parametrize("block", [BLOCK, FRAME_SIZE])
@pytest.mark.parametrize("every", [20, 60, 200, 700])
def test_frames_that_are_seldom_a_little_late_make_few_gaps_in_ten_minutes(every: int, block: int) -> None:
    """Each gap would be followed by a cut of its delay, and that by the next gap, every few seconds."""
    random = np.random.default_rng(every)
    steady, more = (10.0, 25.0) if block == BLOCK else (70.0, 85.0)  # in time for a callback, and not
    late = np.where(random.random(7_500) < 1 / every, more, steady)
    line = speaker()
    _, waiting = play(line, np.zeros((len(late), FRAME_SIZE), np.float32), list(late), block)
    assert line.stats.underruns <= 5
    assert max(waiting) <= max(2 * BLOCK, block)
    assert late.max() == more


def test_what_frames_have_needed_in_vain_is_given_back_within_ten_minutes() -> None:
    late = [25.0 if number < 4000 and number % 60 == 59 else 0.0 for number in range(12_000)]
    line = speaker()
    _, waiting = play(line, np.zeros((len(late), FRAME_SIZE), np.float32), late)
    assert max(waiting[3000:4000]) > 0
    assert max(waiting[-500:]) == 0


@pytest.mark.parametrize("ppm", [-300, 300])
def test_clocks_that_drift_apart_are_corrected_for_an_hour(ppm: int, monkeypatch: pytest.MonkeyPatch) -> None:
    line, now = speaker(drifting=True), 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    callback_at, write_at, out = 0.0, 0.011, np.zeros(BLOCK, np.float32)
    frame, levels, settled = tone(FRAME_SIZE), [], 0
    while write_at < 3600:
        if callback_at < write_at:
            now, callback_at = callback_at, callback_at + BLOCK / SAMPLE_RATE / (1 + ppm * 1e-6)
            line.render(out)
        else:
            now, write_at = write_at, write_at + FRAME_SIZE / SAMPLE_RATE
            line.write(frame)
            levels.append(len(line._ring) - FRAME_SIZE)
            if write_at < 10:
                settled = line.stats.underruns
    assert line.stats.underruns == settled
    assert line.stats.discarded_samples == 0
    assert max(levels[200:]) <= BLOCK
    corrected = line.stats.inserted_samples - line.stats.cut_samples
    assert corrected == pytest.approx(3600 * SAMPLE_RATE * ppm * 1e-6, abs=2 * BLOCK)


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
def test_other_rates_are_resampled_without_loss(rate: int) -> None:
    line, played = speaker(rate=rate), []
    block = rate // 50
    for frame in tone(50 * FRAME_SIZE).reshape(50, FRAME_SIZE):
        line.write(frame)
        while len(line._ring) >= block:
            played.append(render(line, 1, block))
    sound = np.concatenate(played)[rate // 2 :]
    assert 50 * 0.08 - 0.5 - len(sound) / rate < 0.04  # at most 10 ms in the resampler, a block in the ring
    times = np.arange(len(sound)) / rate * 2 * np.pi * 440
    basis = np.stack([np.sin(times), np.cos(times)], axis=1)
    weights, *_ = np.linalg.lstsq(basis, sound, rcond=None)
    assert np.hypot(*weights) == pytest.approx(0.5, rel=1e-3)
    assert np.abs(sound - basis @ weights).max() < 1e-3
    assert line.stats.cut_samples == 0


def test_a_stall_now_and_then_does_not_make_small_delays_last() -> None:
    """Each is followed by a cut that no frame has regretted: what one frame has needed is back within ten seconds."""
    late = [0.0] * 4000
    for stall in (500, 1500, 2500):
        for behind in range(3):
            late[stall + behind] = 130.0 - 60 * behind
    late[3500] = 25.0
    line = speaker()
    _, waiting = play(line, np.zeros((len(late), FRAME_SIZE), np.float32), late)
    assert max(waiting[3501:3520]) > 0
    assert max(waiting[3625:]) == 0


def test_a_stall_in_the_first_two_seconds_is_worked_off_as_soon_as_any_other() -> None:
    late = [0.0] * 15 + [130.0, 70.0, 10.0] + [0.0] * 40
    line = speaker()
    _, waiting = play(line, np.zeros((len(late), FRAME_SIZE), np.float32), late)
    assert max(waiting[15:20]) > 2 * BLOCK
    assert max(waiting[23:]) <= 2 * BLOCK
