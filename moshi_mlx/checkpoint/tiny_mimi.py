"""The codec of the built-in model: Mimi's whole architecture with fixed random weights, written in a second
or two.

It codes nothing worth hearing, but it is a codec: codes follow the sound, and any codes decode to quiet
noise. Names and shapes are those of the published file (`tokenizer-e351c8d8-checkpoint125.safetensors`,
norms folded into the convolutions), as rustymimi and the PyTorch package read them. Pure numpy: needs no
codec, no MLX and no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ..files import replacing

CODEBOOKS = 32
CARDINALITY = 2048
CODE_DIM = 256
MODEL_DIM = 512
FEEDFORWARD_DIM = 2048
LAYERS = 8
FILTERS = 64
RATIOS = (4, 5, 6, 8)  # strides of the encoder, in order; the decoder runs them backwards

SPEECH_GAIN = 16.0  # lifts speech (RMS about 0.05) far above the biases, so that codes follow the sound
OUTPUT_GAIN = 0.05  # brings the decoder's unit variance down to noise at RMS 0.02 to 0.3
BIAS = 0.01
LAYER_SCALE = 0.2  # well above the trained start of 0.01: attention matters, so tests of its history can fail
CODE_NORM = 8.0
CODE_DECAY = 0.97  # what the best of 2048 random directions in 256 dimensions leaves of a residual

# (name, shape, standard deviation, mean)
Spec = tuple[str, tuple[int, ...], float, float]


def write_tiny_mimi(path: str | Path, seed: int = 0) -> Path:
    """Write the random codec to `path` (about 190 MB, float16) and return it; equal seeds give equal bytes.

    The file appears whole or not at all: it is written beside its place and renamed.
    """
    path = Path(path)
    rng = np.random.default_rng(seed)
    tensors = {name: _draw(rng, shape, std, mean) for name, shape, std, mean in _specs()}
    for index in range(CODEBOOKS):
        tensors |= _codebook(rng, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    return path


def _draw(rng: np.random.Generator, shape: tuple[int, ...], std: float, mean: float) -> np.ndarray:
    """Normal values; filters sum to zero, or the mean that ELU leaves would drown the sound."""
    values = std * rng.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    return (mean + values).astype(np.float16)


def _specs() -> Iterator[Spec]:
    yield from _encoder()
    yield from _decoder()
    for side in ("encoder", "decoder"):
        for layer in range(LAYERS):
            yield from _transformer_layer(f"{side}_transformer.transformer.layers.{layer}")
    # 25 Hz to 12.5 Hz and back; the way back is one filter per channel, two taps of which meet in each
    # output.
    yield "downsample.conv.conv.conv.weight", (MODEL_DIM, MODEL_DIM, 4), (4 * MODEL_DIM) ** -0.5, 0.0
    yield "upsample.convtr.convtr.convtr.weight", (MODEL_DIM, 1, 4), 0.5**0.5, 0.0
    for part in ("rvq_first", "rvq_rest"):
        yield f"quantizer.{part}.input_proj.weight", (CODE_DIM, MODEL_DIM, 1), MODEL_DIM**-0.5, 0.0
        yield f"quantizer.{part}.output_proj.weight", (MODEL_DIM, CODE_DIM, 1), CODE_DIM**-0.5, 0.0


def _encoder() -> Iterator[Spec]:
    """SEANet down: 1 channel at 24 kHz to 512 at 25 Hz. Numbers count the activations between as well."""
    yield from _conv("encoder.model.0.conv.conv", 1, FILTERS, 7, gain=SPEECH_GAIN)
    channels, index = FILTERS, 1
    for ratio in RATIOS:
        yield from _residual(f"encoder.model.{index}", channels)
        yield from _conv(f"encoder.model.{index + 2}.conv.conv", channels, 2 * channels, 2 * ratio)
        channels, index = 2 * channels, index + 3
    yield from _conv(f"encoder.model.{index + 1}.conv.conv", channels, MODEL_DIM, 3)


def _decoder() -> Iterator[Spec]:
    """SEANet up: 512 channels at 25 Hz to 1 at 24 kHz."""
    channels = FILTERS << len(RATIOS)
    yield from _conv("decoder.model.0.conv.conv", MODEL_DIM, channels, 7)
    index = 1
    for ratio in reversed(RATIOS):
        half = channels // 2
        name = f"decoder.model.{index + 1}.convtr.convtr"
        yield f"{name}.weight", (channels, half, 2 * ratio), (2 * channels) ** -0.5, 0.0
        yield f"{name}.bias", (half,), BIAS, 0.0
        yield from _residual(f"decoder.model.{index + 2}", half)
        channels, index = half, index + 3
    yield from _conv(f"decoder.model.{index + 1}.conv.conv", channels, 1, 3, gain=OUTPUT_GAIN)


def _residual(name: str, channels: int) -> Iterator[Spec]:
    yield from _conv(f"{name}.block.1.conv.conv", channels, channels // 2, 3)
    yield from _conv(f"{name}.block.3.conv.conv", channels // 2, channels, 1)


def _conv(name: str, inputs: int, outputs: int, kernel: int, gain: float = 1.0) -> Iterator[Spec]:
    yield f"{name}.weight", (outputs, inputs, kernel), gain * (inputs * kernel) ** -0.5, 0.0
    yield f"{name}.bias", (outputs,), BIAS, 0.0


def _transformer_layer(name: str) -> Iterator[Spec]:
    yield f"{name}.self_attn.in_proj_weight", (3 * MODEL_DIM, MODEL_DIM), MODEL_DIM**-0.5, 0.0
    yield f"{name}.self_attn.out_proj.weight", (MODEL_DIM, MODEL_DIM), MODEL_DIM**-0.5, 0.0
    yield f"{name}.linear1.weight", (FEEDFORWARD_DIM, MODEL_DIM), MODEL_DIM**-0.5, 0.0
    yield f"{name}.linear2.weight", (MODEL_DIM, FEEDFORWARD_DIM), FEEDFORWARD_DIM**-0.5, 0.0
    for norm in ("norm1", "norm2"):
        yield f"{name}.{norm}.weight", (MODEL_DIM,), 0.1, 1.0
        yield f"{name}.{norm}.bias", (MODEL_DIM,), 0.02, 0.0
    for scale in ("layer_scale_1", "layer_scale_2"):
        yield f"{name}.{scale}.scale", (MODEL_DIM,), 0.0, LAYER_SCALE


def _codebook(rng: np.random.Generator, index: int) -> dict[str, np.ndarray]:
    """Codes of one length: with lengths that differ, the shortest would be nearest to almost everything."""
    part, layer = ("rvq_first", 0) if index == 0 else ("rvq_rest", index - 1)
    name = f"quantizer.{part}.vq.layers.{layer}._codebook"
    codes = rng.standard_normal((CARDINALITY, CODE_DIM), dtype=np.float32)
    codes *= CODE_NORM * CODE_DECAY**layer / np.linalg.norm(codes, axis=1, keepdims=True)
    return {
        f"{name}._initialized": np.ones(1, np.float16),
        f"{name}.cluster_usage": np.ones(CARDINALITY, np.float16),
        f"{name}.embedding_sum": codes.astype(np.float16),
    }
