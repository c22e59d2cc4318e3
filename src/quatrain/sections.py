"""Building blocks of a Config: frozen sections, lists of names, lengths of time, sizes."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from quatrain.files import at_home
from quatrain.rules import Broken
from quatrain.words import Sentence

Place = Annotated[str, AfterValidator(at_home)]
"""A path, or the name of something elsewhere."""


class Section(BaseModel):
    """A frozen group of fields; unknown fields are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    def replace(self, **changes: Any) -> Self:
        """Make a copy with some fields changed; fields that were derived are derived again."""
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **changes})

    def problems(self) -> list[Sentence]:
        """List all broken rules between fields, each as one sentence with its remedy."""
        return []

    @model_validator(mode="after")
    def _obey(self) -> Self:
        if found := self.problems():
            raise Broken(found)
        return self


def parts(value: Any) -> Any:
    """Split a text at its commas; leave anything else."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def sources(value: Any) -> Any:
    """Split a text at its commas, except those in the name of an existing file or folder."""
    if not isinstance(value, str):
        return value
    names, parts = list[str](), value.split(",")
    while parts:
        joined = (",".join(parts[:size]).strip() for size in range(len(parts), 1, -1))
        name = next((one for one in joined if os.path.exists(at_home(one))), parts[0])
        parts = parts[1 + name.count(",") :]
        names.append(name.strip())
    return tuple(name for name in names if name)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LENGTH_OF_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])")


def seconds(budget: str) -> float:
    """Read a length of time: `90s`, `20m`, `1h30m`."""
    written = budget.strip().lower()
    total = sum(float(n) * _UNITS[unit] for n, unit in _LENGTH_OF_TIME.findall(written))
    if _LENGTH_OF_TIME.sub("", written) or total <= 0:
        raise Broken([Sentence.of("rules.budget", given=budget)])
    return total


_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_SIZE = re.compile(r"([0-9]{1,12}) ?([KMG]?)B?")


def number_of_bytes(size: str) -> int:
    """Read a size in decimal units, as the Hub writes them: `5GB`, `500MB`."""
    found = _SIZE.fullmatch(size.strip().upper())
    if not found or int(found[1]) == 0:
        raise Broken([Sentence.of("rules.size", given=size)])
    return int(found[1]) * _SIZES[found[2]]
