"""Write a Source as one GGUF file for llama.cpp, with a Modelfile for Ollama beside it.

One tensor is in memory at a time. Norms and routers stay in float32; with q8_0 every other weight
is quantised in blocks of 32. The experts' layout, what is refused and why: gguf_names.py.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.files import write_text
from quatrain.hub.gguf_names import ALWAYS_FLOAT, BLOCK, architecture, layer_step, to_gguf
from quatrain.hub.gguf_text import vocabulary_of
from quatrain.hub.source import Source
from quatrain.model.rope import frequencies
from quatrain.model.shards import LazyTensor, narrowed, refuse_beyond
from quatrain.text.chat import ChatFormat

SCALING_KEY = "quatrain.rope_scaling"
_BLOCK_BYTES = 34
_MOST_OF_Q8_0 = 127 * 65504
"""The largest value: 127 steps, whose size is kept in f16."""
_ELEMENTS_AT_ONCE = 1 << 22
"""Elements that are converted at a time, so that float32 copies stay small."""


def library() -> Any:
    """Import the library that knows the format.

    Raises:
        CheckpointError: Q414 where it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise CheckpointError("Q414.gguf") from None
    return gguf


def write_gguf(source: Source, path: Path, kind: str) -> None:
    """Write the whole model.

    Args:
        source: of an architecture that llama.cpp has.
        path: of the file; a Modelfile is written beside it.
        kind: f32, f16, bf16 or q8_0.

    Raises:
        CheckpointError: Q411 naming what llama.cpp cannot represent.
    """
    arch = architecture(source.config)
    vocabulary = vocabulary_of(source.tokenizer, source.config.vocab_size)
    tensors = dict(itertools.chain.from_iterable(to_gguf(*item) for item in source.tensors.items()))
    if source.config.rope_scaling:
        tensors["rope_freqs.weight"] = LazyTensor.of(frequency_factors(source.config))
    _refuse_odd_rows(tensors, kind)
    writer = library().GGUFWriter(path, arch)
    _write_architecture(writer, source.config, arch, kind)
    _write_text_tools(writer, source, vocabulary)
    write_tensors(writer, tensors, {name: _type_of(name, kind) for name in tensors})
    modelfile = path.with_name("Modelfile")
    write_text(modelfile, ollama_modelfile(source.chat, path.name, source.config))


def write_tensors(writer: Any, tensors: dict[str, LazyTensor], types: dict[str, str]) -> None:
    """Write a file: the keys that the writer has been given, then the tensors, one at a time.

    Args:
        writer: of the library, with its keys; it is closed.
        tensors: by llama.cpp's names.
        types: of each tensor: f32, f16, bf16 or q8_0.

    Raises:
        CheckpointError: Q411 for a value that its type cannot hold.
    """
    for name, tensor in tensors.items():
        code = library().GGMLQuantizationType[types[name].upper()]
        size = _bytes_of(tensor.shape, types[name])
        writer.add_tensor_info(name, list(tensor.shape), np.dtype(np.float32), size, code)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():
            writer.write_tensor_data(_encoded(name, tensor.load(), types[name]))
    finally:
        writer.close()


def frequency_factors(config: ModelConfig) -> Tensor:
    """Give what llama.cpp divides each frequency by, [d_k / 2]."""
    plain = frequencies(config.d_k, config.rope_theta)
    scaled = frequencies(config.d_k, config.rope_theta, config.rope_scaling)
    return plain / scaled


def _type_of(name: str, kind: str) -> str:
    return "f32" if ALWAYS_FLOAT.fullmatch(name) else kind


def _bytes_of(shape: tuple[int, ...], kind: str) -> int:
    count = math.prod(shape)
    return count // BLOCK * _BLOCK_BYTES if kind == "q8_0" else count * (4 if kind == "f32" else 2)


def _refuse_odd_rows(tensors: dict[str, LazyTensor], kind: str) -> None:
    odd = [f"{name} {list(one.shape)}" for name, one in tensors.items()
           if _type_of(name, kind) == "q8_0" and one.shape[-1] % BLOCK]  # fmt: skip
    if odd:
        raise CheckpointError("Q411.blocks", block=BLOCK, number=len(odd), first=odd[0])


