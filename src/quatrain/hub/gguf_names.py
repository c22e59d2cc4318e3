"""GGUF's names for Llama 4's tensors, and what llama.cpp takes for granted about the architecture.

llama.cpp has three architectures for us: `llama` and `smollm3` for dense models, `llama4` for those
with experts; files of `qwen2` are read, and written as `llama`. Where Llama 4's config.json says
something that llama.cpp has as a constant, another value cannot be written, and is refused with the
field's name (docs/design.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from torch import Tensor

from quatrain.config import LORA_GROUPS, ModelConfig
from quatrain.errors import CheckpointError
from quatrain.hub.dense import dense_type, with_zero_biases
from quatrain.model.frozen import Matrix
from quatrain.model.rope import interleave
from quatrain.model.shards import LazyTensor
from quatrain.words import Sentence

_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "feed_forward.gate_proj": "ffn_gate",
    "feed_forward.up_proj": "ffn_up",
    "feed_forward.down_proj": "ffn_down",
    "feed_forward.router": "ffn_gate_inp",
    "feed_forward.shared_expert.gate_proj": "ffn_gate_shexp",
    "feed_forward.shared_expert.up_proj": "ffn_up_shexp",
    "feed_forward.shared_expert.down_proj": "ffn_down_shexp",
}
_OF_A_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+?)(?:\.(weight|bias))?")
_OF_A_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_ATTENTION = re.compile(r"blk\.\d+\.attn_(?:q|k|v|output)\.bias")
_TURNED_BY_HALVES = re.compile(r"blk\.\d+\.attn_[qk]\.(?:weight|bias)")
_GATE_UP, _DOWN = "feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"
ALWAYS_FLOAT = re.compile(r".*\.bias|.*_norm\.weight|.*ffn_gate_inp\.weight|rope_freqs\.weight")
"""Tensors that llama.cpp wants in float32 whatever the others are."""

BLOCK = 32
"""Elements that q8_0 rounds together."""
_FEWEST_LAYERS = 4
_CHUNK = _FLOOR_SCALE = 8192
_ATTN_SCALE, _INTERVAL = 0.1, 4
_LONGEST = 2**32


def to_gguf(name: str, tensor: LazyTensor) -> Iterator[tuple[str, LazyTensor]]:
    """Rename a tensor; the experts' gate and up part, and all of theirs become [E, out, in]."""
    if name in _TOP:
        yield _TOP[name], tensor
        return
    found = _OF_A_LAYER.fullmatch(name)
    assert found, name
    layer, part, leaf = found.groups()
    if part == _GATE_UP:
        inner = tensor.shape[2] // 2
        yield f"blk.{layer}.ffn_gate_exps.weight", tensor.map(lambda w: _turned(w[..., :inner]))
        yield f"blk.{layer}.ffn_up_exps.weight", tensor.map(lambda w: _turned(w[..., inner:]))
    elif part == _DOWN:
        yield f"blk.{layer}.ffn_down_exps.weight", tensor.map(_turned)
    else:
        yield f"blk.{layer}.{_LAYER[part]}.{leaf}", tensor


def _turned(weight: Tensor) -> Tensor:
    return weight.transpose(1, 2)


def has_biases(tensors: Iterable[str], arch: str) -> bool:
    """Whether a model has biases in attention: every qwen2, and a llama whose file has some."""
    return arch == "qwen2" or (arch == "llama" and any(map(_ATTENTION.fullmatch, tensors)))


def in_pairs(
    tensors: dict[str, LazyTensor], arch: str, config: ModelConfig
) -> dict[str, LazyTensor]:
    """Reorder queries and keys of `qwen2`, which alone rotates half against half in llama.cpp.

    Raises:
        CheckpointError: Q404 for rows that are not whole heads.
    """
    if arch != "qwen2":
        return tensors
    found = dict(tensors)
    for name, tensor in tensors.items():
        if not _TURNED_BY_HALVES.fullmatch(name):
            continue
        if not tensor.shape or tensor.shape[0] % config.d_k:
            raise CheckpointError("Q404.heads", name=name, shape=list(tensor.shape), d_k=config.d_k)
        found[name] = reordered(tensor, partial(interleave, d_k=config.d_k))
    return found


