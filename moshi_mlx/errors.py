"""What can go wrong for a user: each error carries one sentence saying what, where and what to do next."""

from __future__ import annotations


class MoshiError(Exception):
    """Any failure that a user can cause or mend. The command line prints it and exits with 2."""


class ConfigError(MoshiError):
    """A config.json that is malformed, or asks for something this version cannot run."""


class CheckpointError(MoshiError):
    """A checkpoint that is missing, incomplete, misshapen or too large for this machine."""


class AudioError(MoshiError):
    """A sound file, code file or sample block that cannot be used."""


class DeviceError(MoshiError):
    """A microphone, speaker or audio system that cannot be opened."""


def first_line(error: BaseException) -> str:
    """What another library's error says, without its backtrace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
