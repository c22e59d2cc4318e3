"""A few new tokens, one or more of each sequence, layer by layer in compiled code.

Everything that a layer does is in few_tokens.cpp, which reads each weight once, as it is stored: in
operations of torch a token of a small model takes twice as long. Python calls it once a layer. The
same numbers as `TransformerBlock.forward` with a cache, but for rounding: states are float32.
Not for prompts, nor for a GPU.

Shapes: n new tokens of all sequences, H model width, D width of a head.
"""

from __future__ import annotations

import ctypes
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quatrain.model import kinds_nf4
from quatrain.model.attention import Attention
from quatrain.model.cache import Step
from quatrain.model.frozen import Frozen, Matrix, Weight
from quatrain.model.kinds_native import library
from quatrain.model.moe import MoE, SharedMLP
from quatrain.model.weights import Linear, LowRank

MOST_ROWS = 128
_KINDS = ("f32", "bf16", "f32 columns", "bf16 columns", "int8", "nf4", "q8_0", "q4_0", "q4_1",
          "q5_0", "q5_1", "q4_k", "q5_k", "q6_k")  # fmt: skip
"""In the order of few_tokens.cpp."""
_PLAIN = {torch.float32: "f32", torch.bfloat16: "bf16"}
_AS_NUMBERS = {name: dtype for dtype, name in _PLAIN.items()}
"""Kinds whose strides are counted in numbers, not in bytes."""
_I64, _POINTER, _FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
_WORK = 1 << 19
"""Numbers of a layer that are worth a thread."""


class _Stored(ctypes.Structure):
    _fields_: ClassVar[Any] = (
        [(name, _I64) for name in ("kind", "outputs", "inputs", "stride")]
        + [(name, _POINTER) for name in ("data", "scales", "nested", "map", "values", "bias",
                                         "next", "a", "b")]
        + [("rank", _I64), ("offset", _FLOAT), ("scale", _FLOAT)]
    )  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_: ClassVar[Any] = (
        [(name, _I64) for name in ("width", "heads", "kv_heads", "head", "experts", "chosen",
                                   "inner", "shared_inner", "rope", "qk_norm", "chunk")]
        + [(name, _FLOAT) for name in ("eps", "floor_scale", "attn_scale")]
        + [(name, _POINTER) for name in ("input_norm", "post_norm", "router", "router_a",
                                         "router_b")]
        + [("router_rank", _I64), ("router_scale", _FLOAT)]
        + [(name, _Stored) for name in ("q", "k", "v", "o", "gate", "up", "down", "gate_up",
                                        "expert_down")]
    )  # fmt: skip


class _Places:
    """Of each new token: where the numbers of its sequence's blocks lie, and the first of them."""

    def __init__(self, step: Step, number: int) -> None:
        tables, begins = [], []
        for held, count in zip(step.sequences, step.counts, strict=True):
            address, _ = held.tables[number].buffer_info()
            tables += [address] * count
            begins += [held.begins[number]] * count
        self.tables = (_POINTER * len(tables))(*tables)
        self.begins = (_I64 * len(begins))(*begins)


class UnfitError(Exception):
    """A weight that compiled code does not know."""


