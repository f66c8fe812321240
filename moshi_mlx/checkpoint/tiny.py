"""The built-in models: small language models of each kind, a text tokenizer and a full-architecture Mimi.

Their weights are random, so they make noise; they exist so that everything runs at once on any machine.
Made once, in seconds and without a network, in the user's cache folder; all share one codec file.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ..config import MOSHI_7B, LMConfig
from ..errors import CheckpointError
from ..helium import HELIUM_2B
from .inspect import MIMI, TOKENIZER
from .names import published_shapes
from .tiny_mimi import write_tiny_mimi
from .tiny_text import write_tiny_tokenizer

VOCABULARY = 512
_FILES = {"moshi_name": "model.safetensors", "mimi_name": MIMI, "tokenizer_name": TOKENIZER}
CONFIG: dict[str, Any] = {
    **MOSHI_7B,
    "dim": 128, "num_layers": 4, "num_heads": 4, "hidden_scale": 4.5, "context": 256, "text_card": VOCABULARY,
    "depformer_dim": 64, "depformer_num_layers": 2, "depformer_num_heads": 4, "depformer_dim_feedforward": 288,
    "model_type": "moshi", **_FILES,
}  # fmt: skip
STT: dict[str, Any] = {
    **{key: value for key, value in CONFIG.items() if not key.startswith("depformer_")},
    "n_q": 32, "dep_q": 0, "delays": [0] * 33, "extra_heads_num_heads": 4, "extra_heads_dim": 6, "model_type": "stt",
    "stt_config": {"audio_silence_prefix_seconds": 0.0, "audio_delay_seconds": 0.5},
}  # fmt: skip
TTS: dict[str, Any] = {
    **CONFIG, "n_q": 16, "dep_q": 16, "delays": [0, 0, *[2] * 15], "demux_second_stream": True, "model_type": "tts",
    "depformer_weights_per_step_schedule": [*range(8), *[8] * 8], "depformer_low_rank_embeddings": 32,
    "cross_attention": True,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 64}},
        "cfg": {"type": "lut", "lut": {"n_bins": 7, "dim": 16, "tokenizer": "noop",
                                       "possible_values": [f"{1 + i / 2:.1f}" for i in range(7)]}},
        "control": {"type": "lut", "lut": {"n_bins": 1, "dim": 128, "tokenizer": "noop", "possible_values": ["ok"]}},
    },
    "fuser": {"cross_attention_pos_emb": True, "cross_attention_pos_emb_scale": 1, "sum": ["control", "cfg"],
              "prepend": [], "cross": ["speaker_wavs"]},
    "tts_config": {"audio_delay": 1.28, "second_stream_ahead": 2}, "model_id": {"sig": "tiny", "epoch": 1},
}  # fmt: skip
HIBIKI: dict[str, Any] = {
    **CONFIG, "delays": [0, *[0, *[2] * 7] * 2], "model_type": "hibiki",
    "conditioners": {"description": {"type": "lut", "lut": {
        "n_bins": 31, "dim": 16, "tokenizer": "noop",
        "possible_values": ["very_bad", "bad", "neutral", "good", "very_good"],
    }}},
    "fuser": {"cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1, "sum": ["description"],
              "prepend": [], "cross": []},
}  # fmt: skip
HELIUM: dict[str, Any] = {
    **HELIUM_2B,
    "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": VOCABULARY, "max_position_embeddings": 256,
    "moshi_name": "model.safetensors", "tokenizer_name": TOKENIZER,
}  # fmt: skip
VOICES = ("anna", "ben")
"""The voices of `tiny-tts`."""


@dataclass(frozen=True)
class BuiltIn:
    """What a built-in model is made of."""

    config: Mapping[str, Any]
    """As in config.json. Of codec and tokenizer, what it names is written."""
    version: int = 1
    """Counts up whenever its files change, so that an old cache is not taken for a new one."""
    beside: Callable[[Path], None] | None = None
    """Writes what else stands in the folder (voices and the like)."""


BUILT_IN: dict[str, BuiltIn] = {
    "tiny": BuiltIn(CONFIG, version=2),
    "tiny-stt": BuiltIn(STT),
    "tiny-hibiki": BuiltIn(HIBIKI),
    "tiny-helium": BuiltIn(HELIUM),
    "tiny-tts": BuiltIn(TTS, beside=lambda folder: _write_voices(folder / "voices")),
}
"""By the name that `--model` takes. A new one needs a line here, and nothing anywhere else."""


def own_cache() -> Path:
    """Where this program keeps what it makes itself: XDG_CACHE_HOME, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moshi-mac"


def tiny_folder(name: str = "tiny") -> Path:
    """The folder of a built-in model, made now if it is not there yet.

    Raises:
        CheckpointError: the cache folder cannot be written (it takes 200 MB).
    """
    folder = own_cache() / f"{name}-{BUILT_IN[name].version}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            _write(BUILT_IN[name], draft, None if name == "tiny" else tiny_folder() / MIMI)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster, with the same files
            raise CheckpointError(f"cannot make the built-in model in {folder}: {error.strerror or error}") from None
    return folder


def _write(model: BuiltIn, folder: Path, codec: Path | None) -> None:
    config = dict(model.config)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(random_weights(LMConfig.from_dict(config)), folder / "model.safetensors", metadata={"format": "mlx"})
    if "tokenizer_name" in config:
        write_tiny_tokenizer(folder / TOKENIZER, VOCABULARY)
    if "mimi_name" in config:
        _write_codec(folder / MIMI, codec)
    if model.beside is not None:
        model.beside(folder)


def _write_codec(path: Path, shared: Path | None) -> None:
    """The codec: 190 MB, so one file for all models where the file system has hard links."""
    if shared is None:
        write_tiny_mimi(path)
        return
    try:
        path.hardlink_to(shared)
    except OSError:
        shutil.copyfile(shared, path)


def _write_voices(folder: Path) -> None:
    """Two seconds of random vectors for each voice, as Kyutai's voices have ten of a recording's."""
    folder.mkdir()
    width = TTS["conditioners"]["speaker_wavs"]["tensor"]["dim"]
    for seed, name in enumerate(VOICES):
        vectors = np.random.default_rng(seed).standard_normal((1, width, 25)).astype(np.float32)
        save_file({"speaker_wavs": vectors}, folder / f"{name}.wav.tiny@1.safetensors")


def random_weights(config: LMConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Fixed random tensors of a configuration, float32, under their published names.

    Uniform with the variance that keeps activations near 1; norms are 1.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in published_shapes(config).items():
        if len(shape) == 1:
            weights[name] = np.ones(shape, np.float32)
            continue
        reach = np.sqrt(3.0 if ".emb." in name or "_emb" in name else 3.0 / shape[1])
        weights[name] = ((2 * rng.random(shape, np.float32) - 1) * reach).astype(np.float32)
    return weights
