"""What the echo canceller does, in figures: python scripts/echo_figures.py [--quick]

Moshi's voice (espeak-ng) goes through a loudspeaker and a room (an exponentially decaying random impulse
response) into the microphone, first alone, then under a second voice. Needs espeak-ng and the extra `aec`.

ERLE: echo energy at the microphone over what is left of it, in dB, while Moshi speaks alone (from second 6;
"early" is seconds 2 to 4). Kept: the part of the near voice that comes out, in dB, while both speak ("onset":
in its first second): the power of the output that is coherent with the clean near voice, so that an echo does
not count as speech. Off: nothing is removed and all is kept; "near/echo" is the voice's level over the echo's.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from moshi_mlx.live.echo import LATENCY, EchoCanceller, WebRtcStage
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

FAR_TEXT = (
    "Well, I was thinking about the mountains this summer. The weather should be lovely in June, and there is "
    "a small lake where one can swim. We could take the train, stay for a week, and come back before the heat. "
    "Do you like walking, or would you rather sit by the water and read a good book?"
)
NEAR_TEXT = (
    "Sorry, wait a moment, may I interrupt you? I do not want to go to the mountains, I would like to hear "
    "about the sea. Tell me about fishing boats, and harbours, and what people eat there in the evening."
)
LEVELS_DB = (-6, -18, -30)
DELAYS_MS = (20, 50, 80, 120, 180, 250)
ALONE_S, BOTH_S = 12, 12

Signal = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A room with a loudspeaker, a microphone and a person. Levels in dB against Moshi's voice as played."""

    level_db: float = -12.0
    delay_ms: float = 80.0
    near_db: float = 0.0
    noise_db: float = -58.0  # at the microphone; -80 dBFS, a quiet room
    distortion: float = 0.0  # the loudspeaker's: tanh(x · distortion) / distortion
    drift_ppm: float = 0.0  # between the clocks of speaker and microphone
    moves: bool = False  # the path changes for good after 5 s
    silent: bool = False  # no echo at all: headphones
    interrupts: bool = False  # the near voice speaks from the start, in the measured "alone" part too


@dataclass(frozen=True)
class Figures:
    """What a canceller did in one scene; see the top of this file."""

    early_erle_db: float
    erle_db: float
    kept_db: float
    onset_kept_db: float
    ms_per_frame: float


@functools.cache
def voice(text: str, name: str, words_per_minute: int, seconds: int) -> Signal:
    """float32 [seconds × 24000] of synthetic speech at -22 dBFS, repeated as needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "voice.wav"
        command = ["espeak-ng", "-v", name, "-s", str(words_per_minute), "-w", str(path), text]
        subprocess.run(command, check=True)
        samples, rate = soundfile.read(path, dtype="float32")
    speech = np.resize(soxr.resample(samples, rate, SAMPLE_RATE), seconds * SAMPLE_RATE)
    return (speech * 0.08 / np.sqrt(np.mean(speech**2))).astype(np.float32)


def through_room(signal: NDArray[np.floating], seed: int) -> NDArray[np.floating]:
    """Convolve with a direct path and 200 ms of random taps that fall by 60 dB in 250 ms; unit energy."""
    decay = 10 ** (-3 * np.arange(4800) / SAMPLE_RATE / 0.25)
    taps = np.random.default_rng(seed).standard_normal(4800) * decay
    taps[0] = 2 * np.abs(taps).max()
    taps /= np.sqrt(np.sum(taps**2))
    size = len(signal) + len(taps)
    return np.fft.irfft(np.fft.rfft(signal, size) * np.fft.rfft(taps, size), size)[: len(signal)]


def echo_of(played: Signal, scene: Scene) -> Signal:
    if scene.silent:
        return np.zeros_like(played)
    emitted = np.tanh(played * scene.distortion) / scene.distortion if scene.distortion else played
    echo = through_room(emitted, seed=0)
    if scene.moves:
        echo[5 * SAMPLE_RATE :] = through_room(emitted, seed=1)[5 * SAMPLE_RATE :]
    if scene.drift_ppm:
        echo = soxr.resample(echo, SAMPLE_RATE, SAMPLE_RATE * (1 - scene.drift_ppm * 1e-6))
    echo = np.concatenate([np.zeros(round(scene.delay_ms * SAMPLE_RATE / 1000)), echo, np.zeros(SAMPLE_RATE)])
    return (echo[: len(played)] * 10 ** (scene.level_db / 20)).astype(np.float32)


def perform(scene: Scene) -> tuple[Signal, Signal, Signal]:
    """What is played, the room's answer (echo and noise) and the near voice: float32, 24 s each."""
    played = voice(FAR_TEXT, "en-us+m3", 160, ALONE_S + BOTH_S)
    near = voice(NEAR_TEXT, "en-gb+f3", 150, ALONE_S + BOTH_S) * np.float32(10 ** (scene.near_db / 20))
    if not scene.interrupts:
        near = np.concatenate([np.zeros(ALONE_S * SAMPLE_RATE, np.float32), near[: BOTH_S * SAMPLE_RATE]])
    noise = np.random.default_rng(3).standard_normal(len(played)) * 0.08 * 10 ** (scene.noise_db / 20)
    return played, (echo_of(played, scene) + noise).astype(np.float32), near


