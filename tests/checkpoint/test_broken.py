"""Broken checkpoints, more than two hundred: each ends in one clear sentence and exit code 2, without any output."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER
from moshi_mlx.checkpoint.tiny import random_weights, tiny_folder
from moshi_mlx.checkpoint.weight_files import INDEX
from moshi_mlx.cli.main import main
from moshi_mlx.config import LMConfig

COUNT = 165  # and 38 wrong keys
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import soundfile

    path = tmp_path_factory.mktemp("speech") / "in.wav"
    soundfile.write(path, np.zeros(4800), 24_000)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of mixed precision that is sound: temporal layers in 4 bits, the rest as it was."""
    folder = tmp_path_factory.mktemp("sound")
    for name in (MIMI, TOKENIZER):
        (folder / name).symlink_to(tiny_folder() / name)
    config = json.loads((tiny_folder() / "config.json").read_text())
    config["num_layers"] = 2
    weights = {}
    for name, array in random_weights(LMConfig.from_dict(config)).items():
        module = name.removesuffix(".weight")
        if module.startswith("transformer.") and array.ndim == 2:
            packed, scales, biases = mx.quantize(mx.array(array), group_size=32, bits=4)
            weights |= {name: packed, f"{module}.scales": scales, f"{module}.biases": biases}
        else:
            weights[name] = mx.array(array)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: np.array(v) for k, v in weights.items()}, folder / WEIGHTS)
    return folder


Break = Callable[[Path, random.Random], None]


def edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / WEIGHTS)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def truncated(folder: Path, rng: random.Random) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: rng.randrange(len(data))])


def header_spoilt(folder: Path, rng: random.Random) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    for _ in range(3):
        data[rng.randrange(9)] ^= 1 << rng.randrange(8)
    (folder / WEIGHTS).write_bytes(bytes(data))


def garbage(folder: Path, rng: random.Random) -> None:
    (folder / WEIGHTS).write_bytes(rng.randbytes(rng.randrange(5000)))


def tensor_missing(folder: Path, rng: random.Random) -> None:
    edit_tensors(folder, lambda t: t.pop(rng.choice(sorted(t))))  # type: ignore[arg-type, return-value]


def tensor_extra(folder: Path, rng: random.Random) -> None:
    edit_tensors(folder, lambda t: t.update({f"transformer.layers.{rng.randrange(2, 99)}.x": np.zeros(3)}))


def tensor_misshapen(folder: Path, rng: random.Random) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        name = rng.choice(sorted(tensors))
        tensors[name] = np.ascontiguousarray(tensors[name][..., : -rng.randrange(1, 3)])

    edit_tensors(folder, change)


def tensor_mistyped(folder: Path, rng: random.Random) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        name = rng.choice(sorted(tensors))
        wrong = np.float32 if tensors[name].dtype == np.uint32 else rng.choice([np.int32, np.uint32, np.float64])
        tensors[name] = tensors[name].astype(wrong)

    edit_tensors(folder, change)


def json_cut(folder: Path, rng: random.Random) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: rng.randrange(len(text) - 1)])


def json_no_object(folder: Path, rng: random.Random) -> None:
    (folder / "config.json").write_text(rng.choice(["[]", "3", '"moshi"', "null", "[" * 5000, "\x00"]))


def key_missing(folder: Path, rng: random.Random) -> None:
    needed = ["dim", "num_layers", "num_heads", "context", "n_q", "dep_q", "card", "text_card", "delays"]
    edit_config(folder, lambda c: c.pop(rng.choice(needed)))


def key_unknown(folder: Path, rng: random.Random) -> None:
    edit_config(folder, lambda c: c.update({rng.choice(["flux", "rope_scaling", "num_experts"]): 2}))


WRONG_KEYS: list[tuple[str, Any]] = [
    ("dim", "wide"), ("dim", 0), ("dim", 10**30), ("num_heads", 7), ("num_layers", -1), ("num_layers", 3),
    ("context", True), ("delays", [0, 1]), ("delays", "none"), ("delays", [0.5] * 17), ("dep_q", 99),
    ("card", 2047), ("text_card", 511), ("hidden_scale", -4), ("hidden_scale", 4), ("max_period", 0),
    ("norm", "layer_norm"), ("gating", "gelu"), ("layer_scale", 0.1), ("positional_embedding", "sin"),
    ("depformer_pos_emb", "rope"), ("depformer_weights_per_step", False),
    ("depformer_weights_per_step_schedule", [0, 5]),
    ("depformer_low_rank_embeddings", 4), ("depformer_dim_feedforward", [1]), ("cross_attention", True),
    ("demux_second_stream", True), ("conditioners", {"a": {"type": "lut"}}), ("extra_heads_num_heads", 2),
    ("kv_repeat", 3), ("lora", True), ("moshi_name", "other.safetensors"), ("mimi_name", "none.safetensors"),
    ("tokenizer_name", "none.model"), ("existing_text_padding_id", 5), ("text_card_out", 64),
    ("num_layers", 2**31 - 1), ("max_period", float("nan")), ("moshi_name", 5),
]  # fmt: skip