def reordered(tensor: LazyTensor, order: Callable[[Tensor], Tensor]) -> LazyTensor:
    """Change the order of a weight's outputs, where it is stored in blocks too."""
    import torch

    matrices = tuple(
        Matrix(one.kind, one.shape, one.parts, order(torch.arange(one.shape[0])[:, None])[:, 0])
        for one in tensor.matrices
    )
    return tensor.map(order, matrices)


def from_gguf(
    tensors: dict[str, LazyTensor], config: ModelConfig, arch: str
) -> dict[str, LazyTensor]:
    """Undo `to_gguf` for a whole file; biases that llama.cpp can do without are zero where absent.

    Raises:
        CheckpointError: Q404 naming tensors that belong to no Llama.
    """
    import torch

    theirs = {gguf: ours for ours, gguf in _LAYER.items()}
    found = {ours: tensors[gguf] for ours, gguf in _TOP.items() if gguf in tensors}
    strange = [name for name in tensors if name not in _TOP.values() and name[:4] != "blk."]
    for name, tensor in tensors.items():
        if not name.startswith("blk."):
            continue
        match = _OF_A_BLOCK.fullmatch(name)
        layer, part, leaf = match.groups() if match else ("", "", "")
        place = f"model.layers.{layer}."
        if leaf == "bias" and not (config.attention_bias and _ATTENTION.fullmatch(name)):
            strange.append(name)
        elif part in theirs:
            found[f"{place}{theirs[part]}.{leaf}"] = tensor
        elif part == "ffn_down_exps" and len(tensor.shape) == 3:
            found[place + _DOWN] = tensor.map(_turned, tensor.matrices)
        elif part == "ffn_gate_exps" and _alike(tensor, tensors.get(_up_of(name))):
            up = tensors[_up_of(name)]
            experts, inner, width = tensor.shape

            def both(gate: LazyTensor = tensor, up: LazyTensor = up) -> Tensor:
                return torch.cat([gate.load(), up.load()], dim=1).transpose(1, 2)

            shape = (experts, width, 2 * inner)
            parts = (tensor.matrices, up.matrices)
            matrices = sum(parts, ()) if all(parts) else ()
            found[place + _GATE_UP] = LazyTensor(shape, tensor.dtype, both, matrices)
        elif part != "ffn_up_exps" or _gate_of(name) not in tensors:
            strange.append(name)
    strange = [name for name in strange if name != "rope_freqs.weight"]
    if strange:
        raise CheckpointError(
            "Q404.gguf_tensors", number=len(strange), first=", ".join(strange[:5])
        )
    absent = {"qwen2": ("o_proj",), "llama": LORA_GROUPS["attention"]}.get(arch, ())
    return with_zero_biases(found, config, absent) if config.attention_bias else found


def _up_of(gate: str) -> str:
    return gate.replace("ffn_gate_exps", "ffn_up_exps")


def _gate_of(up: str) -> str:
    return up.replace("ffn_up_exps", "ffn_gate_exps")


def _alike(gate: LazyTensor, up: LazyTensor | None) -> bool:
    return len(gate.shape) == 3 and up is not None and up.shape == gate.shape


def architecture(config: ModelConfig) -> str:
    """Choose llama.cpp's architecture.

    Raises:
        CheckpointError: Q411 naming the fields that llama.cpp has as other constants.
    """
    dense, context = dense_type(config), config.max_position_embeddings
    problems = tuple(_unspeakable(config) if dense is None else _unspeakable_dense(config))
    if context >= _LONGEST:
        problems += (Sentence.of("rules.cpp.context", given=context, most=_LONGEST),)
    if problems:
        raise CheckpointError("Q411.llama_cpp", problems=problems)
    return dense or "llama4"


