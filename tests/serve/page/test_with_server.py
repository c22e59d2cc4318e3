"""The page and the real server: what one asks is what the other gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from live import Live, by_rule, by_weights, serving, small
from quatrain.config import DataConfig
from quatrain.data.records import load_records
from quatrain.report.page import visible
from quatrain.serve.page_files import read_page

pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]
LONG = "Où est l'été ? Là-bas. " * 20


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("served")
    report = folder / "report.html"
    report.write_text("<!doctype html><title>été</title>", encoding="utf-8")
    with serving(
        by_weights(small(), "small", report=report),
        by_rule(lambda prompt: LONG, seconds=0.02),
        feedback=folder / "judged.jsonl",
        files=read_page(),
    ) as one:
        yield one


@pytest.fixture
def page(open_page: Callable[..., Any], live: Live) -> Any:
    shown = open_page(address=live.address)
    shown.wait_for_selector("#lede span")
    return shown


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")


def test_an_answer_its_insides_and_its_rating(page: Any, live: Live) -> None:
    page.fill("#max_tokens", "12")
    ask(page, "Où est l'été ?")
    page.wait_for_selector(".answer[aria-busy=false]")
    said = small().answer("Où est l'été ?", max_new_tokens=12)
    assert page.locator(".answer .said").text_content() == visible(str(said))
    page.get_by_role("button", name="Look inside").click()
    page.wait_for_selector("[role=option]")
    assert "".join(page.locator("[role=option]").all_text_contents()) == visible(str(said))
    layers = small().model.config.moe_layers
    assert page.locator(".experts tbody tr").count() == len(layers)
    page.get_by_role("button", name="Good answer").click()
    page.locator(".actions").get_by_text("Kept for training.").wait_for()
    assert live.service.feedback is not None
    [record] = load_records((str(live.service.feedback),), DataConfig())
    assert [(m.role, m.content) for m in record.messages] == [
        ("user", "Où est l'été ?"), ("assistant", said.strip())]  # fmt: skip


def test_stop_frees_the_place_on_the_server(page: Any, live: Live) -> None:
    page.select_option("#model", "rule")
    ask(page, "Où ?")
    page.locator(".answer .said", has_text="Là-bas").wait_for()
    page.click("#stop")
    page.get_by_text("Stopped.", exact=True).first.wait_for()
    assert live.quiet()


def test_two_models_answer_at_once(page: Any) -> None:
    page.fill("#max_tokens", "12")
    page.select_option("#other", "rule")
    ask(page, "Où ?")
    page.locator(".answer[aria-busy=false]").nth(1).wait_for()
    assert [one.split()[0] for one in page.locator(".facts").all_inner_texts()] == ["12", "12"]


def test_tokens_errors_and_the_report(page: Any, tmp_path: Path) -> None:
    assert page.input_value("#max_tokens") == "256"
    page.fill("#question", "Où est l'été ?")
    page.locator("#size-text", has_text="of 512 tokens").wait_for()
    page.fill("#question", "mot " * 600)
    page.locator("#size.bad", has_text="of 512 tokens: too long.").wait_for()
    page.press("#question", "Enter")
    page.locator(".problem.bad", has_text="Too long for this model.").wait_for()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="How it was trained").click()
    assert opened.value.title() == "été"
