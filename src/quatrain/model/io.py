"""Model directories: config.json, generation_config.json, safetensors; nothing else is opened.

Weights are read tensor by tensor into a model that has none yet, so that a checkpoint is never
held twice. No pickle: `.bin` and `.pt` are refused. Not for tokenizers (text/tokenizer.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quatrain.errors import CheckpointError
from quatrain.files import write_json
from quatrain.model.hf_config import CONFIG, read_config, read_json, to_hf
from quatrain.model.llama import LlamaModel

GENERATION_CONFIG = "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_LARGEST_INDEX = 64 << 20
_SKIPPED = ("vision_model.", "multi_modal_projector.")
_PREFIX = "language_model."


def load_model(directory: Path, dtype: torch.dtype | None, device: str) -> LlamaModel:
    """Read a model directory of the Hugging Face form, text-only or multimodal.

    Args:
        directory: holds config.json and model.safetensors, or shards and their index.
        dtype: of the weights; None keeps the files'.
        device: where the weights go.

    Raises:
        CheckpointError: Q401 for files, Q404 for names or shapes, Q410 for the config.
    """
    config = read_config(directory)
    with torch.device("meta"):
        model = LlamaModel(config)
    wanted = {name: parameter.shape for name, parameter in model.state_dict().items()}
    if config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    unexpected: list[str] = []
    for name, tensor in _tensors(directory):
        shape = wanted.pop(name, None)
        if shape is None:
            unexpected.append(name)
        elif shape != tensor.shape:
            raise CheckpointError(
                "Q404", f"{name} has shape {list(tensor.shape)}, config.json says {list(shape)}."
            )
        elif not tensor.is_floating_point():
            raise CheckpointError(
                "Q404",
                f"{name} holds {_name_of(tensor.dtype)}; weights must be floats.",
            )
        else:
            _place(model, name, tensor.to(device=device, dtype=dtype))
    if config.tie_word_embeddings and "lm_head.weight" in unexpected:
        unexpected.remove("lm_head.weight")
    _refuse_mismatch(list(wanted), unexpected)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary_emb.to_empty(device=device)
    return model


def _refuse_mismatch(missing: list[str], unexpected: list[str]) -> None:
    for kind, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            raise CheckpointError(
                "Q404",
                f"{len(names)} {kind} tensors, the first {', '.join(names[:5])}.",
                "The weights and config.json are not of the same model.",
            )


def _place(model: LlamaModel, name: str, tensor: Tensor) -> None:
    *path, leaf = name.split(".")
    setattr(model.get_submodule(".".join(path)), leaf, nn.Parameter(tensor))


def _tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the text model's tensors under their plain names, one at a time."""
    for path in _weight_files(directory):
        try:
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    if not name.startswith(_SKIPPED):
                        yield name.removeprefix(_PREFIX), file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError("Q401", f"{path} cannot be read: {error}.") from None


def _weight_files(directory: Path) -> list[Path]:
    """Find the files; like transformers, take the whole one before an index."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        weight_map = read_json(directory / INDEX, _LARGEST_INDEX).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        strange = [n for n in names if not isinstance(n, str) or n != Path(n).name or n == ".."]
        if strange or not names:
            raise CheckpointError("Q401", f"{INDEX} must name files beside it: {strange[:3]}.")
        return [directory / name for name in sorted(set(names))]
    pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in directory.glob(pattern)]
    remedy = "Pickled weights can run code: convert them to safetensors." if pickles else ""
    raise CheckpointError("Q401", f"{directory} has neither {WEIGHTS} nor {INDEX}.", remedy)


def save_model(model: LlamaModel, directory: Path) -> None:
    """Write a text-only model directory that transformers opens as Llama4ForCausalLM."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    write_json(directory / CONFIG, to_hf(model.config, _name_of(model.lm_head.weight.dtype)))
    write_json(directory / GENERATION_CONFIG, _generation_config(model))
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _generation_config(model: LlamaModel) -> dict[str, Any]:
    config = model.config
    fields = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids) or None,
        "pad_token_id": config.pad_token_id,
        "do_sample": False,
    }
    return {name: value for name, value in fields.items() if value is not None}
