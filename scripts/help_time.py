"""Median processor time of `COMMAND --help`, which must stay under LIMIT seconds.

python scripts/help_time.py "$(command -v moshi-mlx)" 0.3
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

RUNS = 9


def processor_time(command: list[str]) -> float:
    """User and system time of one run, in seconds; whatever else the machine does is not in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", metavar="COMMAND")
    parser.add_argument("limit", metavar="LIMIT", type=float)
    args = parser.parse_args()

    processor_time([args.command, "--help"])  # the first run compiles the modules
    times = [processor_time([args.command, "--help"]) for _ in range(RUNS)]
    median = statistics.median(times)
    print(f"median {median:.3f} s of {RUNS} runs, {min(times):.3f} to {max(times):.3f} s; limit {args.limit} s")
    return 0 if median < args.limit else 1


if __name__ == "__main__":
    sys.exit(main())
