"""Progress for people: a line at once, and another after each silence."""

from __future__ import annotations

import re
import time

import pytest

from quatrain.cli import telling as module
from quatrain.cli.telling import telling
from quatrain.config import GenerateConfig
from quatrain.progress import watcher, working
from quatrain.words import speak


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENCE", 0.05)


def test_what_begins_is_said_at_once_and_again_after_a_silence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with telling(), working("progress.answers", total=12) as work:
        assert capsys.readouterr().err == "answers 0 of 12\n"
        work.advance(5)
        time.sleep(0.3)
        said = capsys.readouterr().err.splitlines()
    assert len(said) >= 2
    assert set(said) == {"answers 5 of 12"}


def test_works_within_works_are_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with telling(), working("progress.evaluation"), working("progress.answers", total=3):
        time.sleep(0.3)
    assert "evaluation · answers 0 of 3\n" in capsys.readouterr().err


def test_a_line_that_is_said_breaks_the_silence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENCE", 60.0)
    with telling():
        one = watcher()
        assert one is not None
        one.line("step 1/20  loss 2.500")
        with working("progress.saving"):
            pass
    assert capsys.readouterr().err == "step 1/20  loss 2.500\n"


def test_a_long_work_says_for_how_long_it_has_gone_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with telling(), working("progress.loading"):
        time.sleep(1.2)
    assert re.search(r"loading the weights \(1\.\d.s\)", capsys.readouterr().err)


def test_it_is_told_in_the_language_that_is_spoken(capsys: pytest.CaptureFixture[str]) -> None:
    speak("fr")
    try:
        with telling(), working("progress.answers", total=2):
            time.sleep(0.3)
    finally:
        speak("en")
    assert "réponses 0 sur 2" in capsys.readouterr().err


def test_nobody_is_watched_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    with telling():
        pass
    capsys.readouterr()
    with working("progress.saving"):
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_the_held_out_loss_numbers_the_batch_that_it_reads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from quatrain.evaluate.run import examine
    from quatrain.generate.answer import Answerer
    from quatrain.text.chat import LLAMA4
    from quatrain.text.conversation import Conversation, Message
    from quatrain.text.tokenizer import SimpleCharTokenizer
    from tiny import tiny_config, tiny_model

    tokenizer = SimpleCharTokenizer(["Où ? ici"])
    model = tiny_model(tiny_config(vocab_size=tokenizer.vocab_size, max_position_embeddings=4096))
    answerer = Answerer.of(model, tokenizer, LLAMA4)
    turns = (Message("user", "Où ? " * 500), Message("assistant", "ici"))
    asked = [Conversation(turns, ("ici",), str(n), "f:1") for n in range(2)]
    for language, first in (("en", "held-out loss, batch 1 of 2"),
                            ("fr", "perte de validation, batch 1 sur 2")):  # fmt: skip
        speak(language)
        try:
            with telling():
                answerer.abstention_scores([turns[:1]], "ici")
                examine(answerer, asked, GenerateConfig(max_new_tokens=1))
        finally:
            speak("en")
        err = capsys.readouterr().err
        assert ("likelihood of abstaining, questions 0 of 1" in err) == (language == "en")
        said = [line for line in err.splitlines() if "batch" in line]
        assert said[0] == first
        assert all(re.search(r"batch [12] (of|sur) 2", line) for line in said)
