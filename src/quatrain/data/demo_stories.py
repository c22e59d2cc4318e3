"""Small everyday stories for the pretraining text: simple sentences that agree.

Sums and differences told in them are those of the train split. Not for facts (demo_facts.py).
"""

from __future__ import annotations

import random
from functools import cache

from quatrain.data import demo_facts
from quatrain.data.demo import facts
from quatrain.data.demo_words import in_words

GIRLS = ("Marie", "Léa", "Julie", "Camille", "Inès", "Zoé", "Louise", "Chloé", "Fatou", "Nora")
BOYS = ("Paul", "Hugo", "Louis", "Karim", "Théo", "Jules", "Lucas", "Samir", "Noé", "Adam")
PLACES = (
    "au marché", "à l'école", "à la gare", "dans le parc", "au bord de la rivière", "à la plage",
    "chez sa grand-mère", "à la bibliothèque", "dans la forêt", "à la boulangerie",
)  # fmt: skip
DAYS = ("le lundi", "le mardi", "le mercredi", "le jeudi", "le samedi", "le dimanche")
PEOPLE = ("sa sœur", "son frère", "sa voisine", "son cousin", "sa tante", "son oncle")
THINGS = ("pommes", "poires", "oranges", "tomates", "billes", "fleurs", "cartes", "images")
ANIMALS = ("un petit chien", "un chat gris", "un oiseau bleu", "un mouton blanc", "un âne têtu")
WEATHER = (
    "Il fait beau.", "Il pleut un peu.", "Le ciel est gris.", "Le soleil brille.",
    "Le vent souffle.", "Il fait froid.", "La neige tombe.", "L'air est doux.",
)  # fmt: skip
ACTIONS = (
    "{Il} regarde les nuages.", "{Il} chante une chanson.", "{Il} joue avec {proche}.",
    "{Il} écoute une belle histoire.", "{Il} dessine une maison et un arbre.",
    "{Il} cherche des cailloux.", "{Il} mange un morceau de pain.", "{Il} parle à {proche}.",
    "{Il} rencontre {animal}.", "{Il} voit {animal} qui dort.", "{Il} aide {proche}.",
    "{Il} lit un livre sur les étoiles.", "{Il} prépare un gâteau.", "{Il} trouve une clé.",
)  # fmt: skip
OPENINGS = (
    "{Jour}, {nom} va {lieu}.", "{nom} aime aller {lieu}.", "{Jour}, {nom} est {lieu}.",
    "{nom} part tôt et arrive {lieu}.", "Aujourd'hui, {nom} reste {lieu}.",
)  # fmt: skip
ENDINGS = (
    "Le soir, {il} est fatigué{e}.", "{Il} rentre content{e} à la maison.",
    "Puis {il} rentre chez {lui}.", "{Il} est ravi{e} de sa journée.",
    "Le lendemain, {il} raconte tout à {proche}.", "Quelle belle journée !",
    "{Il} est un peu triste de partir.", "{Il} s'endort vite, la fenêtre ouverte.",
)  # fmt: skip
SUMS = (
    "{Il} a {a} {choses}. {Proche} lui en donne {b}. Maintenant, {il} en a {c}.",
    "Dans un panier il y a {a} {choses}, dans l'autre {b}. Cela fait {c} {choses}.",
)
DIFFERENCES = (
    "{Il} a {a} {choses}. {Il} en donne {b} à {proche}. Il lui en reste {c}.",
    "Sur la table il y a {a} {choses}. {Proche} en prend {b}. Il en reste {c}.",
)


def story(draw: random.Random) -> list[str]:
    """Tell a story of two to eight sentences, often with some counting in it."""
    slots = _slots(draw)
    sentences = [draw.choice(OPENINGS)]
    if draw.random() < 0.5:
        sentences.append(draw.choice(WEATHER))
    if draw.random() < 0.5:
        family, tales = draw.choice(
            [(demo_facts.SOMME, SUMS), (demo_facts.DIFFERENCE, DIFFERENCES)]
        )
        numbers = draw.choice(_countable(family))
        in_letters = draw.random() < 0.7
        told = [in_words(n) if in_letters else str(n) for n in numbers]
        slots |= dict(zip("abc", told, strict=True))
        sentences.append(draw.choice(tales))
    sentences += draw.sample(ACTIONS, draw.randrange(1, 3))
    sentences.append(draw.choice(ENDINGS))
    return [sentence.format(**slots) for sentence in sentences]


def _slots(draw: random.Random) -> dict[str, str]:
    is_girl = draw.random() < 0.5
    pronoun = "elle" if is_girl else "il"
    relative, day = draw.choice(PEOPLE), draw.choice(DAYS)
    return {
        "nom": draw.choice(GIRLS if is_girl else BOYS),
        "il": pronoun,
        "Il": pronoun.capitalize(),
        "lui": "elle" if is_girl else "lui",
        "e": "e" if is_girl else "",
        "proche": relative,
        "Proche": relative.capitalize(),
        "Jour": day.capitalize(),
        "lieu": draw.choice(PLACES),
        "animal": draw.choice(ANIMALS),
        "choses": draw.choice(THINGS),
    }


@cache
def _countable(family: str) -> list[tuple[int, int, int]]:
    """Give the train facts whose numbers are from 2 to 20, so that each noun is a plural."""
    triples = [
        (int(fact.slots["a"]), int(fact.slots["b"]), int(fact.answer))
        for fact in facts("train")
        if fact.family == family
    ]
    return [triple for triple in triples if all(2 <= n <= 20 for n in triple)]
