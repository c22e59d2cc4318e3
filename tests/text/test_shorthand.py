"""Shorthand: the table of docs/data.md holds line by line, and normalising comes to an end."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.evaluate.score import exact_match, f1
from quatrain.text.french import normalise, tokens

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
TABLE = re.findall(r"^\| `(.+?)` \| `(.+?)` \| (yes|no) \|", PAGE.read_text("utf-8"), re.MULTILINE)

SAME = [
    ("S. N. C. F.", "SNCF"), ("l'O.N.U.", "ONU"), ("u.r.s.s.", "URSS"), ("É.-U.", "ÉU"),
    ("J.-P. Sartre", "J.P. Sartre"), ("44 av. J.-C.", "44 av JC"),
    ("ap. J.C.", "après Jésus-Christ"),
    ("m. hugo", "M. Hugo"), ("Mr. Hugo", "M. Hugo"), ("MM. Hugo et Zola", "messieurs Hugo et Zola"),
    ("MME CURIE", "Madame Curie"), ("Mlle Rachel", "mademoiselle Rachel"),
    ("Ste Thérèse", "Sainte-Thérèse"), ("la Pr Curie", "professeur Curie"),
    ("No. 5", "n°5"), ("nº 5", "numéro 5"), ("№ 5", "N ° 5"), ("nᵒ 5", "n° 5"), ("no 5", "n° 5"),
    ("la 1ère", "première"), ("1ᵉʳ", "1er"), ("Napoléon Iᵉʳ", "Napoléon premier"),
    ("XVIIIème", "18e"), ("XIXᵉ", "19ème"), ("xxe siècle", "XXe siècle"), ("VIe", "6e"),
    ("Ire République", "première République"), ("XXE SIÈCLE", "20e siècle"),
    ("dix pour cent", "dix %"), ("5 pourcent", "5%"), ("2 pour mille", "2 ‰"),
    ("100 kilomètres par heure", "100 km/h"), ("100km/h", "100 km / h") , ("2 mètres", "2 m"),
    ("deux kilos", "deux kg"), ("37 degrés", "37°"), ("l'euro", "€"), ("10 dollars", "10 $"),
    ("R&D", "R et D"), ("14 heures 30", "14h30"), ("14 h 30 min", "14h30"), ("08h05", "8:05"),
    ("14 h", "14h00"), ("14 heures", "14:00"), ("9 h 00", "9h"), ("14 heures 30 minutes", "14h30"),
]  # fmt: skip
DIFFERENT = [
    ("M.", "monsieur"), ("MM.", "messieurs"), ("film. Hugo", "fil monsieur Hugo"),
    ("3,5 m. de long", "3,5 monsieur de long"), ("(5 m. de long", "5 monsieur de long"),
    ("5 mm. Puis", "5 messieurs puis"),
    ("deux m. de long", "deux messieurs de long"), ("rue du Dr", "rue du docteur"),
    ("est", "e saint"), ("le 5 st", "le 5 saint"), ("no", "numéro"), ("non 5", "numéro 5"),
    ("n 5", "numéro 5"), ("premiers", "1er"), ("Ce", "100e"), ("Le", "50e"), ("Me", "1000e"),
    ("ive", "ivoire"), ("IIII", "4"), ("IXXe", "19e"), ("XL", "40"), ("pour cent", "%"),
    ("mille pour un", "‰ un"), ("kilo", "kg"), ("heure", "h"), ("25:30", "25 h 30"),
    ("14:75", "14 h 75"), ("1:234", "1 h 234"), ("14h30", "1430"), ("et", "e"), ("2 h", "2 heurts"),
    ("il y a", "ilya"), ("vitamine A", "vitamine à"), ("1er", "1"), ("20e", "20"),
]  # fmt: skip
PIECES = st.sampled_from(
    "U. R. S.S. a.b M. MM. m.\u00a0 Mme dr St st- n ° nº № no. 5 14 h 30 min 00 14h30 08:00 : "
    "heure heures pour cent mille % km/h km kilomètres à par l' le la un et & 1er premier Ier "
    "XXe vie VIe iie av. J.-C. jésus christ jc euros € ᵉ . - d' du de vingt 1 000 pour".split()
)  # fmt: skip
texts = st.one_of(st.lists(PIECES).map("".join), st.lists(PIECES).map(" ".join))


def test_the_table_is_read() -> None:
    assert len(TABLE) > 30
    assert {answer for _, _, answer in TABLE} == {"yes", "no"}


@pytest.mark.parametrize(("one", "other", "same"), TABLE)
def test_the_table_of_the_page_holds(one: str, other: str, same: str) -> None:
    assert exact_match(one, [other]) == exact_match(other, [one]) == float(same == "yes")


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_answer_are_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)
    assert f1(one, [other]) == 1.0


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_only_looks_like_shorthand_stays(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_words_without_shorthand_keep_their_tokens() -> None:
    assert tokens("Il y a du lait. A-t-il dit non ?") == "il y a de lait a t il dit non".split()


@settings(max_examples=1500, deadline=None)
@given(texts)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert normalise(unicodedata.normalize("NFD", text)) == once
    assert bool(once) == bool(text.strip())
