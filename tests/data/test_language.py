"""Languages and mojibake: French is told from other text, and sound French is never suspected."""

from __future__ import annotations

import sys

import pytest

from quatrain.data import language
from quatrain.data.embedded import embedded_rows
from quatrain.data.language import TOO_SHORT, is_lossy, languages, markup, mojibake

SOUND = "À l'œuvre, « l'élève naïf » fêta Noël à Évry… « voilà » — ça coûte 5 € À ÂGE ÉGAL Ünü"


def test_mojibake_of_each_french_letter_is_found() -> None:
    for letter in "éèêëàâçîïôûùüœÉÀÇŒ’«»…–€":
        try:
            garbled = letter.encode().decode("cp1252")
        except UnicodeDecodeError:
            garbled = letter.encode().decode("latin-1")
        assert mojibake(f"un mot {garbled} ici") is not None, letter


def test_sound_french_is_not_mojibake() -> None:
    assert mojibake(SOUND) is None
    assert mojibake(SOUND.replace(" »", "\u00a0»").replace("« ", "«\u00a0")) is None
    assert not any(mojibake(str(row.value)) for row in embedded_rows("demo:text"))


OLD = ("utf-8", "cp1252", "iso8859-15", "mac-roman", "cp850", "cp437")
WRITTEN_AND_READ = [(one, other) for one in OLD for other in OLD if one != other]


@pytest.mark.parametrize(("written", "read"), WRITTEN_AND_READ)
def test_each_encoding_taken_for_another_is_found(written: str, read: str) -> None:
    text = "Où est né Molière ? L'élève déjà âgé, très fâché, alla à la forêt."
    garbled = text.encode(written).decode(read, "replace")
    assert garbled == text or mojibake(garbled) or is_lossy(garbled)


def test_signs_between_letters_that_people_write_are_not_mojibake() -> None:
    sound = ["l·l", "5×3", "a×b", "x≤y", "H₂O", "m²/s", "kΩ", "μm", "n°5", "L’Haÿ", "ÉTÉ",
             "« mot »", "aujourd’hui", "½ tasse", "½-finale", "cœur–poumon", "mot…mot"]  # fmt: skip
    assert [text for text in sound if mojibake(f"un {text} ici")] == []


def test_mojibake_shows_what_is_around_it() -> None:
    found = mojibake("x" * 100 + "Ã©" + "y" * 100)
    assert found == "x" * 20 + "Ã©" + "y" * 20


def test_a_replacement_character_is_a_loss() -> None:
    assert is_lossy("l'\ufffdt\ufffd")
    assert not is_lossy(SOUND)


def test_french_and_english_are_told_apart_and_short_texts_are_not_told() -> None:
    french = ["Combien de jours a une semaine ? Sept", "Quelle est la capitale de la France ?"]
    english = ["What is the capital of France? It is Paris."]
    assert languages([*french, *english, "12 + 7 = 19"]) == {"fr": 2, "en": 1, TOO_SHORT: 1}


def test_no_language_is_told_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language._identifier.cache_clear()
    assert languages(["Combien de jours a une semaine ?"]) is None
    language._identifier.cache_clear()


def test_markup_is_tags_and_named_characters_and_no_other_use_of_their_signs() -> None:
    held = {
        "<P class='x'>Oui</P>": "<P class='x'>", "l'&eacute;t&eacute;": "&eacute;",
        "un<br/>deux": "<br/>", "5&#8239;%": "&#8239;", "fin</strong>": "</strong>",
    }  # fmt: skip
    assert {text: markup(text) for text in held} == held
    plain = (
        "si a < b et c > d", "R&D; ou AT&T", "<image>", "List<int> x", "<|eot|>", "a&b;", SOUND,
    )  # fmt: skip
    assert [text for text in plain if markup(text)] == []
