"""Kyutai's moshi_mlx.local with a small model on a chosen sound card; its own processes and loops, unmodified.

Run by race_live.py in the peer's environment. local.py knows one size only, so its config function is replaced by
one that reads a folder, and PortAudio's default device is set. Processes are spawned, as on a Mac.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import sounddevice

from moshi_mlx import local, models  # pyright: ignore

FOLDER = Path(os.environ["PEER_FOLDER"])


def config() -> models.LmConfig:
    return models.LmConfig.from_config_dict(json.loads((FOLDER / "config.json").read_text()))


# At module level: the spawned processes import this file as well.
models.config_v0_1 = config
sounddevice.default.device = ("room", "room")

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    local.main()
