"""Watch the other processes of a run, so that a fault of one ends all of them, with one line.

    RUN/.ranks/beat-3.json   where process 3 is; rewritten twice a second
               end-3.json    how it ended: done, or by which error
               told          whoever makes it says the line

Each process has a thread that looks at the others' files. It needs no answer from the thread that
computes, which may wait for ever for a process that is gone. Clocks of machines are not compared.
Not for the exchange of tensors; torch is not imported.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from quatrain.errors import RankError
from quatrain.parallel.seat import Seat
from quatrain.words import say, speak, spoken

FOLDER, TOLD = ".ranks", "told"
_EVERY = 0.5
"""Seconds between two beats."""
_TO_HEAR = 2.0
"""Seconds until what a process does has been read by the others."""
_LOST = 20.0
"""Seconds without a beat after which a process of another machine counts as gone."""
_GRACE = 6.0
"""Seconds to wait for the cause of an error that another process may have caused."""


@dataclass
class _Peer:
    beat: dict[str, Any]
    seen: float
    """When the beat changed last, by this process' clock."""


class Watch:
    """The thread that watches, and what it knows."""

    def __init__(self, run_dir: Path, seat: Seat, timeout: float) -> None:
        """Watch the processes of a run.

        Args:
            run_dir: which all processes share.
            seat: of this process.
            timeout: seconds that an exchange may take.
        """
        self.folder, self.seat, self.timeout = run_dir / FOLDER, seat, timeout
        self.step = 0
        self._is_patient = False
        self._computes = threading.get_ident()
        self._place: Any = None
        self._there_since = time.monotonic()
        self._count = 0
        self._peers: dict[int, _Peer] = {}
        self._over, self._language = threading.Event(), spoken().language
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    @staticmethod
    def clear(run_dir: Path) -> None:
        """Forget what processes wrote before."""
        shutil.rmtree(run_dir / FOLDER, ignore_errors=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.ended("done")
            self._over.set()
            self._thread.join()

    def left_mark(self) -> str:
        """Leave a file that no other folder has, and give its name."""
        name = f"mark-{uuid.uuid4().hex}"
        (self.folder / name).touch()
        return name

    def sees(self, name: str) -> bool:
        """Say whether a file is there; some file systems show it late."""
        until = time.monotonic() + _GRACE
        while not (self.folder / name).exists():
            if time.monotonic() > until:
                return False
            time.sleep(_EVERY / 5)
        return True

    def ended(self, how: str, **values: Any) -> None:
        """Write how this process ended; the others then know."""
        about = {"rank": self.seat.rank, "host": self.seat.host, "how": how}
        self._write(f"end-{self.seat.rank}.json", {**about, **values})

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Wait in the body for the leader's disk, which may take longer than an exchange."""
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False

    def wait_for_cause(self) -> None:
        """Give the thread time to find out which process caused an error here; it then exits."""
        time.sleep(_GRACE)

    def lost(self) -> dict[str, Any] | None:
        """Say which process is silent, where an error here means that some are gone."""
        for rank, peer in sorted(self._peers.items()):
            if time.monotonic() - peer.seen > _GRACE / 2:
                return {"rank": rank, "host": peer.beat["host"], "how": "Q703.lost"}
        return None

    def tell(self, end: dict[str, Any]) -> None:
        """Say why the run ends, unless another process does."""
        with suppress(OSError):
            os.close(os.open(self.folder / TOLD, os.O_CREAT | os.O_EXCL))
            say_fault(end)

    def _run(self) -> None:
        speak(self._language)  # the language is set per thread
        while not self._over.wait(_EVERY):
            with suppress(OSError):
                self._beat()
            for rank in range(self.seat.world):
                if rank != self.seat.rank and (end := self._fault_of(rank)) is not None:
                    self._leave(end)
            if (end := self._hang()) is not None:
                self._leave(end)

    def _leave(self, end: dict[str, Any]) -> None:
        """End this process, whatever it is doing."""
        if end["how"] != "error":
            self.tell(end)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(end.get("code", RankError.exit_code))

    def _fault_of(self, rank: int) -> dict[str, Any] | None:
        """Say how another process ended if it was not well; None while it works."""
        if (peer := self._peer(rank)) is None:
            return None
        away = self._is_gone(peer)
        end = self._read(f"end-{rank}.json")
        if end:
            alone = end["how"] == "error" and rank  # the leader tells errors that it has, too
            return None if end["how"] == "done" or alone else end
        if away:
            return {"rank": rank, "host": peer.beat["host"], "how": away}
        return None

    def _peer(self, rank: int) -> _Peer | None:
        beat, peer = self._read(f"beat-{rank}.json"), self._peers.get(rank)
        if beat and (peer is None or peer.beat["count"] != beat["count"]):
            peer = self._peers[rank] = _Peer(beat, time.monotonic())
        return peer

    def _is_gone(self, peer: _Peer) -> str | None:
        if peer.beat["host"] == self.seat.host:
            return None if is_alive(peer.beat["pid"]) else "Q703.killed"
        return "Q703.lost" if time.monotonic() - peer.seen > max(_LOST, self.timeout / 2) else None

    def _hang(self) -> dict[str, Any] | None:
        """Find the process for which this one has waited too long, if it has."""
        waited = self._waited()
        if waited < self.timeout:
            return None
        peers = [(rank, one) for rank in range(self.seat.world) if (one := self._peers.get(rank))]
        for rank, peer in peers:
            silent = time.monotonic() - peer.seen > max(_TO_HEAR, self.timeout / 2)
            if silent or peer.beat["waited"] < self.timeout / 2:
                return {"rank": rank, "host": peer.beat["host"], "how": "Q703.hung",
                        "step": peer.beat["step"], "seconds": round(waited),
                        "where": peer.beat["where"]}  # fmt: skip
        if waited < self.timeout + _TO_HEAR:
            return None
        here = _where(sys._current_frames().get(self._computes))
        found = {"rank": self.seat.rank, "host": self.seat.host, "where": here, "step": self.step}
        for _, peer in peers:
            if peer.beat["where"] != here:
                found = {name: peer.beat[name] for name in found}
                break
        return {**found, "how": "Q703.apart"}

    def _waited(self) -> float:
        """Say for how long the thread that computes has been in one and the same exchange."""
        frame = sys._current_frames().get(self._computes)
        place = (self.step, *_places(frame))
        if place != self._place:
            self._place, self._there_since = place, time.monotonic()
        if self._is_patient or not _exchanges(frame):
            return 0.0
        return time.monotonic() - self._there_since

    def _beat(self) -> None:
        self._count += 1
        frame = sys._current_frames().get(self._computes)
        self._write(
            f"beat-{self.seat.rank}.json",
            {"rank": self.seat.rank, "host": self.seat.host, "pid": os.getpid(),
             "count": self._count, "step": self.step, "waited": self._waited(),
             "where": _where(frame)},
        )  # fmt: skip

    def _write(self, name: str, value: dict[str, Any]) -> None:
        temporary = self.folder / f".{name}"
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.replace(temporary, self.folder / name)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            return {}


def say_fault(end: dict[str, Any]) -> None:
    """Say which process ended a run, where, and why."""
    values = {name: value for name, value in end.items() if name not in ("how", "code")}
    error = RankError(end["how"], **values)
    sys.stderr.write(say("cli.error", error=str(error)) + "\n")
    sys.stderr.flush()


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine runs; one that has ended but is not yet buried, no."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state not in "ZX"
    except ProcessLookupError:
        return False
    except (OSError, IndexError):  # another user's, or a system without /proc
        return os.name == "nt" or Path(f"/proc/{pid}").exists() or not Path("/proc").exists()


def _stack(frame: FrameType | None) -> list[FrameType]:
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def _places(frame: FrameType | None) -> list[tuple[int, int]]:
    """Tell one moment of a program from another."""
    return [(id(one), one.f_lasti) for one in _stack(frame)]


def _exchanges(frame: FrameType | None) -> bool:
    """Whether a thread is inside of torch.distributed, and so waits for others."""
    mark = os.path.join("torch", "distributed")
    return any(mark in one.f_code.co_filename for one in _stack(frame)[:4])


def _where(frame: FrameType | None) -> str:
    """Name the innermost function of this package that a thread is in."""
    own = os.path.join(Path(__file__).parents[1], "")  # a clone's folder may have our name, too
    for one in _stack(frame):
        if own in one.f_code.co_filename:
            return f"{Path(one.f_code.co_filename).stem}.{one.f_code.co_name}"
    return "?"
