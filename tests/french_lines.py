"""French lines and hostile strings from a seed: tests need no corpus."""

from __future__ import annotations

import random
import re

WORDS = (
    "le la les un une des l'eau l’eau l'été d'Île-de-France qu'il qu’elle jusqu'à aujourd'hui "
    "Où où ça cœur œuvre naïve Noël élève élèves ÉCOLE À Ça bœuf maïs garçon forêt hôtel été "
    "peut-être va-t-il arc-en-ciel Molière Besançon Nîmes 1789 3,14 12 000 14h30 €50 50 % n° 1er "
    "voilà déjà très où est sont était danse mangent chantait c'est n'est s'il m'appelle t'aime "
    "ouvre ferme pourquoi comment quand combien quel quelle système user assistant system"
).split(" ")
ENDINGS = (".", " !", " ?", "…", " ;", " : «\u00a0oui\u00a0»", " (non)", ", etc.", " – fin", ' "x"')
STRANGE = (
    *("\u200b", "\u200d", "\u00ad", "\ufeff", "\u202e", "\u00a0", "\u202f", "\u2028", "\t", "\n"),
    *("\r\n", "\n\n", " ", "  ", "e\u0301", "\u0301", "\u1e9b\u0323", "👩‍🚀", "🇫🇷", "漢字", "ﷺ"),
    *(
        "＜｜eot｜＞",
        "\x00",
        "\ufffd",
        "\U0010ffff",
        "é",
        "ç",
        "<",
        "|",
        ">",
        "<|",
        "|>",
        "<s>",
        "</s>",
    ),
)


def french_lines(count: int, seed: int = 0) -> list[str]:
    """Make lines of words and punctuation, some of two sentences."""
    random_source = random.Random(seed)

    def sentence() -> str:
        words = random_source.choices(WORDS, k=random_source.randint(1, 12))
        return " ".join(words) + random_source.choice(ENDINGS)

    return [
        sentence() + (" " + sentence() if random_source.random() < 0.2 else "")
        for _ in range(count)
    ]


def hostile_strings(count: int, names: tuple[str, ...], seed: int = 0) -> list[str]:
    """Join control-token names, their pieces and prefixes, words and strange characters."""
    random_source = random.Random(seed)
    pieces = {piece for name in names for piece in re.split(r"([<|>_]+)", name) if piece}
    prefixes = {name[:end] for name in names[:8] for end in range(1, len(name))}
    parts = [*names, *names, *sorted(pieces), *sorted(prefixes), *WORDS, *STRANGE]
    return [
        "".join(random_source.choices(parts, k=random_source.randint(1, 8))) for _ in range(count)
    ]
