"""Read ahead: while a layer computes, the bytes of the one that comes next are read from the disk.

Layers are visited in order, and in reverse for gradients. Their weights are mapped files: what is
not in memory is read at the first touch, page by page, unless the system was told in time. It lets
go by itself of what was not used for longest. Only advice is given, so that nothing can go wrong.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from torch import nn

from quatrain.model.frozen import Frozen

LARGE = 1 << 30
"""Bytes of weights from which on advice is given."""
_WILL_NEED = 3

Span = tuple[int, int]
"""An address and a number of bytes."""


def read_ahead(layers: Sequence[nn.Module]) -> bool:
    """Advise the system of each layer's weights while the layer before it computes.

    Returns:
        whether there is anything to read ahead, and the system takes advice.
    """
    spans = [_spans(layer) for layer in layers]
    if sum(size for layer in spans for _, size in layer) < LARGE or not hasattr(
        mmap, "MADV_WILLNEED"
    ):
        return False
    ahead = _Ahead(spans)
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(partial(ahead.visited, index))
    return True


def _spans(layer: nn.Module) -> list[Span]:
    """List where the stored weights of a layer lie."""
    held = [part for one in layer.modules() if isinstance(one, Frozen) for part in one.buffers()]
    held += [p for p in layer.parameters() if not p.requires_grad]
    return [(one.data_ptr(), one.nbytes) for one in held if one.device.type == "cpu"]


class _Ahead:
    def __init__(self, spans: list[list[Span]]) -> None:
        self.spans, self.last = spans, -1
        self.reader = ThreadPoolExecutor(1, "read-ahead")
        self.madvise = ctypes.CDLL(None).madvise
        self.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def visited(self, index: int, *_: Any) -> None:
        """Have the next layer read: the one after this, or before it on the way back."""
        following = index + 1 if index > self.last else index - 1
        self.last = index
        if 0 <= following < len(self.spans):
            self.reader.submit(self._advise, self.spans[following])

    def _advise(self, spans: list[Span]) -> None:
        for address, size in spans:
            start = address // mmap.PAGESIZE * mmap.PAGESIZE
            self.madvise(start, address + size - start, _WILL_NEED)
