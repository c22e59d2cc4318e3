"""Division: how several processes share a run; a section of its Config."""

from __future__ import annotations

from pydantic import Field, field_validator

from quatrain.sections import Section, seconds


class ParallelConfig(Section):
    """How several processes divide a run; its results depend on none of this."""

    expert_parallel: int = Field(1, ge=1)
    """Processes among which the experts of a layer are divided. Each token goes to the processes
    that hold its experts."""
    replicas: int = Field(1, ge=1)
    """Groups of processes that hold the model once each, for instance one for each machine."""
    timeout: str = "10m"
    """How long processes wait for one that does not answer."""

    @field_validator("timeout")
    @classmethod
    def _read_timeout(cls, value: str) -> str:
        seconds(value)
        return value
