"""The models that are served: by name, each with an engine; those of one base share its weights."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quatrain.config import GenerateConfig
from quatrain.errors import ConfigError
from quatrain.generate.answer import Answerer
from quatrain.generate.engine import Engine
from quatrain.generate.reply import Said
from quatrain.model.io import Shelf
from quatrain.model.locate import CHECKPOINTS
from quatrain.model.stranger import is_gguf
from quatrain.run_dir import PAGE
from quatrain.serve.refusal import Refusal
from quatrain.words import Sentence

_LEAST_ROOM = 64
"""Tokens of a request for which there must be memory."""
_SHOWN = 20
"""Names that an error lists."""


@dataclass(frozen=True)
class Served:
    """A model, ready to be asked."""

    id: str
    answerer: Answerer
    engine: Any
    """An Engine of the model."""
    report: Path | None = None
    """The report of its run; the file may come and go."""
    most_tokens: int | None = None
    """For which there is memory; None sets no bound."""

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its answer."""
        context = self.answerer.model.config.max_position_embeddings
        return context if self.most_tokens is None else min(context, self.most_tokens)

    def info(self) -> dict[str, Any]:
        """Describe it for the page."""
        config, abstention = self.answerer.model.config, self.answerer.abstention
        return {
            "id": self.id,
            "base": self.answerer.model.base,
            "context": self.context,
            "vocab": config.vocab_size,
            "experts": config.num_local_experts if config.moe_layers else 0,
            "layers": config.n_layers,
            "report": self.report is not None and self.report.is_file(),
            "abstains": abstention is not None,
            "single_questions": self.answerer.single_questions,
        }


@dataclass(frozen=True)
class Question:
    """A prompt that is asked of a model, perhaps several times."""

    served: Served
    prompt: list[int]
    may_abstain: bool = True
    """Whether the model's threshold decides; not for text that is only continued."""

    def replies(self, options: GenerateConfig, choices: int) -> list[Iterator[Said]]:
        """Answer it several times, with this seed and the next ones."""
        known: list[float | None] = []
        replier = self.served.answerer.replier(self.may_abstain)

        def reply(each: GenerateConfig) -> Iterator[Said]:
            if not known:  # the score is computed once, where answers are computed
                known.append(replier.score(self.prompt))
            yield from replier.reply(self.served.engine, self.prompt, each, known[0])

        return [
            reply(options.replace(seed=(options.seed + number) % 2**63))
            for number in range(choices)
        ]


class Models(Mapping[str, Served]):
    """All that is served, by name."""

    def __init__(self, served: Sequence[Served]) -> None:
        self._served = {one.id: one for one in served}

    def __getitem__(self, name: str) -> Served:
        return self._served[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    def named(self, name: str | None) -> Served:
        """Find a model; the first one where no name is given.

        Raises:
            Refusal: 404, with the names that there are.
        """
        if name is None:
            return next(iter(self.values()))
        if name not in self._served:
            known = tuple(list(self)[:_SHOWN])
            message = Sentence.of("serve.model", known=known)
            raise Refusal(404, message, "model_not_found", "model")
        return self._served[name]


def open_models(
    names: Sequence[str],
    quantize: str | None = None,
    most_rows: int = 8,
    kv_memory: int | None = None,
) -> Models:
    """Open models to serve them.

    Args:
        names: each as `quatrain ask` takes it.
        quantize: see Answerer.
        most_rows: answers that an engine computes side by side.
        kv_memory: bytes for the keys and values of all models together; None leaves it open.

    Raises:
        ConfigError: Q208 for too little of it.
        CheckpointError: see Answerer.
    """
    shelf: Shelf = {}
    bound = None if kv_memory is None else kv_memory // len(names)
    served = []
    for name, given in zip(names_of(names), names, strict=True):
        answerer = Answerer(given, quantize=quantize, shelf=shelf)
        engine = Engine(answerer.model, most_rows=most_rows, kv_memory=bound)
        room = None if bound is None else _room(engine, bound)
        served.append(Served(name, answerer, engine, report_of(Path(given)), room))
    return Models(served)


def _room(engine: Engine, most_bytes: int) -> int:
    """Count the tokens of one request for which there is memory.

    Raises:
        ConfigError: Q208 where they are too few for a question.
    """
    tokens = range(engine.context + 1)
    room = bisect_right(tokens, most_bytes, key=lambda count: engine.store.bytes_for(count + 1)) - 1
    if room < min(_LEAST_ROOM, engine.context):
        raise ConfigError(
            "Q208.kv_memory", bytes=most_bytes, tokens=_LEAST_ROOM,
            need=engine.store.bytes_for(_LEAST_ROOM + 1),
        )  # fmt: skip
    return room


def names_of(given: Sequence[str]) -> list[str]:
    """Name models by the last parts of their paths, by as many as tell them apart.

    runs/demo -> demo     a/best, b/best -> a/best, b/best     smollm2 -> smollm2
    """
    parts = [Path(one).parts for one in given]
    lengths = [1] * len(given)
    while True:
        names = ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
        counted = Counter(names)
        longer = [i for i, name in enumerate(names)
                  if counted[name] > 1 and lengths[i] < len(parts[i])]  # fmt: skip
        if not longer:
            return _told_apart(_without_ending(names, given))
        for place in longer:
            lengths[place] += 1


def _without_ending(names: Sequence[str], given: Sequence[str]) -> list[str]:
    return [
        name.removesuffix(".gguf") if is_gguf(Path(place)) else name
        for name, place in zip(names, given, strict=True)
    ]


def _told_apart(names: Sequence[str]) -> list[str]:
    """Number a name that is given twice."""
    seen = Counter[str]()
    told = []
    for name in names:
        seen[name] += 1
        told.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return told


def report_of(model: Path) -> Path | None:
    """Find where the report of a model's run would be, if it comes from a run."""
    if model.parent.name == CHECKPOINTS:
        return model.parent.parent / PAGE
    return model / PAGE if model.is_dir() else None
