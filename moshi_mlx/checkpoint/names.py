"""What the tensors of a checkpoint are called and how they are shaped, before any of them is read.

Three vocabularies: the published MLX names (`depformer.slices.3.emb.weight`), the PyTorch names (where
the depth steps are stacked), and our network's, which holds the streams' tables and the depth
transformer's inputs together. Published MLX names are the common ground.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..config import DepthConfig, LMConfig, TransformerConfig

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """Where a published tensor, or some rows of it, is found in a checkpoint with other names."""

    name: str
    """The tensor there."""
    part: int = 0
    parts: int = 1
    """It is the `part`-th of `parts` equal blocks of rows: depth steps are stacked."""
    squeeze: bool = False
    """A norm's [1, 1, dim] becomes [dim]."""
    rows: int | None = None
    """How many rows of the published tensor it is; all when None."""

    def shape(self, wanted: Shape) -> Shape:
        """The tensor's shape there, given the published tensor's."""
        if self.squeeze:
            return (1, 1, *wanted)
        return ((self.rows or wanted[0]) * self.parts, *wanted[1:])

    def part_name(self, part: str) -> str:
        """What it is called, or what its `scales` and `biases` are."""
        return self.name if part == "weight" else self.name.removesuffix("weight") + part


def published_shapes(config: LMConfig) -> dict[str, Shape]:
    """Every tensor of an unquantized checkpoint by its published MLX name."""
    return dict(_published(config))


def tensor_of(module: str) -> str:
    """The published name of a module's tensor. A bias or a learnt padding is a module of its own."""
    return module if module.endswith((".bias", ".learnt_padding")) else f"{module}.weight"


def module_of(tensor: str) -> str:
    """The module of a published tensor, which `tensor_of` undoes."""
    return tensor.removesuffix(".weight")


def is_condition(name: str) -> bool:
    """Whether a module or tensor belongs to a conditioner: these stay float32, and are never quantized."""
    return name.startswith("condition_provider.")


def matrices(config: LMConfig) -> dict[str, Shape]:
    """Published modules that can be quantized: linear layers and embeddings."""
    shapes = published_shapes(config).items()
    return {module_of(name): shape for name, shape in shapes if len(shape) == 2 and not is_condition(name)}


def _published(config: LMConfig) -> Iterator[tuple[str, Shape]]:
    dim = config.transformer.dim
    yield "text_emb.weight", (config.text_rows, dim)
    if config.demux_second_stream:
        yield "text_emb.out1.weight", (dim, dim)
        yield "text_emb.out2.weight", (dim, dim)
    for i in range(config.n_q):
        yield f"audio_embs.{i}.weight", (config.card + 1, dim)
    yield from _blocks("transformer.layers", config.transformer)
    yield "out_norm.weight", (dim,)
    yield "text_linear.weight", (config.text_card_out, dim)
    for i in range(config.extra_heads):
        yield f"extra_heads.{i}.weight", (config.extra_heads_dim, dim)
    if config.depth is not None:
        for step in range(config.depth.steps):
            yield from _slice(config, config.depth, step)
    for name, conditioner in config.conditioners.items():
        prefix = f"condition_provider.conditioners.{name}"
        if conditioner.bins is not None:
            yield f"{prefix}.embed.weight", (conditioner.bins + 1, conditioner.dim)
        yield f"{prefix}.output_proj.weight", (dim, conditioner.dim)
        if conditioner.learnt_padding:
            yield f"{prefix}.learnt_padding", (1, 1, dim)


def _slice(config: LMConfig, depth: DepthConfig, step: int) -> Iterator[tuple[str, Shape]]:
    prefix, dim = f"depformer.slices.{step}", depth.transformer.dim
    tokens = (config.text_card if step == 0 else config.card) + 1
    yield f"{prefix}.emb.weight", (tokens, depth.low_rank or dim)
    if depth.low_rank:
        yield f"{prefix}.emb.low_rank.weight", (dim, depth.low_rank)
    if step == 0 and config.demux_second_stream:
        yield f"{prefix}.emb.out1.weight", (dim, depth.low_rank or dim)
        yield f"{prefix}.emb.out2.weight", (dim, depth.low_rank or dim)
    if depth.output_norm:
        yield f"{prefix}.norm.weight", (dim,)
        yield f"{prefix}.norm.bias", (dim,)
    yield f"{prefix}.linear_in.weight", (dim, config.transformer.dim)
    yield f"{prefix}.linear_out.weight", (config.card, dim)
    yield from _blocks(f"{prefix}.transformer.layers", depth.transformer)


