"""The echo canceller: takes what the speaker played out of what the microphone heard.

Two stages. A linear filter of our own learns the path from speaker to microphone and subtracts the echo;
speech over the echo stays untouched. WebRTC's canceller (AEC3, through `livekit`) then removes what a linear
filter cannot. WebRTC alone takes 6 to 7 dB from a voice that speaks over a loud echo, both together 2 dB.
Knows no device and no thread: one caller, both signals a frame at a time. Figures: scripts/echo_figures.py.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from moshi_mlx.errors import AudioError, MoshiError
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

LATENCY = 224  # samples (9.3 ms) by which WebRTC delays what passes through it; measured with noise
REACH_S = 0.5  # echo that arrives within this time is cancelled
BLOCK = 480  # samples of the linear filter's step, 20 ms
WEBRTC_BLOCK = 240  # WebRTC takes exactly 10 ms
SILENCE = 1e-6  # mean square (-60 dBFS) below which nothing counts as played
HOLD = SAMPLE_RATE  # samples of silence before the microphone passes as it is: more than an echo's tail

REMEDY = "in moshi-mac's folder run `uv tool install '.[aec]'`"
"""How to install livekit."""

Samples = NDArray[np.float32]
Spectra = NDArray[np.complex128]


def available() -> bool:
    """Whether the extra `aec` (livekit, which carries WebRTC's canceller) is installed."""
    try:
        return find_spec("livekit.rtc") is not None
    except ModuleNotFoundError:
        return False


class EchoCanceller:
    """Cancels the speaker's echo in the microphone signal, frame by frame, however long it goes on.

    WebRTC's other functions stay off. Measured at -18 dB, 80 ms: noise suppression takes 11 dB more echo but
    1.2 dB of the voice, even when nothing is played; gain control leaves 15 dB more echo. A high-pass below
    100 Hz and a fall above 9.5 kHz come with the canceller whatever one asks.

    Raises:
        MoshiError: livekit is not installed.
    """

    latency = LATENCY / SAMPLE_RATE
    """Seconds by which the output lags the microphone, always the same."""

    def __init__(self) -> None:
        if not available():
            raise MoshiError(f"echo cancellation needs livekit, which is not installed: {REMEDY}, or use headphones")
        try:
            self.reset()
        except (ImportError, OSError) as error:  # the native library does not suit this system
            raise MoshiError(f"livekit is installed but does not load ({error}): reinstall it") from error

    def reset(self) -> None:
        """Forget the room: a new conversation, or a device reopened."""
        self._linear = LinearStage(round(REACH_S * SAMPLE_RATE))
        self._webrtc = WebRtcStage()
        self._late = np.zeros(LATENCY, np.float32)  # the microphone, delayed as WebRTC delays
        self._quiet = HOLD  # samples since something was last played
        self._bypassed = True
        self._reduction, self._measured = 0.0, False

    @property
    def delay(self) -> float | None:
        """Seconds from `played` to its strongest echo, as learned; None while no echo is being cancelled."""
        return self._linear.delay if self._linear.trusted else None

    @property
    def reduction_db(self) -> float | None:
        """Echo return loss enhancement in dB over the last second of echo alone; None before any."""
        return float(self._reduction) if self._measured else None

    def cancel(self, mic: Samples, played: Samples) -> Samples:
        """Take the echo out of one frame.

        Args:
            mic: float32 [1920], what the microphone delivered; NaN and infinity count as silence.
            played: float32 [1920], what went to the speaker in the same time, silence included.

        Returns:
            float32 [1920], the near voice, `latency` later. While nothing has been played for a second, these
            are the microphone's own samples, bit for bit.

        Raises:
            AudioError: the two are not whole blocks of 480 samples of equal length.
        """
        if mic.shape != played.shape or mic.ndim != 1 or len(mic) % BLOCK:
            raise AudioError(
                f"the echo canceller got {mic.shape} microphone and {played.shape} speaker samples: "
                f"pass frames of {FRAME_SIZE}"
            )
        mic = np.nan_to_num(mic, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32, copy=False)
        played = np.clip(np.nan_to_num(played, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)
        blocks = range(0, len(mic), BLOCK)
        return np.concatenate([self._cancel_block(mic[i : i + BLOCK], played[i : i + BLOCK]) for i in blocks])

    def _cancel_block(self, mic: Samples, played: Samples) -> Samples:
        residual = self._linear.step(np.clip(mic, -1.0, 1.0), played)
        cancelled = self._webrtc.step(residual, played)
        late = np.concatenate([self._late, mic])
        late, self._late = late[:BLOCK], late[BLOCK:]
        self._measure(late, cancelled)
        return self._choose(late, cancelled, played)

    def _choose(self, mic: Samples, cancelled: Samples, played: Samples) -> Samples:
        """The microphone itself after a second without echo, else the cancelled signal; with a fade."""
        self._quiet = 0 if _power(played) > SILENCE else self._quiet + len(played)
        bypassed, self._bypassed = self._bypassed, self._quiet >= HOLD
        if bypassed == self._bypassed:
            return mic if bypassed else cancelled
        fade = np.linspace(0.0, 1.0, len(mic), dtype=np.float32)
        if self._bypassed:
            mic, cancelled = cancelled, mic
        return (mic + (cancelled - mic) * fade).astype(np.float32)

    def _measure(self, mic: Samples, cancelled: Samples) -> None:
        """Follow the reduction where the microphone hears echo alone: a mean over about a second."""
        before, after = _power(mic), _power(cancelled)
        if self._linear.only_echo and min(before, after) > 0.0:
            reduction = 10 * np.log10(before / after)
            self._reduction += 0.02 * (reduction - self._reduction)
            self._measured = True


class WebRtcStage:
    """WebRTC's audio processing module in 10 ms blocks of 16-bit samples."""

    def __init__(self) -> None:
        from livekit.rtc import AudioFrame, AudioProcessingModule

        self._module = AudioProcessingModule(echo_cancellation=True)
        self._near = AudioFrame.create(SAMPLE_RATE, 1, WEBRTC_BLOCK)
        self._far = AudioFrame.create(SAMPLE_RATE, 1, WEBRTC_BLOCK)
        self._near_samples = np.frombuffer(self._near.data, np.int16)
        self._far_samples = np.frombuffer(self._far.data, np.int16)

    def step(self, near: Samples, far: Samples) -> Samples:
        """Both float32 [n × 240] in -1…1; returns float32 [n × 240], `LATENCY` late."""
        cancelled = np.empty(len(near), np.float32)
        near16, far16 = _to_int16(near), _to_int16(far)
        for start in range(0, len(near), WEBRTC_BLOCK):
            part = slice(start, start + WEBRTC_BLOCK)
            self._far_samples[:] = far16[part]
            self._near_samples[:] = near16[part]
            self._module.process_reverse_stream(self._far)
            self._module.process_stream(self._near)  # in place
            cancelled[part] = self._near_samples
        return cancelled / np.float32(32768)


class LinearStage:
    """A partitioned-block frequency-domain Kalman filter: learns the echo path, survives double talk.

    Source: Kuech, Mabande, Enzner, "State-space architecture of the partitioned-block-based acoustic echo
    controller", ICASSP 2014. The state is the echo path's spectrum, and its uncertainty sets the step: speech
    over the echo raises the noise estimate, and learning slows down instead of going astray.
    """

    def __init__(self, reach: int) -> None:
        partitions, bins = -(-reach // BLOCK), BLOCK + 1
        self._played = np.zeros(2 * BLOCK)
        self._spectra: Spectra = np.zeros((partitions, bins), np.complex128)  # of `played`, newest first
        self._path: Spectra = np.zeros((partitions, bins), np.complex128)
        self._uncertainty = np.full((partitions, bins), 2e-3)  # variance of the path before anything is known
        self._noise: NDArray[np.float64] | None = None  # power spectrum of what the filter does not explain
        self._products = np.zeros(3)  # smoothed: microphone · microphone, microphone · echo, echo · echo
        self._plausible = 0  # blocks in a row for which the echo was the size that the microphone shows
        self.trusted = False
        """Whether the residual is passed on in place of the microphone."""
        self.only_echo = False
        """Whether the block just taken was explained as echo to four fifths: nobody speaks."""

    @property
    def delay(self) -> float:
        """Seconds to the strongest tap of the path."""
        taps = np.fft.irfft(self._path, axis=1)[:, :BLOCK]
        return int(np.argmax(np.abs(taps))) / SAMPLE_RATE

    def step(self, mic: Samples, played: Samples) -> Samples:
        """Both float32 [480]; returns float32 [480] without delay."""
        self._played = np.concatenate([self._played[BLOCK:], played])
        self._spectra[1:] = self._spectra[:-1]
        self._spectra[0] = np.fft.rfft(self._played)
        echo = np.fft.irfft((self._spectra * self._path).sum(axis=0))[BLOCK:]
        residual = mic - echo
        active = _power(self._played) > SILENCE
        if active:
            self._learn(residual)
        fading = self._judge(mic, echo, active)
        return (mic - fading * echo).astype(np.float32)

    def _learn(self, residual: NDArray[np.float64]) -> None:
        error = np.fft.rfft(np.concatenate([np.zeros(BLOCK), residual]))
        power = np.square(error.real) + np.square(error.imag)
        self._noise = power if self._noise is None else 0.9 * self._noise + 0.1 * power
        played = np.square(self._spectra.real) + np.square(self._spectra.imag)
        # Halved, because the block is half of the transform's window.
        step = self._uncertainty / (0.5 * (self._uncertainty * played).sum(axis=0) + self._noise + 1e-9)
        change = np.fft.irfft(step * np.conj(self._spectra) * error, axis=1)
        change[:, BLOCK:] = 0.0  # a partition is one block long, or the product would wrap around
        path_power = np.square(self._path.real) + np.square(self._path.imag)
        # The room changes from block to block: path ← 0.999 · path + what 0.2% of its power allows. Without the
        # 0.999, bins in which nothing is played walk away within minutes.
        self._uncertainty = 0.998 * (1.0 - 0.5 * step * played) * self._uncertainty + 0.002 * path_power
        self._path = 0.999 * (self._path + np.fft.rfft(change, axis=1))

    def _judge(self, mic: Samples, echo: NDArray[np.float64], active: bool) -> NDArray[np.float64] | float:
        """Decide on trust; returns the share of the echo to subtract, a ramp where the decision changes."""
        self.only_echo = active and _power(mic - echo) < 0.2 * _power(mic)
        trusted = self._deserves_trust(mic, echo) if active else self.trusted
        changed, self.trusted = trusted != self.trusted, trusted
        if not changed:
            return float(trusted)
        ramp: NDArray[np.float64] = np.linspace(0.0, 1.0, BLOCK, dtype=np.float64)
        return ramp if trusted else 1.0 - ramp

    def _deserves_trust(self, mic: Samples, echo: NDArray[np.float64]) -> bool:
        """Trust begins with 10 dB won, or where speech hides that, with two seconds of the right size.

        The size: a converged echo is contained in the microphone just once, so that the projection of the
        microphone on it is 1, whatever else is heard. Trust ends when the residual is the louder one by 1 dB.
        """
        products = np.array([mic @ mic, mic @ echo, echo @ echo], np.float64)
        self._products = 0.98 * self._products + 0.02 * products  # about a second
        heard, shared, explained = self._products
        removed = 2 * shared - explained  # energy of the microphone less that of the residual
        if self.trusted:
            return removed > -0.26 * heard
        right_size = 0.9 * explained < shared < 1.1 * explained
        self._plausible = self._plausible + 1 if right_size else 0
        return (right_size and removed > 0.9 * heard) or self._plausible >= 100


def _power(samples: NDArray[np.floating]) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def _to_int16(samples: Samples) -> NDArray[np.int16]:
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
