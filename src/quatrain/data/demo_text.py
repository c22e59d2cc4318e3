"""Short embedded French texts for a first pretraining, on the themes of the questions.

Only facts of the train split are stated, and no question is asked, so that neither exam is given
away: a strict sum, spelling, plural or capital is told nowhere, even in a story. Not for questions
(data/demo.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache

from quatrain.data import demo_facts
from quatrain.data.demo import facts
from quatrain.data.demo_facts import Fact
from quatrain.data.demo_stories import story
from quatrain.data.demo_words import PRONOUNS, conjugate, in_words

DEFAULT_COUNT = 4000


def pretraining_text(seed: int = 0, count: int = DEFAULT_COUNT) -> list[str]:
    """Write `count` distinct documents of two to eight sentences, the same for the same seed."""
    draw = random.Random(f"pretraining {seed}")
    themes = _themes()
    documents: dict[str, None] = {}
    attempts = 0
    while len(documents) < count:
        attempts += 1
        if attempts > 50 * count + 1000:
            raise ValueError(f"count={count} is more than the templates can vary. Ask for fewer.")
        document = " ".join(draw.choice(themes)(draw))
        if not _tells_strict(document):
            documents[document] = None
    return list(documents)


Theme = Callable[[random.Random], list[str]]


def _themes() -> list[Theme]:
    """List the themes; one named twice comes up twice as often."""
    return [
        _counting, _spelling, _additions, _subtractions, _table, _conjugation, _conjugation,
        _plurals, _feminines, _opposites, _dates, _capitals, story, story, story,
    ]  # fmt: skip


@cache
def _known(family: str) -> list[Fact]:
    return [fact for fact in facts("train") if fact.family == family]


@cache
def _spelled() -> dict[int, str]:
    """Give the numbers whose spelling may be told."""
    known = _known(demo_facts.EN_LETTRES)
    return {int(fact.slots["n"]): fact.answer for fact in known}


@cache
def _sayable(family: str) -> list[tuple[int, int, int]]:
    """Give the operands and results of an operation that can be told in words."""
    triples = [
        (int(fact.slots["a"]), int(fact.slots["b"]), int(fact.answer)) for fact in _known(family)
    ]
    return [triple for triple in triples if set(triple) <= _spelled().keys()]


def _counting(draw: random.Random) -> list[str]:
    """Count on from a number, up to the next whose name may not be told."""
    start = draw.choice([n for n in _spelled() if n + 1 in _spelled()])
    run = [start, start + 1]
    while run[-1] + 1 in _spelled() and len(run) < 8:
        run.append(run[-1] + 1)
    words = [_spelled()[n] for n in run]
    sentences = [f"{draw.choice(['On compte', 'Comptons', 'Je compte'])} : {', '.join(words)}."]
    for n in draw.sample(run, 2):
        sentences.append(f"{n} s'écrit « {_spelled()[n]} ».")
    return sentences


def _spelling(draw: random.Random) -> list[str]:
    sentences = []
    for n in draw.sample(sorted(_spelled()), draw.randrange(3, 7)):
        word = _spelled()[n]
        forms = (f"Le nombre {n} se lit « {word} ».", f"« {_upper(word)} », c'est {n}.")
        sentences.append(draw.choice(forms))
    return sentences


def _additions(draw: random.Random) -> list[str]:
    sentences = []
    for a, b, total in draw.sample(_sayable(demo_facts.SOMME), draw.randrange(3, 7)):
        forms = (
            f"{_upper(in_words(a))} et {in_words(b)} font {in_words(total)}.",
            f"{a} plus {b} égale {total}.",
            f"La somme de {a} et {b} est {total}.",
            f"En ajoutant {b} à {a}, on obtient {total}.",
        )
        sentences.append(draw.choice(forms))
    return sentences


def _subtractions(draw: random.Random) -> list[str]:
    sentences = []
    for a, b, rest in draw.sample(_sayable(demo_facts.DIFFERENCE), draw.randrange(3, 7)):
        forms = (
            f"{_upper(in_words(a))} moins {in_words(b)} égale {in_words(rest)}.",
            f"{a} moins {b} égale {rest}.",
            f"La différence entre {a} et {b} est {rest}.",
            f"Si on enlève {b} à {a}, il reste {rest}.",
        )
        sentences.append(draw.choice(forms))
    return sentences


def _table(draw: random.Random) -> list[str]:
    """Recite some lines of a multiplication table, in order."""
    number = draw.randrange(2, 13)
    lines = [triple for triple in _sayable(demo_facts.PRODUIT) if triple[0] == number]
    start = draw.randrange(0, max(1, len(lines) - 5))
    sentences = [f"Voici la table de {in_words(number)}."]
    in_digits = draw.random() < 0.5
    for a, b, product in lines[start : start + draw.randrange(3, 7)]:
        spoken = f"{_upper(in_words(a))} fois {in_words(b)} font {in_words(product)}."
        sentences.append(f"Le produit de {a} et {b} est {product}." if in_digits else spoken)
    return sentences


def _conjugation(draw: random.Random) -> list[str]:
    verb = draw.choice(_known(demo_facts.CONJUGAISON)).slots["verbe"]
    third = draw.choice([("il", "elles"), ("elle", "ils"), ("il", "ils"), ("elle", "elles")])
    pronouns = ["je", "tu", third[0], "nous", "vous", third[1]]
    forms = [conjugate(verb, pronoun) for pronoun in pronouns]
    if draw.random() < 0.5:
        return [f"Voici le verbe {verb} au présent.", _upper(", ".join(forms)) + "."]
    other = draw.choice(_known(demo_facts.CONJUGAISON)).slots["verbe"]
    alternate = [conjugate(other, pronoun) for pronoun in draw.sample(PRONOUNS, 3)]
    chosen = draw.sample(forms, 3)
    return [_upper(form) + "." for form in [*chosen, *alternate]]


def _plurals(draw: random.Random) -> list[str]:
    forms = (
        "Le pluriel de « {word} » est « {answer} ».",
        "On écrit « {word} » au singulier et « {answer} » au pluriel.",
        "S'il y en a plusieurs, « {word} » devient « {answer} ».",
    )
    return _word_pairs(draw, demo_facts.PLURIEL, forms)


def _feminines(draw: random.Random) -> list[str]:
    forms = (
        "Le féminin de « {word} » est « {answer} ».",
        "On dit « {word} » au masculin et « {answer} » au féminin.",
        "Il est {word}, elle est {answer}.",
    )
    return _word_pairs(draw, demo_facts.FEMININ, forms)


def _opposites(draw: random.Random) -> list[str]:
    forms = (
        "« {Word} » est le contraire de « {answer} ».",
        "Le contraire de « {word} » est « {answer} ».",
        "« {Word} » et « {answer} » sont des contraires.",
    )
    return _word_pairs(draw, demo_facts.CONTRAIRE, forms)


def _word_pairs(draw: random.Random, family: str, forms: tuple[str, ...]) -> list[str]:
    """State a few facts that go from one word to another, each in one of the forms."""
    sentences = []
    for fact in draw.sample(_known(family), draw.randrange(2, 6)):
        word = fact.slots["mot"]
        form = draw.choice(forms)
        sentences.append(form.format(word=word, Word=_upper(word), answer=fact.answer))
    return sentences


CALENDAR_STATEMENTS = {
    "suivant": "Après {nom} vient {answer}.",
    "précédent": "Avant {nom}, il y a {answer}.",
    "de rang": "Le {ordinal} {unité} {tout} est {answer}.",
    "rang": "{nom} porte le numéro {answer} {dans_tout}.",
    "durée du mois": "Le mois {de_mois} a {answer} jours.",
    "durée": "Il y a {answer} {nom_d_unité} dans {tout}.",
}


def _dates(draw: random.Random) -> list[str]:
    return [
        _calendar_statement(fact)
        for fact in draw.sample(_known(demo_facts.CALENDRIER), draw.randrange(2, 6))
    ]


def _calendar_statement(fact: Fact) -> str:
    unit = re.sub(r"^(de |d')", "", fact.slots.get("unités", ""))
    template = CALENDAR_STATEMENTS[fact.kind]
    return _upper(template.format(**fact.slots, answer=fact.answer, nom_d_unité=unit))


def _capitals(draw: random.Random) -> list[str]:
    sentences = []
    for fact in draw.sample(_known(demo_facts.CAPITALE), draw.randrange(2, 6)):
        country, of, where = (fact.slots[name] for name in ("pays", "de_pays", "en_pays"))
        has = "ont" if country.startswith("les ") else "a"
        forms = (
            f"La capitale {of} est {fact.answer}.",
            f"{_upper(country)} {has} pour capitale {fact.answer}.",
            f"{fact.answer} est la capitale {of}.",
            f"{_upper(where)}, la capitale est {fact.answer}.",
        )
        sentences.append(draw.choice(forms))
    return sentences


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _tells_strict(document: str) -> bool:
    """Say whether every word of some strict fact stands in the document."""
    words = _words(document)
    return any(telling <= words for telling in _strict_words())


@cache
def _strict_words() -> tuple[frozenset[str], ...]:
    """List what must not be read together: an inflected form, or a pair of words.

    Arithmetic is left out: its themes and stories draw from train facts only.
    """
    tellings = set()
    for fact in facts("strict"):
        if fact.family == demo_facts.CONJUGAISON:
            tellings.add(_words(fact.answer.removeprefix(f"{fact.slots['pronom']} ")) - {"j"})
        elif fact.family in (demo_facts.PLURIEL, demo_facts.FEMININ):
            if fact.answer != fact.slots["mot"]:
                tellings.add(_words(fact.answer))
        elif fact.family == demo_facts.CONTRAIRE:
            tellings.add(_words(f"{fact.slots['mot']} {fact.answer}"))
        elif fact.family == demo_facts.CAPITALE:
            tellings.add(_words(fact.answer))
        elif fact.kind == "suivant":
            tellings.add(_words(f"{fact.slots['nom']} {fact.answer}"))
    return tuple(tellings)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))
