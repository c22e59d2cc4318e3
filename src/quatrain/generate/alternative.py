"""The best answer to a prompt that is not a given one.

Barred answers form a tree of tokens. The best other answer leaves this tree where the tokens up to
and including the first new one are most likely together, and goes on as the model would:

    barred     Sans 0.90   réponse 0.99   <eot> 0.99
    partings   À 0.04      Sans doute 0.90 x 0.005     the first is likelier: "À Lille"

If the result is barred too, it joins the tree, and the search goes on (Lawler, 1972).

Shapes: L tokens of a barred answer, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import NamedTuple

from quatrain.config import GenerateConfig
from quatrain.generate.abstain import log_p_of
from quatrain.generate.engine import complete
from quatrain.generate.request import Completion, Watch
from quatrain.model.llama import LlamaModel

_MOST_TRIED = 8
"""Answers tried for each prompt."""
_LIKELIEST = 32
"""Tokens kept at each place: more than can be barred there."""


class _Tree:
    """What is barred after one prompt; an empty answer always is."""

    def __init__(self, stop_ids: Collection[int]) -> None:
        self.stop_ids = frozenset(stop_ids)
        self.barred: dict[tuple[int, ...], set[int]] = defaultdict(set, {(): set(stop_ids)})
        self.likely: dict[tuple[int, ...], list[tuple[float, int]]] = {}

    def bar(self, answer: Completion) -> list[int]:
        """Bar an answer; give the tokens whose alternatives are of interest."""
        ids = tuple(answer.ids)
        for place, token_id in enumerate(ids):
            self.barred[ids[:place]].add(token_id)
        if answer.finish_reason == "length" or answer.by_text:
            return [*ids]
        self.barred[ids].update(self.stop_ids)
        return [*ids, min(self.stop_ids)]

    def parting(self) -> list[int]:
        """Give the likeliest tokens with which no barred answer begins."""
        _, opening, token_id = max(
            (log_p, opening, token_id)
            for opening, likeliest in self.likely.items()
            for log_p, token_id in likeliest
            if token_id not in self.barred[opening]
        )
        return [*opening, token_id]


class Begun(NamedTuple):
    """Answers that have begun with equally many ids, and go on as the model would."""

    prompts: list[list[int]]
    """Each ends with the beginning of its answer."""
    options: GenerateConfig
    """How they go on."""
    length: int
    """Ids of each beginning."""


Search = Generator[Begun, Sequence[Completion], list[Completion]]
"""Yields answers that have begun, takes what they go on with, and returns the answers."""


def alternatives(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    barred: Sequence[int],
    is_barred: Callable[[Sequence[int]], bool],
    options: GenerateConfig,
    stop_ids: Collection[int],
    watch: Watch | None = None,
) -> list[Completion]:
    """Answer each prompt otherwise than by one given answer; see `search`."""
    going = search(model, prompts, barred, is_barred, options, stop_ids, watch)
    try:
        begun = next(going)
        while True:
            begun = going.send(
                complete(model, begun.prompts, begun.options, stop_ids, watch, begun.length)
            )
    except StopIteration as end:
        found: list[Completion] = end.value
        return found


def search(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    barred: Sequence[int],
    is_barred: Callable[[Sequence[int]], bool],
    options: GenerateConfig,
    stop_ids: Collection[int],
    watch: Watch | None = None,
) -> Search:
    """Look for answers other than a given one; with options.candidates, for one each.

    Whoever calls completes what is yielded, side by side or one after the other.

    Args:
        model: the model.
        prompts: their ids.
        barred: the ids of the answer, without the stop token.
        is_barred: whether ids are that answer in another spelling. After eight answers of which
            this is true the last one is given.
        options: how answers are generated.
        stop_ids: the ids that end an answer.
        watch: ends answers by their tokens so far.
    """
    trees = [_Tree(stop_ids) for _ in prompts]
    found = [Completion([*barred], "stop") for _ in prompts]
    waiting = list(range(len(prompts)))
    for _ in range(_MOST_TRIED):
        _grow(model, prompts, trees, {number: found[number] for number in waiting})
        openings = {number: trees[number].parting() for number in waiting}
        continued = yield from _continued(model, prompts, openings, options, stop_ids, watch)
        for number, completion in continued.items():
            found[number] = completion
        waiting = [number for number in waiting if is_barred(found[number].ids)]
        if not waiting:
            break
    return found


def _grow(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    trees: Sequence[_Tree],
    answers: Mapping[int, Completion],
) -> None:
    """Bar an answer in each of several trees, and note what is likely beside its tokens."""
    context = model.config.max_position_embeddings
    numbers = list(answers)
    paths = [trees[i].bar(answers[i])[: context - len(prompts[i])] for i in numbers]
    for place, log_p_LV in log_p_of(model, [prompts[i] for i in numbers], paths):
        path, likely = paths[place], trees[numbers[place]].likely
        top = log_p_LV.topk(min(_LIKELIEST, log_p_LV.shape[-1]))
        before = 0.0
        for depth, token_id in enumerate(path):
            values, ids = top.values[depth].tolist(), top.indices[depth].tolist()
            likely[tuple(path[:depth])] = [
                (before + value, one) for value, one in zip(values, ids, strict=True)
            ]
            before += float(log_p_LV[depth, token_id])


def _continued(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    openings: Mapping[int, list[int]],
    options: GenerateConfig,
    stop_ids: Collection[int],
    watch: Watch | None,
) -> Generator[Begun, Sequence[Completion], dict[int, Completion]]:
    """Have answers that have begun continued, those with equally long openings together."""
    found: dict[int, Completion] = {}
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, opening in openings.items():
        room = model.config.max_position_embeddings - len(prompts[number])
        if opening[-1] in stop_ids:
            found[number] = Completion(opening[:-1], "stop")
        elif watch is not None and any(map(watch(), opening)):
            found[number] = Completion(opening, "stop", by_text=True)
        elif len(opening) >= min(room, options.max_new_tokens):
            found[number] = Completion(opening[: options.max_new_tokens], "length")
        else:
            by_length[len(opening)].append(number)
    for length, numbers in by_length.items():
        rest = options.replace(
            max_new_tokens=options.max_new_tokens - length, candidates=1, logprobs=None
        )
        begun = [[*prompts[number], *openings[number]] for number in numbers]
        completions = yield Begun(begun, rest, length)
        for number, completion in zip(numbers, completions, strict=True):
            completion.ids = [*openings[number], *completion.ids]
            found[number] = completion
    return found
