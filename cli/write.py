"""`moshi-mlx write`: a text goes on, as Helium writes it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from moshi_mlx.errors import MoshiError
from moshi_mlx.tasks.kinds import Kind

from .common import add_model_arguments, load_model, note
from .economy import add_economy_arguments

if TYPE_CHECKING:
    from moshi_mlx.sampling import Sampling
    from moshi_mlx.tasks.writing import Writing

HELP = "continue a text with Helium, the language model inside Moshi"
EXAMPLE = 'moshi-mlx write "Aujourd\'hui, il est temps" --max-tokens 100'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `write`."""
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; -: read it from stdin")
    add_model_arguments(parser, Kind.WRITE)
    parser.add_argument(
        "--max-tokens", type=int, default=256, metavar="N", help="write no more than these (default: %(default)s)"
    )
    group = parser.add_argument_group("sampling")
    group.add_argument("--temp", type=float, default=0.8, help="temperature; 0 is greedy (default: %(default)s)")
    group.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        help="choose among the fewest tokens that have this share together; 1: all (default: %(default)s)",
    )
    group.add_argument("--top-k", type=int, default=0, help="choose among the k best tokens; 0: all (default: 0)")
    group.add_argument("--min-p", type=float, default=0.0, help="drop what is less likely than this share of the best")
    group.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (default: 0)")
    add_economy_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Write; returns the exit code. Ctrl-C ends the text where it is."""
    from moshi_mlx.sampling import Sampling

    sampling = Sampling(args.temp, args.top_k, args.min_p, args.top_p)
    if args.max_tokens < 1:
        raise MoshiError(f"--max-tokens must be at least 1, not {args.max_tokens}")
    prompt = read_prompt(args.prompt)
    report = write(args, prompt, sampling)
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print_figures(report)
    return 0


def read_prompt(given: str) -> str:
    """The prompt, from stdin for `-`; there, the newlines that end it are not part of it.

    Raises:
        MoshiError: it is empty, or not UTF-8.
    """
    where, data = "the prompt", given.encode("utf-8", "surrogateescape")
    if given == "-":
        where, data = "what comes on stdin", b"" if sys.stdin is None else sys.stdin.buffer.read().rstrip(b"\r\n")
    try:
        prompt = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MoshiError(f"{where} is not UTF-8 (byte {error.start}); convert it, for instance with iconv") from None
    if not prompt.strip():
        raise MoshiError(f"{where} is empty: give at least a word to continue")
    return prompt


def write(args: argparse.Namespace, prompt: str, sampling: Sampling) -> dict[str, Any]:
    """Continue the prompt, on stdout as it comes unless JSON is asked for; returns the figures."""
    from moshi_mlx.checkpoint.load import memory_needed
    from moshi_mlx.live.system import steady_memory
    from moshi_mlx.tasks.writing import Writing

    moshi = load_model(args, Kind.WRITE)
    with steady_memory(memory_needed(moshi.checkpoint)):
        writing = Writing(moshi, prompt, sampling, args.seed, args.max_tokens)
        times, interrupted = _follow(writing, prompt, shown=not args.json)
    end = "interrupted" if interrupted else "end of text" if writing.ended else "max tokens"
    return {
        "prompt": prompt,
        "text": writing.text,
        "end": end,
        "prompt_tokens": len(writing.prompt_tokens),
        "tokens": len(writing.tokens),
        **_figures(times[: 1 + len(writing.tokens)]),
        "model": str(args.model),
        "precision": moshi.checkpoint.precision,
        "seed": args.seed,
    }


def _follow(writing: Writing, prompt: str, shown: bool) -> tuple[list[float], bool]:
    """Write to the end or to Ctrl-C: when it began and when each piece came, and whether it was stopped."""
    times, say = [time.perf_counter()], sys.stdout.write if shown else lambda text: None
    interrupted = False
    try:
        say(prompt)
        for text in writing:
            times.append(time.perf_counter())
            say(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        interrupted = True
    say("\n")
    return times, interrupted


def _figures(times: list[float]) -> dict[str, float | None]:
    """Seconds to the first token, prompt included, and tokens per second after it: None where there were none."""
    began, *came = times
    return {
        "first_token_seconds": round(came[0] - began, 4) if came else None,
        "tokens_per_second": round((len(came) - 1) / (came[-1] - came[0]), 2) if len(came) > 1 else None,
    }


def print_figures(report: dict[str, Any]) -> None:
    """What it took, in a line on stderr."""
    told = f"{report['prompt_tokens']} tokens read"
    if report["first_token_seconds"] is not None:
        told += f", the first one written after {report['first_token_seconds']:.2f} s"
    if report["tokens_per_second"] is not None:
        told += f", {report['tokens']} in all at {report['tokens_per_second']:.1f} a second"
    note(f"{told} ({report['end']})")
