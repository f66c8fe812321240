"""The tiny models whose outputs the PyTorch reference wrote down, one per property that parity has to cover.

Each is a config.json as Kyutai writes it. Nothing here imports torch or MLX.
"""

from __future__ import annotations

from typing import Any


def config(n_q: int, dep_q: int, delays: list[int], **changes: Any) -> dict[str, Any]:
    """A Moshi in miniature: every published key, small numbers."""
    base: dict[str, Any] = {
        "dim": 64,
        "num_layers": 3,
        "num_heads": 4,
        "hidden_scale": 4.125,
        "context": 300,
        "max_period": 10000,
        "causal": True,
        "layer_scale": None,
        "gating": "silu",
        "norm": "rms_norm_f32",
        "positional_embedding": "rope",
        "text_card": 96,
        "existing_text_padding_id": 3,
        "card": 48,
        "n_q": n_q,
        "dep_q": dep_q,
        "delays": delays,
        "depformer_dim": 48,
        "depformer_dim_feedforward": int(4.125 * 48),
        "depformer_num_heads": 4,
        "depformer_num_layers": 2,
        "depformer_layer_scale": None,
        "depformer_multi_linear": True,
        "depformer_context": dep_q,
        "depformer_max_period": 10000,
        "depformer_gating": "silu",
        "depformer_pos_emb": "none",
        "depformer_weights_per_step": True,
    }
    return base | changes


def speakers(acoustic: int, codebooks: int = 8) -> list[int]:
    """Delays of text, Moshi and user: the semantic codebook at once, the acoustic ones later."""
    speaker = [0] + [acoustic] * (codebooks - 1)
    return [0, *speaker, *speaker]


CONFIGS: dict[str, dict[str, Any]] = {
    # Moshi itself.
    "delay1": config(16, 8, speakers(1)),
    "delay2": config(16, 8, speakers(2)),
    # Sixteen codebooks a speaker; late steps share weights; narrow depth embeddings.
    "dep16": config(
        32,
        16,
        speakers(2, 16),
        depformer_weights_per_step_schedule=[0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 9, 9, 9, 9],
        depformer_low_rank_embeddings=16,
    ),
    # The run passes this context thirteen times over.
    "window": config(16, 8, speakers(1), context=16, num_layers=4),
    # Speech to text: no depth transformer, heads beside the text.
    "stt": config(8, 0, [0] * 9, extra_heads_num_heads=4, extra_heads_dim=6),
    # No two speakers alike, delays that go down again, the longest one the user's; grouped attention.
    "mixed_delays": config(
        16, 8, [0, 0, 1, 1, 2, 2, 1, 2, 2, 1, 3, 2, 2, 0, 2, 3, 2], kv_repeat=2, depformer_multi_linear=False
    ),
    # Nobody to listen to, fewer text tokens written than read, text far ahead of the audio.
    "speaker": config(8, 8, [0, 2] + [4] * 7, text_card_out=5),
    # Three users at once.
    "batch": config(16, 8, speakers(1)),
    # Hibiki: a word is added to every frame, and guidance away from a worse word.
    "translating": config(
        16,
        8,
        speakers(2),
        conditioners={
            "description": {
                "type": "lut",
                "lut": {
                    "n_bins": 31,
                    "dim": 16,
                    "tokenizer": "noop",
                    "possible_values": ["very_bad", "bad", "neutral", "good", "very_good"],
                },
            }
        },
        fuser={
            "cross_attention_pos_emb": False,
            "cross_attention_pos_emb_scale": 1,
            "sum": ["description"],
            "prepend": [],
            "cross": [],
        },
        cross_attention=False,
    ),
    # Hibiki-Zero: positions turn the halves of a head, a norm before every codebook's logits.
    "zero": config(
        16,
        8,
        speakers(2),
        positional_embedding="rope_concat",
        depformer_norm="layer_norm",
        kv_repeat=2,
        depformer_kv_repeat=1,
        depformer_weights_per_step_schedule=[0, 1, 2, 3, 4, 4, 4, 4],
        conditioners={},
    ),
}

BATCH = {"batch": 3}

# What models are told beside their tokens: the words of the conditioned rows, those of the null rows, the guidance.
TOLD: dict[str, dict[str, Any]] = {
    "translating": {"words": {"description": "very_good"}, "null": {"description": "very_bad"}, "guidance": 3.0}
}

# A model that speaks, whose frames are cut where the host chooses the text: see make_cut_golden.py.
CUT = config(
    16,
    16,
    [0, 0, *[2] * 15],
    demux_second_stream=True,
    cross_attention=True,
    depformer_weights_per_step_schedule=[0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 9, 9, 9, 9],
    depformer_low_rank_embeddings=16,
    conditioners={
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 24}},
        "cfg": {
            "type": "lut",
            "lut": {"n_bins": 3, "dim": 16, "tokenizer": "noop", "possible_values": ["1.0", "1.5", "2.0"]},
        },
        "control": {"type": "lut", "lut": {"n_bins": 1, "dim": 64, "tokenizer": "noop", "possible_values": ["ok"]}},
    },
    fuser={
        "cross_attention_pos_emb": True,
        "cross_attention_pos_emb_scale": 1,
        "sum": ["control", "cfg"],
        "prepend": [],
        "cross": ["speaker_wavs"],
    },
)
CUT_TOLD: dict[str, Any] = {
    "words": [{"cfg": "2.0", "control": "ok"}, {"cfg": None, "control": "ok"}],
    "guidance": 2.0,
    "masked_until": [12, 20],
    "text_bonus": {"3": 0.5},
}
