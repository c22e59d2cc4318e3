"""Tiny models to convert to GGUF, and copies of GGUF files with other keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from quatrain.config import ModelConfig
from quatrain.hub.gguf_read import read_file
from quatrain.hub.source import Source
from quatrain.model.rope import deinterleave
from quatrain.model.shards import LazyTensor
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import Tokenizer
from tiny import tiny_model

LLAMA4_MODEL: dict[str, Any] = dict(
    vocab_size=512, d_model=64, n_layers=4, n_heads=4, n_kv_heads=2, d_k=32, num_local_experts=4,
    intermediate_size_expert=96, intermediate_size_mlp=128, interleave_moe_layer_step=2,
    max_position_embeddings=1024, initializer_range=0.15,
)  # fmt: skip
DENSE_MODEL: dict[str, Any] = LLAMA4_MODEL | dict(
    interleave_moe_layer_step=0, rope_layers=(1, 1, 1, 1), use_qk_norm=False,
    attention_chunk_size=None, attn_temperature_tuning=False, tie_word_embeddings=True,
)  # fmt: skip


def source_of(shape: dict[str, Any], tokenizer: Tokenizer, **changes: Any) -> Source:
    config = ModelConfig(**(shape | changes))
    weights = tiny_model(config).state_dict()
    for name in weights:
        if name.endswith(".bias"):
            torch.nn.init.normal_(weights[name], std=0.3)
    tensors = {name: LazyTensor.of(t) for name, t in weights.items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return Source(config, tensors, tokenizer, LLAMA4, Path("tiny"), "llama4")


KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
_LIKE = {"Q4_K": 1e-3, "Q5_K": 1e-3, "Q6_K": 1e-4, "Q3_K": 1e-3}
"""Kinds that the library cannot write: random blocks, their scales about this large."""
_SCALE_COMES_LAST = ("Q3_K", "Q6_K")


def rounded(values: Any, kind: str) -> Any:
    """Store a float32 array as a GGUF file does; of kinds that cannot be written, draw blocks."""
    wanted = gguf.GGMLQuantizationType[kind]
    if kind not in _LIKE:
        return gguf.quants.quantize(values, wanted)
    block, size = gguf.GGML_QUANT_SIZES[wanted]
    generator = np.random.default_rng(values.shape[-1])
    drawn = generator.integers(0, 256, (values.size // block, size), dtype=np.uint8)
    scales = generator.uniform(-1, 1, (len(drawn), 2)) * _LIKE[kind]
    last = kind in _SCALE_COMES_LAST
    places = slice(-2, None) if last else slice(0, 4)
    drawn[:, places] = scales.astype(np.float16)[:, : 1 if last else 2].view(np.uint8)
    return drawn.reshape(*values.shape[:-1], values.shape[-1] // block * size)


def with_blocks(path: Path, target: Path, kind: str) -> Path:
    """Copy a GGUF file in float32 with its matrices stored in blocks."""
    reader = Reader(path)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[1] if field.types[0] is Types.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        if len(tensor.shape) > 1 and "ffn_gate_inp" not in tensor.name:
            data = rounded(np.array(tensor.data), kind)
            writer.add_tensor(tensor.name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


Types, Reader = gguf.GGUFValueType, gguf.GGUFReader


def type_of(value: Any) -> Any:
    if isinstance(value, list):
        return Types.ARRAY
    return Types.INT32 if type(value) is int else Types.get_type(value)


def rewritten(
    path: Path,
    target: Path,
    changes: dict[str, Any],
    tensors: dict[str, Any] | None = None,
    arch: str = "",
) -> Path:
    """Copy a GGUF file with some keys set, or left out where None; and with other tensors.

    `arch` names another architecture, under which all of the copy's keys stand.
    """
    reader = Reader(path)
    before = reader.fields["general.architecture"].contents()
    writer, given = gguf.GGUFWriter(target, arch or before), tensors or {}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in changes:
            continue
        inner = field.types[1] if field.types[0] is Types.ARRAY else None
        name = f"{arch}{name.removeprefix(before)}" if arch and name.startswith(before) else name
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    for name, value in changes.items():
        if value is not None and name != "general.architecture":
            writer.add_key_value(name, value, type_of(value))
    for tensor in reader.tensors:
        if tensor.name not in given:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, values in given.items():
        if values is not None:
            writer.add_tensor(name, values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def as_qwen2(path: Path, target: Path, d_k: int, **tensors: Any) -> Path:
    """Rewrite a llama file with biases as qwen2 has them: in halves, and none of the output."""
    changed: dict[str, Any] = dict(tensors)
    for name, tensor in read_file(path)[1].items():
        if ".attn_q." in name or ".attn_k." in name:
            changed[name] = deinterleave(tensor.load(), d_k)
        if name.endswith("attn_output.bias"):
            changed[name] = None
    return rewritten(path, target, {}, changed, arch="qwen2")
