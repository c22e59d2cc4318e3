import hashlib
import json
import re
import subprocess
import sys
import time
import unicodedata
from collections import Counter, defaultdict

import pytest

from quatrain.data import demo, demo_facts, demo_words
from quatrain.data.demo import FAMILIES, facts, lessons, questions
from quatrain.data.demo_phrasings import PHRASINGS
from quatrain.data.demo_text import pretraining_text
from quatrain.text.french import normalise

SPLITS = ("train", "heldout", "strict")


def asked(split, count=None, seed=0):
    return {item["instruction"] for item in questions(split, count, seed)}


def test_no_wording_of_a_question_is_in_two_splits():
    seen = Counter(normalise(question) for split in SPLITS for question in asked(split))
    assert {question for question, times in seen.items() if times > 1} == set()


def test_no_seed_draws_a_held_out_question_for_training():
    exams = asked("heldout") | asked("strict")
    for seed in range(20):
        assert not asked("train", 2000, seed) & exams


@pytest.mark.parametrize("split", SPLITS)
def test_a_draw_comes_from_its_own_split(split):
    assert asked(split, 700, seed=3) <= asked(split)


def test_each_family_has_enough_of_every_split():
    sizes = {s: Counter(item["family"] for item in questions(s)) for s in SPLITS}
    for family in FAMILIES:
        assert sizes["train"][family] >= 800
        assert sizes["heldout"][family] >= 100
        assert sizes["strict"][family] >= 80


def test_about_an_eighth_of_the_other_questions_is_held_out():
    held, trained = len(questions("heldout")), len(questions("train"))
    assert 0.11 < held / (held + trained) < 0.13


def test_the_promised_question_is_held_out():
    promised = {
        "instruction": "Quel est le produit de 6 et 2 ?",
        "input": "",
        "output": "12",
        "family": "produit",
    }
    assert promised in questions("heldout")


def test_every_fact_keeps_most_of_its_phrasings_for_training():
    trained = asked("train")
    for fact in facts("train"):
        spoken = [demo._item(fact, phrasing)["instruction"] for phrasing in PHRASINGS[fact.kind]]
        assert sum(question in trained for question in spoken) >= 0.6 * len(spoken)


def test_a_strict_fact_is_strict_in_every_order_and_family():
    strict = {fact.key for fact in facts("strict")}
    assert not strict & {fact.key for fact in facts("train")}
    assert demo_facts.addition_key(6, 2) == demo_facts.addition_key(2, 6) == "addition:2+6"
    keys = {(f.family, f.name): f.key for f in demo_facts.all_facts()}
    assert keys["différence", "différence|8|2"] == keys["différence", "différence|8|6"]
    assert keys["différence", "différence|8|2"] == "addition:2+6"


def test_strict_words_are_in_no_training_question_of_their_family():
    trained = defaultdict(set)
    for item in questions("train"):
        trained[item["family"]] |= set(re.findall(r"[\w'-]+", item["instruction"].lower()))
    words = {"pluriel": "mot", "féminin": "mot", "contraire": "mot", "conjugaison": "verbe"}
    common = {"fois", "mot"}  # words of the phrasings themselves
    for fact in facts("strict"):
        if fact.family in words:
            assert fact.slots[words[fact.family]] not in trained[fact.family] - common


def test_small_numbers_are_never_strict():
    strict = {fact.key for fact in facts("strict")}
    assert not strict & {f"nombre:{n}" for n in range(21)}


def test_a_draw_gives_equal_shares_without_repeats():
    drawn = questions("train", 1100, seed=5)
    assert Counter(item["family"] for item in drawn) == dict.fromkeys(FAMILIES, 100)
    assert len({item["instruction"] for item in drawn}) == 1100
    assert [item["family"] for item in drawn[:11]] != [drawn[0]["family"]] * 11


