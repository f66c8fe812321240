"""One sentence for whether a machine keeps up."""

from __future__ import annotations

import pytest

from moshi_mlx.bench.verdict import Standing, verdict

OF_52_MS = Standing("q4", 0.052)
SLOW = "will not keep up"


@pytest.mark.parametrize(
    ("standings", "sentence"),
    [
        ([OF_52_MS, Standing("q8", 0.097)], "q4 keeps up with 28 ms to spare; q8 will not (97 ms a frame)."),
        ([OF_52_MS, Standing("bf16", None)], "q4 keeps up with 28 ms to spare; bf16 does not fit in memory."),
        ([Standing("q8", 0.071)], "q8 keeps up, just, with 9 ms to spare."),
        ([Standing("q8", 0.064)], "q8 keeps up with 16 ms to spare."),
        ([Standing("q4", 0.08)], "q4 keeps up, just, with 0 ms to spare."),
        ([Standing("q4", 0.0801)], "q4 will not keep up (80 ms a frame)."),
        ([Standing("q4", 43.0), Standing("q8", 4.7)], f"q4 {SLOW} (43.0 s a frame); q8 {SLOW} (4.7 s a frame)."),
        ([Standing("moshiko q4", 0.052, predicted=True)], "moshiko q4 should keep up with 28 ms to spare."),
        ([Standing("q4", 0.1, predicted=True)], "q4 would not keep up (100 ms a frame)."),
        ([], ""),
    ],
)  # fmt: skip
def test_it_reads_as_a_sentence(standings: list[Standing], sentence: str) -> None:
    assert verdict(standings) == sentence
