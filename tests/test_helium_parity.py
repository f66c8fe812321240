"""Helium against transformers.HeliumForCausalLM: the same logits and tokens, prefilled and step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import digest
from helium_weights import CONFIG, shapes, tensors
from safetensors import safe_open
from safetensors.numpy import save_file

from moshi_mlx import LM, CheckpointError, Generator, MoshiError, Sampling, generator, load_lm
from moshi_mlx.bench.counting import counting
from moshi_mlx.checkpoint.inspect import inspect, read_config
from moshi_mlx.checkpoint.names import published_shapes
from moshi_mlx.checkpoint.sources import find_sources
from moshi_mlx.checkpoint.weight_files import usual_weights
from moshi_mlx.config import LMConfig
from moshi_mlx.generator import stretches
from moshi_mlx.helium import HELIUM_2B
from moshi_mlx.model.kv_cache import stretch_mask

TOLERANCE = 1e-4
GREEDY = Sampling(temp=0)
GOLDEN = Path(__file__).parent / "goldens" / "helium.safetensors"
EVERY = 5
SHORT = 24
"""A window that prompts pass more than once."""

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with safe_open(GOLDEN, "numpy") as opened:
        metadata = json.loads(opened.metadata()["golden"])
        assert metadata["weights"] == digest(tensors(CONFIG, metadata["seed"]))
        assert metadata["margin"] > 1e-3
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return load_lm(write(tmp_path_factory.mktemp("helium"), tensors(CONFIG, 0)))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> LM:
    folder = write(tmp_path_factory.mktemp("narrow"), tensors(CONFIG, 0), max_position_embeddings=SHORT)
    return load_lm(folder)


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "STRETCH", 7)


def write(folder: Path, weights: Weights, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(weights, folder / "model.safetensors")
    return folder


def mlx_names(weights: Weights) -> Weights:
    """As kyutai/helium-1-preview-2b-mlx has them."""

    def stacked(layer: str, *names: str) -> np.ndarray:
        return np.concatenate([weights[f"{layer}.{name}.weight"] for name in names])

    found = {
        "text_emb.weight": weights["model.embed_tokens.weight"],
        "out_norm.weight": weights["model.norm.weight"],
        "text_linear.weight": weights["lm_head.weight"],
    }
    for index in range(CONFIG["num_hidden_layers"]):
        old, new = f"model.layers.{index}", f"transformer.layers.{index}"
        found |= {
            f"{new}.norm1.weight": weights[f"{old}.input_layernorm.weight"],
            f"{new}.norm2.weight": weights[f"{old}.post_attention_layernorm.weight"],
            f"{new}.self_attn.in_proj.weight": stacked(f"{old}.self_attn", "q_proj", "k_proj", "v_proj"),
            f"{new}.self_attn.out_proj.weight": weights[f"{old}.self_attn.o_proj.weight"],
            f"{new}.gating.linear_in.weight": stacked(f"{old}.mlp", "gate_proj", "up_proj"),
            f"{new}.gating.linear_out.weight": weights[f"{old}.mlp.down_proj.weight"],
        }
    return found


def greedy(lm: LM) -> Generator:
    return Generator(lm, text_sampling=GREEDY)


def continued(lm: LM, prompt: np.ndarray, steps: int) -> tuple[list[int], np.ndarray]:
    """Greedy tokens after a prompt, and the logits [S, V] that each was chosen by."""
    writer = greedy(lm)
    frames = [writer.prefill(prompt.tolist(), logits=True)]
    frames += [writer.step(logits=True) for _ in range(steps - 1)]
    return [int(frame.text) for frame in frames], np.stack([frame.logits.text for frame in frames if frame.logits])


def forced(lm: LM, text: list[int]) -> np.ndarray:
    """Teacher-forced logits [T, V]: row t predicts text[t]."""
    return np.array(lm(mx.array([[text]], mx.int32)).text)[0]


def test_all_logits_of_a_prompt_are_those_of_transformers(golden: dict[str, np.ndarray], lm: LM) -> None:
    prompt = golden["prompt"].tolist()
    logits = forced(lm, [*prompt, 0])
    np.testing.assert_allclose(logits, golden["prefill_logits"], rtol=0, atol=TOLERANCE)


def test_prefill_and_every_step_after_it_are_those_of_transformers(golden: dict[str, np.ndarray], lm: LM) -> None:
    tokens, logits = continued(lm, golden["prompt"], len(golden["tokens"]))
    assert len(tokens) >= 100
    assert tokens == golden["tokens"].tolist()
    np.testing.assert_allclose(logits[::EVERY], golden["logits"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(logits[0], golden["prefill_logits"][-1], rtol=0, atol=TOLERANCE)


def test_a_prompt_taken_step_by_step_gives_what_prefill_gives(golden: dict[str, np.ndarray], lm: LM) -> None:
    """The first step's text cannot be forced from outside; the cut frame leaves it to the host."""
    prompt = golden["prompt"].tolist()
    one_by_one = Generator(lm, text_sampling=GREEDY, cut=True)
    for token in prompt:
        one_by_one.begin()
        one_by_one.finish(token)
    stepped = [one_by_one.step(logits=True) for _ in range(20)]
    tokens, logits = continued(lm, golden["prompt"], 20)
    assert [frame.text for frame in stepped] == tokens
    for frame, expected in zip(stepped, logits, strict=True):
        assert frame.logits is not None
        np.testing.assert_allclose(frame.logits.text, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("count", [0, 1, SHORT - 1, SHORT, SHORT + 1, 3 * SHORT + 5])
@pytest.mark.usefixtures("short_stretches")
def test_prompts_of_any_length_see_exactly_the_window(narrow: LM, count: int) -> None:
    """The oracle is the teacher-forced pass: whole attention, under a mask."""
    prompt = np.random.default_rng(count).integers(4, 512, count)
    tokens, logits = continued(narrow, prompt, 2 * SHORT)
    expected = forced(narrow, [*prompt.tolist(), *tokens])[count:]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("short_stretches")
def test_the_window_matters_to_these_prompts(narrow: LM, lm: LM) -> None:
    prompt = np.random.default_rng(1).integers(4, 512, 3 * SHORT)
    inside, outside = continued(narrow, prompt, 1)[1], continued(lm, prompt, 1)[1]
    assert np.abs(inside - outside).max() > 0.1


def test_a_stretch_sees_what_the_ring_holds_and_itself() -> None:
    """Window of 4; the ring held 0 to 5, of which 2 to 5 are left, in the slots 2, 3, 0, 1; the stretch is 6 and 7."""
    assert np.array(stretch_mask(6, 2, 4)).astype(int).tolist() == [
        # 4  5  2  3  6  7
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert np.array(stretch_mask(0, 2, 4)).astype(int).tolist() == [[1, 0], [1, 1]]


def test_stretches_end_where_the_ring_does() -> None:
    assert list(stretches(0, 100)) == []
    assert list(stretches(1200, 700)) == [(0, 512), (512, 700), (700, 1200)]


def test_a_prompt_is_one_wait_and_each_token_after_it_another(golden: dict[str, np.ndarray], lm: LM) -> None:
    writer = greedy(lm)
    with counting() as count:
        writer.prefill(golden["prompt"].tolist())
    assert count.waits == 2  # the prompt, and the first token
    with counting() as count:
        for _ in range(10):
            writer.step()
    assert count.waits == 10


def test_the_rings_are_never_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a prompt that fits in the window, and of one that passes it; little else takes memory in this model."""
    monkeypatch.setattr(generator, "STRETCH", 64)
    small = {"hidden_size": 160, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 32}
    raw = {**CONFIG, **small, "num_hidden_layers": 8, "intermediate_size": 64, "max_position_embeddings": 1024}
    writer = greedy(LM(LMConfig.from_dict(raw)))
    for count in (1000, 1200):
        base = mx.get_active_memory() - writer.cache_bytes
        mx.reset_peak_memory()
        writer.prefill([5] * count)
        assert mx.get_peak_memory() - base < 1.7 * writer.cache_bytes


def test_the_same_seed_draws_the_same_text(lm: LM) -> None:
    def drawn(seed: int) -> list[object]:
        writer = Generator(lm, text_sampling=Sampling(0.8, top_p=0.95), seed=seed)
        return [writer.prefill([5, 6, 7]).text, *(writer.step().text for _ in range(20))]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_generator_may_be_given_another_prompt(golden: dict[str, np.ndarray], lm: LM) -> None:
    writer = greedy(lm)
    writer.prefill([9, 8, 7])
    writer.step()
    assert writer.prefill(golden["prompt"].tolist()).text == golden["tokens"][0]
    assert writer.position == len(golden["prompt"])


def test_tokens_that_there_are_not_are_refused(lm: LM) -> None:
    for wrong in ([512], [0.5], [[1, 2]]):
        with pytest.raises(MoshiError):
            greedy(lm).prefill(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["mlx", "shards", "tied"])
def test_every_layout_of_names_gives_the_same_model(
    layout: str, golden: dict[str, np.ndarray], lm: LM, tmp_path: Path
) -> None:
    weights, changes = tensors(CONFIG, 0), {}
    expected = continued(lm, golden["prompt"], 4)[1]
    if layout == "mlx":
        weights = mlx_names(weights)
    if layout == "tied":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        expected = continued(load_lm(write(tmp_path / "apart", weights)), golden["prompt"], 4)[1]
        del weights["lm_head.weight"]
        changes = {"tie_word_embeddings": True}
    folder = write(tmp_path / layout, weights, **changes)
    if layout == "shards":
        shard(folder, weights)
    np.testing.assert_array_equal(continued(load_lm(folder), golden["prompt"], 4)[1], expected)


def shard(folder: Path, weights: Weights) -> None:
    """Two files and their index, queries and keys of a layer in different ones."""
    places = {name: f"model-{1 + (i % 2)}-of-2.safetensors" for i, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_the_mlx_repository_has_no_config_and_is_known_by_its_files(tmp_path: Path) -> None:
    """Four precisions lie side by side there; the one with the most bits is taken."""
    for form in ("q4", "bf16", "q8"):
        save_file(mlx_names(tensors(CONFIG, 0)), tmp_path / f"helium-1-preview-2b-{form}.safetensors")
    assert read_config(tmp_path).transformer.dim == 2560
    assert usual_weights({file.name for file in tmp_path.iterdir()}) == ["helium-1-preview-2b-bf16.safetensors"]
    with pytest.raises(CheckpointError, match=r"126 tensors .* missing"):  # 21 layers of 24: the file is a small one
        inspect(tmp_path)


def test_every_tensor_of_the_published_model_has_its_name_and_shape() -> None:
    published = shapes(HELIUM_2B)
    config = LMConfig.from_dict(HELIUM_2B)
    found = {
        source.name: source.shape(shape)
        for name, shape in published_shapes(config).items()
        for source in find_sources(config, published)[name]
    }
    assert found == published


def test_projections_of_one_product_must_be_stored_alike(tmp_path: Path) -> None:
    weights = tensors(CONFIG, 0)
    weights["model.layers.0.self_attn.k_proj.weight"] = weights["model.layers.0.self_attn.k_proj.weight"].astype(
        np.float16
    )
    with pytest.raises(CheckpointError, match=r"q_proj.*k_proj.*are not stored alike"):
        inspect(write(tmp_path, weights))
