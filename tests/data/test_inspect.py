"""Inspecting: its findings match what preparing and training then do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quatrain.config import Config
from quatrain.data.inspect import Inspection, inspect, measure
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.data.survey import Places, Sample, Survey
from quatrain.errors import DataError
from quatrain.text.chat import ChatFormat
from quatrain.text.conversation import Conversation, Document, Message
from quatrain.text.tokenizer import SimpleCharTokenizer, train_bpe


def write(path: Path, rows: list[Any]) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def questions(number: int) -> list[Any]:
    return [{"instruction": f"Combien font {i} et un ?", "output": f"{i + 1}"}
            for i in range(number)]  # fmt: skip


def config_for(tmp_path: Path, rows: list[Any], held_out: list[Any] | None = None,
               task: str | None = "sft", **data: Any) -> Config:  # fmt: skip
    values: dict[str, Any] = {
        "run_dir": tmp_path / "run",
        "tokenizer": {"kind": "char"},
        "data": {"train": [str(write(tmp_path / "q.jsonl", rows))], "block_size": 128, **data},
        "train": {"task": task} if task else {},
    }
    if held_out is not None:
        values["data"]["eval"] = [str(write(tmp_path / "e.jsonl", held_out))]
    return Config.model_validate(values)


def found(inspection: Inspection, what: str) -> Any:
    (one,) = (finding for finding in inspection.findings if finding.what == what)
    return one


def names(inspection: Inspection) -> set[str]:
    return {finding.what for finding in inspection.findings}


def test_sound_data_is_ready_to_train(tmp_path: Path) -> None:
    inspection = inspect(config_for(tmp_path, questions(40)))
    side = inspection.sides["train"]
    assert not inspection.stops
    assert not inspection.warns, inspection.findings
    assert (side.survey.conversations, side.survey.turns) == (40, 80)
    assert side.sources[0]["shape"] == "alpaca"
    assert side.sources[0]["columns"] == {"instruction": "question", "output": "answer"}


def test_what_is_too_long_is_what_preparing_sets_aside(tmp_path: Path) -> None:
    rows = questions(60)
    for index in (7, 31):
        rows[index]["output"] = "très " * 40
    config = config_for(tmp_path, rows)
    inspection = inspect(config)
    load_and_prepare_french_data(config)
    lines = (tmp_path / "run" / "data" / "too_long.jsonl").read_text(encoding="utf-8").splitlines()
    aside = [(line["location"], line["tokens"]) for line in map(json.loads, lines)]
    tokens = inspection.sides["train"].tokens
    assert tokens is not None
    assert [(item.location, item.tokens) for item in tokens.too_long] == aside
    assert found(inspection, "too_long").level == "warning"
    assert found(inspection, "too_long").places[0] == f"q.jsonl:8: {aside[0][1]} tokens"


def test_too_many_cuts_stop_and_the_remedy_holds_all(tmp_path: Path) -> None:
    rows = questions(20)
    for row in rows[:5]:
        row["output"] = "très " * 40
    config = config_for(tmp_path, rows)
    finding = found(inspect(config), "too_long")
    assert (finding.level, finding.code, finding.count) == ("stop", "Q324", 5)
    with pytest.raises(DataError, match="Q324"):
        load_and_prepare_french_data(config)
    size = int(finding.remedy.split("block_size=")[1].split(",")[0])
    wider = config.replace(data=config.data.replace(block_size=size))
    assert "too_long" not in names(inspect(wider))


def test_bad_records_are_named_and_stop_as_in_training(tmp_path: Path) -> None:
    empty = {"instruction": "Vide ?", "output": " "}
    config = config_for(tmp_path, [*questions(30), '{"instruction": "coupé', empty, empty, empty])
    finding = found(inspect(config), "rejected")
    assert (finding.level, finding.code, finding.count) == ("stop", "Q323", 4)
    assert finding.places[0].startswith("q.jsonl:31: not JSON")
    assert "answer (output) is empty" in finding.places[1]
    with pytest.raises(DataError, match="Q323"):
        load_and_prepare_french_data(config)
    allowed = config.replace(data=config.data.replace(max_bad_fraction=0.2))
    assert found(inspect(allowed), "rejected").level == "warning"


def test_the_quick_tokenizer_is_the_one_that_training_makes(tmp_path: Path) -> None:
    config = config_for(tmp_path, questions(40))
    inspection = inspect(config)
    _, prepared = load_and_prepare_french_data(config)
    assert inspection.tokenizer["exact"]
    assert inspection.tokenizer["vocab_size"] == prepared.tokenizer.vocab_size
    tokens = inspection.sides["train"].tokens
    assert tokens is not None
    assert tokens.lengths.longest == prepared.report["train"]["longest"]


def test_planted_repetitions_are_found(tmp_path: Path) -> None:
    long_one = {
        "instruction": "Décris longuement la marche du temps et des saisons en France.",
        "output": "Le printemps suit l'hiver, puis vient l'été, enfin l'automne doré.",
    }
    near = {**long_one, "output": long_one["output"] + " Voilà."}
    rows = [*questions(30), long_one, near, {"instruction": "combien font 3 et UN", "output": "4."},
            {"instruction": "Combien font 5 et un ?", "output": "Sept"}]  # fmt: skip
    inspection = inspect(config_for(tmp_path, rows))
    assert found(inspection, "duplicates").places == ("q.jsonl:33 as q.jsonl:4",)
    assert found(inspection, "near_duplicates").places == ("q.jsonl:32 as q.jsonl:31",)
    assert "q.jsonl:34 as q.jsonl:6" in found(inspection, "disputed").places


def test_questions_on_one_context_are_not_near_duplicates(tmp_path: Path) -> None:
    context = "Marie Curie est née à Varsovie en 1867, et elle a vécu à Paris toute sa vie. " * 5
    asked = [("Où est-elle née ?", "à Varsovie"), ("Où a-t-elle vécu ?", "à Paris")]
    rows = [{"context": context, "question": q, "answers": {"text": [a], "answer_start": [0]}}
            for q, a in asked]  # fmt: skip
    assert "near_duplicates" not in names(inspect(config_for(tmp_path, rows, block_size=1024)))


def test_leaks_are_found_and_stop_where_asked(tmp_path: Path) -> None:
    passage = " ".join(f"mot{number}" for number in range(20))
    rows = [*questions(30), {"instruction": f"Lis : {passage}", "output": "C'est lu"}]
    held = [{"instruction": "COMBIEN font 4 et un", "output": "cinq"},
            {"instruction": f"Que dit-on ? {passage}", "output": "Des mots"},
            {"instruction": "Une autre question ?", "output": "Une autre réponse"}]  # fmt: skip
    config = config_for(tmp_path, rows, held, block_size=512)
    inspection = inspect(config)
    assert found(inspection, "leaked_questions").places == ("q.jsonl:5",)
    assert found(inspection, "leaked_text").places == ("q.jsonl:31",)
    assert found(inspection, "leaked_records").count == 2
    assert not inspection.stops
    assert inspect(config, fail_on_leak=True).stops


def test_the_held_out_side_is_judged_too(tmp_path: Path) -> None:
    held = [{"instruction": "Une question ?", "output": ""}]
    finding = found(inspect(config_for(tmp_path, questions(30), held)), "rejected")
    assert (finding.level, finding.side) == ("stop", "eval")


def test_control_tokens_are_counted_by_name_and_encoded_as_text(tmp_path: Path) -> None:
    rows = questions(30)
    rows[4]["instruction"] = "Que veut dire <|eot|> ici, et <|eot|> là ?"
    inspection = inspect(config_for(tmp_path, rows))
    finding = found(inspection, "control_tokens")
    assert finding.places == ("q.jsonl:5",)
    assert "<|eot|> 2x" in finding.message
    tokenizer = SimpleCharTokenizer([rows[4]["instruction"]])
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode(rows[4]["instruction"]))


def test_text_decoded_wrongly_and_lost_characters_are_found(tmp_path: Path) -> None:
    rows = questions(30)
    rows[2]["output"] = "un Ã©lÃ¨ve"
    rows[3]["output"] = "un \ufffdl\ufffdve"
    inspection = inspect(config_for(tmp_path, rows))
    assert found(inspection, "mojibake").places == ("q.jsonl:3",)
    assert found(inspection, "lost_characters").places == ("q.jsonl:4",)


def test_html_is_found(tmp_path: Path) -> None:
    rows = questions(30)
    rows[4]["output"] = "<p>Le 3&nbsp;mai</p>"
    few = found(inspect(config_for(tmp_path, rows)), "markup")
    assert (few.level, few.places) == ("note", ("q.jsonl:5",))
    assert "<p>" in few.message
    for row in rows[:3]:
        row["output"] = "à 9&nbsp;h"
    assert found(inspect(config_for(tmp_path, rows)), "markup").level == "warning"


def test_english_data_is_a_warning(tmp_path: Path) -> None:
    rows = [{"instruction": f"What is the capital of country number {i}?",
             "output": f"I do not know the answer to question {i}"} for i in range(30)]  # fmt: skip
    finding = found(inspect(config_for(tmp_path, rows, block_size=256)), "not_french")
    assert finding.message.startswith("0% of 30 sampled records are French; most are English")


def test_an_answer_outside_its_context_is_named(tmp_path: Path) -> None:
    rows = [{"context": "Marie est née à Lyon.", "question": "Où est née Marie ?", "answers": [a]}
            for a in ("à Lyon", "À LYON.", "à Paris")]  # fmt: skip
    finding = found(inspect(config_for(tmp_path, rows)), "answer_not_in_context")
    assert (finding.count, finding.places) == (1, ("q.jsonl:3",))


def test_one_answer_to_most_questions_is_a_warning(tmp_path: Path) -> None:
    rows = questions(40)
    for row in rows[:20]:
        row["output"] = "Oui" if row["instruction"].count("1") else "oui."
    finding = found(inspect(config_for(tmp_path, rows)), "dominant_answer")
    assert finding.count == 20
    assert "50% of the answers are the same: 'oui.'" in finding.message


def test_plain_text_is_for_pretraining_unless_a_task_is_given(tmp_path: Path) -> None:
    rows = [{"text": f"Une phrase numéro {number}."} for number in range(20)]
    assert inspect(config_for(tmp_path, rows, task=None)).task == "pretrain"
    finding = found(inspect(config_for(tmp_path, rows)), "plain_text")
    assert (finding.level, finding.code) == ("stop", "Q327")


def test_samples_show_what_is_learnt(tmp_path: Path) -> None:
    rows = [{"instruction": "Bonjour !", "output": "Salut."}]
    shown, *_ = inspect(config_for(tmp_path, rows)).samples
    learnt = [text for text, mask, _ in shown.spans if mask]
    assert learnt == ["Salut.", "<|eot|>"]
    assert "".join(text for text, _, _ in shown.spans) == (
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\nBonjour !<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\nSalut.<|eot|>"
    )
    assert shown.learnt == 7


def test_a_given_tokenizer_and_format_are_used(tmp_path: Path) -> None:
    config = config_for(tmp_path, questions(10))
    tokenizer = train_bpe(["Combien font dix et un ?"], 300)
    inspection = inspect(config, tokenizer, ChatFormat(default_system="Réponds."))
    assert inspection.tokenizer == {"given": True, "exact": True, "vocab_size": 300}
    assert "Réponds." in "".join(text for text, _, _ in inspection.samples[0].spans)


def test_a_source_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    config = config_for(tmp_path, [{"foo": 1}])
    with pytest.raises(DataError, match="no known shape"):
        inspect(config)


def test_lengths_are_summed_up_at_round_numbers() -> None:
    lengths = measure(np.array([2, 2, 3, 9]))
    assert (lengths.median, lengths.p95, lengths.longest) == (2, 8, 9)
    assert dict(lengths.histogram)[2] == 2
    assert sum(count for _, count in lengths.histogram) == 4
    limited = measure(np.arange(1, 101), limit=64)
    assert sum(n for bound, n in limited.histogram if bound > 64) == 36
    assert sum(n for bound, n in limited.histogram if bound <= 64) == 64


def test_a_sample_is_bounded_and_spread_evenly() -> None:
    sample = Sample()
    for index in range(100_000):
        sample.add(index, Document("un texte", "", f"t:{index}"))
    kept = np.array(list(sample.records))
    assert 5_000 < len(kept) <= 20_000
    assert not sample.whole
    halves = [int((kept % 2 == parity).sum()) for parity in (0, 1)]
    assert min(halves) > 0.4 * len(kept)
    assert abs(float(kept.mean()) - 50_000) < 2_000


def test_a_record_too_long_for_the_sample_is_left_out_of_it_alone(tmp_path: Path) -> None:
    rows = [*questions(5), {"instruction": "mot " * 10_000, "output": "Fin"}]
    config = config_for(tmp_path, rows, max_cut_fraction=1.0)
    inspection = inspect(config)
    assert not inspection.tokenizer["exact"]
    tokens = inspection.sides["train"].tokens
    assert tokens is not None
    assert [item.location for item in tokens.too_long] == ["q.jsonl:6"]


def test_the_limit_is_kept_and_said(tmp_path: Path) -> None:
    config = config_for(tmp_path, questions(30), limit=10)
    survey = Survey().read(config.data.train, config.data)
    assert len(survey) == 10
    assert survey.notes == ["data.limit=10 reached: the rest was not read"]


def test_places_are_given_back() -> None:
    places = Places()
    for place in ("a.jsonl:1", "é.json:2.3.4", "b:3"):
        places.add(place)
    assert [places[index] for index in range(3)] == ["a.jsonl:1", "é.json:2.3.4", "b:3"]


def test_turns_of_the_system_are_no_repetition(tmp_path: Path) -> None:
    system = Message("system", "Réponds en une phrase, sans détour, et toujours en français. " * 9)
    survey = Survey()
    for index in range(30):
        asked, said = Message("user", f"Combien {index} ?"), Message("assistant", f"Bien {index}.")
        one = Conversation((system, asked, said), (said.content,), "", f"q:{index}")
        survey._take(one, "messages")
        survey._compare([one])
    assert survey.sketches.near(survey.wholes, 5).count == 0
