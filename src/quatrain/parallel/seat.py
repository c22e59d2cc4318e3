"""The seat of a process among those that train together, as torchrun's variables describe it.

Not for starting processes (launch.py); torch is not imported.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Seat:
    """Which of the processes this one is."""

    rank: int
    world: int
    local_rank: int
    """Among the processes of this machine: the number of its GPU."""
    host: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Seat | None:
        """Read the variables; None for a process that is alone."""
        world = int(environ.get("WORLD_SIZE", "1"))
        if world == 1 or "RANK" not in environ:
            return None
        rank = int(environ["RANK"])
        return cls(rank, world, int(environ.get("LOCAL_RANK", rank)), socket.gethostname())
