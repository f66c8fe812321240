"""`moshi-mlx info`: what a model is, what runs it and what it needs, from its headers alone."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .common import add_model_arguments, note

if TYPE_CHECKING:
    from moshi_mlx.checkpoint.inspect import Checkpoint, Differences

HELP = "show what a model is and needs, from its headers, without loading or downloading it"
EXAMPLE = "moshi-mlx info kyutai/stt-1b-en_fr-mlx --check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `info`."""
    parser.add_argument("name", nargs="?", metavar="MODEL", help="the same as --model")
    add_model_arguments(parser)
    parser.add_argument("--check", action="store_true", help="compare every tensor with what the network needs")
    parser.add_argument("--tensors", action="store_true", help="list every tensor with its shape and type")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the facts; returns the exit code, 2 where --check finds a difference."""
    from moshi_mlx.checkpoint.inspect import differences, verify
    from moshi_mlx.checkpoint.remote import look

    model = args.name or args.model
    checkpoint = look(model, args.bits, notify=note)
    if args.check and (found := differences(checkpoint)):
        _print_differences(model, found, args.json)
        return 2
    verify(checkpoint)
    facts = describe(checkpoint, model)
    if args.tensors:
        facts["tensors"] = {
            name: {"shape": list(tensor.shape), "type": tensor.dtype} for name, tensor in checkpoint.tensors.items()
        }
    if args.json:
        print(json.dumps(facts))
        return 0
    _print(facts)
    if args.check:
        print(f"{model}: all {len(checkpoint.tensors)} tensors are named and shaped as the network needs them")
    return 0


def describe(checkpoint: Checkpoint, model: str) -> dict[str, Any]:
    """A checkpoint's facts, ready for JSON."""
    from moshi_mlx.checkpoint.load import memory_needed, window_bytes
    from moshi_mlx.memory import available_memory
    from moshi_mlx.tasks.kinds import kind_of

    config = checkpoint.config
    temporal, depth, kind = config.transformer, config.depth, kind_of(config)
    return {
        "folder": str(checkpoint.folder),
        "kind": kind.name.lower(),
        "command": f"moshi-mlx {kind.command} --model {model}",
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
        "conditions": sorted(config.conditioners),
        "cross_attention": temporal.cross_attention,
        "tensor_count": len(checkpoint.tensors),
        "bits_per_layer": bits_per_layer(checkpoint),
        "bytes": {
            "weights": checkpoint.nbytes,
            "keys_and_values": window_bytes(checkpoint),
            "needed": memory_needed(checkpoint),
            "needed_in": needed_in(checkpoint),
            "available": available_memory(),
        },
    }


def needed_in(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes of memory that the model takes in each published precision."""
    from moshi_mlx.checkpoint.choice import PRECISIONS
    from moshi_mlx.checkpoint.sizes import lm_bytes

    return {name: lm_bytes(checkpoint.config, bits) for bits, name in PRECISIONS.items()}


def bits_per_layer(checkpoint: Checkpoint) -> dict[str, str]:
    """Precision of each group of layers: one line where a group is of one kind, else one per layer."""
    from moshi_mlx.checkpoint.formats import UNQUANTIZED

    groups: dict[str, dict[str, str]] = {}
    for module, form in checkpoint.formats.items():
        told = str(form or UNQUANTIZED)
        groups.setdefault(module.split(".")[0], {})[module] = told
    found: dict[str, str] = {}
    for group, layers in groups.items():
        kinds = set(layers.values())
        found.update({group: kinds.pop()} if len(kinds) == 1 else layers)
    return found


def _print_differences(model: str, found: Differences, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print(json.dumps({"model": model, "differences": asdict(found)}))
        return
    for name in found.missing:
        print(f"missing: {name}")
    for name in found.unexpected:
        print(f"unexpected: {name}")
    for sentence in (*found.misshapen, *found.mistyped):
        print(sentence)
    count = len(found.missing) + len(found.unexpected) + len(found.misshapen) + len(found.mistyped)
    print(f"{model}: {count} {'tensor is' if count == 1 else 'tensors are'} not what the network needs")


def _window(facts: dict[str, Any]) -> str:
    """Frames of 80 ms; where there is no sound, a position is a token."""
    from moshi_mlx.rates import FRAME_RATE

    count = facts["context_frames"]
    has_sound = any(facts["codebooks"].values())
    return f"{count} frames, {count / FRAME_RATE:.0f} s" if has_sound else f"{count} tokens"


def _print(facts: dict[str, Any]) -> None:
    from .display import print_table

    temporal, depth, size = facts["temporal"], facts["depth"], facts["bytes"]
    conditions = ", ".join(facts["conditions"]) or "none"
    if facts["cross_attention"]:
        conditions += ", with cross-attention"
    rows = [
        ("model", facts["folder"]),
        ("run it with", facts["command"]),
        ("type", f"{facts['type']}, {facts['precision']}, {facts['names']} names, {facts['tensor_count']} tensors"),
        ("temporal transformer", f"dim {temporal['dim']}, {temporal['layers']} layers, {temporal['heads']} heads"),
        ("window", _window(facts)),
        (
            "depth transformer",
            "none" if depth is None else f"dim {depth['dim']}, {depth['layers']} layers, {depth['steps']} steps",
        ),
        ("codebooks", f"{facts['codebooks']['generated']} generated, {facts['codebooks']['user']} of the user"),
        ("delays", " ".join(map(str, facts["delays"]))),
        ("vocabulary", f"{facts['vocabulary']['text']} text, {facts['vocabulary']['audio']} audio"),
        ("conditions", conditions),
        *((f"bits: {layer}", told) for layer, told in facts["bits_per_layer"].items()),
        ("weights", f"{size['weights'] / 1e9:.2f} GB"),
        ("keys and values", f"{size['keys_and_values'] / 1e9:.2f} GB when the window is full"),
        ("memory", f"{size['needed'] / 1e9:.2f} GB needed, {size['available'] / 1e9:.2f} GB there"),
        ("memory by precision", ", ".join(f"{name} {n / 1e9:.2f} GB" for name, n in size["needed_in"].items())),
        *((name, f"{t['type']} {t['shape']}") for name, t in facts.get("tensors", {}).items()),
    ]
    print_table("checkpoint", rows)
