"""`moshi-mlx info`: what a checkpoint is and what it needs, from its headers alone."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .common import add_model_arguments, locate_model

if TYPE_CHECKING:
    from moshi_mlx.checkpoint.inspect import Checkpoint

HELP = "show a checkpoint's configuration, tensors, bits per layer and memory, without loading it"
EXAMPLE = "moshi-mlx info --model moshiko -q 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `info`."""
    parser.add_argument("name", nargs="?", metavar="MODEL", help="the same as --model")
    add_model_arguments(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor with its shape and type")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the facts; returns the exit code."""
    from moshi_mlx.checkpoint.inspect import inspect

    checkpoint = inspect(locate_model(args.name or args.model, args.bits, companions=False))
    facts = describe(checkpoint)
    if args.tensors:
        facts["tensors"] = {
            name: {"shape": list(tensor.shape), "type": tensor.dtype} for name, tensor in checkpoint.tensors.items()
        }
    if args.json:
        print(json.dumps(facts))
        return 0
    _print(facts)
    return 0


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint's facts, ready for JSON."""
    from moshi_mlx.checkpoint.load import memory_needed, window_bytes
    from moshi_mlx.memory import available_memory

    config = checkpoint.config
    temporal, depth = config.transformer, config.depth
    return {
        "folder": str(checkpoint.folder),
        "type": config.model_type,
        "precision": checkpoint.precision,
        "names": checkpoint.vocabulary,
        "temporal": {"dim": temporal.dim, "layers": temporal.num_layers, "heads": temporal.num_heads},
        "context_frames": temporal.context,
        "depth": None
        if depth is None
        else {"dim": depth.transformer.dim, "layers": depth.transformer.num_layers, "steps": depth.steps},
        "codebooks": {"generated": config.dep_q, "user": config.user_codebooks},
        "delays": list(config.delays),
        "vocabulary": {"text": config.text_card, "audio": config.card},
        "tensor_count": len(checkpoint.tensors),
        "bits_per_layer": bits_per_layer(checkpoint),
        "bytes": {
            "weights": checkpoint.nbytes,
            "keys_and_values": window_bytes(checkpoint),
            "needed": memory_needed(checkpoint),
            "available": available_memory(),
        },
    }


def bits_per_layer(checkpoint: Checkpoint) -> dict[str, str]:
    """Precision of each group of layers: one line where a group is of one kind, else one per layer."""
    groups: dict[str, dict[str, str]] = {}
    for module, form in checkpoint.formats.items():
        told = "not quantized" if form is None else f"{form.bits} bits, groups of {form.group_size}"
        if form is not None and form.mode != "affine":
            told += f", {form.mode}"
        groups.setdefault(module.split(".")[0], {})[module] = told
    found: dict[str, str] = {}
    for group, layers in groups.items():
        kinds = set(layers.values())
        found.update({group: kinds.pop()} if len(kinds) == 1 else layers)
    return found


def _print(facts: dict[str, Any]) -> None:
    from .display import print_table

    temporal, depth, size = facts["temporal"], facts["depth"], facts["bytes"]
    rows = [
        ("folder", facts["folder"]),
        ("type", f"{facts['type']}, {facts['precision']}, {facts['names']} names, {facts['tensor_count']} tensors"),
        ("temporal transformer", f"dim {temporal['dim']}, {temporal['layers']} layers, {temporal['heads']} heads"),
        ("window", f"{facts['context_frames']} frames, {facts['context_frames'] / 12.5:.0f} s"),
        (
            "depth transformer",
            "none" if depth is None else f"dim {depth['dim']}, {depth['layers']} layers, {depth['steps']} steps",
        ),
        ("codebooks", f"{facts['codebooks']['generated']} generated, {facts['codebooks']['user']} of the user"),
        ("delays", " ".join(map(str, facts["delays"]))),
        ("vocabulary", f"{facts['vocabulary']['text']} text, {facts['vocabulary']['audio']} audio"),
        *((f"bits: {layer}", told) for layer, told in facts["bits_per_layer"].items()),
        ("weights", f"{size['weights'] / 1e9:.2f} GB"),
        ("keys and values", f"{size['keys_and_values'] / 1e9:.2f} GB when the window is full"),
        ("memory", f"{size['needed'] / 1e9:.2f} GB needed, {size['available'] / 1e9:.2f} GB there"),
        *((name, f"{t['type']} {t['shape']}") for name, t in facts.get("tensors", {}).items()),
    ]
    print_table("checkpoint", rows)