def test_training_goes_on_past_an_exhausted_family_and_an_exam_does_not():
    drawn = [i["instruction"] for i in questions("train", 11 * 1000) if i["family"] == "calendrier"]
    once = {i["instruction"] for i in questions("train") if i["family"] == "calendrier"}
    assert len(drawn) == 1000
    assert set(drawn) == once
    exam = [i["instruction"] for i in questions("heldout", 11 * 1000)]
    assert sorted(exam) == sorted(asked("heldout"))


def test_lessons_hold_every_training_question_and_small_families_again():
    given = lessons(2000)
    times = Counter(item["instruction"] for item in given)
    assert set(times) == asked("train")
    of_family = defaultdict(list)
    for item in questions("train"):
        of_family[item["family"]].append(times[item["instruction"]])
    for counts in of_family.values():
        assert sum(counts) == max(2000, len(counts))
        assert max(counts) - min(counts) <= 1
    assert {item["family"] for item in given[:500]} == set(FAMILIES)
    assert lessons(2000) == given != lessons(2000, seed=1)


def test_another_seed_draws_other_questions():
    assert asked("train", 200, seed=1) != asked("train", 200, seed=2)


def test_an_unknown_split_or_a_negative_count_is_refused():
    with pytest.raises(ValueError, match=r"split='test' is unknown\. Use one of train, heldout"):
        questions("test")
    with pytest.raises(ValueError, match="count must not be negative: count=-1"):
        questions("train", -1)


def test_a_caller_cannot_change_the_questions_of_the_next():
    questions("train")[0]["output"] = "changed"
    assert questions("train")[0]["output"] != "changed"


def test_the_first_thousand_questions_never_change():
    lines = [json.dumps(item, ensure_ascii=False) for item in questions("train", 1000, seed=0)]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "777295bc3097d34d81af701d3be6e61e6785adb3e3dfe52f78dd37e2d0d8e9e5"


def test_enumerating_the_training_questions_is_quick():
    demo._splits.cache_clear()
    start = time.process_time()
    questions("train")
    assert time.process_time() - start < 2


def numbers_of(question):
    return [int(number) for number in re.findall(r"\d+", question)]


@pytest.mark.parametrize("split", SPLITS)
def test_arithmetic_is_right_when_parsed_anew(split):
    for item in questions(split):
        low, high = sorted([*numbers_of(item["instruction"]), 0, 0])[-2:]
        result = {"somme": low + high, "différence": high - low, "produit": low * high}
        if item["family"] in result:
            assert item["output"] == str(result[item["family"]]), item


def read_number(words):
    """Read a number in words, another way than it was written."""
    values = {name: n for n, name in enumerate(demo_words.SMALL_NUMBERS[:17])}
    values |= {"vingt": 20, "trente": 30, "quarante": 40, "cinquante": 50, "soixante": 60}
    total = 0
    for word in re.split("[ -]", words.replace("quatre-vingts", "quatre-vingt")):
        if word in ("cent", "cents"):
            total = 100 * max(total, 1)
        elif word == "vingt" and total % 100 == 4:
            total += 76
        elif word != "et":
            total += values[word]
    return total


def test_numbers_in_words_read_back_as_themselves():
    spelled = [demo_words.in_words(n) for n in range(201)]
    assert [read_number(words) for words in spelled] == list(range(201))
    assert len(set(spelled)) == 201


