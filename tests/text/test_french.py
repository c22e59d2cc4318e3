import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quatrain.text.french import normalise, tokens

FRENCH_SIGNS = (
    "aàbcdeéèêlmnoœpqrstuxyzÉÇ 0123456789.,;:!?'’ʼ′\"«»“”()-‑–−/%€$+=°²"
    "\u00a0\u202f\u2009\u00ad\u0301\u0300\u0327…"
)
FRENCH_PIECES = st.sampled_from(
    "le la l' L’ un une des du de d' aux cent et vingt qu' 1 000 12 3,5 - − 5 É e\u0301 ?".split()
)
texts = st.one_of(
    st.text(), st.text(FRENCH_SIGNS), st.lists(FRENCH_PIECES).map("".join),
    st.lists(FRENCH_PIECES).map(" ".join),
)  # fmt: skip

SAME = [
    ("l'eau", "eau"),
    ("l’eau", "l'eau"),
    ("« Paris »", "Paris"),
    ("«\u202fParis\u202f».", "paris"),
    ("E\u0301vry", "Évry"),
    ("aujourd'hui", "aujourd’hui"),
    ("cœur", "coeur"),
    ("Lætitia", "laetitia"),
    ("Jean\u2011Paul", "Jean-Paul"),
    ("Jean\u2010Paul", "Jean Paul"),
    ("1 000", "1000"),
    ("1\u202f000", "1\u00a0000"),
    ("1 234 567,8", "1234567.8"),
    ("1.000.000", "1 000 000"),
    ("3,5", "3.5"),
    ("-5", "−5"),
    ("5 %", "5%"),
    ("20\u202f€", "20€"),
    ("du pain", "pain"),
    ("de la farine", "farine"),
    ("de l'eau", "eau"),
    ("des amis", "les amis"),
    ("la capitale d'Italie", "La capitale de l'Italie."),
    ("le port du Havre", "port de Havre"),
    ("1939-1945", "1939 – 1945"),
    ("vingt-et-un", "vingt et un"),
    ("co\u00adopérer", "coopérer"),
    ("qu'il", "que il"),
    ("'l'eau'", "eau"),
    ("il dit 'd'accord'", "il dit de accord"),
]
DIFFERENT = [
    ("3,5", "35"),
    ("-5", "5"),
    ("cent un", "cent"),
    ("vingt et une", "vingt"),
    ("5 %", "5"),
    ("1/2", "12"),
    ("1/200", "1200"),
    ("ou", "où"),
    ("C++", "C"),
    ("verre d'eau", "verre eau"),
    ("le", "la"),
    ("?", "!"),
    ("10²", "102"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_answer_have_one_normal_form(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_answers_stay_different(one, other):
    assert normalise(one) != normalise(other)


def test_the_docstring_example_holds():
    assert normalise("« L’Élysée », 1 000 m²") == "élysée 1000 m²"


def test_elisions_are_split_from_their_noun():
    assert tokens("J'ai dit qu’il n'est jusqu'ici d’accord") == (
        "je ai dit que il ne est jusque ici de accord".split()
    )


@pytest.mark.parametrize("word", ["aujourd'hui", "prud'homme", "quelqu'un", "presqu'île"])
def test_words_with_an_inner_apostrophe_stay_whole(word):
    assert tokens(f"« {word.replace(chr(39), '’')} »") == [word]


def test_two_elisions_in_a_row_are_both_split():
    assert tokens("parce que d'l'eau") == ["parce", "que", "de", "eau"]


def test_an_elision_after_an_inner_apostrophe_is_no_elision():
    assert tokens("rock'n'roll") == ["rock'n'roll"]


@pytest.mark.parametrize(
    ("text", "form"),
    [("Le", "le"), ("Un", "un"), ("L'", "l'"), ("de la", "de la"), ("?", "?"), ("« »", "« »")],
)
def test_an_answer_of_nothing_but_articles_or_signs_is_kept(text, form):
    assert normalise(text) == form


def test_only_blank_text_is_empty():
    assert normalise(" \u202f\n") == ""


def test_ordinals_are_left_alone():
    assert tokens("le 1er mai, la 1re fois") == ["1er", "mai", "1re", "fois"]


def test_a_hyphen_between_numbers_is_no_minus_sign():
    assert tokens("de 3-5, puis -5 et (−6)") == ["de", "3", "5", "puis", "-5", "et", "-6"]


@settings(max_examples=400, deadline=None)
@given(texts)
@example("'S'0")
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_composed_and_decomposed_text_are_the_same(text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert normalise(composed) == normalise(decomposed) == normalise(text)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_a_text_that_is_not_blank_never_becomes_empty(text):
    assert bool(normalise(text)) == bool(text.strip())
