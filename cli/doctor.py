"""`moshi-mlx doctor`: whether this machine can hold a conversation, and what to do where it cannot.

Here is the order in which one looks, and how it is shown; what each look finds is told by machine_checks.py and
model_checks.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from moshi_mlx.economy import Economy
from moshi_mlx.errors import MoshiError

from . import machine_checks, model_checks
from .common import add_model_arguments
from .economy import add_economy_arguments, economy_of
from .machine_checks import Check, count_of

if TYPE_CHECKING:
    from moshi_mlx.bench.machine import Machine

HELP = "check this machine, its sound and the model before a conversation; exits with 1 if there is a problem"
EXAMPLE = "moshi-mlx doctor --model moshiko -q 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `doctor`."""
    add_model_arguments(parser)
    add_economy_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what was found; returns 1 if anything is a problem, as 2 says that a command itself failed."""
    from moshi_mlx.bench.machine import probe

    from .display import print_checks, status

    with status("looking at this machine"):
        checks = list(examine(args.model, args.bits, probe(), economy_of(args)))
    verdict = conclusion(checks, command_of(args))
    if args.json:
        print(json.dumps({"checks": [asdict(check) for check in checks], "verdict": verdict}))
    else:
        print_checks([(check.state, check.name, check.finding, check.advice) for check in checks])
        print(f"\n{verdict}")
    return int(any(check.state == "problem" for check in checks))


def examine(model: str, bits: int | None, machine: Machine, economy: Economy) -> Iterator[Check]:
    """Every check, in the order in which one would look."""
    yield machine_checks.check_chip(machine)
    yield machine_checks.check_system(machine)
    yield machine_checks.check_python(machine)
    mlx, gpu = machine_checks.check_mlx(machine)
    yield mlx
    if machine.low_power is not None:
        yield machine_checks.check_power(machine.low_power)
    if machine.throttled is not None:
        yield machine_checks.check_heat(machine.throttled)
    yield from machine_checks.check_sound()
    yield machine_checks.check_echo()
    if mlx.state == "problem":
        return  # nothing of a model can be known without it
    from moshi_mlx.speed import measure_bandwidth

    bandwidth = measure_bandwidth()
    found, subject = model_checks.check_model(model, bits, bandwidth, economy)
    yield found
    if subject is not None:
        yield model_checks.check_memory(subject)
        yield model_checks.check_disk(subject)
        yield model_checks.check_speed(subject, bandwidth, gpu)


def command_of(args: argparse.Namespace) -> str:
    """What runs the model: 'chat', or 'transcribe --model tiny-stt'."""
    from moshi_mlx.checkpoint.remote import config_of
    from moshi_mlx.tasks.kinds import Kind, kind_of

    try:
        kind = kind_of(config_of(args.model, args.bits))
    except MoshiError:  # the checks have told it
        return Kind.CONVERSE.command
    return kind.command if kind is Kind.CONVERSE else f"{kind.command} --model {args.model}"


def conclusion(checks: list[Check], command: str = "chat") -> str:
    """All of it in a sentence."""
    problems = sum(check.state == "problem" for check in checks)
    warnings = sum(check.state == "warning" for check in checks)
    if problems:
        return f"{count_of(problems, 'problem')} {'stands' if problems == 1 else 'stand'} in the way of a conversation."
    if warnings:
        return f"A conversation is possible; {count_of(warnings, 'warning')} above."
    return f"All is well: moshi-mlx {command}"
