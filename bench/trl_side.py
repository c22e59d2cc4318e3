"""TRL's SFTTrainer on transformers' Llama 4, mended as far as it needs to run at all.

Two patches: `base_model_prefix` of Llama4ForCausalLM names an attribute that it does not have, and
the router's auxiliary loss asks its config for a field that it lacks. Gradient checkpointing, on by
default there, is off, and so is bfloat16: both sides of a comparison compute alike.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"


def has_trl() -> bool:
    """Say whether TRL is installed, and on stderr that its sides are left out where it is not."""
    there = importlib.util.find_spec("trl") is not None
    if not there:
        print("TRL is not installed (pip install -e '.[bench]'): left out", file=sys.stderr)
    return there


def trainer_of(
    model: Any, tokenizer: Path, examples: Path, work: Path, steps: int, **settings: Any
) -> Any:
    """Make a trainer; that prepares the data.

    Args:
        model: transformers' model.
        tokenizer: a directory that AutoTokenizer opens.
        examples: JSON Lines of prompt and completion, as messages.
        work: where caches go.
        steps: how many it will take.
        settings: of SFTConfig, besides those that stand here.
    """
    from datasets import load_dataset
    from transformers import AutoTokenizer, Llama4ForCausalLM
    from trl import SFTConfig, SFTTrainer

    Llama4ForCausalLM.base_model_prefix = "model"
    cache = str(work / "cache")
    dataset = load_dataset("json", data_files=str(examples), split="train", cache_dir=cache)
    arguments = SFTConfig(
        output_dir=str(work / "out"), max_steps=steps, bf16=False, gradient_checkpointing=False,
        router_aux_loss_coef=0.0, optim="adamw_torch_fused", adam_beta2=0.95, weight_decay=0.01,
        lr_scheduler_type="constant", learning_rate=1e-3, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        use_cpu=next(model.parameters()).device.type == "cpu",
        **settings,
    )  # fmt: skip
    return SFTTrainer(
        model=model, args=arguments, train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(tokenizer, local_files_only=True),
    )  # fmt: skip


def timed_training(trainer: Any, warm_up: int) -> dict[str, Any]:
    """Train; give for each step after the warm-up its seconds and what its batch held."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    counting = Counting(trainer.data_collator)
    trainer.data_collator = counting
    trainer.add_callback(Clock())
    trainer.train()
    kept = counting.counts[warm_up : len(ends)]
    return {
        "seconds": [b - a for a, b in pairwise(ends[warm_up - 1 :])],
        "answers": [answers for answers, _, _ in kept],
        "positions": [positions for _, positions, _ in kept],
        "used": [used for _, _, used in kept],
    }


class Counting:
    """A collator that counts answer tokens, positions, and positions that are not padding."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.counts: list[tuple[int, int, int]] = []

    def __call__(self, examples: Any) -> Any:
        """Collate as the inner one does."""
        batch = self.inner(examples)
        positions = batch["input_ids"].numel()
        mask = batch.get("attention_mask")
        answers = int((batch["labels"][:, 1:] != -100).sum())
        used = positions if mask is None else int(mask.sum())
        self.counts.append((answers, positions, used))
        return batch