FACTS = """
nombre en lettres: 0 zéro; 17 dix-sept; 21 vingt et un; 45 quarante-cinq; 71 soixante et onze
nombre en lettres: 80 quatre-vingts; 81 quatre-vingt-un; 91 quatre-vingt-onze; 101 cent un
nombre en lettres: 180 cent quatre-vingts; 199 cent quatre-vingt-dix-neuf; 200 deux cents
pluriel: cheval chevaux; bal bals; œil yeux; pneu pneus; landau landaus; hibou hiboux; clou clous
pluriel: travail travaux; rail rails; nez nez; gâteau gâteaux; noyau noyaux; vœu vœux; croix croix
pluriel: hôpital hôpitaux; festival festivals; vitrail vitraux; chandail chandails; fleur fleurs
féminin: beau belle; vieux vieille; blanc blanche; public publique; grec grecque; sec sèche
féminin: frais fraîche; doux douce; faux fausse; jaloux jalouse; actif active; léger légère
féminin: complet complète; net nette; gentil gentille; rouge rouge; bon bonne; cruel cruelle
féminin: génial géniale; parisien parisienne; pareil pareille; long longue; favori favorite
contraire: grand petit; petit grand; ouvrir fermer; jour nuit; poli impoli; avant après
capitale: l'Italie Rome; le Brésil Brasilia; l'Australie Canberra; la Turquie Ankara
capitale: le Canada Ottawa; les Pays-Bas Amsterdam; Cuba La Havane; la Suisse Berne
"""


def hand_written():
    for line in FACTS.strip().splitlines():
        family, _, pairs = line.partition(": ")
        for pair in pairs.split("; "):
            yield family, pair


@pytest.mark.parametrize(("family", "pair"), list(hand_written()))
def test_facts_known_by_heart_are_there(family, pair):
    stated = {
        f"{next(iter(fact.slots.values()))} {fact.answer}"
        for fact in demo_facts.all_facts()
        if fact.family == family
    }
    assert pair in stated


@pytest.mark.parametrize(
    ("verb", "pronoun", "form"),
    [
        ("chanter", "nous", "nous chantons"),
        ("aimer", "je", "j'aime"),
        ("habiter", "je", "j'habite"),
        ("écouter", "ils", "ils écoutent"),
        ("finir", "tu", "tu finis"),
        ("choisir", "vous", "vous choisissez"),
        ("obéir", "je", "j'obéis"),
        ("grandir", "elles", "elles grandissent"),
        ("oublier", "nous", "nous oublions"),
    ],
)
def test_the_present_tense_is_right(verb, pronoun, form):
    assert demo_words.conjugate(verb, pronoun) == form


def test_no_listed_verb_needs_a_rule_that_is_missing():
    wrong = re.compile(r"(ger|cer|yer|eter|eler|[éeè][bcdfglmnprstv]er|écher|égner)$")
    assert [verb for verb in demo_words.verbs() if wrong.search(verb)] == []


@pytest.mark.parametrize("words", [demo_words.verbs(), demo_words.nouns(), demo_words.adjectives()])
def test_no_word_is_listed_twice(words):
    assert [word for word, times in Counter(words).items() if times > 1] == []


def test_no_word_has_two_opposites_and_no_country_two_capitals():
    words = [word for pair in demo_words.opposites() for word in pair]
    assert len(words) == len(set(words)) >= 160
    assert len({country for country, _ in demo_facts.countries()}) == len(demo_facts.countries())


@pytest.mark.parametrize(
    ("country", "of", "where"),
    [
        ("la France", "de la France", "en France"),
        ("l'Italie", "de l'Italie", "en Italie"),
        ("le Japon", "du Japon", "au Japon"),
        ("les Fidji", "des Fidji", "aux Fidji"),
        ("Cuba", "de Cuba", "à Cuba"),
        ("Haïti", "d'Haïti", "en Haïti"),
        ("Oman", "d'Oman", "à Oman"),
    ],
)
def test_countries_have_their_prepositions(country, of, where):
    assert (demo_facts.of_country(country), demo_facts.in_country(country)) == (of, where)


@pytest.mark.parametrize("split", SPLITS)
def test_questions_and_answers_are_typeset(split):
    texts = [item[field] for item in questions(split) for field in ("instruction", "output")]
    assert not [text for text in texts if badly_typeset(text)]


