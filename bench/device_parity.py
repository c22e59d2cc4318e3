"""A CUDA device computes what the CPU computes: loss, gradients and an update, within a tolerance.

    python bench/device_parity.py

In float32 (with TF32 off) the largest difference of a gradient, over the largest gradient, may be
1e-4: sums of some hundred products in another order. In bfloat16 the loss may differ by 2 %, some
three of its roundings. Packed documents, chunks and padding are in the batch. Exits with 1 when a
tolerance is broken, and with a sentence where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import torch
from saving import finish
from sides import ours, shape

from quatrain.config import TrainConfig
from quatrain.data.batches import Batch
from quatrain.train.loop import accumulate

NO_CUDA = "There is no CUDA device here: this needs an NVIDIA GPU and torch built for CUDA."
MOST_IN_FP32, MOST_IN_BF16 = 1e-4, 2e-2
SEGMENTS = [[100, 60, 90], [256], [31, 200], [17, 5, 128]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(NO_CUDA, file=sys.stderr)
        return 2
    result = compared("cuda")
    finish("device-parity", "device-parity", options, result)
    return 0 if result["agree"] else 1


def compared(device: str) -> dict[str, Any]:
    """Compare a device with the CPU."""
    loss, gradients = learned("cpu", "fp32")
    other_loss, other = learned(device, "fp32")
    rounded_loss, _ = learned(device, "bf16")
    largest = max(float(g.abs().max()) for g in gradients.values())
    worst = max(float((other[name] - g).abs().max()) for name, g in gradients.items()) / largest
    found = {
        "loss_cpu": loss, "loss_device": other_loss, "loss_device_autocast": rounded_loss,
        "largest_difference_of_gradients_over_largest_gradient": worst,
    }  # fmt: skip
    agree = (
        abs(other_loss - loss) <= MOST_IN_FP32 * loss
        and worst <= MOST_IN_FP32
        and abs(rounded_loss - loss) <= MOST_IN_BF16 * loss
    )
    tolerances = {"fp32": MOST_IN_FP32, "autocast": MOST_IN_BF16}
    return found | {"tolerances": tolerances, "agree": agree}


def learned(device: str, precision: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Compute the loss and the gradients of one packed batch, the weights drawn on the CPU."""
    config = shape(n_layers=4, d_model=256, n_heads=4, n_kv_heads=2, vocab_size=512,
                   intermediate_size_expert=256, attention_chunk_size=64)  # fmt: skip
    model = ours(config, torch.float32, "cpu").to(device)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (len(SEGMENTS), 256))
    mask = np.zeros_like(ids, dtype=np.bool_)
    for row, lengths in enumerate(SEGMENTS):
        for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
            mask[row, start + 1 : start + length] = True
    batch = Batch(ids, mask, SEGMENTS, np.arange(len(ids)), 0.0)
    loss = accumulate(model, batch, TrainConfig(learning_rate=1e-3, precision=precision)).loss
    return loss, {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    sys.exit(main())
