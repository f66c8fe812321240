"""Write tests/goldens/helium.safetensors and helium_tokenizer.json: what `transformers` makes of a small Helium.

Runs in an environment of its own, because torch is no dependency of this project:

    pip install torch==2.13.0 transformers==5.23.0 numpy safetensors sentencepiece protobuf
    python scripts/make_helium_golden.py

The golden holds (P prompt tokens, S steps, V vocabulary):
    prompt [P]                 what was given, without the token that begins
    prefill_logits [P + 1, V]  of HeliumForCausalLM in one pass: row t predicts the token after t of the prompt
    tokens [S]                 written greedily, one by one, with a cache of keys and values
    logits [S / EVERY, V]      the scores that every EVERY-th of them was chosen by, the first included
Its metadata, JSON under the key `golden`: seed, weights (their digest), margin, versions, and encodings: for some
texts, what the tokenizer that HeliumConverter makes of the built-in sentencepiece model gives, without its begin.

Float32, one thread, CPU. The prompt is the first one for which the best and the second-best logit never come
closer than MARGIN, so that a token can only differ where something is wrong.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import HeliumConfig, HeliumForCausalLM
from transformers.convert_slow_tokenizer import HeliumConverter

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT)]

from golden_weights import digest  # noqa: E402
from helium_weights import CONFIG, tensors  # noqa: E402

from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer  # noqa: E402

GOLDENS = ROOT / "tests" / "goldens"
VERSIONS = {"transformers": "5.23.0", "torch": "2.13.0"}
PROMPT, STEPS, EVERY, MARGIN = 40, 120, 5, 1e-3
SEED = 0
TEXTS = [
    "Aujourd'hui, il est temps", "Hello, how are you?", "two\nlines", "  spaces  between ", "naïve 🦊 ñandú", "▁x",
    "It's 5 o'clock.\n\n\tYes.",
]  # fmt: skip


def main() -> None:
    for package, wanted in VERSIONS.items():
        if version(package).split("+")[0] != wanted:
            raise SystemExit(f"goldens come from {package} {wanted}; {version(package)} is installed")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    weights = tensors(CONFIG, SEED)
    model = HeliumForCausalLM(HeliumConfig(**{k: v for k, v in CONFIG.items() if k != "architectures"})).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    golden = clear_prompt(model)
    smallest = margin(golden["logits"])
    golden["logits"] = np.ascontiguousarray(golden["logits"][::EVERY])
    metadata = {
        "seed": SEED,
        "weights": digest(weights),
        "margin": smallest,
        "versions": VERSIONS,
        "encodings": encodings(),
    }
    draft = GOLDENS / "helium.partial"
    save_file(golden, draft, {"golden": json.dumps(metadata)})
    draft.chmod(0o644)
    draft.rename(GOLDENS / "helium.safetensors")
    print(f"smallest margin {smallest:.2e}, {(GOLDENS / 'helium.safetensors').stat().st_size:,} bytes")


def clear_prompt(model: HeliumForCausalLM) -> dict[str, np.ndarray]:
    for seed in itertools.count():
        prompt = np.random.Generator(np.random.Philox(seed)).integers(4, CONFIG["vocab_size"], PROMPT)
        golden = write(model, prompt)
        if margin(golden["logits"]) > MARGIN and len(set(golden["tokens"].tolist())) > STEPS // 4:
            return golden
    raise AssertionError("itertools.count ended")


def write(model: HeliumForCausalLM, prompt: np.ndarray) -> dict[str, np.ndarray]:
    read = torch.tensor([[CONFIG["bos_token_id"], *prompt.tolist()]])
    out = model(read, use_cache=True)
    prefill = out.logits[0]
    logits, tokens = [prefill[-1]], []
    while True:
        tokens.append(int(logits[-1].argmax()))
        if len(tokens) == STEPS:
            break
        out = model(torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits[0, -1])
    return {
        "prompt": prompt.astype(np.int32),
        "prefill_logits": prefill.numpy(),
        "tokens": np.array(tokens, np.int32),
        "logits": torch.stack(logits).numpy(),
    }


def margin(logits: np.ndarray) -> float:
    best = np.sort(logits, axis=-1)[:, -2:]
    return float((best[:, 1] - best[:, 0]).min())


def encodings() -> dict[str, list[int]]:
    """Write the converted tokenizer, and return what it makes of TEXTS."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_tokenizer(Path(folder) / "tiny.model")
        tokenizer = HeliumConverter(str(model)).converted()
    path = GOLDENS / "helium_tokenizer.json"
    tokenizer.save(str(path), pretty=False)
    print(f"{path.stat().st_size:,} bytes of tokenizer")
    return {text: tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS}


if __name__ == "__main__":
    main()
