"""Write tests/goldens/*.safetensors: what Kyutai's PyTorch package answers, for this project to equal.

Runs in an environment of its own, because torch is no dependency of this project:

    pip install torch==2.13.0 numpy safetensors einops sentencepiece huggingface_hub
    pip install --no-deps moshi==0.2.13
    python scripts/make_goldens.py [NAME ...]

Time. `LMGen`'s first step reads initial tokens only, and the user's frame that it is given is never read:
`check_first_frame` proves it at every run. Here that step is called the initial step; step k of this project,
counted from 0, is LMGen's step k + 1. The user's frames in a golden are those of steps 0, 1, 2 …; the frame
fed to the initial step is left out.

A golden holds (B users, S steps, C logged steps, P logged positions; entry 0 of S + 1 is the initial step):
    user_codes [B, S, user codebooks]      what the user said in step k
    text [B, S + 1]                        text token sampled in each step, before any delay
    audio [B, S + 1, dep_q]                audio tokens sampled in each step, before undelaying
    returned [B, S + 1, 1 + dep_q]         what LMGen.step() gave back, -2 where that was None
    logit_steps [C], text_logits [B, C, V], audio_logits [B, C, dep_q, card]
    extra_heads [B, C, heads, width]       probabilities, where the model has such heads
    forward_codes [2, streams, 40]         undelayed, some of them the zero token -1
    forward_positions [P], forward_text [2, P, V], forward_audio [2, dep_q, P, card]
                                           LMModel.forward of them, NaN where undefined
    forward_text_mask [2, 40], forward_audio_mask [2, dep_q, 40]
Its metadata, JSON under the key `golden`: config, seed, weights (their digest), margin, versions, and
first_change: per user codebook, the step whose logits are the first to change when that codebook alone
changes in change_step.

Greedy sampling, float32, one thread, CPU. Users are the first of CANDIDATES for whom the best and the
second-best logit never come closer than MARGIN, so that a token can only differ where something is wrong.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["NO_TORCH_COMPILE"] = "1"  # read when moshi is imported

import numpy as np
import torch
from golden_configs import BATCH, CONFIGS, TOLD
from moshi.conditioners import ConditionAttributes, ConditionTensors
from moshi.models.lm import LMGen, LMModel
from moshi.models.lm_utils import _delay_sequence
from moshi.models.loaders import get_moshi_lm
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from golden_weights import digest, per_step_names, tensors  # noqa: E402

GOLDENS = ROOT / "tests" / "goldens"
VERSIONS = {"moshi": "0.2.13", "torch": "2.13.0"}
STEPS, FORWARD_STEPS, CHANGE_STEP = 220, 40, 20
MARGIN, CANDIDATES = 1e-3, 48
NOTHING = -2

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """The reference's network, what it is told beside its tokens, and with how much guidance."""

    model: LMModel
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def guidance(self) -> float:
        """LMGen's cfg_coef."""
        return self.told.get("guidance", 1.0)

    def conditions(self, batch: int, guided: bool = True) -> ConditionTensors | None:
        """The same words for every row, those of the null rows after them; None for a model without conditions."""
        if self.model.fuser is None:
            return None
        rows = [self.told["words"]] * batch + [self.told["null"]] * batch * (guided and self.guidance != 1)
        return self.model.condition_provider.prepare_and_provide([ConditionAttributes(text=row) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="Write goldens with the PyTorch reference.")
    parser.add_argument("names", nargs="*", default=list(CONFIGS), metavar="NAME", help="default: all")
    names: list[str] = parser.parse_args().names
    check_versions()
    GOLDENS.mkdir(exist_ok=True)
    for name in names:
        write_golden(name, CONFIGS[name], BATCH.get(name, 1))


def check_versions() -> None:
    """Goldens come from these packages only, on one thread."""
    for package, wanted in VERSIONS.items():
        if version(package).split("+")[0] != wanted:
            raise SystemExit(f"goldens come from {package} {wanted}; {version(package)} is installed")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


def write_golden(name: str, config: dict[str, Any], batch: int) -> None:
    seed, reference, user = clear_users(config, batch, TOLD.get(name, {}))
    check_first_frame(reference, user)
    recorded, logged = record(reference, user), logit_steps(config)
    golden = thinned(recorded, logged)
    golden |= {"user_codes": narrow(user.transpose(0, 2, 1)), "logit_steps": logged}
    metadata: dict[str, Any] = {
        "config": config,
        "seed": seed,
        "weights": digest(tensors(config, seed)),
        "margin": float(margins(recorded).min()),
        "versions": VERSIONS,
        **reference.told,
    }
    if batch == 1:
        codes = random_codes(reference.model, seed + 1, 2, FORWARD_STEPS, zeros=0.06)
        golden |= forward(reference.model, codes, reference.conditions(2, guided=False))
        metadata |= {"change_step": CHANGE_STEP, "first_change": first_changes(reference, user)}
    path = GOLDENS / f"{name}.safetensors"
    write(path, golden, metadata)
    print(f"{name}: seed {seed}, smallest margin {metadata['margin']:.2e}, {path.stat().st_size:,} bytes", flush=True)


def write(path: Path, golden: Arrays, metadata: dict[str, Any]) -> None:
    draft = path.with_suffix(".partial")
    contiguous = {k: np.ascontiguousarray(v) for k, v in golden.items()}
    # One key, for safetensors writes several in any order, and the same golden should be the same bytes.
    save_file(contiguous, draft, {"golden": json.dumps(metadata)})
    draft.chmod(0o644)
    draft.rename(path)


def clear_users(config: dict[str, Any], batch: int, told: Mapping[str, Any]) -> tuple[int, Reference, np.ndarray]:
    """The first seed, its model and its users [B, K, S] with whom no two tokens come close."""
    for seed in itertools.count():
        reference = Reference(load(config, seed), told)
        model = reference.model
        candidates = random_codes(model, seed, CANDIDATES, STEPS)[:, 1 + model.dep_q :]
        clear = margins(record(reference, candidates)) > MARGIN
        if clear.sum() >= batch:
            return seed, reference, candidates[clear][:batch]
    raise AssertionError("itertools.count ended")


def load(config: dict[str, Any], seed: int) -> LMModel:
    """The reference with generated weights, loaded strictly, from both layouts of names."""
    weights = tensors(config, seed)
    # A copy: the reference writes into the configuration of its conditioners.
    model = get_moshi_lm(None, lm_kwargs=copy.deepcopy(config), device="cpu", dtype=torch.float32)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    published = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict({k: torch.from_numpy(v) for k, v in per_step_names(weights, config).items()})
    if any(not torch.equal(v, published[k]) for k, v in model.state_dict().items()):
        raise SystemExit("the two layouts of names do not give the same model")
    return model


def random_codes(model: LMModel, seed: int, batch: int, steps: int, zeros: float = 0.0) -> np.ndarray:
    """Codes [B, streams, T], undelayed; a share of `zeros` of them is the zero token."""
    rng = np.random.Generator(np.random.Philox(seed))
    text = rng.integers(text_tokens(model), size=(batch, 1, steps))
    audio = rng.integers(model.card, size=(batch, model.n_q, steps))
    codes = np.concatenate([text, audio], axis=1)
    return np.where(rng.random(codes.shape) < zeros, model.zero_token_id, codes)


def text_tokens(model: LMModel) -> int:
    """How many text tokens can be read; with two streams in one, the product."""
    return (model.text_card + 1) ** 2 if model.text_emb.demux_second_stream else model.text_card


def record(reference: Reference, user: np.ndarray, first_frame: int = 0) -> Arrays:
    """Greedy generation: user codes [B, K, S] -> arrays [B, S + 1, ...].

    The initial step is fed `first_frame` in every codebook.
    """
    model, batch = reference.model, len(user)
    taken: dict[str, list[torch.Tensor]] = {"text": [], "audio": [], "text_logits": [], "audio_logits": []}
    depth_logits: list[torch.Tensor] = []
    generator = LMGen(
        model,
        use_sampling=False,
        check=True,
        on_text_hook=taken["text"].append,
        on_audio_hook=taken["audio"].append,
        on_text_logits_hook=lambda x: taken["text_logits"].append(x[:, 0, 0]),
        cfg_coef=reference.guidance,
        condition_tensors=reference.conditions(batch),
    )
    user = np.concatenate([np.full_like(user[..., :1], first_frame), user], axis=-1)
    returned, extra = [], []
    forward_depformer = model.forward_depformer
    model.forward_depformer = tapped(forward_depformer, depth_logits, reference.guidance)
    try:
        with generator.streaming(batch):
            for step in range(user.shape[-1]):
                depth_logits.clear()
                out = generator.step_with_extra_heads(torch.from_numpy(user[..., step : step + 1]))
                nothing = torch.full((batch, 1 + model.dep_q), NOTHING)
                returned.append(nothing if out is None else out[0][..., 0])
                if depth_logits:
                    taken["audio_logits"].append(torch.stack(depth_logits, 1))
                if out is not None and out[1]:
                    extra.append(torch.stack([head[:, 0] for head in out[1]], 1))
    finally:
        model.forward_depformer = forward_depformer
    lists = taken | {"returned": returned, "extra_heads": extra}
    return {k: torch.stack(v, 1).numpy() for k, v in lists.items() if v}


def tapped(
    function: Callable[..., torch.Tensor], seen: list[torch.Tensor], guidance: float = 1.0
) -> Callable[..., torch.Tensor]:
    """`function`, whose results [B, 1, 1, card] are also kept in `seen`, as LMGen draws from them."""

    def call(*args: Any) -> torch.Tensor:
        result = function(*args)
        kept = result[:, 0, 0]
        if guidance != 1:
            conditioned, null = kept.chunk(2)
            kept = null + (conditioned - null) * guidance
        seen.append(kept)
        return result

    return call


def margins(recorded: Arrays) -> np.ndarray:
    """How close the second-best token ever came to the best one, per user [B]."""
    smallest = []
    for key in ("text_logits", "audio_logits"):
        if key in recorded:
            best = np.partition(recorded[key], -2, axis=-1)[..., -2:]
            apart = best[..., 1] - best[..., 0]
            smallest.append(apart.reshape(len(apart), -1).min(axis=1))
    return np.min(smallest, axis=0)


def check_first_frame(reference: Reference, user: np.ndarray) -> None:
    """Whatever the user says in the initial step changes nothing."""
    one = record(reference, user[..., :10], first_frame=0)
    other = record(reference, user[..., :10], first_frame=1)
    if any(not np.array_equal(one[k], other[k]) for k in one):
        raise SystemExit("LMGen read the user's frame in its first step: step k is not step k + 1 any more")


def first_changes(reference: Reference, user: np.ndarray) -> list[int]:
    """Per user codebook, the first step with other logits when it alone changes in CHANGE_STEP."""
    user = user[..., : CHANGE_STEP + 10]
    before = record(reference, user)
    return [first_change(reference, before, user, codebook) for codebook in range(user.shape[1])]


def first_change(reference: Reference, before: Arrays, user: np.ndarray, codebook: int) -> int:
    changed = user.copy()
    changed[:, codebook, CHANGE_STEP] = (changed[:, codebook, CHANGE_STEP] + 7) % reference.model.card
    after = record(reference, changed)
    differs = (after["text_logits"] != before["text_logits"]).any(axis=(0, 2))
    return int(differs.argmax()) - 1


def logit_steps(config: dict[str, Any]) -> np.ndarray:
    """The first steps, every tenth, those where the window begins to slide, and the last."""
    context = config["context"]
    steps = {*range(5), *range(0, STEPS, 10), *range(context - 3, context + 3), STEPS - 1}
    return np.array(sorted(k for k in steps if k < STEPS), dtype=np.int32)


def thinned(recorded: Arrays, logged: np.ndarray) -> Arrays:
    """Tokens of all steps; logits and probabilities of the logged ones."""
    dense = ("text_logits", "audio_logits", "extra_heads")
    return {k: v[:, 1 + logged] if k in dense else narrow(v) for k, v in recorded.items()}


def narrow(codes: np.ndarray) -> np.ndarray:
    """Token ids as int16, which holds every one of these."""
    if codes.size and codes.max() > np.iinfo(np.int16).max:
        raise SystemExit(f"token {codes.max()} does not fit in 16 bits")
    return codes.astype(np.int16)


def forward(model: LMModel, codes: np.ndarray, conditions: ConditionTensors | None = None) -> Arrays:
    """Teacher-forced outputs for codes [B, streams, T]."""
    ends = (*range(5), *range(FORWARD_STEPS - 5, FORWARD_STEPS))
    positions = np.array(sorted({*ends, *range(0, FORWARD_STEPS, 6)}))
    tokens = torch.from_numpy(codes)
    golden = {"forward_codes": narrow(codes), "forward_positions": positions.astype(np.int32)}
    if model.dep_q == 0:  # LMModel.forward insists on a depth transformer: its first half, by hand
        initial = model._get_initial_token().expand(len(tokens), -1, -1)
        delayed = torch.cat([initial, _delay_sequence(model.delays, tokens, initial)], dim=2)
        _, text = model.forward_text(delayed[..., :-1])
        return golden | {
            "forward_text": text[:, 0, positions].numpy(),
            "forward_text_mask": codes[:, 0] != -1,
        }
    out = model(tokens, conditions)
    return golden | {
        "forward_text": out.text_logits[:, 0, positions].numpy(),
        "forward_text_mask": out.text_mask[:, 0].numpy(),
        "forward_audio": out.logits[:, :, positions].numpy(),
        "forward_audio_mask": out.mask.numpy(),
    }


if __name__ == "__main__":
    main()
