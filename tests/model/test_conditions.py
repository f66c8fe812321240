"""What a config.json may say of conditions, and what the network makes of them beside parity."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from tiny_lm import SMALL, small_lm

from moshi_mlx import ConfigError, Generator, MoshiError, Sampling
from moshi_mlx.config import LMConfig
from moshi_mlx.guidance import Guidance
from moshi_mlx.model import kernels
from moshi_mlx.model.conditions import TensorCondition
from moshi_mlx.model.layers import Embedding, TwoStreamEmbedding

GREEDY: dict[str, Any] = {"text_sampling": Sampling(temp=0), "audio_sampling": Sampling(temp=0)}
SPEAKING: dict[str, Any] = {
    "n_q": 4, "dep_q": 4, "delays": [0, 0, 2, 2, 2], "demux_second_stream": True, "cross_attention": True,
    "depformer_low_rank_embeddings": 32,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 8}},
        "control": {"type": "lut", "lut": {"n_bins": 2, "dim": 4, "tokenizer": "noop", "possible_values": ["ok"]}},
    },
    "fuser": {"cross_attention_pos_emb": True, "cross_attention_pos_emb_scale": 0.5, "sum": ["control"],
              "prepend": [], "cross": ["speaker_wavs"]},
}  # fmt: skip


def told(speaker: TensorCondition | None = None, control: str | None = "ok") -> dict[str, Any]:
    return {"speaker_wavs": speaker, "control": control}


def voice(seed: int, time: int = 5) -> TensorCondition:
    return TensorCondition(np.random.default_rng(seed).standard_normal((1, time, 8)).astype(np.float32))


def changed(path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy({**SMALL, **SPEAKING})
    *way, last = path.split("/")
    entry = raw
    for key in way:
        entry = entry[key]
    entry[last] = value
    return raw


def test_conditions_are_read() -> None:
    config = LMConfig.from_dict({**SMALL, **SPEAKING})
    assert config.fuser.sum == ("control",)
    assert config.fuser.cross == ("speaker_wavs",)
    assert config.fuser.positions == 0.5
    assert config.transformer.cross_attention
    assert config.demux_second_stream
    assert config.conditioners["control"].values == ("ok",)
    assert config.conditioners["speaker_wavs"].bins is None
    other = changed("demux_second_stream", False) | {"demux_second_text_stream": True}
    assert LMConfig.from_dict(other).demux_second_stream
    assert LMConfig.from_dict(changed("fuser/cross_attention_pos_emb", False)).fuser.positions == 0


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("fuser/prepend", ["control"], "'prepend'"),
        ("fuser/streaming_sum", ["control"], "'streaming_sum'"),
        ("fuser/sum", ["mood"], "no conditioner 'mood'"),
        ("fuser/sum", [["control"]], "no conditioner"),
        ("fuser/cross", [], "'cross_attention' and the 'cross'"),
        ("cross_attention", False, "'cross_attention' and the 'cross'"),
        ("kv_repeat", 2, "'kv_repeat' must be 1"),
        ("conditioners/control/type", "wav", "type 'wav'"),
        ("conditioners/control", "ok", "type None"),
        ("conditioners/control/lut", None, "'n_bins' is missing"),
        ("conditioners/control/lut/tokenizer", "whitespace", "'tokenizer'"),
        ("conditioners/control/lut/possible_values", ["a", "b", "c"], "at most 2 different words"),
        ("conditioners/control/lut/possible_values", ["a", "a"], "at most 2 different words"),
        ("conditioners/control/lut/output_bias", True, "'output_bias'"),
        ("conditioners/speaker_wavs/tensor/n_bins", 3, "does not know 'n_bins'"),
        ("text_card", 50_000, "do not fit"),
    ],
)
def test_what_no_published_model_asks_for_is_refused_by_name(path: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LMConfig.from_dict(changed(path, value))


def test_any_word_goes_where_none_are_listed() -> None:
    raw = changed("conditioners/control/lut/possible_values", None)
    lm = small_lm(**{key: raw[key] for key in SPEAKING})
    row = int(hashlib.sha256(b"merry").hexdigest(), 16) % 2
    control = lm.conditioners["control"]
    expected = control.output_proj.weight @ control.embed.weight[row]
    summed = lm.conditions([told(control="merry")]).sum
    assert summed is not None
    np.testing.assert_allclose(np.array(summed[0]), np.array(expected), atol=1e-5)


def test_nothing_has_a_vector_of_its_own() -> None:
    lm = small_lm(**SPEAKING)
    nothing = lm.conditions([told(control=None)]).sum
    assert nothing is not None
    np.testing.assert_array_equal(np.array(nothing[0]), np.array(lm.conditioners["control"].learnt_padding[0, 0]))
    pair = lm.conditions([told(voice(0, 3)), told(voice(1, 5))]).cross
    alone = lm.conditions([told(voice(1, 5))]).cross
    assert pair is not None
    assert alone is not None
    assert pair.shape == (2, 5, SMALL["dim"])
    np.testing.assert_allclose(np.array(pair[1]), np.array(alone[0]), atol=1e-6)


def test_a_voice_may_be_an_array_of_any_type() -> None:
    lm, vectors = small_lm(**SPEAKING), mx.random.normal((5, 8)).astype(mx.bfloat16)
    given = [vectors, np.array(vectors.astype(mx.float32)), np.array(vectors.astype(mx.float32), np.float64)]
    first, *others = (np.array(lm.conditions([told(TensorCondition(tensor))]).cross) for tensor in given)
    assert first.shape == (1, 5, SMALL["dim"])
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_the_zero_token_is_the_zero_vector_also_after_quantizing(bits: int | None) -> None:
    for embedding in (Embedding(9, 64), Embedding(9, 64, 32), TwoStreamEmbedding(9, 64), TwoStreamEmbedding(9, 64, 32)):
        embedding.table.weight[-1] = 0.0
        if bits:
            nn.quantize(embedding, group_size=32, bits=bits)
        vectors = np.array(embedding(mx.array([-1, 0, 8])))
        assert (vectors[0] == 0).all()
        assert (np.abs(vectors[1:]).max(axis=1) > 0).all()


def test_a_second_stream_is_added_to_the_first() -> None:
    embedding = TwoStreamEmbedding(9, 64)
    embedding.table.weight[-1] = 0.0
    first, second, both, neither = np.array(embedding(mx.array([4, (7 + 1) * 9, (7 + 1) * 9 + 4, -1])))
    table, out1, out2 = (x.weight for x in (embedding.table, embedding.out1, embedding.out2))
    np.testing.assert_allclose(first, np.array(out1 @ table[4]), atol=1e-5)
    np.testing.assert_allclose(second, np.array(out1 @ table[0] + out2 @ table[7]), atol=1e-5)
    np.testing.assert_allclose(both, np.array(out1 @ table[4] + out2 @ table[7]), atol=1e-5)
    assert (neither == 0).all()


def frames(generator: Generator, steps: int = 12) -> list[np.ndarray]:
    """Text logits of cut frames."""
    found = []
    for step in range(steps):
        generator.begin(logits=True)
        frame = generator.finish(5 + 97 * step)
        assert frame.logits is not None
        found.append(frame.logits.text)
    return found


def test_both_kinds_of_kernels_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small_lm(**SPEAKING)
    conditions = lm.conditions([told(voice(0)), told()])
    ours = frames(Generator(lm, **GREEDY, conditions=conditions, guidance=2.0, cut=True))
    monkeypatch.setattr(kernels, "on_gpu", lambda: True)
    fused = frames(Generator(lm, **GREEDY, conditions=conditions, guidance=2.0, cut=True))
    np.testing.assert_allclose(ours, fused, atol=1e-4)


@pytest.mark.parametrize("positional", ["rope", "rope_concat"])
def test_half_precision_stays_half(positional: str) -> None:
    """Conditions are made in float32, and the frame that reads them is not made wider by them."""
    lm = small_lm(dtype=mx.bfloat16, positional_embedding=positional, **SPEAKING)
    generator = Generator(
        lm, **GREEDY, conditions=lm.conditions([told(voice(0)), told()]), guidance=2.0, text_bonus={3: 0.5}, cut=True
    )
    generator.begin()
    assert generator._begun is not None
    assert generator._begun.hidden.dtype == mx.bfloat16
    assert {ring.dtype for layer in generator.rings for ring in layer} == {mx.bfloat16}
    told_sum, memory = generator.told
    assert told_sum is not None
    assert memory is not None
    assert {told_sum.dtype, *(x.dtype for layer in memory for x in layer)} == {mx.bfloat16}


def test_another_voice_begins_another_conversation() -> None:
    lm = small_lm(**SPEAKING)
    first, second = (lm.conditions([told(voice(seed))]) for seed in (0, 1))
    generator = Generator(lm, **GREEDY, conditions=first, cut=True)
    one = frames(generator)
    generator.reset()
    np.testing.assert_array_equal(frames(generator), one)
    generator.reset(second)
    other = frames(generator)
    assert np.abs(np.array(other) - np.array(one)).max() > 1e-3
    np.testing.assert_array_equal(frames(Generator(lm, **GREEDY, conditions=second, cut=True)), other)


def test_a_text_token_can_be_read_as_another() -> None:
    lm, codes = small_lm(), np.random.default_rng(0).integers(0, SMALL["card"], (10, 8))
    plain, reading, forced = (Generator(lm, **GREEDY, text_read_as=read_as) for read_as in (None, {2: 3}, {2: 3, 7: 7}))
    for i, column in enumerate(codes):
        text = 2 if i == 4 else 9
        frames = [g.step(column, text=text, logits=True) for g in (plain, reading, forced)]
        assert [frame.text for frame in frames] == [text] * 3
        scores = [frame.logits.text for frame in frames if frame.logits is not None]
        assert (np.abs(scores[0] - scores[1]).max() > 1e-4) == (i > 4)
        np.testing.assert_array_equal(scores[1], scores[2])
    with pytest.raises(MoshiError, match="forced text"):
        Generator(lm, text_read_as={2: 96})


def test_guidance_needs_something_to_differ_by() -> None:
    lm, codes = small_lm(), np.zeros(8, np.int32)
    with pytest.raises(MoshiError, match="needs a model with conditions"):
        Generator(lm, guidance=2.0)
    text = Generator(small_lm(n_q=0, dep_q=0, delays=[0]), guidance=Guidance(2.0, without_text=True))
    with pytest.raises(MoshiError, match="told nothing beside it"):
        text.prefill([5])
    guided = Generator(lm, **GREEDY, guidance=Guidance(2.0, masked_until=[3]))
    alone = Generator(lm, **GREEDY)
    assert guided.cache_bytes == 2 * alone.cache_bytes
    for _ in range(4):
        one, other = (generator.step(codes, 9, logits=True).logits for generator in (guided, alone))
        assert one is not None
        assert other is not None
        assert np.abs(one.text - other.text).max() > 1e-3
