"""Tiny directories like those on the Hub: multimodal, in shards, in every spelling."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Llama4Config, Llama4ForConditionalGeneration

from quatrain.model.hf_config import to_hf
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import Tokenizer, train_bpe
from tiny import tiny_config

VISION = dict(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
    image_size=28, patch_size=14, vision_output_dim=32, projector_input_dim=32,
    projector_output_dim=32,
)  # fmt: skip

SHAPES: dict[str, dict[str, Any]] = {
    "scout": {"interleave_moe_layer_step": 1},
    "maverick": {"use_qk_norm": False, "rope_scaling": None, "num_local_experts": 8},
    "guard": {"moe_layers": (), "attention_chunk_size": None, "rope_scaling": None},
}
"""What sets the family's models apart, at the size of a test."""


def multimodal(directory: Path, shape: str, old_spelling: bool = False, seed: int = 0) -> Any:
    """Write a random multimodal directory in five shards; return transformers' own model."""
    text = to_hf(tiny_config(**{"vocab_size": 512, **SHAPES[shape]}))
    if text["attention_chunk_size"] is None:
        text["attention_chunk_size"] = 4096  # transformers cannot run without
    config = Llama4Config(
        vision_config=VISION,
        text_config=text,
        boi_token_index=500,
        eoi_token_index=501,
        image_token_index=502,
    )
    torch.manual_seed(seed)
    model = Llama4ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(directory)
    reshard(directory, into=5)
    path = directory / "config.json"
    fields = json.loads(path.read_text())
    if shape == "guard":
        fields["text_config"]["attention_chunk_size"] = None
    if old_spelling:
        spell_as_of_old(fields)
    path.write_text(json.dumps(fields))
    text_tools(directory)
    return model


def reshard(directory: Path, into: int) -> None:
    """Replace the weights by shards in another order and their index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number in range(into):
        file = f"model-{number + 1:05}-of-{into:05}.safetensors"
        part = {name: tensors[name] for name in names[number::into]}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def spell_as_of_old(fields: dict[str, Any]) -> None:
    """Rewrite config.json as transformers 4.51 wrote it (docs/llama4.md section 1.1)."""
    text = fields["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    text["no_rope_layers"] = []
    text.pop("layer_types")
    text["attn_temperature_tuning"] = 4
    text["for_llm_compressor"] = False
    text["cache_implementation"] = "hybrid"
    text["torch_dtype"] = fields["torch_dtype"] = text.pop("dtype", "float32")
    fields.pop("dtype", None)


def text_tools(directory: Path) -> None:
    """Write a small tokenizer with Llama 4's control tokens."""
    _small_tokenizer().save(directory)
    LLAMA4.save(directory)


@cache
def _small_tokenizer() -> Tokenizer:
    texts = ["Quelle est la capitale de la France ? Paris. Où est l'été ?"] * 3
    return train_bpe(texts, vocab_size=300)


def silently(function: Any, *args: Any, **options: Any) -> Any:
    """Call transformers without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)