def bits_wrong(folder: Path, rng: random.Random) -> None:
    said = rng.choice([
        {"bits": 8, "group_size": 64}, {"bits": 4, "group_size": 64}, {"bits": 4, "group_size": 32, "mode": "mxfp4"},
        {"bits": 3, "group_size": 32}, 4, "q4", [4], {"bits": "four"}, {"bits": None, "group_size": 32},
        {"bits": 4, "group_size": 32, "text_linear": {"bits": 4, "group_size": 32}},
        {"bits": 4, "group_size": 32, "transformer.layers.0.self_attn.in_proj": False},
    ])  # fmt: skip
    edit_config(folder, lambda c: c.update(quantization=said))


def scales_wrong(folder: Path, rng: random.Random) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        part = rng.choice(["scales", "biases"])
        name = rng.choice([n for n in sorted(tensors) if n.endswith(part)])
        tensors[name] = rng.choice([
            np.repeat(tensors[name], 2, axis=1), tensors[name][:, :1], tensors[name].astype(np.uint8),
            tensors[name][:0], tensors[name].reshape(-1),
        ])  # fmt: skip

    edit_tensors(folder, change)


def companion_gone(folder: Path, rng: random.Random) -> None:
    (folder / rng.choice([MIMI, TOKENIZER, WEIGHTS])).unlink()


def companion_garbage(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice([MIMI, TOKENIZER])
    cut = path.read_bytes()[: rng.choice([0, 5, 1000, 6000])]
    path.unlink()  # a link to the sound one
    path.write_bytes(rng.choice([cut, rng.randbytes(3000)]))


def index_broken(folder: Path, rng: random.Random) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    whole = json.dumps({"weight_map": shards})
    (folder / INDEX).write_text(rng.choice([whole, whole[:20], "{}", '{"weight_map": 3}', "[]"]))
    edit_config(folder, lambda c: c.pop("moshi_name"))


def several(folder: Path, rng: random.Random) -> None:
    shutil.copy(folder / WEIGHTS, folder / rng.choice(["model.q4.safetensors", "model.q8.safetensors"]))
    edit_config(folder, lambda c: c.pop("moshi_name"))


BREAKS: list[Break] = [
    truncated, truncated, header_spoilt, garbage, tensor_missing, tensor_extra, tensor_misshapen, tensor_mistyped,
    json_cut, json_no_object, key_missing, key_unknown, bits_wrong, scales_wrong,
    companion_gone, companion_garbage, index_broken, several,
]  # fmt: skip


def copy_of(sound: Path, folder: Path) -> Path:
    shutil.copytree(sound, folder, symlinks=True)
    return folder


def test_the_sound_one_passes(sound: Path, speech: Path, tmp_path: Path) -> None:
    assert main(["run", "--model", str(sound), str(speech), str(tmp_path / "out.wav")]) == 0


@pytest.mark.parametrize("number", range(COUNT))
def test_a_broken_checkpoint_ends_in_one_sentence(
    number: int, sound: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = copy_of(sound, tmp_path / "broken")
    BREAKS[number % len(BREAKS)](broken, random.Random(number))
    assert_one_sentence(broken, speech, tmp_path, capfd)


@pytest.mark.parametrize(("key", "value"), WRONG_KEYS)
def test_a_wrong_key_ends_in_one_sentence(
    key: str, value: object, sound: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = copy_of(sound, tmp_path / "broken")
    edit_config(broken, lambda config: config.update({key: value}))
    assert_one_sentence(broken, speech, tmp_path, capfd)


def assert_one_sentence(broken: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    code = main(["run", "--model", str(broken), str(speech), str(out / "out.wav")])
    stdout, stderr = capfd.readouterr()
    assert code == 2, stdout + stderr
    assert stdout == ""
    *notes, error = stderr.splitlines()
    assert error.startswith("moshi-mlx: error: ")
    assert len(notes) <= 1, stderr  # that the codec is fetched from elsewhere
    assert 30 < len(error) < 600
    assert list(out.iterdir()) == []


def test_headers_are_read_without_the_data(sound: Path) -> None:
    """The check costs no memory: what safetensors opens is mapped, not read."""
    from moshi_mlx.checkpoint.inspect import inspect

    checkpoint = inspect(sound)
    with safe_open(sound / WEIGHTS, framework="numpy") as file:
        assert set(checkpoint.tensors) == set(file.keys())
    assert checkpoint.precision == "mixed"
