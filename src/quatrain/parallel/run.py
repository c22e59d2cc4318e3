"""Run as one of several processes: join the others, train, and end with them.

Rank 0 tells its errors as ever, with their exit codes. Any other fault ends all processes with one
line, which names the process, its machine and the cause, and the exit code 7.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from quatrain.config import Config
from quatrain.errors import QuatrainError, RankError
from quatrain.parallel.interface import choose_interface
from quatrain.parallel.seat import Seat
from quatrain.parallel.shares import refuse_sizes
from quatrain.parallel.team import AFTER_US, Team
from quatrain.parallel.watch import FOLDER, say_fault
from quatrain.sections import seconds
from quatrain.train.run import Result, run
from quatrain.words import say

_dist: Any = dist
"""torch's stores have no types."""
_TO_JOIN = timedelta(seconds=60)
"""How long processes wait for one another before the first exchange."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_FROM_OTHERS = ("gloo", "NCCL", "Connection", "Socket", "store->")
"""Marks of errors that a process has because another one is gone."""


def run_together(
    config: Config, seat: Seat, started: float | None = None, quiet: bool = False
) -> Result:
    """Train as one of several; see `train.run.run`. Returns in every process."""
    if seat.rank:
        _be_silent()
    team: Team | None = None
    try:
        refuse_sizes(config, seat.world)
        team = _joined(seat, seconds(config.parallel.timeout))
        result = run(config, quiet or seat.rank > 0, started, team)
        dist.destroy_process_group()
        return result
    except KeyboardInterrupt:
        if team is not None and team.watch is not None:
            team.watch.ended("done")
        _leave(130)
    except SystemExit as error:
        _leave(int(error.code or 0))
    except BaseException as error:
        _fail(error, seat, team, config.run_dir)


def meet_only(seat: Seat) -> None:
    """Meet the other processes, and part; raises Q704 when they do not come."""
    try:
        _met(seat)
    except RankError as error:
        _fail(error, seat, None, Path())


def _joined(seat: Seat, timeout: float) -> Team:
    """Meet the other processes.

    Raises:
        RankError: Q704 when they do not come.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(seat.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    choose_interface(os.environ)
    store = _met(seat)
    dist.init_process_group(
        backend, store=store, rank=seat.rank, world_size=seat.world,
        timeout=timedelta(seconds=timeout + AFTER_US),
    )  # fmt: skip
    return Team(seat, timeout)


def _met(seat: Seat) -> Any:
    """Wait until every process is there, and give the store through which they met.

    Raises:
        RankError: Q704 naming those that did not come.
    """
    file, library, store = os.environ.get("QUATRAIN_MEET"), _dist, None
    seats = [f"seat-{rank}" for rank in range(seat.world)]
    try:
        if file:
            store = library.FileStore(file, seat.world)
        else:
            store, *_ = next(library.rendezvous("env://", timeout=_TO_JOIN))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = library.PrefixStore(attempt, store)
        store.set(seats[seat.rank], seat.host)
        store.wait(seats, _TO_JOIN)
        return store
    except (RuntimeError, ValueError) as error:
        missing = tuple[int, ...]()
        if store is not None:
            with suppress(RuntimeError):
                missing = tuple(n for n, one in enumerate(seats) if not store.check([one]))
        raise RankError(
            "Q704.missing" if missing else "Q704.join", rank=seat.rank, host=seat.host,
            world=seat.world, seconds=_TO_JOIN.total_seconds(), missing=missing,
            why=str(error).splitlines()[0],
        ) from error  # fmt: skip


def _be_silent() -> None:
    """Leave messages to the leader."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def _fail(error: BaseException, seat: Seat, team: Team | None, run_dir: Path) -> NoReturn:
    """End this process because of an error, and let the others know."""
    if os.environ.get("QUATRAIN_DEBUG"):
        traceback.print_exception(error)
    watch = team.watch if team else None
    end: dict[str, Any] = {"rank": seat.rank, "host": seat.host}
    lost: dict[str, Any] | None = None
    if isinstance(error, QuatrainError):
        end |= {"how": "error", "code": error.exit_code}
        if watch is not None:
            watch.ended(**{k: v for k, v in end.items() if k not in ("rank", "host")})
        if seat.rank == 0 or (error.code == "Q704" and _speaks_here(seat, error)):
            sys.stderr.write(say("cli.error", error=str(error)) + "\n")
            _leave(error.exit_code)
        if isinstance(error, RankError) or watch is None:
            _leave(error.exit_code)  # each process has this error, and the first one tells it
        watch.wait_for_cause()  # the leader's error is the same one, as a rule
        end |= {"how": "Q703.raised", "why": error.message, "code": RankError.exit_code}
    else:
        said = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
        if isinstance(error, RuntimeError) and any(mark in str(error) for mark in _FROM_OTHERS):
            if watch is not None:
                watch.wait_for_cause()
                lost = watch.lost()
            end |= {"how": "Q703.cut_off", "why": why}
        elif isinstance(error, MemoryError) or any(m in str(error).lower() for m in _NO_MEMORY):
            end |= {"how": "Q703.memory", "why": why}
        else:
            end |= {"how": "Q703.raised", "why": why}
        _keep_trace(error, seat, run_dir)
    if watch is None:
        say_fault(end)
    else:
        watch.tell(lost or end)
        watch.ended(**{k: v for k, v in end.items() if k not in ("rank", "host")})
    _leave(RankError.exit_code)


def _speaks_here(seat: Seat, error: QuatrainError) -> bool:
    """Whether this process is the first of its machine, among those that came."""
    first = seat.rank - seat.local_rank
    missing: Any = error.values["missing"]
    return all(rank in missing for rank in range(first, seat.rank))


def _keep_trace(error: BaseException, seat: Seat, run_dir: Path) -> None:
    folder = run_dir / FOLDER
    if folder.is_dir():
        text = "".join(traceback.format_exception(error))
        (folder / f"trace-{seat.rank}.txt").write_text(text, encoding="utf-8")


def _leave(code: int) -> NoReturn:
    """Exit at once: other threads may wait for processes that are gone."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