def decibels(numerator: NDArray[np.floating], denominator: NDArray[np.floating]) -> float:
    ratio = (np.mean(np.square(numerator, dtype=float)) + 1e-20) / np.mean(np.square(denominator, dtype=float))
    return float(10 * np.log10(ratio))


def kept_db(output: Signal, near: Signal, window: int = 1024) -> float:
    """Power of what `near`, through any short filter, explains of `output`, over the power of `near`."""

    def spectra(signal: Signal) -> NDArray[np.complex128]:
        frames = np.lib.stride_tricks.sliding_window_view(signal, window)[:: window // 2]
        return np.fft.rfft(frames * np.hanning(window), axis=1)

    heard, spoken = spectra(output), spectra(near)
    power = np.sum(np.abs(spoken) ** 2, axis=0)
    gain = np.abs(np.sum(heard * np.conj(spoken), axis=0)) / (power + 1e-12)
    return float(10 * np.log10(np.sum(gain**2 * power) / np.sum(power)))


def cancel_all(canceller: EchoCanceller | WebRtcStage, mic: Signal, played: Signal) -> Signal:
    """Frame by frame through a canceller; its latency taken off again, so that in and out are aligned."""
    step = canceller.cancel if isinstance(canceller, EchoCanceller) else canceller.step
    frames = [step(mic[i : i + FRAME_SIZE], played[i : i + FRAME_SIZE]) for i in range(0, len(mic), FRAME_SIZE)]
    return np.concatenate([*frames, np.zeros(LATENCY, np.float32)])[LATENCY:]


def measure(scene: Scene, canceller: EchoCanceller | WebRtcStage) -> Figures:
    played, answer, near = perform(scene)
    started = time.perf_counter()
    output = cancel_all(canceller, answer + near, played)
    elapsed = time.perf_counter() - started

    def span(start: float, stop: float) -> slice:
        return slice(round(start * SAMPLE_RATE), round(stop * SAMPLE_RATE))

    early, alone, both = span(2, 4), span(6, ALONE_S), span(ALONE_S + 0.5, ALONE_S + BOTH_S - 0.5)
    onset = span(ALONE_S, ALONE_S + 1)
    return Figures(
        early_erle_db=decibels(answer[early], output[early]),
        erle_db=decibels(answer[alone], output[alone]),
        kept_db=kept_db(output[both], near[both]),
        onset_kept_db=kept_db(output[onset], near[onset]),
        ms_per_frame=1000 * elapsed / (len(played) / FRAME_SIZE),
    )


def scenes(quick: bool) -> dict[str, Scene]:
    grid = {
        f"{level:4d} dB {delay:4d} ms": Scene(level_db=level, delay_ms=delay)
        for level in LEVELS_DB
        for delay in ((20, 250) if quick else DELAYS_MS)
    }
    if quick:
        return grid
    return grid | {
        "   0 dB  120 ms": Scene(level_db=0, delay_ms=120),
        "near 6 dB quieter": Scene(near_db=-6),
        "loudspeaker distorts": Scene(distortion=4),
        "clocks drift 50 ppm": Scene(drift_ppm=50),
        "path changes at 5 s": Scene(moves=True),
        "noise at -60 dBFS": Scene(noise_db=-38),
        "delay 400 ms": Scene(delay_ms=400),
        "headphones, no echo": Scene(silent=True),
        "both from the start": Scene(interrupts=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="six scenes in place of twenty-seven")
    quick = parser.parse_args().quick
    print(f"{'':20} |  off:     | WebRTC alone:       | both stages:")
    print(f"{'echo level, delay':20} | near/echo |  ERLE   kept  onset | early   ERLE   kept  onset  ms/frame")
    for name, scene in scenes(quick).items():
        _, answer, near = perform(scene)
        above = decibels(near[ALONE_S * SAMPLE_RATE :], answer[ALONE_S * SAMPLE_RATE :])
        alone, both = measure(scene, WebRtcStage()), measure(scene, EchoCanceller())
        print(
            f"{name:20} | {above:6.1f} dB |"
            f" {alone.erle_db:5.1f} {alone.kept_db:6.1f} {alone.onset_kept_db:6.1f} |"
            f" {both.early_erle_db:5.1f} {both.erle_db:6.1f} {both.kept_db:6.1f} {both.onset_kept_db:6.1f}"
            f" {both.ms_per_frame:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
