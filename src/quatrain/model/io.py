"""Model directories: config.json, generation_config.json, safetensors; nothing else is opened.

Weights are read tensor by tensor into a model without weights, so a checkpoint is never in memory
twice. Not for the files of weights themselves (shards.py) nor for tokenizers
(text/tokenizer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.files import write_json
from quatrain.model.adapter import (
    Whole,
    held,
    load_adapter,
    merged,
    quantised_base,
    read_adapter,
    write_adapter,
)
from quatrain.model.fp8 import joined_in
from quatrain.model.frozen import Frozen, Matrix, Weight
from quatrain.model.hf_config import CONFIG, read_config, read_json, to_hf
from quatrain.model.hf_quantised import QUANTISED, described, quantisation
from quatrain.model.kinds import KINDS, encode
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import is_adapter, llama4_base_of
from quatrain.model.peft_config import BASE, read_fields
from quatrain.model.read_ahead import read_ahead
from quatrain.model.shards import (
    SHARD_BYTES,
    LazyTensor,
    check_tensors,
    open_tensors,
    write_shards,
)
from quatrain.model.stored import (
    is_small,
    may_be_stored,
    outputs_first,
    refuse_infinite_scales,
    refuse_width,
    stored_as,
)
from quatrain.model.targets import EMBEDDINGS

GENERATION_CONFIG = "generation_config.json"
PREFIX = "language_model."
VISION = ("vision_model.", "multi_modal_projector.")
"""Prefixes of tensors in a multimodal directory: the text model's, and those that are not read."""


def load_model(
    directory: Path,
    dtype: torch.dtype | None,
    device: str,
    form: Form | None = None,
    shelf: Shelf | None = None,
) -> LlamaModel:
    """Read a model directory of the Hugging Face form, text-only or multimodal, or an adapter's.

    Args:
        directory: holds config.json and model.safetensors, or shards and their index; or what PEFT
            writes, whose base is read first.
        dtype: of the weights; None keeps the files'.
        device: where the weights go.
        form: how weights that do not learn are held. Where there is neither a dtype nor a form, the
            base of an adapter is held as it was when the adapter was trained, and matrices stored
            in fewer bits stay so.
        shelf: weights that other models hold already, and that this one shares; see `Shelf`.

    Raises:
        CheckpointError: Q401 for files, Q404 for names, shapes or weights that are not finite, Q410
            or Q415 for the config.
    """
    if is_adapter(directory):
        base = llama4_base_of(directory)
        return load_adapted(*opened(base), directory, dtype, device, form, held_of(base, shelf))
    held = held_of(directory, shelf)
    return model_of(*opened(directory), dtype, device, form, held.setdefault(form, {}))


def form_to_run(device: str, quantise: str | None = None) -> Form:
    """Give the form in which stored or quantised weights are held to answer."""
    return Form(torch.bfloat16 if device.startswith("cuda") else torch.float32, quantise)


def form_to_ask(directory: Path, device: str) -> Form | None:
    """Give the form in which a directory's weights answer fastest; None for as they are.

    A CPU that only emulates products of bfloat16 takes six times as long for them as for float32
    (an x86 one without AVX-512). There weights stay as they are stored, and products are float32.
    Raises as `load_model`.
    """
    if device != "cpu" or not emulates_bfloat16() or is_adapter(directory):
        return None
    _, tensors = opened(directory)
    dtypes = {one.dtype for one in tensors.values()}
    return Form(torch.float32) if torch.bfloat16 in dtypes else None


