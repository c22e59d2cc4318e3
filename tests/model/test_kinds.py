"""Stored weights say the numbers that other programs read in them, to the last bit."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gguf
import pytest
import torch
from torch import Tensor

from quatrain.model import kinds_native
from quatrain.model.kinds import KINDS, decode, decode_by_torch, encode, fits
from quatrain.model.kinds_nf4 import scale_map, values

GGUF = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "f32", "f16", "bf16")
HALVES = {"q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}
"""Where a block has numbers in float16; the others have one at its start."""
PLAIN = {"f32": torch.float32, "bf16": torch.bfloat16}
DTYPES = (torch.float32, torch.bfloat16)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile the decoders into a directory of these tests, where there is a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        kinds_native.loaded.cache_clear()
        yield
    kinds_native.loaded.cache_clear()


@pytest.fixture(scope="module")
def bitsandbytes() -> ModuleType:
    reason = "bitsandbytes is not installed: nothing to compare nf4 with"
    pytest.importorskip("bitsandbytes", reason=reason)
    import bitsandbytes.functional as found

    return found  # type: ignore[no-any-return]


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_blocks(name: str, rows: int, width: int) -> Tensor:
    """Draw bytes; numbers in float16 are drawn finite, and some of them are 0, tiny or huge."""
    kind, shape = KINDS[name], (rows, width // KINDS[name].block)
    blocks = torch.randint(0, 256, (*shape, kind.num_bytes), dtype=torch.uint8, generator=draw())
    for at in HALVES.get(name, (0,)):
        halves = torch.randn(shape, generator=draw(at)).half()
        special = torch.tensor([0.0, -0.0, 6e-8, -3e-5, 65504, -65504])[: halves.numel()]
        halves.view(-1)[: len(special)] = special
        if name not in PLAIN:
            blocks[..., at : at + 2] = halves[..., None].view(torch.uint8)
    if name in PLAIN:
        numbers = torch.randn(shape, generator=draw()).to(PLAIN[name])
        blocks = numbers[..., None].view(torch.uint8)
    return blocks.view(rows, -1)


def stored(name: str, rows: int, width: int) -> dict[str, Tensor]:
    if name in GGUF:
        return {"blocks": random_blocks(name, rows, width)}
    return encode(KINDS[name], torch.randn(rows, width, generator=draw()))


def in_gguf(name: str, blocks: Tensor) -> Tensor:
    kind = gguf.GGMLQuantizationType[name.upper()]
    return torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), kind))


def same_bits(a: Tensor, b: Tensor) -> bool:
    whole = torch.int32 if a.dtype == torch.float32 else torch.int16
    return a.dtype == b.dtype and torch.equal(a.view(whole), b.view(whole))


def by_torch(name: str, parts: dict[str, Tensor], rows: slice | Tensor, like: Tensor) -> Tensor:
    out = torch.empty_like(like)
    decode_by_torch(KINDS[name], parts, rows, out)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GGUF)
def test_a_block_of_a_gguf_file_says_what_the_package_gguf_reads(
    name: str, dtype: torch.dtype
) -> None:
    blocks = random_blocks(name, rows=37, width=512)
    wanted = in_gguf(name, blocks).to(dtype)
    for rows in (slice(0, 37), slice(3, 20), torch.tensor([36, 0, 5, 5])):
        found = decode(KINDS[name], {"blocks": blocks}, rows, 512, dtype)
        assert same_bits(found, wanted[rows])
        assert same_bits(by_torch(name, {"blocks": blocks}, rows, found), found)


def test_a_block_of_q4_0_reads_as_its_formula_says() -> None:
    block = struct.pack("<e16B", -0.5, *range(0, 256, 16), )  # fmt: skip
    row = torch.tensor(list(block), dtype=torch.uint8)[None]
    wanted = [-0.5 * (byte % 16 - 8) for byte in block[2:]]
    wanted += [-0.5 * (byte // 16 - 8) for byte in block[2:]]
    assert decode(KINDS["q4_0"], {"blocks": row}, slice(0, 1), 32, torch.float32)[0].tolist() == (
        wanted
    )


def test_tiles_and_their_borders_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quatrain.model.kinds.TILE", {"cpu": 1100, "cuda": 1100})
    for name in ("q5_k", "nf4", "int8"):
        parts = stored(name, 11, 512)
        for dtype in DTYPES:
            found = decode(KINDS[name], parts, slice(1, 10), 512, dtype)
            assert same_bits(by_torch(name, parts, slice(1, 10), found), found)


def test_only_the_chosen_rows_are_touched() -> None:
    """A matrix of 1e12 numbers, of which every row is the same memory, could not be copied."""
    row = random_blocks("q8_0", 1, 1024)
    endless = row.expand(10**9, -1)
    wanted = in_gguf("q8_0", row).expand(3, -1)
    for rows in (slice(10**8, 10**8 + 3), torch.tensor([7, 10**8, 3])):
        found = decode(KINDS["q8_0"], {"blocks": endless}, rows, 1024, torch.float32)
        assert same_bits(found, wanted.contiguous())
        assert same_bits(by_torch("q8_0", {"blocks": endless}, rows, found), found)


def test_blocks_may_begin_at_any_byte() -> None:
    blocks = random_blocks("q4_1", 4, 64)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), blocks.view(-1)])[1:].view(4, -1)
    found = decode(KINDS["q4_1"], {"blocks": shifted}, slice(0, 4), 64, torch.float32)
    assert same_bits(found, in_gguf("q4_1", blocks))
    assert same_bits(by_torch("q4_1", {"blocks": shifted}, slice(0, 4), found), found)


@pytest.mark.parametrize("name", ["q4_0", "nf4", "int8"])
def test_rows_are_slices_or_numbers_of_rows_that_exist(name: str) -> None:
    parts = stored(name, 5, 64)
    whole = decode(KINDS[name], parts, slice(None), 64, torch.float32)
    for rows in (slice(-2, None), slice(0, 5, 2), slice(3, 1), slice(4, None, -1)):
        numbers = torch.arange(5)[list(range(*rows.indices(5)))]
        assert same_bits(decode(KINDS[name], parts, rows, 64, torch.float32), whole[numbers])
    for wrong in ([5], [-1, 0]):
        with pytest.raises(IndexError, match="of a matrix of 5"):
            decode(KINDS[name], parts, torch.tensor(wrong), 64, torch.float32)


def test_a_row_must_be_whole_blocks() -> None:
    assert [fits(KINDS[name], 320) for name in ("q4_0", "q6_k", "nf4", "f16", "int8")] == [
        True, False, True, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "scale"), [((3, 64), 1.0), ((70, 320), 0.02), ((256, 512), 3.0), ((5, 128), 1e-30)]
)
def test_nf4_is_that_of_bitsandbytes(
    bitsandbytes: ModuleType, shape: tuple[int, int], scale: float
) -> None:
    weight = torch.randn(shape, generator=draw()) * torch.rand(shape, generator=draw(1)) * scale
    weight[1:2] = 0
    weight[2:3, ::3] = scale
    codes, state = bitsandbytes.quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    parts = encode(KINDS["nf4"], weight)
    assert torch.equal(parts["codes"].view(-1), codes.view(-1))
    assert torch.equal(parts["scales"].view(-1), state.absmax.view(-1))
    assert same_bits(parts["nested"], state.state2.absmax)
    assert same_bits(parts["offset"], state.offset)
    for dtype in DTYPES:
        state.dtype = dtype
        found = decode(KINDS["nf4"], parts, slice(None), shape[1], dtype)
        assert same_bits(found, bitsandbytes.dequantize_4bit(codes, state))
        assert same_bits(by_torch("nf4", parts, slice(0, shape[0]), found), found)


def test_scales_that_are_all_alike_are_stored_as_bitsandbytes_does(
    bitsandbytes: ModuleType,
) -> None:
    for weight in (torch.zeros(9, 64), torch.ones(9, 64), torch.ones(9, 64 * 60) / 3):
        _, state = bitsandbytes.quantize_4bit(
            weight, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        parts = encode(KINDS["nf4"], weight)
        assert torch.equal(parts["scales"].view(-1), state.absmax.view(-1))
        found = decode(KINDS["nf4"], parts, slice(None), weight.shape[1], torch.float32)
        torch.testing.assert_close(found, weight, rtol=1e-6, atol=0)  # the mean is rounded


def test_the_tables_of_nf4_are_those_of_bitsandbytes(bitsandbytes: ModuleType) -> None:
    assert same_bits(values(CPU), bitsandbytes.get_4bit_type("nf4", device="cpu"))
    assert same_bits(scale_map(CPU), bitsandbytes.create_dynamic_map())


def test_nf4_reads_as_its_formula_says() -> None:
    weight = torch.randn(5, 64 * 60, generator=draw())  # 300 scales: the groups cross rows
    parts = encode(KINDS["nf4"], weight)
    for row, column in ((0, 0), (2, 3), (4, 3839), (4, 1027)):
        byte = int(parts["codes"][row, column // 2])
        value = values(CPU)[byte >> 4 if column % 2 == 0 else byte & 15]
        scale = scale_map(CPU)[int(parts["scales"][row, column // 64])]
        scale = scale * parts["nested"][(row * 60 + column // 64) // 256] + parts["offset"]
        for rows in (slice(row, row + 1), torch.tensor([row])):
            found = decode(KINDS["nf4"], parts, rows, 64 * 60, torch.float32)
            assert found[0, column] == value * scale


def test_nf4_stores_each_number_as_a_near_value() -> None:
    weight = torch.randn(64, 256, generator=draw())
    found = decode(KINDS["nf4"], encode(KINDS["nf4"], weight), slice(None), 256, torch.float32)
    largest = weight.view(-1, 64).abs().amax(1, keepdim=True)
    gap = values(CPU).diff().max() / 2  # between neighbours; the scale has eight bits besides
    assert ((found - weight).view(-1, 64).abs() / largest).max() < gap + 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_any_float_is_stored_as_its_float32(name: str, dtype: torch.dtype) -> None:
    weight = torch.randn(6, 128, generator=draw()).to(dtype)
    parts, wanted = (
        encode(KINDS[name], weight.T.contiguous().T),
        encode(KINDS[name], weight.float()),
    )
    assert all(torch.equal(parts[part], wanted[part]) for part in wanted)


def test_int8_divides_a_row_by_a_127th_of_its_largest_number() -> None:
    weight = torch.tensor([[127.0, 0.5, 1.5, -2.5], [0, 0, 0, 0], [-254, 1, 3, 5]])
    parts = encode(KINDS["int8"], weight)
    assert parts["scales"].tolist() == [1, 0, 2]
    assert parts["codes"].tolist() == [[127, 0, 2, -2], [0, 0, 0, 0], [-127, 0, 2, 2]]
    found = decode(KINDS["int8"], parts, slice(None), 4, torch.float32)
    assert found.tolist() == [[127, 0, 2, -2], [0, 0, 0, 0], [-254, 0, 4, 4]]


def test_int8_rounds_its_product_once() -> None:
    weight = torch.randn(9, 100, generator=draw())
    weight[3] *= 1e-43  # the scale is itself rounded here
    parts = encode(KINDS["int8"], weight)
    wanted = parts["codes"].float() * parts["scales"][:, None]
    for dtype in DTYPES:
        found = decode(KINDS["int8"], parts, slice(None), 100, dtype)
        assert same_bits(found, wanted.to(dtype))
        assert same_bits(by_torch("int8", parts, slice(0, 9), found), found)
    assert ((wanted - weight).abs() <= parts["scales"][:, None] * 0.5001)[:3].all()


@pytest.mark.parametrize("name", ["nf4", "int8"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_stored(name: str, wrong: float) -> None:
    weight = torch.randn(3, 64, generator=draw())
    weight[1, 5] = wrong
    with pytest.raises(AssertionError, match="not finite"):
        encode(KINDS[name], weight)


def test_infinities_and_what_is_no_number_read_alike_by_both() -> None:
    blocks = random_blocks("q4_1", 2, 64)
    blocks[0, :4] = torch.tensor([0, 0x7C, 0, 0xFC], dtype=torch.uint8)  # inf, -inf
    blocks[1, :4] = torch.tensor([1, 0x7C, 0, 0], dtype=torch.uint8)  # not a number
    for dtype in DTYPES:
        found = decode(KINDS["q4_1"], {"blocks": blocks}, slice(0, 2), 64, dtype)
        other = by_torch("q4_1", {"blocks": blocks}, slice(0, 2), found)
        assert found.isnan().any()
        torch.testing.assert_close(found, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["q4_0", "q6_k", "nf4", "int8", "bf16"])
def test_every_device_gives_the_same(name: str, device: str) -> None:
    parts = stored(name, 9, 256)
    there = {part: tensor.to(device) for part, tensor in parts.items()}
    for rows in (slice(2, 7), torch.tensor([8, 0])):
        for dtype in DTYPES:
            wanted = decode(KINDS[name], parts, rows, 256, dtype)
            assert same_bits(decode(KINDS[name], there, rows, 256, dtype).cpu(), wanted)


def test_threads_change_nothing() -> None:
    parts = stored("nf4", 300, 1024)
    alone = decode(KINDS["nf4"], parts, slice(None), 1024, torch.bfloat16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert same_bits(decode(KINDS["nf4"], parts, slice(None), 1024, torch.bfloat16), alone)
    finally:
        torch.set_num_threads(before)


def decoded() -> Tensor:
    blocks = random_blocks("q8_0", 2, 64)
    return decode(KINDS["q8_0"], {"blocks": blocks}, slice(0, 2), 64, torch.float32)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Forget what was compiled; it would be looked for in an empty directory."""
    if kinds_native.library("kinds") is None:
        pytest.skip("no C++ compiler that can compile kinds.cpp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kinds_native.loaded.cache_clear()
    yield tmp_path
    kinds_native.loaded.cache_clear()


def test_decoders_are_compiled_once_and_kept(empty_cache: Path) -> None:
    decoded()
    (file,) = (empty_cache / "quatrain").iterdir()
    made = file.stat().st_mtime_ns
    kinds_native.loaded.cache_clear()
    decoded()
    assert [file.stat().st_mtime_ns] == [f.stat().st_mtime_ns for f in file.parent.iterdir()]
    assert file.stat().st_mtime_ns == made


@pytest.mark.parametrize("fault", ["none", "fails", "nonsense"])
def test_without_a_compiler_torch_decodes(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = decoded()
    compiler = tmp_path / "bin" / "c++"
    compiler.parent.mkdir()
    says = {"fails": "exit 1", "nonsense": 'while [ "$1" != -o ]; do shift; done; echo x > "$2"'}
    if fault != "none":
        compiler.write_text(f"#!/bin/sh\n{says[fault]}\n")
        compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:{os.environ['PATH']}")
    if fault == "none":
        monkeypatch.setenv("PATH", str(compiler.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kinds_native.loaded.cache_clear()
    with caplog.at_level(logging.INFO):
        assert same_bits(decoded(), wanted)
    assert "torch does what kinds would" in caplog.text
    kinds_native.loaded.cache_clear()


@pytest.mark.usefixtures("empty_cache")
def test_a_process_in_haste_lets_another_one_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds_native.Haste, "asked", True)
    monkeypatch.setattr(kinds_native.Haste, "started", {})
    monkeypatch.setattr(kinds_native.Haste, "made", set())
    started: list[list[str]] = []
    instead = SimpleNamespace(
        Popen=lambda command, **_: started.append(command),
        DEVNULL=subprocess.DEVNULL,
        SubprocessError=subprocess.SubprocessError,
    )
    monkeypatch.setattr(kinds_native, "subprocess", instead)
    assert kinds_native.library("products") is None
    assert kinds_native.library("products") is None
    (command,) = started
    assert "library('products')" in command[-1]
