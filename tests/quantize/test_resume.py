"""Cut off at any moment: nothing looks finished, and going on gives the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from quantize_models import SMALL, files_of, write

from moshi_mlx.checkpoint.load import load_lm
from moshi_mlx.errors import MoshiError
from moshi_mlx.quantize import source as source_module
from moshi_mlx.quantize.convert import convert, plan
from moshi_mlx.quantize.recipes import RECIPES
from moshi_mlx.quantize.writer import FolderWriter, partial_of, place

KILLS = 10
RECIPE = "mixed_3_6"
# The command line's own path, with records so frequent that a run of a second can be taken up in its middle.
PROGRAM = """
import sys
from functools import partial
from moshi_mlx.cli.main import main
from moshi_mlx.quantize import convert, source
source.BLOCK_BYTES = 2**18
convert.convert = partial(convert.convert, sync_bytes=2**20)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 MB: long enough to be killed in the midst of, short enough for ten times."""
    config = {**SMALL, "dim": 512, "num_layers": 4, "text_card": 2000}
    return write(tmp_path_factory.mktemp("source") / "model", config)


def quantize(source: Path, destination: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, "quantize", str(source), str(destination), "--recipe", RECIPE, *flags]
    # A shell starts what runs in the background with Ctrl-C ignored, and so would be this.
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed)


def wait_until_writing(run: subprocess.Popen[bytes], destination: Path) -> float:
    while not (partial_of(destination) / "plan.json").exists():
        assert run.poll() is None
        time.sleep(0.002)
    return time.perf_counter()


def loads(folder: Path) -> bool:
    """Whether a checkpoint is taken for a whole one."""
    try:
        load_lm(folder)
    except MoshiError:
        return False
    return True


def test_killed_at_ten_random_moments_it_goes_on_to_the_same_bits(source: Path, tmp_path: Path) -> None:
    whole, destination = tmp_path / "whole", tmp_path / "result"
    run = quantize(source, whole)
    began = wait_until_writing(run, whole)
    assert run.wait() == 0
    duration, wanted = time.perf_counter() - began, files_of(whole)
    moments, killed, taken_up = random.Random(0), 0, 0
    for _ in range(5 * KILLS):
        run = quantize(source, destination)
        began = wait_until_writing(run, destination)
        time.sleep(moments.uniform(0, 0.9 * duration))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        if not destination.exists():
            killed += 1
            taken_up += (partial_of(destination) / "done").exists()
            assert not loads(partial_of(destination))
            resumed = quantize(source, destination, "--resume")
            assert resumed.communicate()[1] == b""
            assert resumed.returncode == 0
        assert not partial_of(destination).exists()
        assert files_of(destination) == wanted
        shutil.rmtree(destination)
        if killed == KILLS:
            break
    assert killed == KILLS
    assert taken_up >= 3  # else every run began anew, and nothing was shown


def test_ctrl_c_says_how_to_go_on(source: Path, tmp_path: Path) -> None:
    run = quantize(source, tmp_path / "result")
    wait_until_writing(run, tmp_path / "result")
    run.send_signal(signal.SIGINT)
    errors = run.communicate()[1].decode()
    assert run.returncode == 130
    assert "the same command with --resume goes on from here" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "result").exists()


def test_what_was_done_is_not_done_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "BLOCK_BYTES", 2**20)
    blocks: list[int] = []

    def stop_halfway(done: int, total: int) -> None:
        blocks.append(done)
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(plan(source, tmp_path / "result", RECIPES["q4"]), progress=stop_halfway, sync_bytes=0)
    assert not (tmp_path / "result").exists()
    seen: list[int] = []
    conversion = plan(source, tmp_path / "result", RECIPES["q4"], resume=True)
    convert(conversion, resume=True, progress=lambda done, total: seen.append(done))
    assert seen[0] == blocks[-1]
    whole = convert(plan(source, tmp_path / "whole", RECIPES["q4"]))
    assert files_of(tmp_path / "result") == files_of(whole)


def interrupted(source: Path, destination: Path) -> Path:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(plan(source, destination, RECIPES["q4"]), progress=stop)
    return partial_of(destination)


def test_another_recipe_or_a_changed_source_is_not_mixed_in(source: Path, tmp_path: Path) -> None:
    partial = interrupted(source, tmp_path / "result")
    for changed in (RECIPES["q8"], RECIPES["q4"]):
        if changed is RECIPES["q4"]:
            stat = (source / "model.safetensors").stat()
            os.utime(source / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        with pytest.raises(MoshiError, match="begun from another source, recipe"):
            convert(plan(source, tmp_path / "result", changed, resume=True), resume=True)
    assert partial.exists()


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    files = place([], "model.safetensors")
    first = FolderWriter(tmp_path / "result", files, {})
    with pytest.raises(MoshiError, match="another run is writing"):
        FolderWriter(tmp_path / "result", files, {}, resume=True)
    first.close()
    FolderWriter(tmp_path / "result", files, {}, resume=True).close()


def test_a_disk_that_fills_up_is_one_sentence(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MoshiError, match=r"No space left on device.*--resume"):
        convert(plan(source, tmp_path / "result", RECIPES["q4"]))
    assert not (tmp_path / "result").exists()