def _blocks(prefix: str, config: TransformerConfig) -> Iterator[tuple[str, Shape]]:
    dim, hidden = config.dim, config.hidden_dim
    heads = config.num_heads + 2 * config.num_kv_heads
    for i in range(config.num_layers):
        yield f"{prefix}.{i}.norm1.weight", (dim,)
        yield f"{prefix}.{i}.self_attn.in_proj.weight", (heads * config.head_dim, dim)
        yield f"{prefix}.{i}.self_attn.out_proj.weight", (dim, dim)
        if config.cross_attention:
            yield f"{prefix}.{i}.norm_cross.weight", (dim,)
            yield f"{prefix}.{i}.norm_cross.bias", (dim,)
            yield f"{prefix}.{i}.cross_attention.in_proj.weight", (3 * dim, dim)
            yield f"{prefix}.{i}.cross_attention.out_proj.weight", (dim, dim)
        yield f"{prefix}.{i}.norm2.weight", (dim,)
        yield f"{prefix}.{i}.gating.linear_in.weight", (2 * hidden, dim)
        yield f"{prefix}.{i}.gating.linear_out.weight", (dim, hidden)


def is_pytorch(names: Iterable[str]) -> bool:
    """Whether a checkpoint speaks PyTorch: its norms are called alpha, its first embedding emb.0."""
    return any(name == "emb.0.weight" or name.endswith(".alpha") for name in names)


def pytorch_sources(config: LMConfig, names: Iterable[str]) -> dict[str, Source]:
    """Where each published tensor is found among the PyTorch `names` of either layout."""
    present = set(names)
    return {name: _source(config, name, present) for name in published_shapes(config)}


def _source(config: LMConfig, name: str, present: set[str]) -> Source:
    if name.startswith("depformer.slices."):
        assert config.depth is not None
        _, _, step, rest = name.split(".", 3)
        return _depth_source(config.depth, int(step), rest, present)
    if name.startswith("audio_embs."):
        return Source(name.replace("audio_embs.", "emb."))
    if name.endswith(("norm1.weight", "norm2.weight", "out_norm.weight")):
        return Source(name.removesuffix("weight") + "alpha", squeeze=True)
    return _projection(name, 0, 1, present)


def _depth_source(depth: DepthConfig, step: int, rest: str, present: set[str]) -> Source:
    index = depth.schedule[step]
    if rest.startswith("emb."):
        table = "depformer_text_emb" if step == 0 else f"depformer_emb.{step - 1}"
        return Source(table + rest.removeprefix("emb"))
    if rest == "linear_in.weight":
        return Source(f"depformer_in.{0 if depth.shared_input else index}.weight")
    if rest == "linear_out.weight":
        return Source(f"linears.{step}.weight")
    if rest.startswith("norm."):
        return Source(f"depformer_norms.{step}.{rest.removeprefix('norm.')}")
    rest = "depformer." + rest.removeprefix("transformer.")
    if ".norm" in rest:
        return Source(rest.removesuffix("weight") + "alpha", squeeze=True)
    if ".gating." in rest:
        return Source(rest.replace(".gating.", f".gating.{index}."))
    return _projection(rest, index, depth.num_weights, present)


def _projection(name: str, part: int, parts: int, present: set[str]) -> Source:
    """Attention projections are stacked in the published files, listed in the package's own state_dict."""
    for kind in ("in_proj", "out_proj"):
        if name.endswith(f"{kind}.weight"):
            listed = name.replace(f"{kind}.weight", f"{kind}s.{part}.weight")
            if listed in present:
                return Source(listed)
            flat = name.replace(f"{kind}.weight", f"{kind}_weight")
            return Source(flat if kind == "in_proj" and name not in present else name, part, parts)
    return Source(name)


