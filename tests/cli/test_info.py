"""`info` over the network: what a model is and whether it fits, from kilobytes of a repository of megabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import Hub, serving
from safetensors.numpy import save

from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER
from moshi_mlx.checkpoint.tiny import BUILT_IN, CONFIG, random_weights
from moshi_mlx.config import LMConfig

SMALL = {**CONFIG, "num_layers": 1}
NAME = "kyutai/small"


def weights() -> dict[str, np.ndarray]:
    return random_weights(LMConfig.from_dict(SMALL))


@pytest.fixture
def hub() -> Iterator[Hub]:
    repository = {"config.json": json.dumps(SMALL).encode(), "model.safetensors": save(weights())}
    with serving(Hub(repos={NAME: repository})) as hub:
        yield hub


def info(hub: Hub, home: Path, *arguments: str) -> tuple[int, str, str]:
    return moshi_mlx(hub, home, "info", *arguments)


def moshi_mlx(hub: Hub, home: Path, *arguments: str) -> tuple[int, str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    environment = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "moshi_mlx.cli.main", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_only_headers_are_fetched_and_nothing_of_the_weights_stays(hub: Hub, tmp_path: Path) -> None:
    code, out, err = info(hub, tmp_path, NAME, "--check", "--json")
    assert (code, err) == (0, "")
    facts: dict[str, Any] = json.loads(out)
    assert facts["kind"] == "converse"
    assert facts["command"] == f"moshi-mlx chat --model {NAME}"
    assert facts["tensor_count"] == len(weights())
    needed = facts["bytes"]["needed_in"]
    assert needed["q4"] < needed["q8"] < needed["bf16"]
    assert [seen.range for seen in hub.downloads()] == ["bytes=0-100000"]
    assert len(hub.repos[NAME]["model.safetensors"]) > 20 * 100_001
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_tensor_missing_one_too_many_and_one_misshapen_are_named(hub: Hub, tmp_path: Path) -> None:
    tensors = weights()
    del tensors["out_norm.weight"]
    tensors["transformer.layers.0.self_attn.k_norm.weight"] = np.ones(32, np.float32)
    tensors["text_linear.weight"] = tensors["text_linear.weight"][:-1]
    hub.repos[NAME]["model.safetensors"] = save(tensors)
    code, out, _ = info(hub, tmp_path, NAME, "--check")
    assert code == 2
    assert "missing: out_norm.weight\n" in out
    assert "unexpected: transformer.layers.0.self_attn.k_norm.weight\n" in out
    assert "text_linear.weight has shape [511, 128], and config.json asks for [512, 128]" in out
    assert out.endswith(f"{NAME}: 3 tensors are not what the network needs\n")
    assert len(json.loads(info(hub, tmp_path, NAME, "--check", "--json")[1])["differences"]["missing"]) == 1
    code, out, err = info(hub, tmp_path, NAME)
    assert (code, out) == (2, "")
    assert "out_norm.weight is missing" in err


def test_what_is_no_safetensors_file_ends_in_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.repos[NAME]["model.safetensors"] = b"\xff" * 2_000_000
    code, _, err = info(hub, tmp_path, NAME, "--check")
    assert code == 2
    assert err.count("\n") == 1
    assert "model.safetensors of kyutai/small is not a safetensors file" in err


def test_a_model_of_another_kind_is_refused_before_anything_of_it_is_fetched(hub: Hub, tmp_path: Path) -> None:
    code, _, err = moshi_mlx(hub, tmp_path, "write", "Once", "--model", NAME)
    assert code == 2
    assert err == f"moshi-mlx: error: {NAME} converses; use `moshi-mlx chat --model {NAME}`\n"
    assert hub.downloads() == []


@pytest.mark.parametrize("model", BUILT_IN)
def test_every_built_in_model_is_what_its_configuration_asks_for(model: str, hub: Hub, tmp_path: Path) -> None:
    code, out, _ = info(hub, tmp_path, model, "--check")
    assert code == 0
    assert "run it with" in out
    assert f"{model}: all " in out


def test_doctor_tells_memory_and_speed_of_what_is_not_downloaded_yet(hub: Hub, tmp_path: Path) -> None:
    hub.repos[NAME] |= {MIMI: b"codec", TOKENIZER: b"text"}
    hub.declared["model.safetensors"] = 60_000_000  # what is small would be fetched without a question
    _, out, _ = moshi_mlx(hub, tmp_path, "doctor", "--model", NAME, "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert "is not here yet (60 MB)" in checks["model"]["finding"]
    assert "small float32" in checks["speed"]["finding"]
    assert {"memory", "disk"} < set(checks)
    assert [seen.range for seen in hub.downloads()] == ["bytes=0-100000"]
