"""The facts behind the embedded questions: what is asked, and its bare answer.

A fact's `key` names what it is about, in any order and any family: 2 + 6, 6 + 2, 8 - 6 and 8 - 2
share one key, as do grand/petit and petit/grand, or 45 in words and in digits. Whole keys are
reserved for the strict split. Not for wording questions (data/demo_phrasings.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quatrain.data import demo_words as words

SOMME, DIFFERENCE, PRODUIT = "somme", "différence", "produit"
EN_LETTRES, EN_CHIFFRES = "nombre en lettres", "nombre en chiffres"
CONJUGAISON, PLURIEL, FEMININ, CONTRAIRE = "conjugaison", "pluriel", "féminin", "contraire"
CALENDRIER, CAPITALE = "calendrier", "capitale"

DAYS = ("lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche")
MONTHS = (
    "janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre",
    "octobre", "novembre", "décembre",
)  # fmt: skip
MONTH_LENGTHS = ("31", "28 ou 29", "31", "30", "31", "30", "31", "31", "30", "31", "30", "31")
WHOLES = {"jour": "de la semaine", "mois": "de l'année"}
IN_WHOLES = {"jour": "dans la semaine", "mois": "dans l'année"}
ORDINALS = (
    "", "premier", "deuxième", "troisième", "quatrième", "cinquième", "sixième", "septième",
    "huitième", "neuvième", "dixième", "onzième", "douzième",
)  # fmt: skip
DURATIONS = (
    ("de secondes", "une minute", "60"), ("de minutes", "une heure", "60"),
    ("d'heures", "une journée", "24"), ("de jours", "une semaine", "7"),
    ("de mois", "une année", "12"), ("de saisons", "une année", "4"),
    ("de jours", "une année ordinaire", "365"), ("de jours", "une année bissextile", "366"),
    ("de mois", "un trimestre", "3"), ("de mois", "un semestre", "6"),
    ("d'années", "une décennie", "10"), ("d'années", "un siècle", "100"),
    ("d'années", "un millénaire", "1000"), ("de siècles", "un millénaire", "10"),
)  # fmt: skip
COUNTRIES = (
    "la France=Paris;l'Italie=Rome;l'Espagne=Madrid;le Portugal=Lisbonne;l'Allemagne=Berlin;"
    "la Belgique=Bruxelles;le Royaume-Uni=Londres;l'Irlande=Dublin;l'Autriche=Vienne;"
    "la Suisse=Berne;la Grèce=Athènes;la Turquie=Ankara;la Pologne=Varsovie;la Hongrie=Budapest;"
    "la Roumanie=Bucarest;la Bulgarie=Sofia;la Serbie=Belgrade;la Croatie=Zagreb;"
    "la Slovénie=Ljubljana;la Slovaquie=Bratislava;la Tchéquie=Prague;le Danemark=Copenhague;"
    "la Suède=Stockholm;la Norvège=Oslo;la Finlande=Helsinki;l'Islande=Reykjavik;l'Estonie=Tallinn;"
    "la Lettonie=Riga;la Lituanie=Vilnius;la Biélorussie=Minsk;la Russie=Moscou;l'Albanie=Tirana;"
    "la Macédoine du Nord=Skopje;le Monténégro=Podgorica;la Bosnie-Herzégovine=Sarajevo;"
    "Malte=La Valette;Chypre=Nicosie;les Pays-Bas=Amsterdam;le Liechtenstein=Vaduz;le Japon=Tokyo;"
    "la Chine=Pékin;l'Inde=New Delhi;le Pakistan=Islamabad;le Bangladesh=Dacca;le Népal=Katmandou;"
    "le Bhoutan=Thimphou;la Mongolie=Oulan-Bator;la Corée du Sud=Séoul;la Corée du Nord=Pyongyang;"
    "la Thaïlande=Bangkok;le Vietnam=Hanoï;le Laos=Vientiane;le Cambodge=Phnom Penh;"
    "la Malaisie=Kuala Lumpur;les Philippines=Manille;l'Iran=Téhéran;l'Irak=Bagdad;la Syrie=Damas;"
    "le Liban=Beyrouth;la Jordanie=Amman;l'Arabie saoudite=Riyad;le Yémen=Sanaa;Oman=Mascate;"
    "le Qatar=Doha;les Émirats arabes unis=Abou Dabi;Bahreïn=Manama;l'Afghanistan=Kaboul;"
    "l'Ouzbékistan=Tachkent;le Kirghizistan=Bichkek;le Tadjikistan=Douchanbé;la Géorgie=Tbilissi;"
    "l'Arménie=Erevan;l'Azerbaïdjan=Bakou;l'Algérie=Alger;le Maroc=Rabat;la Tunisie=Tunis;"
    "la Libye=Tripoli;l'Égypte=Le Caire;le Soudan=Khartoum;l'Éthiopie=Addis-Abeba;"
    "la Somalie=Mogadiscio;le Kenya=Nairobi;l'Ouganda=Kampala;le Rwanda=Kigali;"
    "la République démocratique du Congo=Kinshasa;le Congo=Brazzaville;le Gabon=Libreville;"
    "le Cameroun=Yaoundé;le Tchad=N'Djamena;le Niger=Niamey;le Nigeria=Abuja;le Mali=Bamako;"
    "le Burkina Faso=Ouagadougou;le Sénégal=Dakar;la Gambie=Banjul;la Guinée=Conakry;"
    "la Guinée-Bissau=Bissau;la Sierra Leone=Freetown;le Liberia=Monrovia;le Ghana=Accra;"
    "le Togo=Lomé;la Mauritanie=Nouakchott;l'Angola=Luanda;la Namibie=Windhoek;"
    "le Botswana=Gaborone;la Zambie=Lusaka;le Zimbabwe=Harare;le Mozambique=Maputo;"
    "le Malawi=Lilongwe;Madagascar=Antananarivo;l'Érythrée=Asmara;le Lesotho=Maseru;"
    "la République centrafricaine=Bangui;le Canada=Ottawa;les États-Unis=Washington;"
    "le Mexique=Mexico;Cuba=La Havane;Haïti=Port-au-Prince;la Jamaïque=Kingston;"
    "la République dominicaine=Saint-Domingue;le Honduras=Tegucigalpa;le Nicaragua=Managua;"
    "le Costa Rica=San José;le Salvador=San Salvador;le Belize=Belmopan;la Colombie=Bogota;"
    "le Venezuela=Caracas;l'Équateur=Quito;le Pérou=Lima;le Brésil=Brasilia;le Paraguay=Asuncion;"
    "l'Uruguay=Montevideo;l'Argentine=Buenos Aires;le Chili=Santiago;le Guyana=Georgetown;"
    "le Suriname=Paramaribo;les Bahamas=Nassau;l'Australie=Canberra;"
    "la Nouvelle-Zélande=Wellington;les Fidji=Suva;la Papouasie-Nouvelle-Guinée=Port Moresby"
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know, which several phrasings ask for."""

    family: str
    kind: str
    """Names the list of phrasings; the family, unless a family has several."""
    key: str
    """What the fact is about; starts with the field from which strict keys are drawn."""
    slots: dict[str, str]
    answer: str

    @property
    def name(self) -> str:
        """Tell this fact from every other, the two orders of one key included."""
        return "|".join([self.kind, *self.slots.values()])


