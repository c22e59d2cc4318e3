"""Does another program read a GGUF file as we do? llama.cpp, or transformers where that is absent.

After each golden prompt, and along our own continuation, their likeliest tokens have a
log-probability there and one here. Not for comparing two models that run here (check.py).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.errors import CheckpointError
from quatrain.hub.check import (
    Judgement,
    Observation,
    float_model,
    observe,
    prompts_of,
    without_bars,
)
from quatrain.hub.gguf_write import library
from quatrain.hub.llama_cpp import TOP, Likeliest, likeliest
from quatrain.hub.source import Source
from quatrain.words import say

logger = logging.getLogger(__name__)

EXACT, ROUNDED = 1e-2, 0.2
"""Largest mean difference of log-probabilities, of files in f32 and of others.

llama.cpp rounds what meets a weight that is not f32, as coarsely as the weight. On random models,
which amplify that, it differed by 1e-6 in f32, by 0.04 in q8_0; another theta, scaling of RoPE or
epsilon of the norms made 0.6 and more (tests/hub/test_judge.py).
"""


def judge(path: Path, source: Source) -> Judgement | None:
    """Let another program read a file, and compare what it says with a Source of the same model.

    Args:
        path: of the GGUF file.
        source: with weights rounded as the file's.

    Returns:
        None where there is no such program, or none that can.

    Raises:
        CheckpointError: Q412 when it reads another function.
    """
    observed = observe(float_model(source), source)
    prompts = prompts_of(source)
    places = [
        prompt + ids[:number]
        for prompt, (_, ids) in zip(prompts, observed, strict=True)
        for number in range(len(ids))
    ]
    plain, context = source.tokenizer.encode("a")[0], max(map(len, places)) + 1
    by, said = "llama.cpp", likeliest(path, places, plain, context)
    if said is None:
        by, said = "transformers", _in_transformers(path, source, observed)
    if said is None:
        return None
    return _compared(by, path, said, _log_probabilities(source, observed))


def _compared(by: str, path: Path, said: list[Likeliest], ours_NV: Tensor) -> Judgement:
    pairs = list(zip(said, ours_NV, strict=True))
    apart = [abs(value - float(ours_V[token])) for one, ours_V in pairs for token, value in one]
    mean = sum(apart) / len(apart)
    equal = sum(one[0][0] == int(ours_V.argmax()) for one, ours_V in pairs)
    tolerance = EXACT if _is_exact(path) else ROUNDED
    if not mean <= tolerance:
        raise CheckpointError(
            "Q412.judged", by=by, path=path, mean=mean, tolerance=tolerance, equal=equal,
            places=len(said),
        )  # fmt: skip
    return Judgement(by, path.name, len(said), mean, equal)


def _is_exact(path: Path) -> bool:
    """Whether no weight of a file is rounded."""
    float32 = library().GGMLQuantizationType.F32
    return all(one.tensor_type == float32 for one in library().GGUFReader(path).tensors)


@torch.no_grad()
def _log_probabilities(source: Source, observed: list[Observation]) -> Tensor:
    """Give ours after each prompt and along its continuation, [N, V]."""
    return _along(float_model(source), source, observed)


def _along(model: Any, source: Source, observed: list[Observation]) -> Tensor:
    rows = []
    for prompt, (_, ids) in zip(prompts_of(source), observed, strict=True):
        out = model(torch.tensor([prompt + ids[:-1]]))
        logits_TV = (out if isinstance(out, Tensor) else out.logits)[0]
        rows.append(logits_TV[-len(ids) :].float().log_softmax(-1))
    return torch.cat(rows)


@torch.no_grad()
def _in_transformers(
    path: Path, source: Source, observed: list[Observation]
) -> list[Likeliest] | None:
    """Ask transformers, which reads dense models, and no factors of their frequencies."""
    if source.config.moe_layers or source.config.rope_scaling:
        return None
    try:
        import transformers

        with without_bars(transformers):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
            ).eval()
        best = _along(model, source, observed).topk(min(TOP, source.config.vocab_size))
    except ImportError:
        return None
    except MemoryError:
        raise
    except Exception as error:  # of any kind: it knows fewer files than llama.cpp
        logger.warning(say("log.no_judge", by="transformers", path=path.name, why=str(error)[:300]))
        return None
    return [
        list(zip(map(int, tokens), map(float, values), strict=True))
        for values, tokens in zip(best.values, best.indices, strict=True)
    ]
