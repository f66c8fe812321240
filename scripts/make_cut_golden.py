"""Write tests/goldens/cut.safetensors: frames whose text, and some of whose codes, the host chooses.

What a model that speaks needs of the network, all at once: speakers through cross-attention, two words added to every
frame, guidance without text and with a masked beginning, two text streams in one token, sixteen codebooks by a
schedule with narrow embeddings, a bonus on padding, forced text and forced codes. `make_goldens.py` says where to run
it, and how a step is counted; here the host has the initial step too, so step k is LMGen's step k.

The golden holds (B = 2 conversations, S steps, C logged steps; P and the rest as in make_goldens.py):
    speakers [B, T, dim], speakers_mask [B, T]
    sampled [B, S]                         the text token that the model proposed
    text [B, S]                            the one that the host put in its place
    audio [B, S, dep_q]                    what the host put in place of the codes, -2 where it kept them
    codes [B, S, dep_q]                    the codes of the column, after that
    returned [B, S, 1 + dep_q]             what LMGen.step() gave back, -2 where that was None
    logit_steps [C], text_logits [B, C, V], audio_logits [B, C, dep_q, card], guided
    forward_*                              LMModel.forward with the same conditions
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from golden_configs import CUT, CUT_TOLD
from golden_weights import digest, normal, tensors  # make_goldens has put tests/ on the path
from make_goldens import (
    FORWARD_STEPS,
    GOLDENS,
    MARGIN,
    NOTHING,
    VERSIONS,
    Arrays,
    check_versions,
    forward,
    load,
    margins,
    narrow,
    random_codes,
    tapped,
    text_tokens,
    write,
)
from moshi.conditioners import ConditionAttributes, ConditionTensors, TensorCondition, dropout_all_conditions
from moshi.models.lm import LMGen, LMModel

STEPS, CANDIDATES, SILENT = 130, 32, 6
"""In the first SILENT steps no code is written, so the depth transformer does not run."""
SPEAKER_FRAMES, SPEAKERS = 4, 3
KEEP, ZERO = -2, -1
PADDING = 3


@dataclass(frozen=True)
class Script:
    """What the host decides beforehand, for a batch of conversations."""

    speakers: np.ndarray
    mask: np.ndarray
    text: np.ndarray
    audio: np.ndarray

    def rows(self, chosen: np.ndarray) -> Script:
        """Some of the conversations."""
        return Script(*(x[chosen] for x in (self.speakers, self.mask, self.text, self.audio)))

    def conditions(self, model: LMModel, guided: bool = True) -> ConditionTensors:
        """The conditioned rows, and the null ones after them."""
        told = [
            ConditionAttributes(text=dict(words), tensor={"speaker_wavs": TensorCondition(tensor[None], mask[None])})
            for words, tensor, mask in zip(
                itertools.cycle(CUT_TOLD["words"]), torch.tensor(self.speakers), torch.tensor(self.mask)
            )
        ]
        return model.condition_provider.prepare_and_provide(told + (dropout_all_conditions(told) if guided else []))


def main() -> None:
    check_versions()
    for seed in itertools.count():
        model = load(CUT, seed)
        script = write_script(model, seed)
        clear = np.flatnonzero(margins(record(model, script)) > MARGIN)
        # The words go by turns, so one from each turn.
        chosen = np.array([next((i for i in clear if i % 2 == turn), -1) for turn in range(2)])
        if (chosen >= 0).all():
            break
    script = script.rows(chosen)
    recorded = record(model, script)
    logged = np.array(sorted({*range(SILENT, SILENT + 4), *range(SILENT, STEPS, 9), STEPS - 1}), np.int32)
    golden: Arrays = {k: v[:, logged] if k.endswith("logits") else narrow(v) for k, v in recorded.items()}
    golden |= {"text": narrow(script.text), "audio": narrow(script.audio), "logit_steps": logged}
    golden |= {"speakers": script.speakers, "speakers_mask": script.mask}
    codes = random_codes(model, seed + 1, 2, FORWARD_STEPS, zeros=0.06)
    golden |= forward(model, codes, script.conditions(model, guided=False))
    metadata: dict[str, Any] = {
        "config": CUT, "seed": seed, "weights": digest(tensors(CUT, seed)), "margin": float(margins(recorded).min()),
        "versions": VERSIONS, **CUT_TOLD,
    }  # fmt: skip
    path = GOLDENS / "cut.safetensors"
    write(path, golden, metadata)
    print(f"cut: seed {seed}, smallest margin {metadata['margin']:.2e}, {path.stat().st_size:,} bytes")


def write_script(model: LMModel, seed: int) -> Script:
    """Random speakers, words between pads in both streams, silence at first, some codes of a recording."""
    rng = np.random.Generator(np.random.Philox(seed))
    dim = CUT["conditioners"]["speaker_wavs"]["tensor"]["dim"]
    shape = (CANDIDATES, SPEAKER_FRAMES * SPEAKERS)
    speakers = normal(seed, "speakers", (*shape, dim))
    mask = np.arange(shape[1]) < SPEAKER_FRAMES * rng.integers(1, SPEAKERS + 1, CANDIDATES)[:, None]
    tokens = (CANDIDATES, STEPS)
    first = np.where(rng.random(tokens) < 0.5, PADDING, rng.integers(model.text_card, size=tokens))
    second = np.where(rng.random(tokens) < 0.5, ZERO, rng.integers(model.text_card, size=tokens))
    text = (second + 1) * (model.text_card + 1) + first
    text[rng.random(tokens) < 0.05] = ZERO
    audio = np.full((*tokens, model.dep_q), KEEP)
    delays = np.array(model.delays[1 : 1 + model.dep_q])
    audio[:, np.arange(STEPS)[:, None] < SILENT + delays] = ZERO
    recorded = rng.random(audio.shape) < 0.5
    recorded[:, :20] = recorded[:, 40:] = False
    audio = np.where(recorded, rng.integers(model.card, size=audio.shape), audio)
    assert text.max() < text_tokens(model)
    return Script(speakers, mask, text, audio)


def record(model: LMModel, script: Script) -> Arrays:
    """Greedy generation along a script."""
    batch, step = len(script.text), 0
    taken: dict[str, list[torch.Tensor]] = {"sampled": [], "codes": [], "text_logits": [], "audio_logits": []}
    depth_logits: list[torch.Tensor] = []

    def on_text_logits(logits: torch.Tensor) -> None:
        for token, bonus in CUT_TOLD["text_bonus"].items():
            logits[..., int(token)] += bonus
        taken["text_logits"].append(logits[:, 0, 0].clone())

    def on_text(tokens: torch.Tensor) -> None:
        taken["sampled"].append(tokens.clone())
        tokens[:] = torch.from_numpy(script.text[:, step])

    def on_audio(codes: torch.Tensor) -> None:
        replaced = torch.from_numpy(script.audio[:, step])
        codes[:] = torch.where(replaced == KEEP, codes, replaced)
        taken["codes"].append(codes.clone())

    generator = LMGen(
        model, use_sampling=False, check=False, cfg_coef=CUT_TOLD["guidance"], cfg_is_no_text=True,
        cfg_is_masked_until=list(itertools.islice(itertools.cycle(CUT_TOLD["masked_until"]), batch)),
        condition_tensors=script.conditions(model), on_text_logits_hook=on_text_logits, on_text_hook=on_text,
        on_audio_hook=on_audio,
    )  # fmt: skip
    forward_depformer = model.forward_depformer
    model.forward_depformer = tapped(forward_depformer, depth_logits, CUT_TOLD["guidance"])
    returned, nobody = [], torch.zeros((batch, 0, 1), dtype=torch.long)
    try:
        with generator.streaming(batch):
            for step in range(STEPS):  # the hooks read it
                depth_logits.clear()
                silence = torch.full((batch, model.dep_q, 1), ZERO) if step < SILENT else None
                out = generator.step(nobody, depformer_replace_tokens=silence)
                nothing = torch.full((batch, 1 + model.dep_q), NOTHING)
                returned.append(nothing if out is None else out[..., 0])
                blank = torch.tensor([1.0, *[0.0] * (model.card - 1)]).expand(batch, model.dep_q, -1)
                taken["audio_logits"].append(torch.stack(depth_logits, 1) if depth_logits else blank)
    finally:
        model.forward_depformer = forward_depformer
    return {k: torch.stack(v, 1).numpy() for k, v in (taken | {"returned": returned}).items()}


if __name__ == "__main__":
    main()
