"""Graph nodes and waits of a frame, counted while it runs: figures that depend on no machine.

Everything through which Python waits for MLX is watched for the while, and the graph looked at just before.
Imports nothing of this package: it also runs inside other people's environments.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

_READS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__")
"""Methods of an array that wait for its value."""


@dataclass
class Count:
    """Nodes of all graphs that were evaluated, and how often Python waited for one."""

    nodes: int = 0
    waits: int = 0

    def wait(self, arrays: Any) -> None:
        """Count one wait for `arrays`, any tree of them, if there is something to compute."""
        pending = nodes_of(arrays)
        self.nodes += pending
        self.waits += pending > 0


def nodes_of(arrays: Any) -> int:
    """Primitives still to be run for `arrays`; a compiled kernel of several operations is one."""
    text = io.StringIO()
    mx.export_to_dot(text, *_leaves(arrays))
    return text.getvalue().count("shape=rectangle")


@contextmanager
def counting() -> Iterator[Count]:
    """Count for as long as the context lasts."""
    count = Count()
    originals: list[tuple[Any, str, Any]] = []

    def watch(owner: Any, name: str, waits_for: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        originals.append((owner, name, original))

        def watched(*args: Any, **kwargs: Any) -> Any:
            count.wait(waits_for(*args))
            return original(*args, **kwargs)

        setattr(owner, name, watched)

    for name in _READS:
        watch(mx.array, name, lambda array, *_: array)
    watch(mx, "eval", lambda *trees: trees)
    try:
        yield count
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _leaves(tree: Any) -> list[mx.array]:
    if isinstance(tree, mx.array):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [leaf for value in values for leaf in _leaves(value)]
