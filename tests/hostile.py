"""Malicious model directories: a list of changes to a valid one.

Each change is applied to a copy; whatever opens the result must refuse it with a code.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

Change = Callable[[Path], None]
HARMFUL: dict[str, Change] = {}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class Sentinel:
    """Creates a file named `executed` when it is unpickled."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "executed")

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def harmful(name: str) -> Callable[[Change], Change]:
    def keep(change: Change) -> Change:
        HARMFUL[name] = change
        return change

    return keep


def config_with(**fields: Any) -> Change:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def content(name: str, text: str | bytes) -> Change:
    def change(directory: Path) -> None:
        data = text.encode() if isinstance(text, str) else text
        (directory / name).write_bytes(data)

    return change


def sized(name: str, size: int) -> Change:
    """A sparse file: large, and made at once."""

    def change(directory: Path) -> None:
        with (directory / name).open("wb") as file:
            file.truncate(size)

    return change


def raw(header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> Change:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = (len(text) if length is None else length).to_bytes(8, "little")
    return content(WEIGHTS, size + text + data)


def entry(shape: list[Any], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def index_of(value: Any) -> Change:
    def change(directory: Path) -> None:
        (directory / WEIGHTS).unlink()
        text = value if isinstance(value, str) else json.dumps(value)
        (directory / INDEX).write_text(text)

    return change


def tensors_changed(edit: Callable[[dict[str, Any]], Any]) -> Change:
    def change(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        edit(tensors)
        save_file(tensors, directory / WEIGHTS)

    return change


def linked(name: str, target: str) -> Change:
    def change(directory: Path) -> None:
        outside = directory.parent / f"{directory.name}-outside"
        shutil.move(directory / name, outside)
        (directory / name).symlink_to(outside if target == "moved" else Path(target))

    return change


_EMBEDDING, _NORM = "model.embed_tokens.weight", "model.norm.weight"
_MAP = {"weight_map": {_EMBEDDING: "model-1.safetensors"}}

for _name, _value in {
    "no": "", "cut": '{"model_type": "llama4_text"', "list": "[]", "null": "null",
    "deep": "[" * 100_000, "deep object": '{"a":' * 50_000, "binary": b"\xff\xfe\0",
    "number": "1e999",
}.items():  # fmt: skip
    HARMFUL[f"config {_name}"] = content("config.json", _value)
HARMFUL["config of 200 MB"] = sized("config.json", 200 << 20)
for _field, _value in {
    "hidden_size": 2**62, "num_hidden_layers": 10**9, "vocab_size": 10**12,
    "num_local_experts": 10**9, "intermediate_size": -1, "num_attention_heads": 0,
    "head_dim": 10**9, "max_position_embeddings": 10**30, "rms_norm_eps": "1", "rope_scaling": [1],
    "moe_layers": [10**9], "no_rope_layers": [1] * 10**5, "layer_types": {"a": 1},
    "attention_chunk_size": -5, "rope_parameters": "yes", "model_type": "llama4_evil",
    "auto_map": {"AutoConfig": "evil.Config"}, "quantization_config": {"quant_method": "fp8"},
    "floor_scale": -7, "num_experts_per_tok": 10**9, "hidden_act": "exec",
}.items():  # fmt: skip
    HARMFUL[f"config {_field}"] = config_with(**{_field: _value})

HARMFUL |= {
    "header of 2^63": raw({}, length=2**63),
    "header of 2^64-1": raw({}, length=2**64 - 1),
    "header beyond the file": raw({}, length=10**6),
    "header of 99 MB": sized(WEIGHTS, 100 << 20),
    "header not JSON": raw(b"{" * 64),
    "header a list": raw([]),
    "header deep": raw(b'{"a":' * 20_000),
    "header binary": raw(b"\xff" * 64),
    "header with twice the same": raw(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"\0" * 8),
    "overlapping offsets": raw({"a": entry([4], [0, 16]), "b": entry([4], [8, 24])}, b"\0" * 24),
    "offsets beyond the file": raw({"a": entry([2**40], [0, 2**42])}),
    "offsets backwards": raw({"a": entry([4], [16, 0])}),
    "a hole between offsets": raw({"a": entry([2], [0, 8]), "b": entry([2], [56, 64])}),
    "a huge shape": raw({"a": entry([2**62, 2**62], [0, 64])}),
    "a negative shape": raw({"a": entry([-4, -4], [0, 64])}),
    "a shape of text": raw({"a": entry(["x"], [0, 64])}),
    "an unknown dtype": raw({"a": entry([16], [0, 64], "F33")}),
    "a dtype that is no float": tensors_changed(lambda t: t.update({_NORM: t[_NORM].int()})),
    "weights empty": content(WEIGHTS, b""),
    "weights cut": lambda d: os.truncate(d / WEIGHTS, (d / WEIGHTS).stat().st_size // 2),
    "weights too long": lambda d: os.truncate(d / WEIGHTS, (d / WEIGHTS).stat().st_size + 4096),
    "a tensor missing": tensors_changed(lambda t: t.pop(_NORM)),
    "a tensor too many": tensors_changed(lambda t: t.update(evil=t[_NORM].clone())),
    "a tensor of another shape": tensors_changed(
        lambda t: t.update({_NORM: t[_NORM][:-1].clone()})),
    "index up": index_of({"weight_map": {_EMBEDDING: "../outside.safetensors"}}),
    "index absolute": index_of({"weight_map": {_EMBEDDING: "/etc/passwd"}}),
    "index to a folder": index_of({"weight_map": {_EMBEDDING: "."}}),
    "index to the parent": index_of({"weight_map": {_EMBEDDING: ".."}}),
    "index to config": index_of({"weight_map": {_EMBEDDING: "config.json"}}),
    "index to nothing": index_of(_MAP),
    "index to a number": index_of({"weight_map": {_EMBEDDING: 7}}),
    "index a list": index_of({"weight_map": ["a"]}),
    "index without a map": index_of({}),
    "index not JSON": index_of("{"),
    "weights linked away": linked(WEIGHTS, "moved"),
    "weights linked to a device": linked(WEIGHTS, "/dev/zero"),
    "weights linked to themselves": linked(WEIGHTS, WEIGHTS),
    "tokenizer of 300 MB": sized("tokenizer.json", 300 << 20),
    "tokenizer not JSON": content("tokenizer.json", "{"),
    "tokenizer a list": content("tokenizer.json", "[]"),
    "tokenizer of a strange kind": content("tokenizer.json", '{"model": {"type": "Evil"}}'),
    "tokenizer binary": content("tokenizer.json", b"\xff" * 100),
    "tokenizer deep": content("tokenizer.json", "[" * 100_000),
    "tokenizer config a list": content("tokenizer_config.json", "[]"),
    "tokenizer config of 50 MB": sized("tokenizer_config.json", 50 << 20),
    "tokenizer config with an object": content("tokenizer_config.json", '{"eos_token": 7}'),
    "chat format not JSON": content("chat_format.json", "{{"),
    "chat format with code": content("chat_format.json", '{"run": "import os"}'),
    "chat format of 50 MB": sized("chat_format.json", 50 << 20),
    "chat format without end": content("chat_format.json", '{"end_of_turn": ""}'),
    "chat format of strange tokens": content(
        "chat_format.json", '{"end_of_turn": "<x>", "stop": ["<x>", "<|end_of_text|>"]}'),
}  # fmt: skip


@harmful("a vocabulary larger than the model")
def _(directory: Path) -> None:
    path = directory / "tokenizer.json"
    fields = json.loads(path.read_text())
    fields["model"]["vocab"]["zzz"] = 10**6
    path.write_text(json.dumps(fields))


@harmful("pickled weights alone")
def _(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Sentinel(directory)))


@harmful("pickled weights under another name")
def _(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(pickle.dumps(Sentinel(directory)))


@harmful("a pickled configuration")
def _(directory: Path) -> None:
    (directory / "config.json").write_bytes(pickle.dumps(Sentinel(directory)))


@harmful("a template bomb and no format")
def _(directory: Path) -> None:
    (directory / "chat_format.json").unlink()
    bomb = "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}"
    (directory / "chat_template.jinja").write_text(bomb)
    path = directory / "tokenizer.json"
    path.write_text(path.read_text().replace("<|eot|>", "<|evil|>"))