def _write_architecture(writer: Any, config: ModelConfig, arch: str, kind: str) -> None:
    file_type = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}[kind]
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.intermediate_size_mlp)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.d_k)
    writer.add_value_length(config.d_k)
    writer.add_rope_dimension_count(config.d_k)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.rope_scaling:  # the factors are in a tensor; this says what they come from
        writer.add_string(SCALING_KEY, config.rope_scaling.model_dump_json())
    if arch == "llama4":
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.intermediate_size_expert)
        writer.add_uint32(f"{arch}.interleave_moe_layer_step", layer_step(config))


def _write_text_tools(writer: Any, source: Source, vocabulary: Any) -> None:
    """Write the tokenizer, where to stop, and the template; the template writes the begin token."""
    chat, tokenizer = source.chat, source.tokenizer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    if chat.begin:
        writer.add_bos_token_id(tokenizer.control_id(chat.begin))
    writer.add_eos_token_id(tokenizer.control_id(chat.end_of_text))
    writer.add_uint32("tokenizer.ggml.eot_token_id", tokenizer.control_id(chat.end_of_turn))
    others = set(chat.stop) - {chat.end_of_text, chat.end_of_turn}
    if len(others) > 1:
        raise CheckpointError("Q411.stops", stop=list(chat.stop))
    for name in others:
        writer.add_uint32("tokenizer.ggml.eom_token_id", tokenizer.control_id(name))
    writer.add_pad_token_id(chat.pad_id(tokenizer))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(chat.chat_template())


def _encoded(name: str, tensor: Tensor, kind: str) -> NDArray[Any]:
    """Turn a tensor into the bytes of its type, piece by piece."""
    rows = tensor.shape[-1]
    out = np.empty(_bytes_of(tuple(tensor.shape), kind), dtype=np.uint8)
    at = 0
    for matrix in tensor if tensor.dim() == 3 else tensor.reshape(1, -1, rows):
        for piece in matrix.split(max(1, _ELEMENTS_AT_ONCE // rows)):
            data = _piece(name, narrowed(name, piece, torch.float32).contiguous(), kind)
            out[at : at + data.nbytes] = data.reshape(-1).view(np.uint8)
            at += data.nbytes
    return out


def _piece(name: str, values: Tensor, kind: str) -> NDArray[Any]:
    if kind == "f16":
        return np.asarray(narrowed(name, values, torch.float16).numpy())
    if kind == "bf16":
        return np.asarray(narrowed(name, values, torch.bfloat16).view(torch.int16).numpy())
    if kind == "q8_0":
        if not float(values.abs().amax()) <= _MOST_OF_Q8_0:
            refuse_beyond(name, values, kind)
        quantised = library().quants.quantize(values.numpy(), library().GGMLQuantizationType.Q8_0)
        return np.ascontiguousarray(quantised)
    return np.asarray(values.numpy())


def ollama_modelfile(chat: ChatFormat, file: str, config: ModelConfig) -> str:
    """Write how Ollama is to prompt and where to stop; its own default context is short."""
    roles = "".join(
        f'{{{{ if eq .Role "{role}" }}}}{chat.role_name(role)}{{{{ end }}}}'
        for role in ("system", "user", "assistant")
    )
    before, after = (
        f'{{{{ if eq .Role "system" }}}}{text}{{{{ end }}}}' if text else ""
        for text in (chat.before_system, chat.after_system)
    )
    turn = (f"{chat.header_start}{roles}{chat.header_end}{chat.after_header}"
            f"{before}{{{{ .Content }}}}{after}{chat.end_of_turn}{chat.after_turn}")  # fmt: skip
    said = chat.header("system") + chat.default_system + chat.end_of_turn + chat.after_turn
    default = f"{{{{- if not .System }}}}{said}{{{{ end }}}}" if chat.default_system else ""
    template = (f"{chat.begin}{default}{{{{- range .Messages }}}}{turn}{{{{ end }}}}"
                f"{chat.header('assistant')}")  # fmt: skip
    stops = "".join(f'PARAMETER stop "{name}"\n' for name in dict.fromkeys(chat.stop))
    return (
        f'FROM ./{file}\nTEMPLATE """{template}"""\n{stops}'
        f"PARAMETER temperature 0\nPARAMETER num_ctx {config.max_position_embeddings}\n"
    )
