"""Compare a converted model with its source on golden prompts.

The logits of a few French and English prompts are compared, and a greedy continuation. Everything
is computed in float32, on weights rounded as the result's are, so that what remains is the error
of the conversion; what the rounding costs is a figure of its own. One model is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.hub.source import Source
from quatrain.model.io import Form, model_of
from quatrain.model.kinds_nf4 import BLOCK
from quatrain.model.llama import LlamaModel
from quatrain.text.conversation import Message

GOLDEN = (
    "Quelle est la capitale de la France ?",
    "Quel est le produit de 6 et 2 ?",
    "Écris une phrase où l'on voit l'été, un cœur et un naïf.",
    "Combien de jours y a-t-il dans une année bissextile ?",
    "Qui a écrit « Les Misérables » ?",
    "What is the capital of Italy?",
    "Name three colours, and say which one you like best.",
    "def somme(a, b):\n    return a +",
)
"""Questions of several kinds: short, numbers, accents, quotation marks, English, code."""

NEW_TOKENS = 32
_LONGEST_REASON = 300

Observation = tuple[Tensor, list[int]]
"""Of one prompt: its logits [T, V], and a greedy continuation."""


@dataclass(frozen=True)
class Rounding:
    """What rounding its weights costs a model, over all golden prompts."""

    max_logit_difference: float
    """From the logits of the weights before they were rounded."""
    greedy_tokens: int
    greedy_tokens_equal: int

    @property
    def nothing(self) -> bool:
        """Whether rounding changed nothing."""
        return not self.max_logit_difference and self.greedy_tokens_equal == self.greedy_tokens


NOTHING_ROUNDED = Rounding(0.0, 0, 0)


@dataclass(frozen=True)
class Judgement:
    """How close another program's output for a file is to ours."""

    by: str
    """llama.cpp or transformers."""
    file: str
    places: int
    """Tokens that were predicted."""
    mean_log_probability_difference: float
    """Of the likeliest tokens at each place."""
    likeliest_equal: int
    """Places where both have the same likeliest token."""


@dataclass(frozen=True)
class Agreement:
    """How close the result is to its source, over all golden prompts."""

    prompts: int
    max_logit_difference: float
    """The largest absolute difference of any logit at any position of any prompt."""
    greedy_tokens: int
    greedy_tokens_equal: int
    judged_by: str
    """transformers where one of the two ran in it, quatrain where both ran here."""
    rounding: Rounding = NOTHING_ROUNDED
    """What the other figures leave out, since both sides are rounded alike."""
    gguf: tuple[Judgement, ...] = ()
    """What other programs read in the GGUF files among the two, where there are such programs."""

    def worse(self, other: Agreement) -> Agreement:
        """Take the larger difference and the fewer equal tokens of two comparisons."""
        return replace(
            self,
            max_logit_difference=max(self.max_logit_difference, other.max_logit_difference),
            greedy_tokens_equal=min(self.greedy_tokens_equal, other.greedy_tokens_equal),
        )

    def judged(self, by_another: Judgement | None) -> Agreement:
        """Add what another program read, if one did."""
        return replace(self, gguf=(*self.gguf, by_another)) if by_another else self

    def as_dict(self) -> dict[str, Any]:
        """Give the figures by name."""
        return asdict(self)


def prompts_of(source: Source) -> list[list[int]]:
    """Encode the golden prompts, as far as they fit half of the model's context."""
    room = source.config.max_position_embeddings // 2
    return [
        source.chat.encode_prompt([Message("user", text)], source.tokenizer)[:room]
        for text in GOLDEN
    ]


def float_model(source: Source) -> LlamaModel:
    """Read a Source into a model in float32."""
    return model_of(source.config, source.tensors, torch.float32).eval()


def held_model(source: Source, quantise: str | None = None) -> LlamaModel:
    """Read a Source into a model whose weights stay as they are stored, or are quantised.

    It computes in float32.
    """
    form = Form(torch.float32, quantise)
    return model_of(source.config, source.tensors, form=form).eval()