def emulates_bfloat16() -> bool:
    """Say whether this CPU is known to lack products of bfloat16: an x86 one without AVX-512."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def refuse_other_kinds(model: LlamaModel, kind: str, place: Path) -> None:
    """Refuse a quantised model of which matrices stayed as they were stored. Raises Q411."""
    held = {one.kind.name for one in model.model.layers.modules() if isinstance(one, Matrix)}
    if others := sorted(held - {kind}):
        raise CheckpointError("Q411.kept", source=place, others=", ".join(others), kind=kind)


def opened(directory: Path) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """Open a directory; raises as `load_model`."""
    config = read_config(directory)
    return config, {name: one.finite(name) for name, one in text_tensors(directory).items()}


def load_adapted(
    config: ModelConfig,
    tensors: Mapping[str, LazyTensor],
    directory: Path,
    dtype: torch.dtype | None,
    device: str,
    form: Form | None = None,
    held: Held | None = None,
) -> LlamaModel:
    """Read a base and its adapter; merge one that changes more than weights of layers.

    Args:
        config: of the base.
        tensors: of the base.
        directory: of the adapter.
        dtype: as for `load_model`.
        device: as for `load_model`.
        form: as for `load_model`.
        held: the base's weights that other models hold already; a merged model shares none.
    """
    adapter = read_adapter(directory, config)
    if form is None and dtype is None and (kind := quantised_base(directory)):
        form = form_to_run(device, kind)
    if not adapter.beyond:
        weights = {} if held is None else held.setdefault(form, {})
        model = model_of(config, tensors, dtype, device, form, weights)
        load_adapter(model, adapter, read_fields(directory)[BASE])
        return model
    result, changed = merged(config, fitting(config, tensors), adapter)
    of_base = {HEAD: tensors[EMBEDDINGS.weight], **tensors}
    changed = {name: one.to(of_base[name].dtype, name) for name, one in changed.items()}
    return model_of(result, changed, dtype, device, form)


@dataclass(frozen=True)
class Form:
    """How the weights of a model are held that do not learn.

    Matrices that multiply stay as the file has them, mapped where it lies on this machine: blocks
    of a GGUF file, or numbers of any width. Norms, biases and routers are read into `states`.
    """

    states: torch.dtype
    """Of the states between layers, and of products outside autocast."""
    quantise: str | None = None
    """The kind (kinds.py) in which matrices of layers are stored that are not stored in blocks."""


Weights = dict[str, Weight]
"""The weights of a model, by name."""
Held = dict[Form | None, Weights]
"""The weights of a base, in each form in which a model holds them."""
Shelf = dict[Path, Held]
"""The weights of bases: models that are opened with the same shelf hold each of them once. They
must not learn, and all are opened with one dtype and on one device."""


def held_of(base: Path, shelf: Shelf | None) -> Held:
    """Find what a shelf has of a base."""
    return {} if shelf is None else shelf.setdefault(base.resolve(), {})


def model_of(
    config: ModelConfig,
    tensors: Mapping[str, LazyTensor],
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    form: Form | None = None,
    held: Weights | None = None,
) -> LlamaModel:
    """Build a model and read its weights; see `load_model`.

    Args:
        config: the architecture.
        tensors: by name.
        dtype: of the weights; None keeps the files'. Not read where there is a form.
        device: where the weights go.
        form: how weights are held in a model that does not learn; None makes them parameters, but
            where there is no dtype either, matrices stored in fewer bits stay so.
        held: weights that are used as they are; those that are read are added.
    """
    held = {} if held is None else held
    given = fitting(config, tensors)
    if form is None and dtype is None and any(one.matrices for one in given.values()):
        form = form_to_run(device)
    with torch.device("meta"):
        model = LlamaModel(config)
    for name, tensor in given.items():
        if name not in held:
            weight = _read(name, tensor, dtype or tensor.dtype, form)
            held[name] = weight.to(device)
        _place(model, name, held[name], learns=form is None)
    if config.tie_word_embeddings:
        del model.lm_head.weight
        model.lm_head.weight = model.model.embed_tokens.weight
    if form is not None:
        model.model.states_dtype, model.quantised = form.states, form.quantise
        read_ahead(list(model.model.layers))
    model.model.rotary_emb.to_empty(device=device)
    return model


def _read(name: str, tensor: LazyTensor, dtype: torch.dtype, form: Form | None) -> Weight:
    """Read a weight in a form; one that learns in a dtype."""
    if form is None:
        return tensor.to(dtype, name).load()
    if is_small(name):
        return tensor.to(form.states, name).load()
    stacked = len(tensor.shape) == 3
    quantise = form.quantise if may_be_stored(name) else None
    if tensor.in_blocks or (tensor.matrices and quantise is None):
        for matrix in tensor.matrices:
            refuse_infinite_scales(name, matrix)
        return Frozen(tensor.matrices, form.states, stacked)
    if quantise is None:
        return tensor.load()
    kind = KINDS[quantise]
    refuse_width(name, tensor.shape[1], kind)
    weight = outputs_first(tensor.load())
    parts = encode(kind, weight)
    return Frozen([Matrix(kind, tuple(weight.shape), parts)], form.states, stacked)


HEAD = "lm_head.weight"


def fitting(config: ModelConfig, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Check that tensors are those of a model, before any is read; leave out a tied head's copy.

    Raises:
        CheckpointError: Q404 for names, shapes and dtypes.
    """
    with torch.device("meta"):
        weights = LlamaModel(config).state_dict()
    absent = {HEAD} if config.tie_word_embeddings else set()
    wanted = {name: tuple(one.shape) for name, one in weights.items() if name not in absent}
    given = {name: one for name, one in tensors.items() if name not in absent}
    check_tensors(wanted, given)
    return given


