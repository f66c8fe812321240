"""What the PyTorch reference decides when it reads a text aloud, written to tests/goldens for tests/tasks.

`speech_dialogue.safetensors`, `speech_fewer.safetensors`, `speech_prefix.safetensors`: the reference's whole TTSModel
on a script, greedy: two speakers through cross-attention with guidance, a second text stream and a bonus on padding;
the same with five of eight codebooks; and one who goes on from a recording, with guidance by its absence. Weights are
made from (seed, name, shape), see tests/speech_weights.py.

`word_feeding.json`: for random words and random proposals of a model, the token that the reference's state machine
feeds in every step, and the steps at which words begin; and scripts of turns with the entries that it reads in them,
with the tokenizer of the built-in models. Run in an environment with `moshi` 0.2.13 (see make_goldens.py):

    python scripts/make_speech_golden.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["NO_TORCH_COMPILE"] = "1"

import moshi.models.lm
import numpy as np
import torch
from golden_configs import config as base_config
from moshi.models.lm import LMModel
from moshi.models.loaders import get_moshi_lm
from moshi.models.tts import Entry, StateMachine, TokenIds, TTSModel, script_to_entries
from safetensors.numpy import save_file
from sentencepiece import SentencePieceProcessor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from speech_weights import SCRIPT, config, voice, weights  # noqa: E402

from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer  # noqa: E402

GOLDENS = ROOT / "tests" / "goldens"
TEXT_CARD, STEPS, VOCABULARY = 512, 260, 512
VERSIONS = {"moshi": "0.2.13", "torch": "2.13.0"}
MARGIN = 5e-4
"""The best token stays this far above the second-best, so that it differs only where something is wrong."""
LEAST_WORDS, LOGITS_EVERY = 30, 8

BASE = base_config(8, 8, [0] * 9, num_layers=2, context=120)  # which the script passes
SPEECHES: dict[str, dict[str, Any]] = {
    "dialogue": config(
        BASE,
        demux_second_stream=True,
        cross_attention=True,
        conditioners={
            "speaker_wavs": {"type": "tensor", "tensor": {"dim": 24}},
            "control": {
                "type": "lut",
                "lut": {"n_bins": 1, "dim": 64, "tokenizer": "noop", "possible_values": ["ok"]},
            },
        },
        fuser={
            "cross_attention_pos_emb": True,
            "cross_attention_pos_emb_scale": 1,
            "sum": ["control"],
            "prepend": [],
            "cross": ["speaker_wavs"],
        },
        depformer_weights_per_step_schedule=[0, 1, 2, 3, 4, 4, 4, 4],
        depformer_low_rank_embeddings=16,
        tts_config={"audio_delay": 1.28, "second_stream_ahead": 2},
        model_id={"sig": "golden", "epoch": 1},
    ),
    "prefix": config(BASE, conditioners={}, fuser={}, tts_config={"audio_delay": 0.64}),
}
SPEECHES["fewer"] = SPEECHES["dialogue"]
CODEBOOKS = {"fewer": 5}
PREFIX_FRAMES, VOICE_FRAMES = 11, 7
GUIDANCE, PADDING_BONUS = 2.0, 0.5

PACES: list[dict[str, int]] = [
    {"ahead": 0, "max_padding": 8, "initial_padding": 2},
    {"ahead": 2, "max_padding": 8, "initial_padding": 2},
    {"ahead": 1, "max_padding": 3, "initial_padding": 0},
    {"ahead": 0, "max_padding": 0, "initial_padding": 5},
    {"ahead": 3, "max_padding": 1, "initial_padding": 1},
]

SCRIPTS: list[dict[str, Any]] = [
    {"turns": ["Hello, how are you doing today?"], "padding_between": 1},
    {"turns": ["Hello there.", "I am fine (thank you): and you?", "So am I."], "padding_between": 1},
    {"turns": ["", "The other one begins.", "  ", "And goes on: it’s so."], "padding_between": 0},
    {"turns": ['Wait<break time="0.5s"/>now <break   time="12s" > on <break time="x"/> <break'], "padding_between": 2},
    {"turns": ["Où est-ce que\tvous allez\n ce soir ?", "Nulle part."], "padding_between": 1, "speakers": False},
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the goldens of speech with the PyTorch reference.")
    parser.add_argument("names", nargs="*", default=["words", *SPEECHES], metavar="NAME", help="default: all")
    names: list[str] = parser.parse_args().names
    for package, wanted in VERSIONS.items():
        if version(package).split("+")[0] != wanted:
            raise SystemExit(f"goldens come from {package} {wanted}; {version(package)} is installed")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in names:
        path = write_words() if name == "words" else write_speech(name, SPEECHES[name])
        print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


def write_words() -> Path:
    golden = {
        "text_card": TEXT_CARD,
        "vocabulary": VOCABULARY,
        "feeding": [feeding(pace, seed) for seed, pace in enumerate(PACES)],
        "scripts": [script | {"entries": entries(script)} for script in SCRIPTS],
    }
    path = GOLDENS / "word_feeding.json"
    path.write_text(json.dumps(golden, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def write_speech(name: str, settings: dict[str, Any]) -> Path:
    """The first seed with which no two tokens come close, and the model itself often begins a word."""
    for seed in itertools.count():
        model, shapes = load(settings, seed)
        golden, margin, spoken = speak(model, settings, seed, CODEBOOKS.get(name, model.n_q))
        if margin > MARGIN and (golden["proposed"] == TokenIds.new_word).sum() >= LEAST_WORDS:
            break
    metadata = {
        "config": settings, "shapes": shapes, "seed": seed, "margin": margin, "versions": VERSIONS, "spoken": spoken,
        "guidance": GUIDANCE, "padding_bonus": PADDING_BONUS, "vocabulary": VOCABULARY, "logits_every": LOGITS_EVERY,
        "codebooks": len(golden["frames"]), "voices": [[seed + 100, VOICE_FRAMES], [seed + 200, VOICE_FRAMES]],
    }  # fmt: skip
    path = GOLDENS / f"speech_{name}.safetensors"
    contiguous = {key: np.ascontiguousarray(value) for key, value in golden.items()}
    save_file(contiguous, path, {"golden": json.dumps(metadata)})
    print(f"{name}: seed {seed}, smallest margin {margin:.2e}, {len(golden['fed'])} steps")
    return path


def load(settings: dict[str, Any], seed: int) -> tuple[LMModel, dict[str, tuple[int, ...]]]:
    """The reference with made-up weights, and the names and shapes that it has."""
    beside = {"tts_config", "model_id", "model_type"}
    kwargs = json.loads(json.dumps({key: value for key, value in settings.items() if key not in beside}))
    model = get_moshi_lm(None, lm_kwargs=kwargs, device="cpu", dtype=torch.float32)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    made = weights(shapes, seed, settings["n_q"])
    model.load_state_dict({name: torch.from_numpy(value) for name, value in made.items()})
    return model.eval(), shapes


def speak(
    model: LMModel, settings: dict[str, Any], seed: int, codebooks: int
) -> tuple[dict[str, np.ndarray], float, list[Any]]:
    """Say the script; what was fed and written, the smallest margin, and the words with their steps."""
    tts, tokenizer = settings["tts_config"], tiny_tokenizer()
    token_ids = TokenIds(model.text_card + 1)
    machine = StateMachine(token_ids, tts.get("second_stream_ahead", 0), max_padding=8, initial_padding=2)
    speaker = TTSModel(
        lm=model, mimi=SimpleNamespace(frame_rate=12.5), tokenizer=tokenizer, voice_suffix="", voice_repo="",
        machine=machine, delay_steps=int(tts["audio_delay"] * 12.5), temp=0.6, cfg_coef=GUIDANCE, n_q=codebooks,
        padding_bonus=PADDING_BONUS,
    )  # fmt: skip
    golden: dict[str, np.ndarray] = {}
    if speaker.multi_speaker:
        attributes, prefixes = [speaker.make_condition_attributes(voices(settings, seed))], None
        script = speaker.prepare_script(SCRIPT, padding_between=1)
    else:
        codes = np.random.Generator(np.random.Philox(seed)).integers(model.card, size=(model.n_q, PREFIX_FRAMES))
        prefix = torch.from_numpy(np.concatenate([np.full((1, PREFIX_FRAMES), -1), codes]))
        attributes, prefixes = [], [prefix]
        script = speaker.prepare_script([" ".join(SCRIPT)], padding_between=1)
        golden["prefix"] = codes.astype(np.int16)
    with watched_logits() as seen:
        result = speaker.generate([script], attributes, prefixes=prefixes, use_sampling=False)
    text = np.stack([logits for logits in seen if logits.shape[-1] == settings["text_card_out"]])
    audio = np.stack([logits for logits in seen if logits.shape[-1] == model.card]).reshape(-1, model.dep_q, model.card)
    logged = np.array(result.logged_text_tokens[0])
    golden |= {
        "proposed": logged[:, 0].astype(np.int32),
        "fed": logged[:, 1].astype(np.int32),
        "frames": torch.cat(result.frames, dim=-1)[0, 1:].numpy().astype(np.int16),
        "end_step": np.array(result.end_steps[0]),
        "text_logits": text[::LOGITS_EVERY].astype(np.float32),
        "audio_logits": audio[::LOGITS_EVERY].astype(np.float32),
    }
    return golden, min(margin(text), margin(audio)), result.all_transcripts[0]


def voices(settings: dict[str, Any], seed: int) -> list[Path]:
    """Two voices in files, as the reference reads them."""
    width, folder = settings["conditioners"]["speaker_wavs"]["tensor"]["dim"], Path(tempfile.mkdtemp())
    paths = [folder / f"{number}.safetensors" for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        save_file({"speaker_wavs": voice(seed + 100 * number, width, VOICE_FRAMES)}, path)
    return paths


@contextmanager
def watched_logits() -> Iterator[list[np.ndarray]]:
    """All scores [V] that tokens are drawn from, in order: guidance and bonus are in them."""
    seen, sample = [], moshi.models.lm.sample_token

    def watching(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(logits.reshape(-1).numpy().copy())
        return sample(logits, *args, **kwargs)

    moshi.models.lm.sample_token = watching
    try:
        yield seen
    finally:
        moshi.models.lm.sample_token = sample


def margin(logits: np.ndarray) -> float:
    """How close the second-best token ever came to the best one."""
    best = np.partition(logits, -2, axis=-1)[..., -2:]
    return float((best[..., 1] - best[..., 0]).min())


def tiny_tokenizer() -> SentencePieceProcessor:
    with tempfile.TemporaryDirectory() as folder:
        return SentencePieceProcessor(str(write_tiny_tokenizer(Path(folder) / "spm.model", VOCABULARY)))


def feeding(pace: dict[str, int], seed: int) -> dict[str, Any]:
    """Random words and breaks of two speakers, fed by random proposals until well past the end."""
    rng = random.Random(seed)
    script = []
    for number in range(30):
        tokens = [rng.choice((1, 2))] if rng.random() < 0.2 else []
        tokens += [rng.randrange(4, TEXT_CARD) for _ in range(rng.choice((1, 1, 2, 5)))]
        if rng.random() < 0.15:
            tokens = []
        script.append(Entry(tokens, f"word{number}" if tokens else "", rng.choice((0, 0, 1, 3, 12))))
    machine = StateMachine(
        TokenIds(TEXT_CARD + 1), pace["ahead"], max_padding=pace["max_padding"], initial_padding=pace["initial_padding"]
    )
    state = machine.new_state(script)
    proposed = [rng.choice((0, 3, 3, 3, rng.randrange(TEXT_CARD))) for _ in range(STEPS)]
    fed = [machine.process(step, state, token)[0] for step, token in enumerate(proposed)]
    return {
        "pace": pace,
        "entries": [[entry.tokens, entry.text, entry.padding] for entry in script],
        "proposed": proposed,
        "fed": fed,
        "spoken": state.transcript,
        "end_step": state.end_step,
    }


def entries(script: dict[str, Any]) -> list[Any]:
    """How the reference reads a script."""
    read = script_to_entries(
        tiny_tokenizer(),
        TokenIds(TEXT_CARD + 1),
        12.5,
        script["turns"],
        multi_speaker=script.get("speakers", True),
        padding_between=script["padding_between"],
    )
    return [[entry.tokens, entry.text, entry.padding] for entry in read]


if __name__ == "__main__":
    main()