def all_facts() -> Iterator[Fact]:
    """Enumerate every fact, family by family, in a fixed order."""
    yield from _arithmetic()
    yield from _numbers()
    yield from _grammar()
    yield from _calendar()
    for country, capital in countries():
        slots = {"pays": country, "de_pays": of_country(country), "en_pays": in_country(country)}
        yield Fact(CAPITALE, CAPITALE, f"capitale:{country}", slots, capital)


def countries() -> list[tuple[str, str]]:
    """List the countries, with their article, and their capitals."""
    pairs = [pair.split("=") for pair in COUNTRIES.split(";")]
    return [(country, capital) for country, capital in pairs]


def of_country(country: str) -> str:
    """Put `de` before a country: de la France, du Japon, des Fidji, d'Oman, de Cuba."""
    for article, contracted in (("le ", "du "), ("les ", "des ")):
        if country.startswith(article):
            return contracted + country.removeprefix(article)
    if country.startswith(("la ", "l'")):
        return f"de {country}"
    return f"d'{country}" if country[0] in "OH" else f"de {country}"  # Oman, Haïti


def in_country(country: str) -> str:
    """Say where: en France, en Italie, au Japon, aux Fidji, à Cuba, en Haïti."""
    for article, preposition in (("la ", "en "), ("l'", "en "), ("les ", "aux "), ("le ", "au ")):
        if country.startswith(article):
            return preposition + country.removeprefix(article)
    return f"en {country}" if country == "Haïti" else f"à {country}"