def _unspeakable_dense(config: ModelConfig) -> Iterator[Sentence]:
    """Say what llama.cpp's smollm3 takes for granted and this model does otherwise."""
    if all(config.rope_layers):
        return
    if config.rope_layers != rope_pattern(config.n_layers):
        yield Sentence.of("rules.cpp.rope_layers", given=list(config.rope_layers))
    if config.attention_bias:
        yield Sentence.of("rules.cpp.bias")


def rope_pattern(layers: int) -> tuple[int, ...]:
    """Say which layers have RoPE in llama.cpp's llama4 and smollm3: three of four."""
    return tuple(int((layer + 1) % _INTERVAL != 0) for layer in range(layers))


def _unspeakable(config: ModelConfig) -> Iterator[Sentence]:
    """Say what llama.cpp's llama4 takes for granted and this model does otherwise."""
    context, experts = config.max_position_embeddings, config.num_local_experts
    if not config.moe_layers:
        yield Sentence.of("rules.cpp.no_experts")
    elif config.moe_layers != tuple(
        range(layer_step(config) - 1, config.n_layers, layer_step(config))
    ):
        yield Sentence.of("rules.cpp.moe_layers", given=list(config.moe_layers))
    if config.n_layers < _FEWEST_LAYERS:
        yield Sentence.of("rules.cpp.n_layers", given=config.n_layers, least=_FEWEST_LAYERS)
    if config.use_qk_norm != (experts != 128):
        yield Sentence.of("rules.cpp.qk_norm", given=config.use_qk_norm, experts=experts)
    if config.rope_layers != rope_pattern(config.n_layers):
        yield Sentence.of("rules.cpp.rope_layers", given=list(config.rope_layers))
    chunk = config.attention_chunk_size
    if chunk != _CHUNK and (context > _CHUNK or (chunk or context) < context):
        yield Sentence.of("rules.cpp.chunk", given=chunk, chunk=_CHUNK)
    scale = (config.attn_temperature_tuning, config.floor_scale, config.attn_scale)
    shortest = min(_FLOOR_SCALE, config.floor_scale) if scale[0] else _FLOOR_SCALE
    if scale != (True, _FLOOR_SCALE, _ATTN_SCALE) and context >= shortest:
        tuning, floor, factor = scale
        yield Sentence.of("rules.cpp.temperature", tuning=tuning, floor=floor, scale=factor,
                          its_floor=_FLOOR_SCALE, its_scale=_ATTN_SCALE)  # fmt: skip
    if config.attention_bias:
        yield Sentence.of("rules.cpp.bias")


def layer_step(config: ModelConfig) -> int:
    """Every how many layers has experts, where there are any."""
    return config.moe_layers[0] + 1


_QUANTISED_ACROSS = re.compile(r"\.experts\.(gate_up|down)_proj$")


def rounded_to_q8_0(name: str, tensor: LazyTensor) -> LazyTensor:
    """Round a tensor as q8_0 does: in blocks of 32 along its input, to 255 steps of the largest.

    The steps are kept in float16. Norms and routers are not rounded.
    """
    gguf_name = next(iter(to_gguf(name, tensor)))[0]
    if ALWAYS_FLOAT.fullmatch(gguf_name):
        return tensor
    across = bool(_QUANTISED_ACROSS.search(name))

    def rounded(weight: Tensor) -> Tensor:
        rows = (weight.transpose(1, 2) if across else weight).float()
        blocks = rows.unflatten(-1, (-1, BLOCK))
        step = blocks.abs().amax(-1, keepdim=True) / 127
        scaled = blocks * (1 / step.where(step > 0, 1.0))
        whole = scaled.sign() * (scaled.abs() + 0.5).floor()  # a half goes away from zero
        result: Tensor = (whole * step.half().float()).flatten(-2)
        return result.transpose(1, 2) if across else result

    return tensor.map(rounded)
