"""The quantised kinds of GGUF files: blocks of bytes become numbers.

    q4_0, 18 bytes:  d d | 0,16  1,17  2,18 ... 15,31
                     a scale, then two numbers a byte, the lower half of the byte first

In a block of 32, a number is d q or d q + m. In a block of 256 (K kinds), each 16 or 32 numbers
have a scale and most a minimum, small whole numbers that d and m multiply. Each step is rounded to
float32 as in llama.cpp's reference, so that the numbers are the same bit for bit.

Shapes: N blocks; B bytes of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor


def _half(blocks_NB: Tensor, at: int) -> Tensor:
    """Read a float16 of each block, as float32 [N, 1]."""
    return blocks_NB[:, at : at + 2].view(torch.float16).float()


def _q8_0(blocks_NB: Tensor, wide: Tensor) -> None:
    wide.copy_(blocks_NB[:, 2:].view(torch.int8)).mul_(_half(blocks_NB, 0))


def _q4_0(blocks_NB: Tensor, wide: Tensor) -> None:
    _halves(blocks_NB[:, 2:], wide)
    wide.sub_(8).mul_(_half(blocks_NB, 0))


def _q4_1(blocks_NB: Tensor, wide: Tensor) -> None:
    _halves(blocks_NB[:, 4:], wide)
    wide.mul_(_half(blocks_NB, 0)).add_(_half(blocks_NB, 2))


def _q5_0(blocks_NB: Tensor, wide: Tensor) -> None:
    _with_fifth_bits(blocks_NB[:, 2:], wide)
    wide.sub_(16).mul_(_half(blocks_NB, 0))


def _q5_1(blocks_NB: Tensor, wide: Tensor) -> None:
    _with_fifth_bits(blocks_NB[:, 4:], wide)
    wide.mul_(_half(blocks_NB, 0)).add_(_half(blocks_NB, 2))


def _halves(codes: Tensor, wide: Tensor) -> None:
    """Write the lower halves of 16 bytes, then the upper ones."""
    wide[:, :16].copy_(codes & 15)
    wide[:, 16:].copy_(codes >> 4)


def _with_fifth_bits(codes: Tensor, wide: Tensor) -> None:
    """Write numbers of five bits; four bytes hold the highest of each, then come the halves."""
    index = codes[:, :4].int().view(-1)
    q = _spread_bits(codes.device).index_select(0, index).view(torch.uint8).view(-1, 32)
    q[:, :16] |= codes[:, 4:] & 15
    q[:, 16:] |= codes[:, 4:] >> 4
    wide.copy_(q)


@cache
def _spread_bits(device: torch.device) -> Tensor:
    """Give for each byte its eight bits, the lowest first, as bytes of 0 or 16 in one int64."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return (bits << 4).to(torch.uint8).view(torch.int64).view(-1).to(device)


def _q4_k(blocks_NB: Tensor, wide: Tensor) -> None:
    scales, minima = _scales_and_minima(blocks_NB)
    q = wide.view(-1, 4, 2, 32)
    codes = blocks_NB[:, 16:].unflatten(1, (4, 32))
    q[:, :, 0].copy_(codes & 15)
    q[:, :, 1].copy_(codes >> 4)
    wide.view(-1, 8, 32).mul_(scales).sub_(minima)


def _q5_k(blocks_NB: Tensor, wide: Tensor) -> None:
    scales, minima = _scales_and_minima(blocks_NB)
    high, codes = blocks_NB[:, 16:48], blocks_NB[:, 48:].unflatten(1, (4, 32))
    q = torch.empty(len(wide), 4, 2, 32, dtype=torch.uint8, device=wide.device)
    torch.bitwise_and(codes, 15, out=q[:, :, 0])
    torch.bitwise_right_shift(codes, 4, out=q[:, :, 1])
    for bit in range(8):
        q[:, bit // 2, bit % 2] |= (high << 4 - bit if bit < 4 else high >> bit - 4) & 16
    wide.copy_(q.view_as(wide))
    wide.view(-1, 8, 32).mul_(scales).sub_(minima)


def _q6_k(blocks_NB: Tensor, wide: Tensor) -> None:
    low, high = (
        blocks_NB[:, :128].unflatten(1, (2, 64)),
        blocks_NB[:, 128:192].unflatten(1, (2, 32)),
    )
    q = torch.empty(len(wide), 2, 4, 32, dtype=torch.uint8, device=wide.device)
    torch.bitwise_and(low, 15, out=q.view(-1, 2, 2, 64)[:, :, 0])
    torch.bitwise_right_shift(low, 4, out=q.view(-1, 2, 2, 64)[:, :, 1])
    for pair in range(4):
        q[:, :, pair] |= (high << 4 - 2 * pair if pair < 2 else high >> 2 * pair - 4) & 48
    scales = blocks_NB[:, 192:208].view(torch.int8).float().mul_(_half(blocks_NB, 208))
    wide.copy_(q.view_as(wide)).sub_(32)
    wide.view(-1, 16, 16).mul_(scales[:, :, None])


def _scales_and_minima(blocks_NB: Tensor) -> tuple[Tensor, Tensor]:
    """Unpack the eight scales and minima of q4_k and q5_k: [N, 8, 1] each.

    They have six bits. Four bytes hold scales 0 to 3 and four minima 0 to 3, with two bits of
    numbers 4 to 7 on top of each; four bytes more hold the other bits of these.
    """
    first, second, rest = blocks_NB[:, 4:16].unflatten(1, (3, 4)).unbind(1)
    scales = torch.cat([first & 63, (rest & 15) | (first >> 2 & 48)], 1)
    minima = torch.cat([second & 63, (rest >> 4) | (second >> 2 & 48)], 1)
    return (
        (scales.float() * _half(blocks_NB, 0))[:, :, None],
        (minima.float() * _half(blocks_NB, 2))[:, :, None],
    )


def _writer(
    block: int, write: Callable[[Tensor, Tensor], None]
) -> Callable[[Mapping[str, Tensor], Tensor], None]:
    def write_rows(parts: Mapping[str, Tensor], wide: Tensor) -> None:
        write(parts["blocks"], wide.view(-1, block))

    return write_rows


LAYOUTS = {
    name: (block, num_bytes, _writer(block, write))
    for name, block, num_bytes, write in (
        ("q8_0", 32, 34, _q8_0),
        ("q4_0", 32, 18, _q4_0),
        ("q4_1", 32, 20, _q4_1),
        ("q5_0", 32, 22, _q5_0),
        ("q5_1", 32, 24, _q5_1),
        ("q4_k", 256, 144, _q4_k),
        ("q5_k", 256, 176, _q5_k),
        ("q6_k", 256, 210, _q6_k),
    )
}
"""By name: the numbers of a block, its bytes, and what writes rows of blocks as float32."""