class FewTokens:
    """A model's layers, described to compiled code by the addresses of their weights."""

    def __init__(self, layers: list[nn.Module], native: Any) -> None:
        """Describe layers.

        Args:
            layers: TransformerBlocks on the CPU.
            native: the library.

        Raises:
            UnfitError: for a weight that is of none of the kinds.
        """
        self.kept: list[Any] = []
        """What the addresses lead to."""
        self.layers = [self._layer(layer) for layer in layers]
        self.native = native

    @classmethod
    def of(cls, layers: list[nn.Module]) -> FewTokens | None:
        """Describe layers, if all can be computed so and there is a compiler."""
        native = library("few_tokens")
        try:
            return None if native is None else cls(layers, native)
        except UnfitError:
            return None

    def __call__(self, x_nH: Tensor, rotation: Tensor, step: Step) -> Tensor:
        """Compute all layers for a few new tokens, and keep their keys and values.

        Args:
            x_nH: contiguous float32; it is overwritten.
            rotation: complex64 [1, n, 1, D/2].
            step: where the tokens go.

        Returns:
            [n, H].
        """
        turns, at_n = torch.view_as_real(rotation).contiguous(), step.positions.contiguous()
        places = [_Places(step, number) for number in range(len(step.store.groups))]
        count, threads = len(x_nH), torch.get_num_threads()
        for (described, numbers), (number, layer) in zip(
            self.layers, step.store.places, strict=True
        ):
            blocks, place = step.store.groups[number], places[number]
            keys, values = blocks.buffers(layer)
            described.chunk = blocks.chunk or 0
            call = getattr(self.native, f"layer_step_{_PLAIN[keys.dtype]}")
            call(
                ctypes.byref(described), _address(x_nH), _I64(count), _address(turns),
                _address(at_n), _address(keys), _address(values), place.tables, place.begins,
                _I64(blocks.size), ctypes.c_int(max(1, min(threads, numbers * count // _WORK))),
            )  # fmt: skip
        return x_nH

    def _layer(self, block: Any) -> tuple[_Layer, int]:
        attention, forward = block.self_attn, block.feed_forward
        assert isinstance(attention, Attention)
        shared = forward.shared_expert if isinstance(forward, MoE) else forward
        assert isinstance(shared, SharedMLP)
        made = _Layer(
            width=attention.q_proj.in_features, head=attention.d_k,
            heads=attention.q_proj.out_features // attention.d_k,
            kv_heads=attention.k_proj.out_features // attention.d_k,
            shared_inner=shared.gate_proj.out_features, rope=attention.uses_rope,
            qk_norm=attention.uses_qk_norm, chunk=0, eps=attention.eps,
            floor_scale=attention.floor_scale,
            attn_scale=attention.attn_scale if attention.tunes_temperature else 0.0,
            input_norm=self._numbers(block.input_layernorm.weight),
            post_norm=self._numbers(block.post_attention_layernorm.weight),
            q=self._linear(attention.q_proj), k=self._linear(attention.k_proj),
            v=self._linear(attention.v_proj), o=self._linear(attention.o_proj),
            gate=self._linear(shared.gate_proj), up=self._linear(shared.up_proj),
            down=self._linear(shared.down_proj),
        )  # fmt: skip
        numbers = sum(
            one.weight.shape.numel() for one in block.modules() if isinstance(one, Linear)
        )
        if isinstance(forward, MoE):
            experts, router = forward.experts, forward.router
            made.experts, made.chosen = forward.num_experts, router.num_experts_per_tok
            made.inner = experts.down_proj.shape[1]
            made.router = self._numbers(router.weight)
            if router.lora is not None and not router.lora.merged:
                made.router_a, made.router_b = map(self._numbers, (router.lora.A, router.lora.B))
                made.router_rank, made.router_scale = router.lora.A.shape[1], router.lora.scale
            made.gate_up = self._stored(experts.gate_up_proj, experts.gate_up_proj_lora)
            made.expert_down = self._stored(experts.down_proj, experts.down_proj_lora)
            one = experts.gate_up_proj.shape[1:].numel() + experts.down_proj.shape[1:].numel()
            numbers += made.chosen * one
        return made, numbers

    def _linear(self, linear: Linear) -> _Stored:
        made = self._stored(linear.weight, linear.lora)
        if linear.bias is not None:
            made.bias = self._numbers(linear.bias)
        return made

    def _stored(self, weight: Weight, lora: LowRank | None) -> _Stored:
        if isinstance(weight, Frozen):
            each = [self._matrix(one) for one in weight.matrices]
            for before, after in pairwise(each):
                before.next = ctypes.addressof(after)
            self.kept += each
            made = each[0]
        else:
            made = self._plain(weight)
        if lora is not None and not lora.merged:
            made.a, made.b = self._numbers(lora.A), self._numbers(lora.B)
            made.rank, made.scale = lora.A.shape[-1], lora.scale
        return made

    def _plain(self, weight: Tensor) -> _Stored:
        name = _PLAIN.get(weight.dtype)
        if name is None or weight.device.type != "cpu" or not weight.is_contiguous():
            raise UnfitError
        self.kept.append(weight)
        if weight.ndim == 3:
            _, inputs, outputs = weight.shape
            name = f"{name} columns"
        else:
            outputs, inputs = weight.shape
        return _Stored(kind=_KINDS.index(name), outputs=outputs, inputs=inputs,
                       stride=weight.stride(-2), data=weight.data_ptr())  # fmt: skip

    def _matrix(self, matrix: Any) -> _Stored:
        assert isinstance(matrix, Matrix)
        name, parts = matrix.kind.name, matrix.stored
        if name not in _KINDS or matrix.order is not None or matrix.stays:
            raise UnfitError
        if any(part.device.type != "cpu" or not part.is_contiguous() for part in parts.values()):
            raise UnfitError
        self.kept.append(parts)
        outputs, inputs = matrix.shape[-2:]
        made = _Stored(kind=_KINDS.index(name), outputs=outputs, inputs=inputs)
        if "blocks" in parts:
            blocks = parts["blocks"]
            blocks = blocks.view(_AS_NUMBERS[name]) if name in _AS_NUMBERS else blocks
            made.data, made.stride = blocks.data_ptr(), blocks.stride(0)
            return made
        made.data, made.scales = parts["codes"].data_ptr(), parts["scales"].data_ptr()
        if name == "nf4":
            if "nested" not in parts:
                raise UnfitError
            tables = [kinds_nf4.scale_map(parts["codes"].device),
                      kinds_nf4.values(parts["codes"].device)]  # fmt: skip
            self.kept += tables
            made.nested, made.offset = parts["nested"].data_ptr(), float(parts["offset"])
            made.map, made.values = (table.data_ptr() for table in tables)
        return made

    def _numbers(self, tensor: Tensor) -> int:
        """Give the address of small weights, as float32."""
        wide = tensor.detach().float().contiguous()
        if wide.device.type != "cpu":
            raise UnfitError
        self.kept.append(wide)
        return wide.data_ptr()


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
