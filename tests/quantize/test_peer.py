"""Kyutai's own moshi_mlx takes what its two recipes give. Needs an environment of its own: the import names clash.

    MOSHI_PEER_PYTHON=peer/bin/python pytest tests/quantize/test_peer.py

docs/results.md tells how to make one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from quantize_models import SMALL, write

from moshi_mlx.quantize.convert import convert, plan
from moshi_mlx.quantize.recipes import RECIPES

PEER = os.environ.get("MOSHI_PEER_PYTHON")
# Kyutai's program has one width of MLP, 11/4 of the dimension.
CONFIG = {**SMALL, "dim": 256, "hidden_scale": 4.125, "depformer_dim": 256, "depformer_dim_feedforward": 1056}
PROGRAM = """
import json, sys
import mlx.core as mx, mlx.nn as nn
from moshi_mlx import models
folder, name, bits, group = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = models.Lm(models.LmConfig.from_config_dict(json.load(open(folder + "/config.json"))))
model.set_dtype(mx.bfloat16)
nn.quantize(model, bits=bits, group_size=group)
model.load_weights(folder + "/" + name, strict=True)
try:
    model.warmup()
except ValueError as error:
    if error.args != (42,):  # so it greets that token, which random weights may draw
        raise
print("accepted")
"""


@pytest.mark.skipif(not PEER, reason="set MOSHI_PEER_PYTHON to a Python that has Kyutai's moshi_mlx 0.3.0")
@pytest.mark.parametrize("name", ["q8", "q4"])
def test_kyutais_program_loads_its_own_recipes_strictly(name: str, tmp_path: Path) -> None:
    assert PEER is not None
    recipe = RECIPES[name]
    result = convert(plan(write(tmp_path / "source", CONFIG), tmp_path / "result", recipe))
    assert recipe.bulk is not None
    assert recipe.file_name is not None
    arguments = [str(result), recipe.file_name, str(recipe.bulk.bits), str(recipe.bulk.group_size)]
    run = subprocess.run([PEER, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout == "accepted\n", run.stderr
