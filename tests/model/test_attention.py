"""Attention: its implementations agree, and nothing leaks between documents."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from quatrain.model import attention, blocks
from quatrain.model.attention import (
    Attention,
    attend,
    attend_cached,
    attend_run_by_run,
    attend_variable_length,
)
from quatrain.model.blocks import Sizes, attend_by_blocks, weights_kept
from quatrain.model.cache import Step
from quatrain.model.layout import Layout, Runs
from quatrain.model.store import Store
from tiny import CONFIGS, random_ids, tiny_config, tiny_model

# float32 sums in another order, of values of size 1
TOLERANCE = dict(atol=2e-6, rtol=1e-5)


def heads(
    rows: int, length: int, seed: int = 0, device: str = "cpu", width: int = 8
) -> tuple[Tensor, ...]:
    """Four query heads, two key heads."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, n, length, width) for n in (4, 2, 2)]
    return tuple(torch.randn(shape, generator=generator).to(device) for shape in shapes)


def cut(source: random.Random, length: int, pieces: int) -> list[int]:
    bounds = [0, *sorted(source.sample(range(1, length), pieces - 1)), length]
    return [b - a for a, b in pairwise(bounds)]


def random_runs(seed: int, rows: int = 3, length: int = 50, device: str = "cpu") -> Runs:
    """Documents, cut again at chunks inside them."""
    source = random.Random(seed)
    lengths = [cut(source, length, source.randint(1, 6)) for _ in range(rows)]
    return Runs(lengths, torch.device(device)).split(source.randint(1, 20))


def by_hand(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
    """Softmax over the visible keys, written out."""
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible(runs), -torch.inf)
    return scores.softmax(-1) @ v


def visible(runs: Runs) -> Tensor:
    """Keys that each query sees, [B, 1, T, T]."""
    masks = [
        torch.block_diag(*(torch.ones(n, n, dtype=torch.bool).tril() for n in row))
        for row in runs.lengths
    ]
    return torch.stack(masks)[:, None].to(runs.device)


def test_one_key_is_copied_and_two_equal_keys_are_averaged() -> None:
    q = k = torch.zeros(1, 1, 2, 2)
    v = torch.tensor([[[[1.0, 0.0], [3.0, 4.0]]]])
    out = attend(q, k, v, Runs([[2]], torch.device("cpu")))
    assert out[0, 0].tolist() == [[1.0, 0.0], [2.0, 2.0]]


SIZES = [None, Sizes(1, 1), Sizes(4, 100), Sizes(7, 3000), Sizes(16, 1 << 20), Sizes(64, 1 << 20)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sizes", SIZES)
def test_blocks_agree_with_the_formula_and_so_do_their_gradients(
    seed: int, sizes: Sizes | None, device: str
) -> None:
    runs, given = random_runs(seed, device=device), heads(3, 50, seed, device)
    upwards = heads(3, 50, seed + 1, device)[0]
    found, expected = (
        with_gradients(way, given, upwards)
        for way in (
            lambda q, k, v: attend_by_blocks(q, k, v, runs, sizes),
            lambda q, k, v: by_hand(q, k, v, runs),
        )
    )
    for ours, exact in zip(found, expected, strict=True):
        assert_close(ours, exact, **TOLERANCE)


@pytest.mark.parametrize("sizes", SIZES)
def test_weights_that_are_kept_and_those_computed_again_give_the_same_gradients(
    sizes: Sizes | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, given = random_runs(0, device=device), heads(3, 50, device=device)
    upwards = heads(3, 50, 1, device)[0]
    found = []
    for most in (50, 0):
        monkeypatch.setattr(blocks, "_MOST_KEPT", most)
        found.append(
            with_gradients(lambda q, k, v: attend_by_blocks(q, k, v, runs, sizes), given, upwards)
        )
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))


@pytest.mark.parametrize("most", [97, 96, 95])
def test_as_many_weights_are_kept_as_is_said(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_MOST_KEPT", most)
    runs, given = Runs([[128, 128]] * 2, torch.device("cpu")), heads(2, 256)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.numel()) or x, lambda x: x
    ):
        attend_by_blocks(*(x.requires_grad_() for x in given), runs)
    weights = sum(saved) - sum(x.numel() for x in given)
    assert weights == weights_kept(runs, 4) * 2 * 4 * 256
    assert weights_kept(runs, 4) == (96 if most >= 96 else 0)


