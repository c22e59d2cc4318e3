"""Weight files: what is written is what the library reads; one tensor is in memory at a time."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quatrain.errors import CheckpointError
from quatrain.model.shards import INDEX, WEIGHTS, LazyTensor, open_tensors, write_shards

TENSORS = {
    "z.float": torch.arange(6, dtype=torch.float32).view(2, 3),
    "a.half": torch.linspace(-1, 1, 5, dtype=torch.float16),
    "m.brain": torch.linspace(-9, 9, 7, dtype=torch.bfloat16).view(7, 1),
    "whole": torch.tensor([-3, 2**40]),
    "nothing": torch.empty(0, 4),
    "scalar": torch.tensor(2.5),
}


def lazy(tensors: dict[str, Tensor] = TENSORS) -> dict[str, LazyTensor]:
    return {name: LazyTensor.of(tensor) for name, tensor in tensors.items()}


def test_a_file_written_here_is_read_by_the_library(tmp_path: Path) -> None:
    write_shards(lazy(), tmp_path)
    assert not (tmp_path / INDEX).exists()
    read = load_file(tmp_path / WEIGHTS)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_a_file_written_by_the_library_is_read_here(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / WEIGHTS, metadata={"format": "pt"})
    found = open_tensors(tmp_path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].load(), tensor)


def test_shards_hold_what_they_may_and_the_index_names_them(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(10)}
    write_shards(lazy(tensors), tmp_path, shard_bytes=100)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 400
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{n:05}-of-00005.safetensors" for n in range(1, 6)]
    assert set(index["weight_map"].values()) == set(files)
    assert all(name in load_file(tmp_path / file) for name, file in index["weight_map"].items())
    back = open_tensors(tmp_path)
    assert all(torch.equal(back[name].load(), tensor) for name, tensor in tensors.items())


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    tensors = {"small": torch.zeros(2), "large": torch.zeros(100), "last": torch.zeros(2)}
    write_shards(lazy(tensors), tmp_path, shard_bytes=40)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_each_tensor_is_read_once_and_let_go(tmp_path: Path) -> None:
    made: list[weakref.ref[Tensor]] = []
    most = 0

    def load() -> Tensor:
        nonlocal most
        tensor = torch.ones(4)
        made.append(weakref.ref(tensor))
        most = max(most, sum(one() is not None for one in made))
        return tensor

    tensors = {f"t{i}": LazyTensor((4,), torch.float32, load) for i in range(9)}
    write_shards(tensors, tmp_path, shard_bytes=64)
    assert len(made) == 9
    assert most == 1
    assert len(open_tensors(tmp_path)) == 9


def test_a_change_knows_its_shape_before_anything_is_read() -> None:
    def never() -> Tensor:
        raise AssertionError("read too early")

    tensor = LazyTensor((4, 6), torch.float32, never).map(lambda x: x.T.contiguous().half())
    assert tensor.shape == (6, 4)
    assert tensor.dtype == torch.float16
    assert tensor.nbytes == 48
    original = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    changed = LazyTensor.of(original).map(lambda x: x.T).to(torch.bfloat16)
    assert torch.equal(changed.load(), original.T.to(torch.bfloat16))


def test_two_files_with_one_name_are_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"same": torch.zeros(1)}, tmp_path / f"model-{number}.safetensors")
    weight_map = {"same": "model-1.safetensors", "other": "model-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="two files hold the tensor same"):
        open_tensors(tmp_path)


def test_a_link_within_the_hubs_cache_is_followed(tmp_path: Path) -> None:
    """The Hub's cache: models--x/snapshots/REVISION/file -> ../../blobs/HASH."""
    blob = tmp_path / "blobs" / "abc"
    snapshot = tmp_path / "snapshots" / "main"
    blob.parent.mkdir()
    snapshot.mkdir(parents=True)
    save_file({"w": torch.ones(2)}, blob)
    (snapshot / WEIGHTS).symlink_to(Path("../../blobs/abc"))
    assert torch.equal(open_tensors(snapshot)["w"].load(), torch.ones(2))
