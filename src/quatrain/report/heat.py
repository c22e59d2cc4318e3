"""The heat map of expert loads: for each layer, experts down, steps across.

A cell's colour says how many tokens an expert got against an equal share: 1 is balance. Cells of
one colour are one path, and neighbours in a row one rectangle, so that the page stays small. The
classes are `h0` (no token at all) to `h7`; what they look like is in the style sheet.

    share    0    to 1/4   to 1/2   to 0.8   to 1.25   to 2   to 4   above
    class   h0      h1       h2       h3       h4       h5     h6      h7
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from quatrain.report.series import Series, Stretch

EDGES = (0.0, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0)
_AT_THE_END = 0.1
"""The share of the steps by which the end of a run is judged."""
_TALLEST, _LOWEST, _PANEL = 14.0, 2.0, 112.0


@dataclass(frozen=True)
class Balance:
    """How evenly a layer's tokens went to its experts, in some steps."""

    busiest: float
    """The largest load against an equal share; 1 is perfect, the number of experts the worst."""
    idlest: float
    dead: tuple[int, ...]
    """Experts that got no token at all."""


@dataclass(frozen=True)
class LayerMap:
    """One layer's panel."""

    layer: int
    num_experts: int
    columns: int
    height: float
    """In pixels."""
    paths: tuple[tuple[str, str], ...]
    """A class and a path, in units of one cell."""
    start: Balance
    end: Balance


def heat_maps(series: Series) -> list[LayerMap]:
    """Draw every layer that has experts."""
    if not series.stretches:
        return []
    layers = sorted(series.stretches[0].loads)
    return [_layer_map(series.stretches, layer) for layer in layers]


def balance(stretches: Sequence[Stretch], layer: int) -> Balance:
    """Add up a layer's loads, then say how even they are."""
    whole = Stretch()
    for stretch in stretches:
        whole.add({"step": stretch.step, "expert_load": {str(layer): stretch.loads[layer]}})
    shares = whole.shares(layer)
    dead = tuple(expert for expert, share in enumerate(shares) if not share)
    return Balance(max(shares), min(shares), dead)


def _layer_map(stretches: Sequence[Stretch], layer: int) -> LayerMap:
    columns = [stretch.shares(layer) for stretch in stretches]
    num_experts = len(columns[0])
    few = max(1, round(_AT_THE_END * len(stretches)))
    paths: dict[str, str] = {}
    for expert in range(num_experts):
        for first, length, name in _runs([_class(column[expert]) for column in columns]):
            cell = f"M{first} {expert}h{length}v1h-{length}z"
            paths[name] = paths.get(name, "") + cell
    return LayerMap(
        layer=layer,
        num_experts=num_experts,
        columns=len(columns),
        height=num_experts * min(_TALLEST, max(_LOWEST, _PANEL / num_experts)),
        paths=tuple(sorted(paths.items())),
        start=balance(stretches[:few], layer),
        end=balance(stretches[-few:], layer),
    )


def _class(share: float) -> str:
    return f"h{bisect_left(EDGES, share)}"


def _runs(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """Join equal neighbours: first place, length, name."""
    found: list[tuple[int, int, str]] = []
    for place, name in enumerate(names):
        if found and found[-1][2] == name:
            first, length, _ = found.pop()
            found.append((first, length + 1, name))
        else:
            found.append((place, 1, name))
    return found