def addition_key(a: int, b: int) -> str:
    """Name a + b, b + a and the two differences that undo them."""
    return f"addition:{min(a, b)}+{max(a, b)}"


def product_key(a: int, b: int) -> str:
    """Name a x b and b x a."""
    return f"produit:{min(a, b)}x{max(a, b)}"


def _arithmetic() -> Iterator[Fact]:
    for a in range(21):
        for b in range(21):
            slots = {"a": str(a), "b": str(b)}
            yield Fact(SOMME, SOMME, addition_key(a, b), slots, str(a + b))
    for a in range(21):
        for b in range(a + 1):
            slots = {"a": str(a), "b": str(b)}
            yield Fact(DIFFERENCE, DIFFERENCE, addition_key(a - b, b), slots, str(a - b))
    for a in range(13):
        for b in range(13):
            slots = {"a": str(a), "b": str(b)}
            yield Fact(PRODUIT, PRODUIT, product_key(a, b), slots, str(a * b))


def _numbers() -> Iterator[Fact]:
    spelled = [(str(number), words.in_words(number)) for number in range(201)]
    for digits, letters in spelled:
        yield Fact(EN_LETTRES, EN_LETTRES, f"nombre:{digits}", {"n": digits}, letters)
    for digits, letters in spelled:
        yield Fact(EN_CHIFFRES, EN_CHIFFRES, f"nombre:{digits}", {"mots": letters}, digits)


def _grammar() -> Iterator[Fact]:
    for index, verb in enumerate(words.verbs()):
        third = ("il", "elles") if index % 2 else ("elle", "ils")
        for pronoun in ("je", "tu", third[0], "nous", "vous", third[1]):
            slots = {"verbe": verb, "pronom": pronoun}
            form = words.conjugate(verb, pronoun)
            yield Fact(CONJUGAISON, CONJUGAISON, f"verbe:{verb}", slots, form)
    for noun in words.nouns():
        yield Fact(PLURIEL, PLURIEL, f"nom:{noun}", {"mot": noun}, words.plural(noun))
    for word in words.adjectives():
        yield Fact(FEMININ, FEMININ, f"adjectif:{word}", {"mot": word}, words.feminine(word))
    for left, right in words.opposites():
        for word, opposite in ((left, right), (right, left)):
            yield Fact(CONTRAIRE, CONTRAIRE, f"contraire:{left}/{right}", {"mot": word}, opposite)


def _calendar() -> Iterator[Fact]:
    yield from _cycle("jour", DAYS)
    yield from _cycle("mois", MONTHS)
    for month, length in zip(MONTHS, MONTH_LENGTHS, strict=True):
        slots = {"mois": month, "de_mois": _of_month(month)}
        yield Fact(CALENDRIER, "durée du mois", f"calendrier:durée {month}", slots, length)
    for unit, whole, count in DURATIONS:
        slots = {"unités": unit, "tout": whole}
        yield Fact(CALENDRIER, "durée", f"calendrier:{unit} {whole}", slots, count)


def _of_month(name: str) -> str:
    return f"d'{name}" if name[0] in "ao" else f"de {name}"


def _cycle(unit: str, names: tuple[str, ...]) -> Iterator[Fact]:
    """Ask for neighbours and ranks in a week or a year, both ways round."""
    for rank, name in enumerate(names, start=1):
        following = names[rank % len(names)]
        pair, place = f"calendrier:{name} {following}", f"calendrier:rang {name}"
        ordinal = ORDINALS[rank]
        slots = {"unité": unit, "nom": name}
        yield Fact(CALENDRIER, "suivant", pair, slots, following)
        yield Fact(CALENDRIER, "précédent", pair, slots | {"nom": following}, name)
        slots = {"unité": unit, "ordinal": ordinal, "tout": WHOLES[unit]}
        yield Fact(CALENDRIER, "de rang", place, slots, name)
        slots = {"nom": name, "de_nom": _of_month(name), "dans_tout": IN_WHOLES[unit]}
        yield Fact(CALENDRIER, "rang", place, slots, str(rank))
