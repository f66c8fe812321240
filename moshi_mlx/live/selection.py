"""Which devices a conversation uses, and when it should take others.

The user's, by name or number; where none was named the system's, which is followed as it changes. Opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moshi_mlx.errors import DeviceError
from moshi_mlx.live import core_audio
from moshi_mlx.live.devices import Device, Direction, choose, default_input, lasting_name
from moshi_mlx.live.system import lid_closed

STEADY_LOOKS = 10
"""Looks that must agree before a change counts: a headset that is put in moves one direction after the other."""

MOVED = "The system now uses other sound devices."
DEAF = "The built-in microphone hears nothing with the lid closed: the system's is taken instead."


class Selection:
    """The devices of one conversation.

    Args:
        wanted: for each direction that is used, a number, a name or a part of one, or None for the system's.
    """

    def __init__(self, wanted: Mapping[Direction, str | int | None]) -> None:
        self._wanted: dict[Direction, str | int | None] = dict(wanted)
        self._lacking: set[Direction] = set()  # named, but another took their place
        self._standing_in = False  # the built-in microphone, for a headset that would fall to call quality
        self._any_microphone = False
        self._silent_looks = 0
        self._watched = Watched(())

    def __contains__(self, kind: Direction) -> bool:
        return kind in self._wanted

    def choose(self, patient: bool) -> tuple[dict[Direction, Device], list[str]]:
        """The devices to open now, as of PortAudio's last start, and what the user should know about them.

        Args:
            patient: a device that was named and is not there is waited for, and the system's not yet taken.

        Raises:
            DeviceError: there is none.
        """
        self._lacking.clear()
        self._standing_in = False
        reasons: list[str] = []
        chosen: dict[Direction, Device] = {kind: self._choose(kind, patient, reasons) for kind in self._wanted}
        following: list[Direction] = [
            kind for kind, wanted in self._wanted.items() if wanted is None or kind in self._lacking
        ]
        self._watched = Watched(following, bool(self._lacking))
        return chosen, reasons

    def keep_names(self) -> None:
        """From now on names stand for the numbers that were given, which the next device may have another time."""
        self._wanted = {kind: lasting_name(wanted, kind) for kind, wanted in self._wanted.items()}

    def outdated(self, silent: bool) -> str | None:
        """Why others should be opened now, in a sentence; None as long as all is well. Asked ten times a second.

        Args:
            silent: the microphone delivers digital silence.
        """
        if self._watched.moved():
            self._any_microphone = False
            return MOVED
        self._silent_looks = self._silent_looks + 1 if silent and self._standing_in else 0
        if self._silent_looks % STEADY_LOOKS == 1 and lid_closed():  # else macOS may be asking for permission
            self._any_microphone = True
            return DEAF
        return None

    def _choose(self, kind: Direction, patient: bool, reasons: list[str]) -> Device:
        wanted = self._wanted[kind]
        if wanted is not None:
            try:
                return choose(wanted, kind)
            except DeviceError:
                if patient:
                    raise
                self._lacking.add(kind)
        if kind == "output" or self._any_microphone:
            return choose(None, kind)
        device, reason = default_input()
        if reason is not None:
            self._standing_in = True
            reasons.append(reason)
        return device


class Watched:
    """Tells once when what CoreAudio answers has changed and stayed so.

    Args:
        following: directions whose default device counts.
        arrivals: so does every device that comes or goes.
    """

    def __init__(self, following: Sequence[Direction], arrivals: bool = False) -> None:
        self._following, self._arrivals = tuple(following), arrivals
        self._known = self._seen = self._look()
        self._steady = 0

    def moved(self) -> bool:
        """Whether it is another than at first, and has been the same for `STEADY_LOOKS` calls."""
        seen = self._look()
        self._steady = self._steady + 1 if seen == self._seen else 1
        self._seen = seen
        if seen == self._known or None in seen or self._steady < STEADY_LOOKS:
            return False
        self._known = seen
        return True

    def _look(self) -> tuple[int | frozenset[int] | None, ...]:
        defaults = tuple(core_audio.default_device(kind) for kind in self._following)
        return (*defaults, core_audio.devices()) if self._arrivals else defaults