def badly_typeset(text):
    return (
        "  " in text
        or text != text.strip()
        or text != unicodedata.normalize("NFC", text)
        or re.search(r"\S[?!:»]|«\S|[{}]|’", text)
        or re.search(r"\b(?:de|que|(?<!-)je) (?!onze)[aeiouéèêàâîôûœ]|\bsi il", text.lower())
    )


def test_pretraining_documents_are_distinct_short_and_typeset():
    documents = pretraining_text()
    assert len(set(documents)) == 4000
    assert not [text for text in documents if badly_typeset(text)]
    lengths = {len(re.findall(r"[.!](?= |$)", text)) for text in documents}
    assert (min(lengths), max(lengths)) == (2, 8)


def test_pretraining_text_is_a_function_of_its_seed():
    assert pretraining_text(7, 50) == pretraining_text(7, 50) != pretraining_text(8, 50)


def test_more_documents_than_the_templates_hold_are_refused(monkeypatch):
    monkeypatch.setattr("quatrain.data.demo_text._themes", lambda: [lambda draw: ["Oui."]])
    with pytest.raises(ValueError, match="count=2 is more than the templates can vary"):
        pretraining_text(0, 2)


def test_pretraining_text_holds_no_exam_question():
    text = "\n".join(pretraining_text()).lower()
    assert not [q for q in asked("heldout") | asked("strict") if q.lower() in text]


def told_operations(text):
    """Find each sum, difference or product that a text tells, as a fact's key."""
    number = r"([a-zéè-]+(?: et (?:un|onze))?|\d+)"
    value = {demo_words.in_words(n): n for n in range(201)} | {str(n): n for n in range(201)}
    forms = {
        rf"{number} (?:et|plus) {number} (?:font|égale) ": demo_facts.addition_key,
        r"somme de (\d+) et (\d+) est ": demo_facts.addition_key,
        r"ajoutant (\d+) à (\d+),": demo_facts.addition_key,
        rf"{number} moins {number} égale ": lambda a, b: demo_facts.addition_key(a - b, b),
        r"entre (\d+) et (\d+) est ": lambda a, b: demo_facts.addition_key(a - b, b),
        rf"{number} fois {number} font ": demo_facts.product_key,
        r"produit de (\d+) et (\d+) est ": demo_facts.product_key,
    }
    for form, key in forms.items():
        for a, b in re.findall(form, text):
            yield key(value[a], value[b])


def test_pretraining_text_tells_no_strict_operation():
    told = set(told_operations("\n".join(pretraining_text()).lower()))
    assert len(told) > 200
    assert not told & demo.strict_keys()


def test_pretraining_text_tells_no_strict_word_or_place():
    documents = pretraining_text()
    text = " ".join(re.findall(r"[\w'-]+", " ".join(documents).lower()))
    for fact in facts("strict"):
        told = fact.answer.lower()
        if fact.family in ("capitale", "nombre en lettres"):
            assert not re.search(rf"(?<![\w-])(?<!cent ){re.escape(told)}(?![\w-])", text), told
        if fact.family in ("pluriel", "féminin", "conjugaison") and told != fact.slots.get("mot"):
            assert f" {told} " not in text, told
    for fact in facts("strict"):
        if fact.family == "contraire":
            quoted = f"« {fact.slots['mot']} »", f"« {fact.answer} »"
            assert not [d for d in documents if all(q in d.lower() for q in quoted)]


def test_the_command_line_prints_json_lines():
    command = [sys.executable, "-m", "quatrain.data.demo", "--split", "heldout", "--count", "22"]
    output = subprocess.run([*command, "--seed", "4"], capture_output=True, check=True).stdout
    rows = [json.loads(line) for line in output.decode("utf-8").splitlines()]
    assert rows == questions("heldout", 22, seed=4)
    assert {tuple(row) for row in rows} == {("instruction", "input", "output", "family")}
    assert "\\u" not in output.decode("utf-8")


def test_the_command_line_refuses_a_negative_count(capsys):
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--count", "-1"])
    assert "--count must not be negative: -1" in capsys.readouterr().err
