"""The published models at full size, without weights: every tensor is where the network looks for it.

Names and shapes are those of the PyTorch package and of Kyutai's MLX port, built without values by
scripts/make_published_golden.py; file sizes are the Hub's.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import pytest

from moshi_mlx.checkpoint.inspect import Checkpoint, Tensor, differences
from moshi_mlx.checkpoint.names import is_condition
from moshi_mlx.checkpoint.published import Architecture, Release, architectures, releases
from moshi_mlx.checkpoint.sizes import model_bytes, parameters
from moshi_mlx.tasks.kinds import kind_of

GOLDENS = Path(__file__).parent.parent / "goldens"
HEADER_BYTES = 140
"""More than a tensor takes in a safetensors header."""
FLOAT32_CONDITIONERS = ("kyutai/tts-1.6b-en_fr",)
VOCABULARIES = {"mlx": {"MLX"}, "pytorch": {"PyTorch", "Hugging Face"}}

every_architecture = pytest.mark.parametrize("architecture", architectures().values(), ids=lambda a: a.name)


def built() -> list[tuple[str, Architecture]]:
    """What each package could build: Kyutai's port does not know `text_card_out` (kyutai-labs/moshi issue 422)."""
    models = {package: json.loads((GOLDENS / f"published_{package}.json").read_text()) for package in VOCABULARIES}
    return [(package, architectures()[name]) for package in models for name in models[package]]


def golden(package: str, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes as a package has them: 'layers.{3}.x' stands for three."""
    lines = json.loads((GOLDENS / f"published_{package}.json").read_text())[name]
    shapes = {}
    for line, shape in lines.items():
        parts = re.split(r"\{(\d+)\}", line)
        for numbers in itertools.product(*(range(int(end)) for end in parts[1::2])):
            filled = itertools.zip_longest(parts[::2], map(str, numbers), fillvalue="")
            shapes["".join(itertools.chain.from_iterable(filled))] = tuple(shape)
    return shapes


def headers(architecture: Architecture, package: str) -> Checkpoint:
    file = Path("model.safetensors")
    tensors = {name: Tensor(file, "BF16", shape) for name, shape in golden(package, architecture.name).items()}
    return Checkpoint(Path(), architecture.config, (file,), tensors)


@pytest.mark.parametrize(("package", "architecture"), built(), ids=lambda value: getattr(value, "name", value))
def test_every_tensor_of_the_reference_is_found_and_none_is_left(package: str, architecture: Architecture) -> None:
    checkpoint = headers(architecture, package)
    assert checkpoint.vocabulary in VOCABULARIES[package]
    found = differences(checkpoint)
    assert not found, found


@every_architecture
def test_what_is_counted_from_the_configuration_is_what_the_reference_holds(architecture: Architecture) -> None:
    tensors = golden("pytorch", architecture.name)
    held = sum(math.prod(shape) for shape in tensors.values())
    if architecture.config.demux_second_stream:  # a projection that the reference makes and never uses
        held -= math.prod(tensors["depformer_text_emb.low_rank.weight"])
    if depth := architecture.config.depth:  # sets of weights share norms there, and have their own in the network
        held += (depth.num_weights - 1) * 2 * depth.transformer.num_layers * depth.transformer.dim
    assert parameters(architecture.config) == held


@pytest.mark.parametrize("release", [r for r in releases() if r.nbytes], ids=lambda r: r.repo)
def test_the_published_file_has_room_for_its_tensors_and_a_header_alone(release: Release) -> None:
    tensors = golden("mlx" if release.names == "MLX" else "pytorch", release.architecture.name)
    wide = release.repo in FLOAT32_CONDITIONERS
    held = sum((4 if wide and is_condition(name) else 2) * math.prod(shape) for name, shape in tensors.items())
    assert release.nbytes is not None
    assert 0 < release.nbytes - held < HEADER_BYTES * len(tensors)
    stacked = {re.sub(r"(in|out)_projs\.\d+\.", r"\1_proj.", name) for name in tensors}
    assert release.tensors in (None, len(stacked))


@pytest.mark.parametrize(("bits", "gigabytes"), [(16, 15.38), (8, 8.17), (4, 4.81)])
def test_moshi_in_each_published_precision(bits: int, gigabytes: float) -> None:
    assert model_bytes(architectures()["moshi-7b"].config, bits) / 1e9 == pytest.approx(gigabytes, rel=0.002)


@every_architecture
def test_each_is_of_the_kind_that_its_words_say(architecture: Architecture) -> None:
    assert architecture.about.startswith(kind_of(architecture.config).value.does)


def test_a_reconstruction_says_so() -> None:
    for architecture in architectures().values():
        assert architecture.verified != architecture.source.startswith("reconstructed")
    assert not architectures()["tts-0.75b"].verified
