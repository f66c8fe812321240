"""Every published repository resolves to its weights and what they need; what is missing comes from where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serving

from moshi_mlx.checkpoint.helium import HELIUM_WEIGHTS
from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER
from moshi_mlx.checkpoint.published import Release, architectures, releases

DRIVER = """
import json, sys
from moshi_mlx.checkpoint.companions import companion, roles_of
from moshi_mlx.checkpoint.hub import find_mimi, locate
from moshi_mlx.checkpoint.inspect import read_config
from moshi_mlx.errors import MoshiError
found = {}
for model in json.loads(sys.argv[1]):
    try:
        folder = locate(model)
        found[model] = {
            "files": sorted(path.name for path in folder.iterdir()),
            "companions": [companion(folder, *role).read_text() for role in roles_of(read_config(folder))],
        }
    except MoshiError as error:
        found[model] = {"error": str(error)}
try:
    find_mimi("kyutai/helium-1-preview-2b")
except MoshiError as error:
    found["codec"] = str(error)
print(json.dumps(found))
"""


def files_of(release: Release) -> dict[str, bytes]:
    """A repository as Kyutai publishes it, but for its contents: each companion tells where it is from."""
    raw, repo = release.architecture.raw, release.repo
    if repo == "kyutai/helium-1-preview-2b-mlx":
        return dict.fromkeys([*HELIUM_WEIGHTS, "tokenizer_spm_48k_multi6_2.model"], repo.encode())
    if release.names == "Hugging Face":
        files = dict.fromkeys(["model.safetensors", "tokenizer.json"], repo.encode())
        return {**files, "config.json": json.dumps(raw).encode()}
    suffix = {16: "", 8: ".q8", 4: ".q4"}[release.bits if release.names == "MLX" else 16]
    weights = str(raw.get("moshi_name", f"model{suffix}.safetensors"))
    named = [weights, str(raw.get("mimi_name", MIMI)), str(raw.get("tokenizer_name", TOKENIZER))]
    files = dict.fromkeys(named, repo.encode())
    return files if "mosh" in repo else {**files, "config.json": json.dumps(raw).encode()}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(repos={release.repo: files_of(release) for release in releases()})) as hub:
        yield hub


def resolve(hub: Hub, home: Path, *models: str) -> dict[str, dict[str, list[str]]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    environment = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", DRIVER, json.dumps(models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def test_every_published_repository_resolves_to_its_files_alone(hub: Hub, tmp_path: Path) -> None:
    found = resolve(hub, tmp_path, *(release.repo for release in releases()))
    for release in releases():
        files = set(files_of(release)) - set(HELIUM_WEIGHTS[1:])  # one of several precisions
        assert found[release.repo].get("files") == sorted(files), (release.repo, found[release.repo])
        count = 2 if release.architecture.config.n_q else 1
        assert found[release.repo]["companions"] == [release.repo] * count
    assert found["codec"] == "kyutai/helium-1-preview-2b writes text and has no codec"


def test_a_folder_of_weights_alone_finds_the_codec_and_tokenizer_that_its_config_names(
    hub: Hub, tmp_path: Path
) -> None:
    wanted = {
        "stt-1b": ["kyutai/moshiko-mlx-q4", "kyutai/stt-1b-en_fr-mlx"],
        "stt-2.6b": ["kyutai/moshiko-mlx-q4", "kyutai/stt-2.6b-en-mlx"],
        "tts-1.6b": ["kyutai/moshiko-mlx-q4", "kyutai/tts-1.6b-en_fr"],
        "hibiki-1b": ["kyutai/hibiki-1b-mlx-bf16", "kyutai/hibiki-1b-mlx-bf16"],
        "hibiki-2b": ["kyutai/moshiko-mlx-q4", "kyutai/hibiki-1b-mlx-bf16"],
    }
    for name in wanted:
        folder = tmp_path / name
        folder.mkdir()
        raw = {key: value for key, value in architectures()[name].raw.items() if key != "moshi_name"}
        (folder / "config.json").write_text(json.dumps(raw))
        (folder / "model.safetensors").write_bytes(b"weights")
    found = resolve(hub, tmp_path / "home", *(str(tmp_path / name) for name in wanted))
    for name, homes in wanted.items():
        assert found[str(tmp_path / name)].get("companions") == homes, (name, found[str(tmp_path / name)])
