"""PortAudio itself: loading it, closing streams that may hang, and starting it afresh to see new devices.

The only file that touches what `sounddevice` keeps private. PortAudio lists devices once, when it is
initialised, so a device plugged in later is seen only after a restart of the library.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from moshi_mlx.errors import DeviceError

CLOSE_SECONDS = 1.0

_hung: list[Any] = []  # libraries with a thread still inside: unloading one would crash the process


def portaudio() -> Any:
    """Return the module `sounddevice`, initialised.

    Raises:
        DeviceError: PortAudio is not installed, with the command that installs it, or does not start.
    """
    try:
        import sounddevice
    except OSError as error:
        remedy = "installing this program again brings it (README, Install)"
        if sys.platform.startswith("linux"):
            remedy = "`sudo apt-get install libportaudio2` installs it"
        raise DeviceError(f"PortAudio, which carries all sound, was not found; {remedy}.") from error
    if not sounddevice._initialized:
        try:
            sounddevice._initialize()
        except sounddevice.PortAudioError as error:
            raise DeviceError(f"The audio system does not start: {error}; see that it runs.") from error
    return sounddevice


def close_stream(stream: Any) -> bool:
    """Abort and close a stream; False when PortAudio did not come back from it.

    With the JACK server gone PortAudio waits ten minutes for a callback that cannot come, so a thread does the
    waiting. Once given up, that thread must not go on to close the stream: by then it would find another library.
    """
    error = portaudio().PortAudioError
    given_up = threading.Event()

    def close() -> None:
        with suppress(error):
            stream.abort()
        if not given_up.is_set():
            with suppress(error):
                stream.close()

    closer = threading.Thread(target=close, name="close-audio", daemon=True)
    closer.start()
    closer.join(CLOSE_SECONDS)
    if closer.is_alive():
        given_up.set()
    return not closer.is_alive()


def release(hung: bool = False) -> None:
    """Shut PortAudio down if it runs; the next `portaudio()` initialises it and lists the devices of that moment.

    Args:
        hung: a stream never closed. Terminating the library would hang too, or abort the process, so it is
            left as it is, also at exit, and a fresh copy takes its place.
    """
    sounddevice: Any = sys.modules.get("sounddevice")
    if sounddevice is None or not sounddevice._initialized:
        return
    if hung:
        _hung.append(sounddevice._lib)
        sounddevice._lib = _fresh_copy(sounddevice)
        sounddevice._initialized = 0
    else:
        with suppress(sounddevice.PortAudioError):
            sounddevice._terminate()


def _fresh_copy(sounddevice: Any) -> Any:
    """Load PortAudio once more: the loader gives a file of another name memory of its own."""
    with tempfile.TemporaryDirectory(prefix="portaudio-") as folder:
        original = _library_path(sounddevice._libname)
        copy = Path(folder) / f"{len(_hung)}-{original.name}"
        shutil.copy(original, copy)
        return sounddevice._ffi.dlopen(str(copy))


def _library_path(name: str) -> Path:
    """Find the file behind the name that the loader was given: Linux names a library without its folder."""
    if Path(name).is_file():
        return Path(name)
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith(name):
            return path
    raise DeviceError("The audio system no longer answers; end this conversation and start it again.")
