"""What a config.json says of quantised weights: kinds that are read, and others refused by name.

Not for the tensors of such a directory (stored.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quatrain.errors import CheckpointError

QUANTISED = "quantization_config"
_PLACES = (QUANTISED, "compression_config")
_LONGEST = 100
_FP8 = (("float", 8, "channel"), ("float", 8, "tensor"))
"""Type, bits and strategy of weights that are read."""


def quantisation(config: Mapping[str, Any]) -> str | None:
    """Name the kind in which a directory stores matrices; None for plain numbers.

    nf4, fp4 or int8 of bitsandbytes, or fp8 of compressed-tensors.

    Raises:
        CheckpointError: Q410 for any other kind.
    """
    text = config.get("text_config")
    parts = (config, text) if isinstance(text, dict) else (config,)
    said = next((part[name] for part in parts for name in _PLACES if part.get(name)), None)
    if said is None:
        return None
    if not isinstance(said, dict):
        raise _refusal(said)
    if said.get("quant_method") == "compressed-tensors":
        return _of_compressed_tensors(said)
    bits = [size for size in (4, 8)
            if said.get(f"load_in_{size}bit") or said.get(f"_load_in_{size}bit")]  # fmt: skip
    method = said.get("quant_method", "bitsandbytes" if bits else None)
    if method != "bitsandbytes" or len(bits) != 1:
        raise _refusal(said.get("format") or method)
    kind = said.get("bnb_4bit_quant_type", "fp4") if bits == [4] else "int8"
    if kind not in ("nf4", "fp4", "int8"):
        raise _refusal(kind)
    return str(kind)


def _of_compressed_tensors(said: Mapping[str, Any]) -> str:
    """Take FP8 with a scale for each row or one for all; what meets the weights is not rounded."""
    groups = said.get("config_groups")
    groups = list(groups.values()) if isinstance(groups, dict) else []
    weights = [one.get("weights") if isinstance(one, dict) else None for one in groups]
    if said.get("format") != "float-quantized" or not weights:
        raise _refusal(said.get("format") or "compressed-tensors")
    for one in weights:
        given = one if isinstance(one, dict) else {}
        kind = tuple(given.get(field) for field in ("type", "num_bits", "strategy"))
        if kind not in _FP8 or not given.get("symmetric", True):
            raise _refusal(f"float-quantized, {kind}")
    return "fp8"


def _refusal(given: Any) -> CheckpointError:
    return CheckpointError("Q410.quantised", method=str(given)[:_LONGEST])


def described(kind: str, dtype: str) -> dict[str, Any]:
    """Say for transformers how matrices are stored that were written here.

    Args:
        kind: nf4 or int8.
        dtype: of the other weights, as config.json spells it.
    """
    four = kind == "nf4"
    fields: dict[str, Any] = {
        "quant_method": "bitsandbytes", "load_in_4bit": four, "load_in_8bit": not four,
        "_load_in_4bit": four, "_load_in_8bit": not four, "llm_int8_skip_modules": ["lm_head"],
    }  # fmt: skip
    if four:
        fields |= {
            "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_storage": "uint8",
        }  # fmt: skip
    return fields
