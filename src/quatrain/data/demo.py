"""The embedded French questions, split so that the exams are meaningful.

    train     what a model may learn from
    heldout   known facts in wordings not seen for them: about 12 % of the other questions
    strict    facts never seen: unseen operands, words, countries (8 % of the keys)

A held-out question occurs in `train` under no seed; each of its facts keeps at least 60 % of its
phrasings there. A strict fact is absent in every order and every family: with 2 + 6 goes 8 - 2.
Sums, differences, products, numbers, verbs, plurals and feminines follow from rules, so their
strict questions can be answered. Opposites, capitals and most of the calendar cannot be guessed:
a model trained from scratch scores near zero on those, as it should.

    python -m quatrain.data.demo --split train --count 1000 --seed 0 > questions.jsonl

Not for other question files (data/read.py), nor for plain text (data/demo_text.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

from quatrain.data import demo_facts
from quatrain.data.demo_facts import Fact
from quatrain.data.demo_phrasings import PHRASINGS
from quatrain.text.french import normalise

Split = Literal["train", "heldout", "strict"]
FAMILIES = (
    demo_facts.SOMME, demo_facts.DIFFERENCE, demo_facts.PRODUIT, demo_facts.EN_LETTRES,
    demo_facts.EN_CHIFFRES, demo_facts.CONJUGAISON, demo_facts.PLURIEL, demo_facts.FEMININ,
    demo_facts.CONTRAIRE, demo_facts.CALENDRIER, demo_facts.CAPITALE,
)  # fmt: skip

STRICT_SHARE = 0.08
HELDOUT_SHARE = 0.12
MOST_HELDOUT = 0.4
"""No fact has a larger share of its phrasings held out."""
PROMISED = ("produit|6|2", "Quel est le produit de {a} et {b} ?")
"""A question that the documentation asks; it is held out, its fact is not strict."""
BASE_NUMBERS = frozenset([*range(21), 30, 40, 50, 60, 70, 80, 90, 100, 200])
"""Numbers whose names follow from no others; they are never strict."""


def questions(split: Split, count: int | None = None, seed: int = 0) -> list[dict[str, str]]:
    """Give the questions of a split, each with instruction, input, output and family.

    Without a count: all of them, in a fixed order. With a count: a draw by `seed`, in equal shares
    from the families, in mixed order. Nothing is drawn twice before its family is exhausted; then
    `train` goes on with a reshuffle, while an exam never repeats a question: there a family gives
    at most what it has, and fewer than `count` may come back.
    """
    if split not in get_args(Split):
        raise ValueError(f"split={split!r} is unknown. Use one of {', '.join(get_args(Split))}.")
    if count is not None and count < 0:
        raise ValueError(f"count must not be negative: count={count}")
    pools = _splits()[split]
    if count is None:
        return [dict(item) for family in FAMILIES for item in pools[family]]
    return _mixed(pools, _shares(count, seed), seed, repeat=split == "train")


def lessons(least: int, seed: int = 0) -> list[dict[str, str]]:
    """Give the training questions: every question of `train`, in mixed order.

    A family that has fewer than `least` gives its own again until it has as many: to learn by
    heart few questions and many takes about as long.
    """
    pools = _splits()["train"]
    shares = {family: max(least, len(pool)) for family, pool in pools.items()}
    return _mixed(pools, shares, seed, repeat=True)


def facts(split: Split) -> list[Fact]:
    """List the facts a split may ask for: `train` and `heldout` share theirs."""
    strict = strict_keys()
    return [fact for fact in demo_facts.all_facts() if (fact.key in strict) == (split == "strict")]


@cache
def strict_keys() -> frozenset[str]:
    """Name what is reserved: in each field, the keys whose hashes are lowest."""
    fields: dict[str, set[str]] = defaultdict(set)
    for fact in demo_facts.all_facts():
        if not _never_strict(fact):
            fields[fact.key.partition(":")[0]].add(fact.key)
    reserved: set[str] = set()
    for keys in fields.values():
        ranked = sorted(keys, key=lambda key: _hash("strict", key))
        reserved.update(ranked[: round(STRICT_SHARE * len(keys))])
    return frozenset(reserved)


def _never_strict(fact: Fact) -> bool:
    field, _, subject = fact.key.partition(":")
    if field == "nombre":
        return int(subject) in BASE_NUMBERS
    return fact.key == demo_facts.product_key(6, 2)


@cache
def _splits() -> dict[Split, dict[str, list[dict[str, str]]]]:
    """Assign every question to its split and family."""
    dealt: dict[Split, dict[str, list[dict[str, str]]]] = {
        split: {family: [] for family in FAMILIES} for split in get_args(Split)
    }
    strict = strict_keys()
    for fact in demo_facts.all_facts():
        held = frozenset() if fact.key in strict else _heldout_phrasings(fact)
        for phrasing in PHRASINGS[fact.kind]:
            split: Split = "heldout" if phrasing in held else "train"
            if fact.key in strict:
                split = "strict"
            dealt[split][fact.family].append(_item(fact, phrasing))
    return dealt


def _heldout_phrasings(fact: Fact) -> frozenset[str]:
    """Choose a fact's held-out phrasings: those with a low hash, but never too many.

    The hash reads the normal form, so variants in case and punctuation share their fate.
    """
    phrasings = PHRASINGS[fact.kind]
    ranks = {phrasing: _rank(fact, phrasing) for phrasing in phrasings}
    low = sorted((p for p in phrasings if ranks[p] < HELDOUT_SHARE), key=lambda p: ranks[p])
    return frozenset(low[: int(MOST_HELDOUT * len(phrasings))])


def _rank(fact: Fact, phrasing: str) -> float:
    if (fact.name, phrasing) == PROMISED:
        return 0.0
    return int(_hash("split", fact.name, _normal(phrasing))[:8], 16) / 16**8


@cache
def _normal(phrasing: str) -> str:
    return normalise(phrasing)


def _item(fact: Fact, phrasing: str) -> dict[str, str]:
    question = phrasing.format(**fact.slots)
    question = question[0].upper() + question[1:]
    if (fact.name, phrasing) != PROMISED:
        question = _as_typed(question, int(_hash("typed", fact.name, phrasing)[:2], 16))
    return {"instruction": question, "input": "", "output": fact.answer, "family": fact.family}


def _as_typed(question: str, chance: int) -> str:
    """Write one question in eight without its final sign, and one in eight in lower case too."""
    if chance >= 64:
        return question
    bare = question.removesuffix(".").removesuffix("?").rstrip()
    return bare if chance >= 32 else bare.lower()


def _shares(count: int, seed: int) -> dict[str, int]:
    """Split a count over the families; which ones get one more depends on the seed."""
    least, rest = divmod(count, len(FAMILIES))
    ranked = sorted(FAMILIES, key=lambda family: _hash("share", seed, family))
    return {family: least + (ranked.index(family) < rest) for family in FAMILIES}


def _mixed(
    pools: dict[str, list[dict[str, str]]], shares: dict[str, int], seed: int, repeat: bool
) -> list[dict[str, str]]:
    """Draw each family's share, and mix what was drawn."""
    drawn: list[tuple[int, dict[str, str]]] = []
    for family in FAMILIES:
        drawn += _draw(pools[family], shares[family], seed, repeat)
    mixed = sorted(drawn, key=lambda pair: _hash("mix", seed, pair[0], pair[1]["instruction"]))
    return [dict(item) for _, item in mixed]


def _draw(
    pool: Sequence[dict[str, str]], count: int, seed: int, repeat: bool
) -> list[tuple[int, dict[str, str]]]:
    """Draw from one family, pass after pass; each item comes with the number of its pass."""
    drawn: list[tuple[int, dict[str, str]]] = []
    passes = -(-count // len(pool)) if repeat else 1
    for number in range(passes):
        shuffled = sorted(pool, key=lambda item: _hash(seed, number, item["instruction"]))
        drawn += [(number, item) for item in shuffled[: count - len(drawn)]]
    return drawn


def _hash(*parts: object) -> str:
    """Hash some values: the same on every machine, unlike Python's own hash."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print questions as JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m quatrain.data.demo", description=main.__doc__)
    parser.add_argument("--split", choices=get_args(Split), default="train")
    parser.add_argument("--count", type=int, default=None, help="how many; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.count is not None and options.count < 0:
        parser.error(f"--count must not be negative: {options.count}")
    for item in questions(options.split, options.count, options.seed):
        line = json.dumps(item, ensure_ascii=False) + "\n"
        sys.stdout.buffer.write(line.encode("utf-8"))


if __name__ == "__main__":
    main()
