"""The doctor: what commands print on a Mac is read right, each fault gets its advice, and the exit code tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from jack_room import MISSING, jack_rooms

from moshi_mlx.bench.machine import (
    Machine,
    low_power_mode,
    macos_version,
    output_of,
    probe,
    throttled,
    under_rosetta,
)
from moshi_mlx.checkpoint.sizes import conversation_bytes, model_bytes
from moshi_mlx.cli import doctor, machine_checks, model_checks
from moshi_mlx.cli.machine_checks import Check
from moshi_mlx.cli.model_checks import Subject
from moshi_mlx.config import MOSHI_7B, LMConfig

MOSHI_MLX = [sys.executable, "-m", "moshi_mlx.cli.main"]

# As macOS prints them.
PMSET = """System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                1 (sleep prevented by powerd)
 hibernatemode        3
 ttyskeepawake        1
 displaysleep         10
 tcpkeepalive         1
 lowpowermode         {mode}
 womp                 0
"""
COOL = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
HOT = """Thermal Warning Level = 1
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
INTEL = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
2026-08-31 20:01:34 +0200 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= {limit}
"""

MAC = Machine(
    chip="Apple M2 Pro",
    system="macOS 15.5",
    macos=(15, 5),
    architecture="arm64",
    python=(3, 12, 4),
    rosetta=False,
    low_power=False,
    throttled=False,
)


@pytest.mark.parametrize(
    ("text", "low"),
    [
        (PMSET.format(mode=1), True),
        (PMSET.format(mode=0), False),
        (" powermode            1\n", True),
        (" powermode            2\n", False),
        (" sleep 1\n hibernatemode 3\n", None),
        ("", None),
        (None, None),
    ],
)
def test_low_power_mode_is_read_from_pmset(text: str | None, low: bool | None) -> None:
    assert low_power_mode(text) is low


@pytest.mark.parametrize(
    ("text", "hot"),
    [
        (COOL, False),
        (HOT, True),
        (HOT.replace("= 1", "= 0"), False),
        (COOL.replace("Note: No performance warning level has been recorded", "Performance Warning Level = 2"), True),
        (INTEL.format(limit=100), False),
        (INTEL.format(limit=46), True),
        ("Error:Failed to get thermal warning level with error code 0xe00002bc\n", None),
        (None, None),
    ],
)
def test_throttling_is_read_from_pmset(text: str | None, hot: bool | None) -> None:
    assert throttled(text) is hot


@pytest.mark.parametrize(
    ("text", "version"), [("15.5\n", (15, 5)), ("14\n", (14,)), ("13.6.1\n", (13, 6, 1)), ("beta", None), (None, None)]
)
def test_the_version_of_macos_is_numbers(text: str | None, version: tuple[int, ...] | None) -> None:
    assert macos_version(text) == version


@pytest.mark.parametrize(
    ("architecture", "arm64", "translated", "found"),
    [
        ("arm64", "1\n", "0\n", False),
        ("x86_64", "1\n", "1\n", True),
        ("x86_64", "1\n", None, True),
        ("x86_64", None, "1\n", True),
        ("x86_64", "0\n", "0\n", False),
        ("x86_64", None, None, False),
    ],
)
def test_a_python_for_intel_on_apple_silicon_is_noticed(
    architecture: str, arm64: str | None, translated: str | None, found: bool
) -> None:
    assert under_rosetta(architecture, arm64, translated) is found


def test_a_command_that_is_missing_fails_or_works() -> None:
    assert output_of("no-such-command-here") is None
    assert output_of("false") is None
    assert output_of("echo one two") == "one two\n"


def test_a_mac_is_known_by_what_its_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "sw_vers": 'echo "13.6.1"',
        "sysctl": 'case "$2" in *brand_string) echo "Apple M1";; hw.optional.arm64) echo 1;; *) exit 1;; esac',
        "pmset": f'if [ "$2" = therm ]; then cat <<END\n{HOT}END\nelse cat <<END\n{PMSET.format(mode=1)}END\nfi',
    }
    for name, answer in answers.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    machine = probe("darwin")
    assert (machine.chip, machine.system, machine.macos) == ("Apple M1", "macOS 13.6.1", (13, 6, 1))
    assert (machine.low_power, machine.throttled) == (True, True)
    assert machine.rosetta is (machine.architecture == "x86_64")


def test_this_machine_is_known_too() -> None:
    machine = probe()
    assert machine.chip
    assert machine.system
    assert machine.python == sys.version_info[:3]
    if sys.platform.startswith("linux"):
        assert (machine.macos, machine.low_power, machine.throttled, machine.rosetta) == (None, None, None, False)


@pytest.mark.parametrize(
    ("check", "state", "words"),
    [
        (machine_checks.check_chip(MAC), "ok", "Apple M2 Pro"),
        (machine_checks.check_chip(replace(MAC, chip="Intel(R) Core(TM) i7-9750H")), "problem", "M1 or newer"),
        (machine_checks.check_system(MAC), "ok", "macOS 15.5"),
        (machine_checks.check_system(replace(MAC, system="macOS 13.6", macos=(13, 6))), "warning", "update macOS"),
        (machine_checks.check_system(replace(MAC, system="macOS 14.0", macos=(14, 0))), "ok", "14.0"),
        (machine_checks.check_python(MAC), "ok", "Python 3.12.4, arm64"),
        (machine_checks.check_python(replace(MAC, architecture="x86_64", rosetta=True)), "problem", "aarch64"),
        (machine_checks.check_python(replace(MAC, python=(3, 14, 0))), "warning", "--python 3.12"),
        (machine_checks.check_python(replace(MAC, python=(3, 9, 6))), "warning", "3.10 to 3.13"),
        (machine_checks.check_power(True), "warning", "System Settings > Battery"),
        (machine_checks.check_power(False), "ok", "off"),
        (machine_checks.check_heat(True), "warning", "let it cool"),
        (machine_checks.check_heat(False), "ok", "no throttling"),
    ],
)
def test_each_fault_of_a_machine_gets_its_advice(check: Check, state: str, words: str) -> None:
    assert check.state == state
    assert words in f"{check.finding} {check.advice}"
    assert bool(check.advice) is (state != "ok")


def published(bits: int, **changes: object) -> Subject:
    config = LMConfig.from_dict(MOSHI_7B)
    size = model_bytes(config, bits)
    subject = Subject("moshiko", f"moshiko {bits}", config, bits, size, conversation_bytes(config, bits), size)
    return replace(subject, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("bits", "bandwidth", "state", "words"),
    [
        (4, 200e9, "ok", "should keep up with"),
        (16, 800e9, "ok", "should keep up with"),
        (8, 200e9, "warning", "just, with"),
        (8, 100e9, "problem", "-q 4"),
        (4, 50e9, "problem", "--kv-bits 8"),
    ],
)
def test_memory_bandwidth_decides_whether_a_gpu_keeps_up(bits: int, bandwidth: float, state: str, words: str) -> None:
    check = model_checks.check_speed(published(bits), bandwidth, gpu=True)
    assert check.state == state
    assert words in f"{check.finding} {check.advice}"
    assert f"{bandwidth / 1e9:.0f} GB/s" in check.finding


def test_without_a_gpu_only_a_small_model_keeps_up() -> None:
    assert model_checks.check_speed(published(4), 50e9, gpu=False).state == "problem"
    _, tiny = model_checks.check_model("tiny", None, 10e9)
    assert tiny is not None
    assert model_checks.check_speed(tiny, 10e9, gpu=False).state == "ok"


def test_memory_and_disk_that_do_not_suffice_are_problems() -> None:
    assert model_checks.check_memory(published(4, needed=10**6)).state == "ok"
    short = model_checks.check_memory(published(8, needed=10**15))
    assert (short.state, short.advice) == ("problem", "use -q 4")
    other = model_checks.check_memory(published(8, needed=10**15, model="org/other"))
    assert other.advice == "make it smaller: moshi-mlx quantize org/other FOLDER"
    assert model_checks.check_disk(published(4, missing=0)).state in ("ok", "warning")
    full = model_checks.check_disk(published(4, missing=10**18))
    assert full.state == "problem"
    assert "HF_HOME" in full.advice


def test_a_model_is_here_not_yet_here_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    here, subject = model_checks.check_model("tiny", None, 10e9)
    assert (here.state, here.finding) == ("ok", "tiny float32, 32 MB, is here")
    assert subject is not None
    assert subject.missing == 0
    away, subject = model_checks.check_model("moshika", 8, 10e9)
    assert (away.state, away.advice.split(",")[0]) == ("warning", "moshi-mlx download moshika -q 8")
    assert "8.2 GB" in away.finding
    assert subject is not None
    assert (subject.bits, subject.missing) == (8, subject.nbytes)
    (tmp_path / "config.json").write_text("{}")
    broken, subject = model_checks.check_model(str(tmp_path), None, 10e9)
    assert (broken.state, subject) == ("problem", None)
    assert str(tmp_path) in broken.finding


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (["ok", "ok"], "All is well: moshi-mlx chat"),
        (["ok", "warning"], "A conversation is possible; 1 warning above."),
        (["problem", "warning"], "1 problem stands in the way of a conversation."),
        (["problem", "problem"], "2 problems stand in the way of a conversation."),
    ],
)
def test_the_conclusion_counts(states: list[str], sentence: str) -> None:
    checks = [Check("it", state, "is so") for state in states]  # pyright: ignore[reportArgumentType]
    assert doctor.conclusion(checks) == sentence


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_with_sound_and_the_built_in_model_nothing_is_in_the_way() -> None:
    with jack_rooms("kitchen"):
        result = subprocess.run([*MOSHI_MLX, "doctor", "--model", "tiny"], capture_output=True, text=True, timeout=120)
    lines = result.stdout.splitlines()
    assert any(line.startswith("ok") and " microphone: " in line and "24 kHz" in line for line in lines)
    assert any(line.startswith("ok") and "model: tiny" in line for line in lines)
    assert not any(line.startswith("problem") for line in lines), result.stdout
    assert result.returncode == 0


def test_a_problem_is_exit_code_1_and_json_holds_every_check(tmp_path: Path) -> None:
    command = [*MOSHI_MLX, "doctor", "--model", str(tmp_path), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told = json.loads(result.stdout)
    assert result.returncode == 1
    model = next(check for check in told["checks"] if check["name"] == "model")
    assert model["state"] == "problem"
    assert {"chip", "system", "python", "mlx", "sound", "echo", "model"} <= {check["name"] for check in told["checks"]}
    assert "in the way" in told["verdict"]


def test_without_mlx_it_still_says_what_it_can() -> None:
    script = (
        "import sys; sys.modules['mlx.core'] = None; from moshi_mlx.cli.main import main; sys.exit(main(['doctor']))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "problem  mlx: MLX does not load" in result.stdout
    assert "sound" in result.stdout
    assert "Traceback" not in result.stderr
