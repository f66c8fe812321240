"""Which precision suits this machine: the most bits that fit in its memory and keep up with real time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..config import MOSHI_7B, LMConfig
from ..economy import AS_IT_IS, Economy
from ..memory import available_memory, human_bytes
from ..rates import FRAME_S
from ..speed import measure_bandwidth, predict
from .sizes import conversation_bytes, frame_bytes

PRECISIONS = {16: "bf16", 8: "q8", 4: "q4"}
"""The published precisions, most bits first."""


@dataclass(frozen=True)
class Choice:
    """A precision, and why, in one sentence."""

    bits: int
    reason: str


def choose_bits(
    candidates: Sequence[int] = tuple(PRECISIONS),
    memory: int | None = None,
    bandwidth: Callable[[], float] = measure_bandwidth,
    economy: Economy = AS_IT_IS,
) -> Choice:
    """The most bits among `candidates` with which Moshi 7B fits here and keeps up with a fifth to spare.

    Args:
        candidates: some of 16, 8 and 4; the smallest is what remains when none will do.
        memory: bytes to be had; asked of the machine when None.
        bandwidth: gives bytes per second; called once, and only when it decides something.
        economy: how it will be run.
    """
    config = economy.of(LMConfig.from_dict(MOSHI_7B))
    memory = available_memory() if memory is None else memory
    candidates = sorted(candidates, reverse=True)
    fitting = [bits for bits in candidates if conversation_bytes(config, bits) <= memory]
    if not fitting:
        least, need = candidates[-1], human_bytes(conversation_bytes(config, candidates[-1]))
        return Choice(least, f"{PRECISIONS[least]} is the smallest, and even that needs {need} of memory "
                             f"where {human_bytes(memory)} can be had")  # fmt: skip
    obstacle = ""
    if len(fitting) < len(candidates):
        larger = candidates[len(candidates) - len(fitting) - 1]
        need = human_bytes(conversation_bytes(config, larger))
        obstacle = f"; {PRECISIONS[larger]} needs {need} of memory where {human_bytes(memory)} can be had"
    speed = bandwidth()
    for bits in fitting:
        time = _frame_time(config, bits, speed)
        if predict(frame_bytes(config, bits), speed).keeps_up:
            return Choice(bits, f"{PRECISIONS[bits]} has the most bits that fit and keep up here, "
                                f"about {time}{obstacle}")  # fmt: skip
        obstacle = f"; {PRECISIONS[bits]} would take about {time}"
    least = fitting[-1]
    return Choice(least, f"{PRECISIONS[least]} is the smallest, and even that may not keep up here: it would "
                         f"take about {_frame_time(config, least, speed)}; --kv-bits 8 and a shorter "
                         "--context take less")  # fmt: skip


def _frame_time(config: LMConfig, bits: int, bandwidth: float) -> str:
    likely = predict(frame_bytes(config, bits), bandwidth).likely_s
    return f"{1000 * likely:.0f} of {1000 * FRAME_S:.0f} ms a frame at {bandwidth / 1e9:.0f} GB/s"
