"""Writes tests/goldens/published_*.json: names and shapes of all tensors of the published models, at full size.

No weights are made: PyTorch builds the networks on its meta device, MLX never computes them. Run it once in an
environment with `moshi` and `transformers`, and once in one with Kyutai's `moshi_mlx`:

    python scripts/make_published_golden.py pytorch
    python scripts/make_published_golden.py mlx
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONFIGS = json.loads((ROOT / "moshi_mlx/assets/published.json").read_text(encoding="utf-8"))["configs"]
Shapes = dict[str, list[int]]


def pytorch_shapes(config: Mapping[str, Any]) -> Shapes:
    """What `moshi` and `transformers` call the tensors of a model."""
    import torch

    if "hidden_size" in config:
        from transformers import HeliumConfig, HeliumForCausalLM

        keys = {key: value for key, value in config.items() if key not in ("model_type", "rope_theta")}
        with torch.device("meta"):
            model = HeliumForCausalLM(HeliumConfig(**keys))
    else:
        from moshi.models.loaders import get_moshi_lm

        beside = ("model_type", "model_id", "lm_gen_config", "tts_config", "stt_config")
        keys = {key: v for key, v in config.items() if key not in beside and not key.endswith("_name")}
        model = get_moshi_lm(None, keys, device="meta")
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def mlx_shapes(config: Mapping[str, Any]) -> Shapes:
    """What Kyutai's `moshi_mlx` calls them."""
    from mlx.utils import tree_flatten

    from moshi_mlx import models

    if config.get("text_card_out"):
        raise ValueError("moshi_mlx does not know text_card_out")
    known = models.config_helium_1_preview_2b() if "hidden_size" in config else None
    lm = models.Lm(known or models.LmConfig.from_config_dict(dict(config)))
    return {name: list(array.shape) for name, array in tree_flatten(lm.parameters())}


def folded(shapes: Shapes) -> Shapes:
    """'layers.0.x', 'layers.1.x' -> 'layers.{2}.x': what differs in its numbers alone is one line."""
    found: dict[tuple[str, str], list[tuple[int, ...]]] = defaultdict(list)
    for name, shape in shapes.items():
        indices = tuple(int(n) for n in re.findall(r"(?<=\.)\d+(?=\.)", name))
        found[re.sub(r"(?<=\.)\d+(?=\.)", "#", name), json.dumps(shape)].append(indices)
    lines: Shapes = {}
    for (pattern, shape), all_indices in found.items():
        ends = [max(column) + 1 for column in zip(*all_indices, strict=True)]
        whole = sorted(all_indices) == list(itertools.product(*map(range, ends)))
        for name in (
            [_filled(pattern, [f"{{{end}}}" for end in ends])]
            if whole
            else [_filled(pattern, [str(i) for i in indices]) for indices in all_indices]
        ):
            lines[name] = json.loads(shape)
    return lines


def _filled(pattern: str, numbers: list[str]) -> str:
    parts = pattern.split("#")
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(parts, numbers, fillvalue="")))


def main() -> int:
    """Write the file of one of the two, and say which models it could not build."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    makers: dict[str, Callable[[Mapping[str, Any]], Shapes]] = {"pytorch": pytorch_shapes, "mlx": mlx_shapes}
    if kind not in makers:
        print(__doc__)
        return 2
    found = {}
    for name, entry in CONFIGS.items():
        try:
            found[name] = folded(makers[kind](entry["config"]))
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")
    text = json.dumps(found, indent=1)
    text = re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text)
    (ROOT / "tests/goldens" / f"published_{kind}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(found)} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