@torch.no_grad()
def observe(model: LlamaModel, source: Source) -> list[Observation]:
    """Give, for each golden prompt, its logits [T, V] and a greedy continuation; side by side."""
    prompts, cache = prompts_of(source), model.new_cache()
    ids_1n = torch.tensor([[*chain.from_iterable(prompts)]], device=model.lm_head.weight.device)
    read = model(ids_1n, [[len(prompt) for prompt in prompts]], cache)[0]
    logits = list(read.split([len(prompt) for prompt in prompts]))
    chosen = [torch.stack([one[-1] for one in logits]).argmax(-1)]
    while len(chosen) < _new_tokens(source):
        chosen.append(model(chosen[-1][:, None], cache=cache)[:, -1].argmax(-1))
    return list(zip(logits, torch.stack(chosen, dim=1).tolist(), strict=True))


@torch.no_grad()
def observe_in_transformers(
    directory: Path, source: Source, dtype: torch.dtype
) -> list[Observation] | None:
    """Do as `observe` does, in transformers and with its own reading of the directory.

    Args:
        directory: of a dense model.
        source: gives the prompts.
        dtype: to which weights are rounded first.

    Returns:
        None where transformers is not installed, or cannot decode the directory's weights.

    Raises:
        CheckpointError: Q412 when it cannot run the directory.
    """
    try:
        import transformers
    except ImportError:
        return None
    if source.quantised and not _is_decoded_rightly(source.config):
        return None
    try:
        return _run_in(transformers, directory, source, dtype)
    except MemoryError:
        raise
    except Exception as error:  # of any kind: a field of any file of the directory
        raise CheckpointError("Q412.not_run", directory=directory, error=_short(error)) from error


def _is_decoded_rightly(config: ModelConfig) -> bool:
    """Whether bitsandbytes can decode a dense model: on a CPU, blocks must end with the rows."""
    widths = config.d_model, config.n_heads * config.d_k, config.intermediate_size_mlp
    known = all(find_spec(name) for name in ("accelerate", "bitsandbytes"))
    return known and not any(width % BLOCK for width in widths)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:_LONGEST_REASON]


def _run_in(
    transformers: Any, directory: Path, source: Source, dtype: torch.dtype
) -> list[Observation]:
    with without_bars(transformers):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        ).eval()
    if source.quantised:
        model = model.dequantize(torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()

    seen = []
    # the name of the argument since transformers 5.24, and before
    name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    for prompt in prompts_of(source):
        cached = {name: transformers.DynamicCache(config=model.config)}
        logits_TV = model(torch.tensor([prompt]), use_cache=True, **cached).logits[0]
        ids = [int(logits_TV[-1].argmax())]
        while len(ids) < _new_tokens(source):
            out = model(torch.tensor([ids[-1:]]), use_cache=True, **cached)
            ids.append(int(out.logits[0, -1].argmax()))
        seen.append((logits_TV, ids))
    return seen


@contextmanager
def without_bars(transformers: Any) -> Iterator[None]:
    """Keep transformers from drawing bars where our own say what is done."""
    logging = transformers.utils.logging
    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def _new_tokens(source: Source) -> int:
    return min(NEW_TOKENS, source.config.max_position_embeddings // 2)


def compare(
    before: list[Observation], after: list[Observation], judged_by: str = "quatrain"
) -> Agreement:
    """Compare what two models said of the same prompts."""
    pairs = list(zip(before, after, strict=True))
    equal = [
        one == other
        for (_, ours), (_, theirs) in pairs
        for one, other in zip(ours, theirs, strict=True)
    ]
    largest = max(float((a - b).abs().max()) for (a, _), (b, _) in pairs)
    return Agreement(len(pairs), largest, len(equal), sum(equal), judged_by)


def with_rounding(
    found: Agreement, unrounded: list[Observation], rounded: list[Observation]
) -> Agreement:
    """Add what rounding cost: what a model said before, and what it says after."""
    cost = compare(unrounded, rounded)
    rounding = Rounding(cost.max_logit_difference, cost.greedy_tokens, cost.greedy_tokens_equal)
    return replace(found, rounding=rounding)


def refuse_disagreement(found: Agreement, tolerance: float) -> None:
    """Stop when the result is another function than its source.

    Raises:
        CheckpointError: Q412 with the figures.
    """
    tokens_differ = found.greedy_tokens_equal < found.greedy_tokens
    if not found.max_logit_difference <= tolerance or tokens_differ:
        raise CheckpointError(
            "Q412.another",
            most=found.max_logit_difference,
            tolerance=tolerance,
            equal=found.greedy_tokens_equal,
            tokens=found.greedy_tokens,
        )