def _place(model: LlamaModel, name: str, weight: Weight, learns: bool) -> None:
    *path, leaf = name.split(".")
    owner = model.get_submodule(".".join(path))
    if isinstance(weight, Tensor):
        weight = nn.Parameter(weight, requires_grad=learns)
    delattr(owner, leaf)  # a module does not take a parameter's place
    setattr(owner, leaf, weight)


def text_tensors(directory: Path) -> dict[str, LazyTensor]:
    """List the text model's tensors under their plain names, without the vision part.

    Raises:
        CheckpointError: Q401 for files that are missing, unsafe or broken, Q404 or Q410 for stored
            matrices.
    """
    found = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in open_tensors(directory).items()
        if not name.startswith(VISION)
    }
    return joined_in(quantisation(read_json(directory / CONFIG)), found)


def save_model(model: LlamaModel, directory: Path, whole: Whole = held) -> None:
    """Write a directory that transformers opens as Llama4ForCausalLM, or PEFT as an adapter.

    Args:
        model: to be written.
        directory: to write to.
        whole: gives a weight by its name, and as the model holds it, where that is a part.
    """
    if model.adapters:
        write_adapter(model, directory, whole)
        return
    tensors = {name: whole(name, tensor) for name, tensor in model.state_dict().items()}
    write_model(model.config, tensors, directory)


def write_model(
    config: ModelConfig,
    tensors: Mapping[str, LazyTensor],
    directory: Path,
    shard_bytes: int = SHARD_BYTES,
    quantise: str | None = None,
) -> None:
    """Write config.json, generation_config.json and weights, one tensor in memory at a time.

    Args:
        config: the architecture.
        tensors: under the names of Llama4ForCausalLM; a tied head is left out.
        directory: created if missing.
        shard_bytes: the most tensor bytes of a file of weights.
        quantise: the kind in which matrices of layers are stored, nf4 or int8.

    Raises:
        CheckpointError: Q411 for a matrix that cannot be stored so.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = dict(tensors)
    if config.tie_word_embeddings:
        written.pop(HEAD, None)
    dtype = dtype_name(tensors["model.embed_tokens.weight"].dtype)
    fields = to_hf(config, dtype)
    if quantise:
        fields[QUANTISED], written = described(quantise, dtype), stored_as(quantise, written, dtype)
    write_json(directory / CONFIG, fields)
    write_json(directory / GENERATION_CONFIG, generation_config(config))
    write_shards(written, directory, shard_bytes)


def dtype_name(dtype: torch.dtype) -> str:
    """Spell a dtype as config.json does: float32, bfloat16."""
    return str(dtype).removeprefix("torch.")


def generation_config(config: ModelConfig) -> dict[str, Any]:
    """Give other programs the ids that begin, stop and pad; greedy, as here."""
    fields = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids) or None,
        "pad_token_id": config.pad_token_id,
        "do_sample": False,
    }
    return {name: value for name, value in fields.items() if value is not None}
