"""The two texts of a converted checkpoint: config.json, with each layer's bits, and the model card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from moshi_mlx.checkpoint.formats import Format
from moshi_mlx.checkpoint.inspect import Checkpoint
from moshi_mlx.config import LMConfig
from moshi_mlx.memory import human_bytes
from moshi_mlx.tasks.kinds import kind_of

from .recipes import Formats, Recipe, size_of


def measuring(config: LMConfig) -> str:
    """The one command that says what a recipe costs: on speech, where the model hears any."""
    return "moshi-mlx compare REFERENCE MODEL" + " --audio SPEECH.wav" * bool(config.user_codebooks)


def config_of(config: LMConfig, formats: Formats, weights: str | None, companions: Mapping[str, str]) -> dict[str, Any]:
    """The result's config.json.

    Args:
        config: the source's.
        formats: of every module.
        weights: the weights' file, None for shards with an index.
        companions: `mimi_name` and `tokenizer_name`, as far as the files are there.
    """
    dropped = ("quantization", "quantization_config", "moshi_name")
    found = {key: value for key, value in config.raw.items() if key not in dropped} | dict(companions)
    if weights is not None:
        found["moshi_name"] = weights
    counted = Counter(form for form in formats.values() if form is not None)
    if not counted:
        return found
    usual = counted.most_common(1)[0][0]
    others = {module: form and _told(form) for module, form in formats.items() if form != usual}
    found["quantization"] = _told(usual) | {m: False if told is None else told for m, told in others.items()}
    return found


def _told(form: Format) -> dict[str, Any]:
    return {"group_size": form.group_size, "bits": form.bits, "mode": form.mode}


def model_card(source: Checkpoint, recipe: Recipe, formats: Formats, base_model: str | None, notes: str) -> str:
    """README.md for the Hub: where it comes from, the recipe, the figures, the licence."""
    size = size_of(source.config, formats)
    licence = _licence(source, base_model)
    front = ["license: " + licence[0]] + ([f"base_model: {base_model}"] if base_model else [])
    rows = [
        f"| {part} | {(recipe.bulk if part == 'temporal' else recipe.careful) or 'bfloat16'} | {human_bytes(nbytes)} |"
        for part, nbytes in size.parts.items()
        if nbytes
    ]
    lines = [
        "---", *front, "library_name: moshi-mac", "tags: [moshi, mlx, speech]", "---", "",
        f"# {base_model or source.folder.resolve().name}, {recipe.name}", "",
        f"Made with `moshi-mlx quantize` from {base_model or source.folder.resolve().name} ({source.precision}).", "",
        "## Recipe", "",
        f"**{recipe.name}**: {recipe.reason}." + (f" {notes}" if notes else ""), "",
        "| part | format | size |", "|---|---|---|", *rows, "",
        "## Figures", "",
        f"- {size.parameters / 1e9:.3f} B parameters in {human_bytes(size.nbytes)}: "
        f"{size.bits_per_weight:.2f} bits per weight, scales included",
        f"- {human_bytes(size.frame_bytes)} of weights read per frame of 80 ms",
        f"- quality: not yet measured; `{measuring(source.config)}` measures it", "",
        "## Use", "", "```", f"moshi-mlx {kind_of(source.config).command} --model FOLDER", "```", "",
        "## Licence", "", licence[1], "",
    ]  # fmt: skip
    return "\n".join(lines)


def _licence(source: Checkpoint, base_model: str | None) -> tuple[str, str]:
    """For the front matter and in words: the source's own card says it, and Kyutai's weights are CC BY 4.0."""
    card = source.folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    for line in text.splitlines()[1:40]:
        key, _, value = line.partition(":")
        if key == "license" and value.strip():
            return value.strip(), f"{value.strip()}, as the source says."
    if (base_model or "").startswith("kyutai/"):
        return "cc-by-4.0", "CC BY 4.0: the weights are Kyutai's (https://kyutai.org), quantized here."
    return "other", "That of the source: quantizing does not change it."