def with_gradients(
    way: Callable[..., Tensor], given: tuple[Tensor, ...], upwards: Tensor
) -> list[Tensor]:
    """What attention gives, and the gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in given]
    out = way(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, upwards)]


def test_the_gradients_of_blocks_are_those_of_small_differences_in_double() -> None:
    runs, given = Runs([[3, 4, 3], [10]], torch.device("cpu")), heads(2, 10, width=2)
    leaves = [x.double().requires_grad_() for x in given]
    assert torch.autograd.gradcheck(
        lambda q, k, v: attend_by_blocks(q, k, v, runs, Sizes(4, 100)), leaves
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_blocks_of_bfloat16_are_computed_in_float32_and_rounded_once(autocast: bool) -> None:
    runs, given = random_runs(0), tuple(x.bfloat16() for x in heads(3, 50))
    upwards = heads(3, 50, 1)[0].bfloat16()
    wide = with_gradients(
        lambda q, k, v: attend_by_blocks(q, k, v, runs), tuple(x.float() for x in given),
        upwards.float(),
    )  # fmt: skip
    with torch.autocast("cpu", enabled=autocast):
        found = with_gradients(lambda q, k, v: attend_by_blocks(q, k, v, runs), given, upwards)
    for ours, exact in zip(found, wide, strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, exact.bfloat16())


def test_a_block_multiplies_only_keys_from_the_block_where_its_first_run_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, shapes, bmm = Runs([[3, 4, 3]], torch.device("cpu")), [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: shapes.append((a.shape, b.shape)) or bmm(a, b))
    attend_by_blocks(*heads(1, 10), runs, Sizes(4, 1 << 20))
    keys = [b[2] for _, b in shapes[::2]]
    assert keys == [4, 8, 6]


def test_what_one_layer_derived_of_the_runs_serves_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, made, parts = random_runs(0), [], blocks._parts
    monkeypatch.setattr(blocks, "_parts", lambda *given: made.append(given) or parts(*given))
    first, second = (attend_by_blocks(*heads(3, 50), runs) for _ in range(2))
    assert torch.equal(first, second)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("lengths", "way"),
    [([1024], "blocks"), ([1025], "kernel"), ([1000, 25], "blocks")],
)
def test_long_rows_of_one_run_are_for_the_kernel_of_pytorch(
    lengths: list[int], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_sdpa", lambda *_: "kernel")
    monkeypatch.setattr(attention, "attend_by_blocks", lambda *_: "blocks")
    runs = Runs([lengths], torch.device("cpu"))
    assert attend(*heads(1, sum(lengths)), runs) == way


@pytest.mark.parametrize("seed", range(10))
def test_runs_read_one_by_one_agree_with_the_formula(seed: int) -> None:
    runs, given = random_runs(seed, rows=1), heads(1, 50, seed)
    assert_close(attend_run_by_run(*given, runs), by_hand(*given, runs), **TOLERANCE)


@pytest.mark.parametrize(
    ("lengths", "learns", "way"),
    [([[128, 300]], False, "apart"), ([[128, 300]], True, "blocks"),
     ([[127, 128]], False, "blocks"), ([[200, 200]] * 2, False, "blocks")],
)  # fmt: skip
def test_long_runs_of_a_row_are_read_one_by_one_where_no_gradient_is_wanted(
    lengths: list[list[int]], learns: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "attend_run_by_run", lambda *_: "apart")
    monkeypatch.setattr(attention, "attend_by_blocks", lambda *_: "blocks")
    given = heads(len(lengths), sum(lengths[0]))
    with torch.set_grad_enabled(learns):
        assert attend(*given, Runs(lengths, torch.device("cpu"))) == way


def test_rows_of_one_run_are_plain_causal_attention(device: str) -> None:
    runs, (q, k, v) = Runs([[30], [30]], torch.device(device)), heads(2, 30, device=device)
    assert_close(attend(q, k, v, runs), by_hand(q, k, v, runs), **TOLERANCE)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("chunk", [None, 1, 2, 7, 16])
def test_a_cache_fed_in_pieces_agrees_with_the_formula(seed: int, chunk: int | None) -> None:
    source = random.Random(seed)
    q, k, v = heads(2, 40, seed)
    document = Runs([[40], [40]], torch.device("cpu"))
    expected = by_hand(q, k, v, document.split(chunk) if chunk else document)
    store, outs, start = store_like(k, chunk), [], 0
    rows = [store.begin(), store.begin()]
    for length in cut(source, 40, source.randint(1, 12)):
        part = slice(start, start + length)
        step = Step(store, rows, [length] * 2, q.device)
        new = (end_to_end(x[:, :, part]) for x in (q, k, v))
        if step.is_fresh:
            q_new, k_new, v_new = new
            chunks = step.layout(chunk).chunks
            assert chunks is not None
            step.layer(0).store(k_new, v_new)
            out = attend(q_new, k_new, v_new, chunks)
        else:
            out = attend_cached(*new, step.layer(0))
        step.finish()
        outs.append(out[0].unflatten(1, (2, length)).transpose(0, 1))
        start += length
    assert_close(torch.cat(outs, dim=2), expected, **TOLERANCE)


def end_to_end(x_BNTD: Tensor) -> Tensor:
    return x_BNTD.transpose(0, 1).flatten(1, 2)[None]


def store_like(k: Tensor, chunk: int | None) -> Store:
    heads, width = k.shape[1], k.shape[-1]
    return Store(
        tiny_config(n_layers=1, rope_layers=(int(chunk is not None),), moe_layers=(), d_k=width,
                    n_heads=heads, n_kv_heads=heads, attention_chunk_size=chunk)
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="variable-length kernels need CUDA")
@pytest.mark.parametrize("width", [16, 128])
@pytest.mark.parametrize("seed", range(10))
def test_the_variable_length_kernel_agrees_with_the_mask(seed: int, width: int) -> None:
    runs = random_runs(seed, device="cuda")
    rounded = [x.bfloat16() for x in heads(3, 50, seed, "cuda", width)]
    found, expected = [], []
    for into, kernel, dtype in (
        (found, attend_variable_length, torch.bfloat16),
        (expected, by_hand, torch.float32),
    ):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in rounded]
        out = kernel(*leaves, runs)
        out.square().sum().backward()
        into += [x.float() for x in (out, *(leaf.grad for leaf in leaves))]
    assert_close(found[0], expected[0], atol=2e-2, rtol=2e-2)  # bfloat16 has 8 bits
    for gradient, exact in zip(found[1:], expected[1:], strict=True):
        assert (gradient - exact).norm() < 2e-2 * exact.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is counted on CUDA")
def test_float32_on_cuda_never_holds_all_scores() -> None:
    q, k, v = heads(1, 4096, device="cuda", width=64)
    for runs in (Runs([[4096]], q.device), Runs([[2000, 2096]], q.device)):
        attend(q, k, v, runs)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        attend(q, k, v, runs)
        scores = 4 * 4096 * 4096 * 4
        assert torch.cuda.max_memory_allocated() - before < scores / 2


class Somewhere(NamedTuple):
    """What the choice of a kernel reads of a query tensor, which may be on no machine here."""

    dtype: torch.dtype = torch.bfloat16
    shape: tuple[int, ...] = (1, 4, 10, 128)
    is_cuda: bool = True
    device: str = "cuda"


@pytest.mark.parametrize(
    ("q", "capability", "serves"),
    [
        (Somewhere(), (8, 0), True),
        (Somewhere(shape=(1, 4, 10, 16)), (9, 0), True),
        (Somewhere(shape=(1, 4, 10, 256)), (9, 0), True),
        (Somewhere(shape=(1, 4, 10, 12)), (9, 0), False),
        (Somewhere(shape=(1, 4, 10, 264)), (9, 0), False),
        (Somewhere(dtype=torch.float32), (9, 0), False),
        (Somewhere(), (7, 5), False),
        (Somewhere(is_cuda=False), (9, 0), False),
    ],
)
def test_flash_serves_16_bits_a_fitting_width_and_ampere_or_later(
    q: Somewhere, capability: tuple[int, int], serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert attention._flash_serves(q) is serves  # type: ignore[arg-type]


def test_keys_are_repeated_where_flash_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def kernel(q: Tensor, k: Tensor, v: Tensor, **options: object) -> None:
        raise Seen((k.shape[1], v.shape[1], options["enable_gqa"]))

    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    k = torch.ones(1, 2, 10, 12)
    wide = Somewhere(dtype=torch.float32)
    for q, mask, expected in (
        (wide, None, (4, 4, False)),
        (wide, k, (4, 4, False)),
        (wide._replace(is_cuda=False), None, (2, 2, True)),
        (wide._replace(is_cuda=False), k, (2, 2, True)),
    ):
        with pytest.raises(Seen) as seen:
            attention._sdpa(q, k, k, mask)  # type: ignore[arg-type]
        assert seen.value.args[0] == expected


@pytest.mark.parametrize("autocast", [False, True])
def test_without_amx_a_cpu_attends_to_bfloat16_in_float32(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 40, 8, generator=draw).bfloat16() for n in (4, 2, 2))
    wide = attention._sdpa(q.float(), k.float(), v.float()).bfloat16()
    monkeypatch.setattr(attention, "_has_amx", lambda: False)
    with torch.autocast("cpu", enabled=autocast):
        found = attention._sdpa(q, k, v)
    assert torch.equal(found, wide)
    monkeypatch.setattr(attention, "_has_amx", lambda: True)
    assert not torch.equal(attention._sdpa(q, k, v), wide)


@pytest.mark.parametrize("name", CONFIGS)
def test_another_document_changes_no_bit_of_this_one(name: str) -> None:
    # without experts: the number of rows an expert has decides how their sums are ordered
    model = tiny_model(tiny_config(name, moe_layers=()))
    ids = random_ids(1, 70)
    changed = ids.clone()
    changed[:, :20] = (changed[:, :20] + 1) % 96
    with torch.no_grad():
        before, after = (model(x, [[20, 50]])[0] for x in (ids, changed))
    assert not torch.equal(before[:20], after[:20])
    assert torch.equal(before[20:], after[20:])


@pytest.mark.parametrize("name", CONFIGS)
def test_no_gradient_at_all_flows_between_documents(name: str) -> None:
    model, seen = tiny_model(tiny_config(name)), []
    model.model.embed_tokens.register_forward_hook(lambda _, __, x: seen.append(x))
    logits = model(random_ids(1, 70), [[20, 50]])
    (grad,) = torch.autograd.grad(logits[0, 20:].square().sum(), seen)
    assert (grad[0, :20] == 0).all()
    assert (grad[0, 20:] != 0).any(-1).all()


def test_a_later_token_changes_no_bit_of_an_earlier_one() -> None:
    model = tiny_model(tiny_config("no_moe"))
    ids = random_ids(1, 70)
    changed = ids.clone()
    changed[:, 50:] = (changed[:, 50:] + 1) % 96
    with torch.no_grad():
        assert torch.equal(model(ids)[0, :50], model(changed)[0, :50])


def test_a_layer_with_rope_sees_its_chunk_only_and_one_without_sees_everything() -> None:
    ids = random_ids(1, 12)
    changed = ids.clone()
    changed[0, 0] = (ids[0, 0] + 1) % 96
    for rope, reached in ((1, [True] * 4 + [False] * 8), (0, [True] * 12)):
        model = tiny_model(
            tiny_config("no_moe", n_layers=1, rope_layers=(rope,), attention_chunk_size=4)
        )
        with torch.no_grad():
            differs = (model(ids) != model(changed)).any(-1)[0]
        assert differs.tolist() == reached


def test_the_temperature_rises_at_multiples_of_floor_scale() -> None:
    attention = Attention(tiny_config(floor_scale=4, rope_layers=(0, 1, 1, 1)), layer=0)
    found = attention._temperature(torch.arange(8)[None]).flatten()
    ln2, ln3 = 0.693147, 1.098612
    expected = [1, 1, 1, *([1 + 0.1 * ln2] * 4), 1 + 0.1 * ln3]
    assert_close(found, torch.tensor(expected))


def test_scout_numbers_of_the_temperature() -> None:
    attention = Attention(tiny_config(floor_scale=8192, rope_layers=(0, 1, 1, 1)), layer=0)
    found = attention._temperature(torch.tensor([[8190, 8191, 131071]])).flatten()
    assert_close(found, torch.tensor([1.0, 1.0693, 1.2833]), atol=1e-4, rtol=0)


def test_the_temperature_counts_from_the_start_of_the_document() -> None:
    attention = Attention(tiny_config(floor_scale=4, rope_layers=(0, 1, 1, 1)), layer=0)
    positions = Layout.of((1, 12), [[7, 5]], None, torch.device("cpu")).positions
    found = attention._temperature(positions).flatten()
    assert torch.equal(found[7:], found[:5])


def test_the_temperature_is_for_layers_without_rope() -> None:
    layers = [Attention(tiny_config(), layer) for layer in range(4)]
    assert [layer.tunes_temperature for layer in layers] == [False, False, False, True]
    assert [layer.uses_qk_norm for layer in layers] == [True, True, True, False]
