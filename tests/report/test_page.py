"""The page shows what the run's files hold, escapes what people wrote, and requests nothing."""

from __future__ import annotations

import json
import re
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hand_made_run import HOSTILE, eval_row, hand_made, lines, train_row
from quatrain.data.parse import Rejection
from quatrain.data.records import write_rejected
from quatrain.errors import CheckpointError
from quatrain.recipe import load_config, to_yaml
from quatrain.report.curves import figures
from quatrain.report.page import render, visible, write_report
from quatrain.report.read import read_run
from quatrain.words import Sentence, Words, recorded

NOON = datetime(2026, 11, 24, 12, 5)


class Page(HTMLParser):
    """What a browser finds: elements with their attributes, and text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "link", "path"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.inside and data.strip():
            self.texts.append(re.sub("[ \n]+", " ", data.strip()))

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def page_of(run_dir: Path, language: str = "en") -> Page:
    return Page(render(read_run(run_dir), Words(language), NOON))


def test_the_headline_compares_the_best_evaluation_with_the_first(tmp_path: Path) -> None:
    text = page_of(hand_made(tmp_path)).text
    assert "fine-tuned on 9 records from questions.jsonl" in text
    for shown in ("75.0% 0.0% before", "50.0% 0.0% before", "2.00 8.00 before", "8.0 s"):
        assert shown in text.replace("\u00a0", " "), shown
    assert "Finished after 4 steps" in text
    assert f'quatrain ask {tmp_path}/main "Est-ce ?"' in text
    assert "is that of step 2 of 4" in text
    assert "lowest at step 2 (2.00) and ended at 3.00" in text


def test_every_number_of_the_data_report_is_shown(tmp_path: Path) -> None:
    text = page_of(hand_made(tmp_path)).text
    for shown in ("Records read 12", "Rejected 1", "Duplicates in the training records 2",
                  "75.00% of the positions hold tokens. 25.00% are padding", "q:3"):  # fmt: skip
        assert shown in text, shown


def test_what_was_noted_and_rejected_is_told_in_the_language_of_the_page(tmp_path: Path) -> None:
    run_dir = hand_made(tmp_path)
    note = Sentence.of("notes.shape", source="q.jsonl", shape="alpaca")
    reason = Sentence.of("reasons.empty", name="answer")
    report = json.loads((run_dir / "data" / "report.json").read_text(encoding="utf-8"))
    report["notes"] = [{"text": note, **recorded(note)}]
    (run_dir / "data" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    write_rejected(run_dir / "data" / "rejected.jsonl", [Rejection("q.jsonl:3", reason)])
    for language in ("en", "fr"):
        write_report(run_dir, language)
        text = Page((run_dir / "report.html").read_text(encoding="utf-8")).text
        words = Words(language)
        assert words("notes.shape", source="q.jsonl", shape="alpaca") in text
        assert words("reasons.empty", name="answer") in text


def test_what_was_fixed_and_what_broke_is_listed(tmp_path: Path) -> None:
    text = page_of(hand_made(tmp_path)).text
    assert "Fixed: 1 Est-ce ? expected Est-ce ? before Est-ce ? after oui" in text
    assert "Now wrong: 1 Deux ? expected oui before oui after non" in text


def test_the_recipe_is_shown_as_what_differs_from_its_defaults(tmp_path: Path) -> None:
    text = page_of(hand_made(tmp_path, batch_size=3)).text
    assert "train.batch_size 3 – the recipe" in text
    assert "train.weight_decay" not in text


def test_a_preset_is_among_what_differs_from_the_defaults(tmp_path: Path) -> None:
    run_dir = hand_made(tmp_path)
    config = load_config(None, ["model.preset=small", f"run_dir={run_dir}"])
    (run_dir / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    settings = {one.name: one.value for one in read_run(run_dir).settings}
    assert {name: settings[name] for name in settings if name.startswith("model.")} == {
        "model.preset": "small"
    }


def test_scores_that_are_all_zero_stand_on_an_axis_of_percentages(tmp_path: Path) -> None:
    run_dir = hand_made(tmp_path)
    lines(run_dir / "metrics.jsonl", [train_row(1), eval_row(0, 9.0, 0.0, 0.0)])
    chart = figures(read_run(run_dir), Words("en"))["scores"].chart
    assert [tick.text for tick in chart.y_ticks] == ["0", "20", "40", "60", "80", "100"]


def test_idle_experts_are_counted_and_named(tmp_path: Path) -> None:
    page = page_of(hand_made(tmp_path))
    assert "the busiest expert, in layer 0, got 3.0 times an equal share" in page.text
    assert "2 of 8 experts got no token in those steps" in page.text
    assert "0 3.00 3.00 0.00 2, 3" in page.text
    assert sum(1 for _, attrs in page.elements if attrs.get("class") == "heat") == 2


def test_hostile_text_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    run_dir = hand_made(tmp_path, hostile=HOSTILE)
    write_report(run_dir, "fr")
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not [tag for tag, _ in page.elements if tag in ("script", "iframe", "object")]
    assert page.text.count("<script>alert(1)</script>") >= 4
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert "⟨U+202E⟩envers" in page.text
    assert "␛[31mrouge" in page.text


def test_signs_stand_for_characters_that_command() -> None:
    assert visible("a\x1b[0m\x00\u2067\x9b\ud800") == "a␛[0m␀⟨U+2067⟩⟨U+009B⟩\ufffd"
    assert visible("l'été\n« œuf »\u202f!") == "l'été\n« œuf »\u202f!"


def test_a_very_long_answer_is_cut_and_its_length_said(tmp_path: Path) -> None:
    html = render(read_run(hand_made(tmp_path, hostile="é" * 10**6)), Words("en"), NOON)
    assert "(1,000,000 characters in all)" in html
    assert len(html) < 200_000


def test_the_page_asks_no_other_host_and_runs_no_script(tmp_path: Path) -> None:
    page = page_of(hand_made(tmp_path))
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on"), tag
            if name in ("src", "href", "action", "data", "srcset"):
                assert value == "data:,", value
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    css = (Path(write_report.__code__.co_filename).parent / "page.css").read_text()
    assert "url(" not in css
    assert "@import" not in css


def test_pictures_have_words_and_tables_have_headers(tmp_path: Path) -> None:
    page = page_of(hand_made(tmp_path))
    pictures = [a for _, a in page.elements if a.get("role") == "img"]
    assert len(pictures) == 8  # four curves, two heat maps, lengths, packing
    assert all(len(attrs["aria-label"]) > 30 for attrs in pictures)
    headers = [attrs for tag, attrs in page.elements if tag == "th"]
    assert headers
    assert all(attrs.get("scope") in ("col", "row") for attrs in headers)
    assert [a["lang"] for tag, a in page.elements if tag == "html"] == ["en"]


def test_the_same_page_in_french_writes_numbers_as_french_does(tmp_path: Path) -> None:
    text = page_of(hand_made(tmp_path, steps=4000), "fr").text
    assert "75,0\u202f%" in text
    assert "Terminé après 4\u202f000 pas" in text
    assert "24 novembre 2026 à 12:05" in text


@pytest.mark.parametrize("missing", [
    "metrics.jsonl", "samples.jsonl", "data/report.json", "data/rejected.jsonl", "env.json",
    "recipe.yaml", "checkpoints/step-000004/state.json",
])  # fmt: skip
def test_a_run_that_lacks_a_file_is_told_of_without_it(tmp_path: Path, missing: str) -> None:
    run_dir = hand_made(tmp_path)
    (run_dir / missing).unlink()
    assert "main" in page_of(run_dir).text


@pytest.mark.parametrize("spoilt", [b"{", b"\xff\xfe", b"[1]\n", b'"text"\n{"step": "x"}\n'])
def test_a_run_with_a_spoilt_file_is_told_of(tmp_path: Path, spoilt: bytes) -> None:
    run_dir = hand_made(tmp_path)
    for name in ("metrics.jsonl", "samples.jsonl", "data/report.json", "data/rejected.jsonl"):
        (run_dir / name).write_bytes(spoilt)
    assert "main" in page_of(run_dir).text


def test_a_pretraining_without_held_out_text_is_told_of(tmp_path: Path) -> None:
    run_dir = hand_made(tmp_path, task="pretrain")
    lines(run_dir / "metrics.jsonl", [train_row(1), train_row(2)])
    text = page_of(run_dir).text
    assert "pretrained on" in text
    assert "No data was held out" in text
    assert "experts shared" not in text


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path: Path) -> None:
    run_dir = hand_made(tmp_path, steps=100)
    state = run_dir / "checkpoints" / "step-000100" / "state.json"
    state.write_text(json.dumps({"step": 2, "best_step": None, "finished": False}))
    lines(run_dir / "metrics.jsonl", [eval_row(0, 8.0, None, None), train_row(1), train_row(2)])
    text = page_of(run_dir).text
    assert "written at step 2 of 100" in text
    assert "Ask it" not in text


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run: ") as caught:
        write_report(tmp_path, "en")
    assert caught.value.code == "Q440"


def test_parameters_are_counted_from_the_header_of_the_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    run_dir = hand_made(tmp_path)
    tensors: dict[str, Any] = {"a": torch.zeros(3, 4), "b": torch.zeros(5)}
    save_file(tensors, run_dir / "checkpoints" / "step-000004" / "model.safetensors")
    assert read_run(run_dir).num_parameters == 17
    assert "A Llama 4 of 17 parameters" in page_of(run_dir).text
