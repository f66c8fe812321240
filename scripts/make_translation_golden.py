"""What the PyTorch reference makes of a recording to translate: tests/goldens/tasks/translation.safetensors.

`moshi.run_inference` itself, on the built-in codec and a small model with generated weights: condition, guidance of 3,
the end of the source as a frame of its own, silence after it; greedy, float32. As its loader does for Hibiki, the end
of text has the embedding of padding; it changes places with a token that this model writes. Run as
make_transcription_golden.py:

    python scripts/make_translation_golden.py

It holds, for T frames: codes [T, 4] heard, text [T] and audio [T, 4] sampled, before any delay.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import make_transcription_golden as common
import numpy as np
import torch
from golden_configs import CONFIGS
from make_transcription_golden import digest, task_goldens, write_tiny_mimi
from moshi import run_inference
from moshi.models.lm import LMModel
from moshi.models.loaders import get_mimi, get_moshi_lm

CODEBOOKS, SECONDS, FRAMES_AFTER = 4, 8, 20
GUIDANCE = 3.0
END_OF_TEXT, PADDING = 2, 3
SWAP = [END_OF_TEXT, 90]
CONFIG: dict[str, Any] = CONFIGS["translating"] | {
    "n_q": 2 * CODEBOOKS,
    "dep_q": CODEBOOKS,
    "delays": [0, *[0, 2, 2, 2] * 2],
    "depformer_context": CODEBOOKS,
    "card": 2048,
    "text_card": 512,
}


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    sound = np.concatenate(task_goldens.recording(SECONDS, common.voice()))
    for seed in itertools.count():  # the end of text is written before and after the source has ended
        weights = task_goldens.weights_of(CONFIG, seed, SWAP)
        arrays, margin = translate(load(weights), sound)
        print(f"seed {seed}: margin {margin:.2e}", flush=True)
        end = SECONDS * 25 // 2
        if margin > common.MARGIN and all(END_OF_TEXT in part for part in np.split(arrays["text"], [end])):
            break
    metadata = {"config": CONFIG | {"model_type": "hibiki"}, "seed": seed, "swap": SWAP, "guidance": GUIDANCE}
    metadata |= {"weights": digest(weights), "margin": margin, "seconds": SECONDS}
    task_goldens.write("translation", metadata, {key: array.astype(np.int16) for key, array in arrays.items()})


def load(weights: dict[str, np.ndarray]) -> LMModel:
    # A copy: the reference writes into the configuration of its conditioners.
    config = copy.deepcopy(CONFIG)
    model = get_moshi_lm(None, lm_kwargs=config, device="cpu", dtype=torch.float32)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    model.text_emb.weight.data[END_OF_TEXT] = model.text_emb.weight.data[PADDING]
    return model


class Recorder:
    """What the reference's hooks tell, and a tokenizer that ends the run in time."""

    def __init__(self, frames: int):
        self.text: list[int] = []
        self.audio: list[np.ndarray] = []
        self.margins: list[float] = []
        self._frames = frames

    def on_text(self, token: torch.Tensor) -> None:
        """Take the text token of a step."""
        self.text.append(int(token[0]))

    def on_audio(self, tokens: torch.Tensor) -> None:
        """Take the audio tokens of a step."""
        self.audio.append(tokens[0].numpy())

    def on_logits(self, logits: torch.Tensor) -> None:
        """Take the logits of a token: how close the second-best one comes."""
        best = logits.flatten().topk(2).values
        self.margins.append(float(best[0] - best[1]))

    def eos_id(self) -> int:
        """None of the tokens until enough frames are there; then the one that is asked about, two frames old."""
        return self.text[-1 - max(CONFIG["delays"])] if len(self.text) > self._frames else -1

    def id_to_piece(self, _token: int) -> str:
        """Nothing to print."""
        return ""


def translate(model: LMModel, sound: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """Run the reference; the step that reads initial tokens only is left out."""
    frames = len(sound) // common.FRAME + 1 + FRAMES_AFTER
    recorder, heard = Recorder(frames), []
    with tempfile.TemporaryDirectory() as folder:
        mimi = get_mimi(write_tiny_mimi(Path(folder) / "mimi.safetensors"), device="cpu", num_codebooks=CODEBOOKS)
    depth = model.forward_depformer
    model.forward_depformer = noting(depth, recorder)
    hooks = {"on_text_hook": recorder.on_text, "on_audio_hook": recorder.on_audio}
    info: Any = SimpleNamespace(model_type="hibiki")
    state = run_inference.InferenceState(
        info, mimi, recorder, model, 1, GUIDANCE, "cpu",
        use_sampling=False, on_text_logits_hook=recorder.on_logits, **hooks,
    )  # fmt: skip
    step = state.lm_gen.step
    state.lm_gen.step = lambda codes: heard.append(codes[0, :, 0].numpy()) or step(codes)
    state.run(torch.from_numpy(sound)[None, None])
    arrays = {"codes": np.stack(heard[1:]), "text": np.array(recorder.text[1:]), "audio": np.stack(recorder.audio[1:])}
    assert len(recorder.margins) == len(recorder.text) * (1 + CODEBOOKS)
    return arrays, min(recorder.margins)


def noting(depth: Any, recorder: Recorder) -> Any:
    """The depth transformer, whose guided logits are looked at too."""

    def call(*given: Any) -> torch.Tensor:
        logits = depth(*given)
        conditioned, null = logits.chunk(2)
        recorder.on_logits(null + (conditioned - null) * GUIDANCE)
        return logits

    return call


if __name__ == "__main__":
    main()
