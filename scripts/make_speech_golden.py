"""What the PyTorch reference decides when it reads a text aloud, written to tests/goldens for tests/tasks.

`word_feeding.json`: for random words and random proposals of a model, the token that the reference's state machine
feeds in every step, and the steps at which words begin; and scripts of turns with the entries that it reads in them,
with the tokenizer of the built-in models. Run in an environment with `moshi` 0.2.13 (see make_goldens.py):

    python scripts/make_speech_golden.py
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["NO_TORCH_COMPILE"] = "1"

from moshi.models.tts import Entry, StateMachine, TokenIds, script_to_entries
from sentencepiece import SentencePieceProcessor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer  # noqa: E402

GOLDENS = ROOT / "tests" / "goldens"
TEXT_CARD, STEPS, VOCABULARY = 512, 260, 512

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
    golden = {
        "text_card": TEXT_CARD,
        "vocabulary": VOCABULARY,
        "feeding": [feeding(pace, seed) for seed, pace in enumerate(PACES)],
        "scripts": [script | {"entries": entries(script)} for script in SCRIPTS],
    }
    path = GOLDENS / "word_feeding.json"
    path.write_text(json.dumps(golden, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size:,} bytes")


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
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = SentencePieceProcessor(str(write_tiny_tokenizer(Path(folder) / "spm.model", VOCABULARY)))
    read = script_to_entries(
        tokenizer,
        TokenIds(TEXT_CARD + 1),
        12.5,
        script["turns"],
        multi_speaker=script.get("speakers", True),
        padding_between=script["padding_between"],
    )
    return [[entry.tokens, entry.text, entry.padding] for entry in read]


if __name__ == "__main__":
    main()
