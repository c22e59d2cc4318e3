"""The engine: prompt ids to answer ids, for requests that come and go between steps.

Knows ids only; answer.py handles text. In each step some prompts are read, a piece at a time, and
each request whose prompt is read gets its next token. A step in which all requests read gives first
tokens alone, so that they do not wait for second ones:

    step    1       2       3       4       5
    A       reads   says    says    ends
    B       reads   reads   says    says    says        a long prompt, in two pieces
    C                       waits   reads   says        comes later; takes A's place

What is read is kept in blocks (model/store.py); a prompt that begins as another did reads only the
rest. Where blocks run out, the request that came last goes back to the queue, and reads again what
it had.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock

import torch
from torch import Tensor

from quatrain.config import GenerateConfig, ModelConfig
from quatrain.errors import DataError, ResourceError
from quatrain.generate.likelihood import Likelihood, likelihoods
from quatrain.generate.request import Completion, Request, Watch
from quatrain.generate.sampling import choose
from quatrain.model.llama import LlamaModel
from quatrain.model.store import Store
from quatrain.progress import working

PIECE = 1_024
"""Tokens of prompts that are read in a step, where others wait for their next token."""
_MOST_READ, _MOST_NUMBERS = 4_096, 1 << 23
"""The most tokens and, about, states of a layer that are read in a step where nobody waits."""
_MOST_AT_ONCE = 16
"""Tokens of answers, with those of their drafts, that are read in a step."""
_TO_COME = 128
"""Tokens of an answer, at most, for which there has to be room before its prompt is read: a request
that gives up its place reads everything again, and most answers are short."""
KEYS = 512 << 20
"""Bytes for keys and values where nothing else is said."""


class Engine:
    """Answers requests side by side. One thread at a time may call `step`."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        most_rows: int = 128,
        kv_memory: int | None = None,
        piece: int | None = None,
    ) -> None:
        """Make an engine without requests.

        Args:
            model: in evaluation mode.
            most_rows: how many requests are answered side by side.
            kv_memory: bytes for the keys and values of what was read. None is 512 MB, or what one
                request needs where that is more.
            piece: tokens of prompts that are read in a step; None is 1,024.
        """
        self.model, self.most_rows, self.piece = model, most_rows, piece or PIECE
        self.context = model.config.max_position_embeddings
        self.cache = model.new_cache()
        self.store: Store = self.cache.store
        self.kv_memory = kv_memory
        self.store.most_bytes = KEYS if kv_memory is None else kv_memory
        self._waiting: deque[Request] = deque()
        self._rows: list[Request] = []
        """Those that have a place, in the order in which they came."""
        self._entry = Lock()

    @property
    def running(self) -> int:
        """Count the requests that have a place."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Count the requests that wait for one."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._rows and not self._waiting

    def submit(
        self,
        prompt_ids: Sequence[int],
        options: GenerateConfig,
        stop_ids: Collection[int] = (),
        watch: Watch | None = None,
        begun: int = 0,
        number: int = 0,
    ) -> Request:
        """Take a request. Any thread may call this.

        Args:
            prompt_ids: at least one, and fewer than the model's context holds.
            options: how the answer is generated; `candidates`, `batch_size` and `kv_memory` count
                for nothing.
            stop_ids: the ids that end an answer.
            watch: ends the answer by its tokens so far.
            begun: how many ids at the end of the prompt are the answer's already.
            number: of the prompt, for errors.

        Raises:
            DataError: Q340 for an empty prompt or one that fills the model's context.
            ResourceError: Q605 if its keys and values need more memory than there may be.
        """
        if not prompt_ids:
            raise DataError("Q340.empty", number=number)
        if len(prompt_ids) >= self.context:
            tokens = len(prompt_ids)
            raise DataError("Q340.long", number=number, tokens=tokens, context=self.context)
        ends_at = watch() if watch is not None else None
        request = Request(self.step, self.context, prompt_ids, options, stop_ids, ends_at, begun)
        with self._entry:
            self._make_room(request)
            self._waiting.append(request)
        return request

    def _make_room(self, request: Request) -> None:
        """Let the bound of memory hold this request alone, or refuse it."""
        need = self.store.bytes_for(request.most + 1)
        assert self.store.most_bytes is not None
        if need > self.store.most_bytes:
            if self.kv_memory is not None:
                raise ResourceError(
                    "Q605.keys", need=need, most=self.kv_memory, tokens=request.most
                )
            self.store.most_bytes = need

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Read a piece of some prompts, then give each request that is ready its next tokens.

        Returns:
            The requests that have new tokens or have ended.
        """
        gone = self._leave()
        self._admit()
        rows = list(self._rows)
        reading = [row for row in rows if row.num_unread > 1]
        if reading:
            self._read(reading)
        going_on = [row for row in rows if row.held and row.num_unread == 1 and not row.is_finished]
        if going_on and len(reading) < len(rows):
            self._go_on(going_on)
        changed = [row for row in rows if row.has_news]
        self._leave()
        return gone + changed

    def _leave(self) -> list[Request]:
        """Free the places of requests that have ended; give those that were cancelled."""
        with self._entry:
            gone = [one for one in self._waiting if one.is_cancelled]
            self._waiting = deque(one for one in self._waiting if not one.is_cancelled)
        ended = [row for row in self._rows if row.is_finished]
        for row in ended:
            self._give_up(row)
        self._rows = [row for row in self._rows if not row.is_finished]
        return gone + [row for row in ended if row.is_cancelled]

    def _give_up(self, row: Request) -> None:
        if row.held is not None:
            self.store.release(row.held)
            row.held = None

    def _admit(self) -> None:
        """Give places to waiting requests.

        One that begins as another one's prompt that is being read waits until it can take that
        over.
        """
        reading = [row for row in self._rows if row.num_unread > 1]
        room = self.store.room - sum(map(self._to_come, self._rows))
        with self._entry:
            for _ in range(min(len(self._waiting), self.most_rows)):
                if len(self._rows) >= self.most_rows:
                    break
                row = self._waiting.popleft()
                held = self.store.begin(row.history)
                soon = max((_alike(row.history, other.history) for other in reading), default=0)
                if (
                    _is_worth_it(soon, row)
                    and soon // self.store.size * self.store.size > held.length
                ):
                    self.store.release(held)
                    self._waiting.append(row)
                    continue
                if held.length and not _is_worth_it(held.length, row):
                    self.store.release(held)
                    held = self.store.begin()
                row.held = held
                room -= self._to_come(row)
                if room < 0 and self._rows:
                    self._give_up(row)
                    self._waiting.appendleft(row)
                    break
                self._rows.append(row)
                reading.append(row)

    def _to_come(self, row: Request) -> int:
        """Guess the bytes that a row's keys and values will take besides those that it holds."""
        assert row.held is not None
        most = min(row.most, len(row.history) + _TO_COME)
        return max(0, self.store.bytes_for(most) - self.store.bytes_of(row.held))

    def _read(self, rows: Sequence[Request]) -> None:
        """Read a piece of the prompts of some rows; those that finish get their first token."""
        first = rows[0].held
        alike = [
            row
            for row in rows
            if row.held and first and bool(row.held.length) == bool(first.length)
        ]
        room, pieces = self.piece, list[_Piece]()
        for row in alike:
            if pieces and row.num_unread > room:
                break  # a prompt that is read whole sees only itself, which is faster
            if self._reserve(row, min(room, row.num_unread)):
                pieces.append(_Piece(row, row.unread[:room]))
                room -= len(pieces[-1].ids)
        pieces = [piece for piece in pieces if piece.row.held]
        if not pieces:
            return
        done = [piece for piece in pieces if len(piece.ids) == piece.row.num_unread]
        states_nH = self._forward(pieces)
        ends = [piece.start + len(piece.ids) - 1 for piece in done]
        for piece in pieces:
            self._learn(piece.row, piece.ids)
        if done:
            self._say([piece.row for piece in done], self.model.lm_head(states_nH[ends]))

    def _go_on(self, rows: Sequence[Request]) -> None:
        """Give each row its next token, and those after it that its draft foresaw."""
        most, pieces = _MOST_AT_ONCE // len(rows) - 1, list[_Piece]()
        for row in rows:
            draft = row.lookup.draft(min(most, row.most - len(row.history) - 1))
            if self._reserve(row, 1 + len(draft)):
                pieces.append(_Piece(row, [row.history[-1], *draft]))
        pieces = [piece for piece in pieces if piece.row.held]
        if not pieces:
            return
        logits_nV = self.model.lm_head(self._forward(pieces))
        depth, going_on = 0, pieces
        while going_on:
            places = [piece.start + depth for piece in going_on]
            here = logits_nV if len(places) == len(logits_nV) else logits_nV[places]
            said = self._say([piece.row for piece in going_on], here)
            depth += 1
            for piece in going_on:
                piece.right = depth
            going_on = [
                piece
                for piece, token_id in zip(going_on, said, strict=True)
                if not piece.row.is_finished and piece.ids[depth : depth + 1] == [token_id]
            ]
        for piece in pieces:
            self._learn(piece.row, piece.ids[: piece.right])
            piece.row.lookup.judge(len(piece.ids) - 1, piece.right - 1)

    def _reserve(self, row: Request, count: int) -> bool:
        """Make room for tokens of a row; the row that came last gives up its place if it must."""
        while row.held is not None:
            if self.store.reserve(row.held, count):
                return True
            last = self._rows.pop()
            self._give_up(last)
            with self._entry:
                self._waiting.appendleft(last)
        return False

    def _forward(self, pieces: Sequence[_Piece]) -> Tensor:
        """Read new ids of some rows; give their hidden states [n, H]."""
        self.cache.sequences = [piece.row.held for piece in pieces if piece.row.held]
        counts = [len(piece.ids) for piece in pieces]
        for piece, end in zip(pieces, accumulate(counts), strict=True):
            piece.start = end - len(piece.ids)
        ids = [token_id for piece in pieces for token_id in piece.ids]
        ids_1n = torch.tensor([ids], device=self.model.device)
        states_1nH: Tensor = self.model.model(ids_1n, [counts], self.cache).states
        return states_1nH[0]

    def _learn(self, row: Request, ids: Sequence[int]) -> None:
        assert row.held is not None
        self.store.learn(row.held, ids)

    def _say(self, rows: Sequence[Request], logits_BV: Tensor) -> list[int]:
        """Choose the next token of each row by its logits, and take it."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            places[id(row.options)].append(place)
        said = [0] * len(rows)
        for alike in places.values():
            logits = logits_BV if len(alike) == len(rows) else logits_BV[alike]
            for place, token_id, likelihood in _chosen([rows[i] for i in alike], alike, logits):
                said[place] = token_id
                rows[place].add(token_id, likelihood)
        return said


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the ids at the beginning that are the same, all but the last."""
    pairs = enumerate(zip(one, other, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    return min(same, len(one) - 1)


def _is_worth_it(taken_over: int, row: Request) -> bool:
    """Whether to take over a beginning: a whole prompt is read faster than the rest of one."""
    return 4 * taken_over >= len(row.history)


@dataclass
class _Piece:
    """Ids of a row that are read in a step."""

    row: Request
    ids: list[int]
    start: int = 0
    """Where they begin among all that are read."""
    right: int = 0
    """How many of them the answer has."""


def _chosen(
    rows: Sequence[Request], places: Sequence[int], logits_BV: Tensor
) -> Iterator[tuple[int, int, Likelihood | None]]:
    """Choose tokens for rows with the same options, with likelihoods if those are asked for."""
    options = rows[0].options
    histories, draws = [row.history for row in rows], [row.draw for row in rows]
    chosen_B = choose(logits_BV, options, histories, draws, [row.answer for row in rows])
    likely: Sequence[Likelihood | None] = [None] * len(rows)
    if options.logprobs is not None:
        likely = likelihoods(logits_BV, chosen_B, options.logprobs)
    return zip(places, chosen_B.tolist(), likely, strict=True)


def largest_piece(config: ModelConfig) -> int:
    """Say how many tokens are read in a step where nobody waits: many, unless states are wide."""
    return max(PIECE, min(_MOST_READ, _MOST_NUMBERS // config.d_model))


def complete(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    options: GenerateConfig,
    stop_ids: Collection[int],
    watch: Watch | None = None,
    begun: int = 0,
) -> list[Completion]:
    """Answer every prompt, options.batch_size side by side, those that begin alike one by one.

    Args:
        model: the model.
        prompts: their ids.
        options: how answers are generated.
        stop_ids: the ids that end an answer.
        watch: ends answers by their tokens so far.
        begun: how many ids at the end of each prompt are the answer's already.

    Returns:
        options.candidates completions for the first prompt, then for the second, and so on.
    """
    each = options.candidates
    piece = largest_piece(model.config)
    engine = Engine(model, most_rows=options.batch_size, kv_memory=options.kv_bytes, piece=piece)
    completions = [Completion() for _ in prompts for _ in range(each)]
    drawn = [options] + [
        options.replace(seed=(options.seed + number) % 2**63) for number in range(1, each)
    ]
    place_of: dict[Request, int] = {}
    for number, prompt in sorted(enumerate(prompts), key=lambda one: list(one[1])):
        for candidate in range(each):
            request = engine.submit(prompt, drawn[candidate], stop_ids, watch, begun, number)
            place_of[request] = number * each + candidate
    with working("progress.answers", total=len(completions)) as work:
        while not engine.is_idle:
            for request in engine.step():
                for step in request.take():
                    completions[place_of[request]].add(step)
                work.advance(request.is_finished)
    return completions