@dataclass(frozen=True)
class Merge:
    """One tensor of our network: published tensors one below the other, and perhaps a row of zeros."""

    name: str
    published: tuple[str, ...]
    zero_row: bool = False
    rows: tuple[int, int] | None = None
    """Of a single published tensor only the rows from the first to before the second."""


def merges(config: LMConfig, format_of: Callable[[str], object]) -> list[Merge]:
    """Our network's modules (see `tensor_of`), in the order in which they are best read.

    What is put together is read first: it is held twice for a moment, and little else is there yet.

    Args:
        config: the model.
        format_of: the stored format of a published module; only equal ones can be put together.
    """
    streams = ["text_emb"] + [f"audio_embs.{i}" for i in range(config.n_q)]
    found = _two_streams("embed.text", streams.pop(0)) if config.demux_second_stream else []
    found += [
        Merge(f"embed.parts.{i}", tuple(group), zero_row=True) for i, group in enumerate(_alike(streams, format_of))
    ]
    if config.depth is not None:
        found += _depth_merges(config, config.depth, format_of)
    for name in _modules(config):
        if not name.startswith(("text_emb", "audio_embs", "depformer")):
            found += _temporal_merges(config, name)
    return found


def _temporal_merges(config: LMConfig, name: str) -> list[Merge]:
    """A module that stands alone: in the temporal transformer, a head, a conditioner."""
    if name.endswith(".cross_attention.in_proj"):
        # Frames need the queries; keys and values are worked out once per conversation.
        dim, prefix = config.transformer.dim, name.removesuffix("in_proj")
        return [
            Merge(f"{prefix}q_proj", (name,), rows=(0, dim)),
            Merge(f"{prefix}kv_proj", (name,), rows=(dim, 3 * dim)),
        ]
    return [Merge(name.removeprefix("condition_provider."), (name,))]


def _two_streams(name: str, published: str) -> list[Merge]:
    """A table of two text streams, and their projections; what is `low_rank` there is read by nobody."""
    projections = [Merge(f"{name}.{out}", (f"{published}.{out}",)) for out in ("out1", "out2")]
    return [Merge(f"{name}.table", (published,), zero_row=True), *projections]


def _depth_merges(config: LMConfig, depth: DepthConfig, format_of: Callable[[str], object]) -> list[Merge]:
    prefix = "depformer.slices"
    first_step = [depth.schedule.index(i) for i in range(depth.num_weights)]
    inputs = [f"{prefix}.{step}.linear_in" for step in first_step[: 1 if depth.shared_input else None]]
    found = [Merge(f"depformer.linear_in.parts.{i}", tuple(group)) for i, group in enumerate(_alike(inputs, format_of))]
    for step in range(depth.steps):
        found += _step_merges(f"{prefix}.{step}", depth, step, two_streams=step == 0 and config.demux_second_stream)
    for i, step in enumerate(first_step):
        for name, _ in _blocks("layers", depth.transformer):
            module = module_of(name)
            found.append(Merge(f"depformer.weights.{i}.{module}", (f"{prefix}.{step}.transformer.{module}",)))
    return found


def _step_merges(prefix: str, depth: DepthConfig, step: int, two_streams: bool) -> list[Merge]:
    """What every step has of its own, whatever weights it shares: the table that it reads, its norm and its head."""
    table = f"depformer.embs.{step}"
    if two_streams:
        found = _two_streams(table, f"{prefix}.emb")
    else:
        found = [Merge(f"{table}.table", (f"{prefix}.emb",), zero_row=True)]
        if depth.low_rank:
            found.append(Merge(f"{table}.low_rank", (f"{prefix}.emb.low_rank",)))
    if depth.output_norm:
        found += [Merge(f"depformer.norms.{step}{part}", (f"{prefix}.norm{part}",)) for part in ("", ".bias")]
    return [*found, Merge(f"depformer.linear_outs.{step}", (f"{prefix}.linear_out",))]


def _modules(config: LMConfig) -> Iterator[str]:
    return (module_of(name) for name, _ in _published(config))


def _alike(modules: list[str], format_of: Callable[[str], object]) -> list[list[str]]:
    """Split a list of modules where the format changes."""
    groups: list[list[str]] = []
    for module in modules:
        if groups and format_of(groups[-1][0]) == format_of(module):
            groups[-1].append(module)
        else:
            groups.append([module])
    return groups
