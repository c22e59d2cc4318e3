"""The page for everyone: widths, colour schemes, languages, and what axe finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from page_server import Fake

pytestmark = [
    pytest.mark.slow,
    pytest.mark.enable_socket,  # the pipe to the browser, and the server of the tests
]
CHOICES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
TARGETS = """[...document.querySelectorAll('a, button, input, select, summary, textarea')]
  .filter(one => one.checkVisibility() && !one.closest('.skip'))
  .filter(one => one.getBoundingClientRect().height < 16)
  .map(one => one.outerHTML)"""


def violations(page: Any) -> list[tuple[str, str, list[str]]]:
    """Let axe look at the page: the rule, how grave it is, and the elements."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=CHOICES).response["violations"]
    return [(one["id"], one["impact"], [node["html"] for node in one["nodes"]]) for one in found]


def states(page: Any, fake: Fake) -> Iterator[str]:
    """Bring the page into each of its states, one after the other."""
    yield "welcome"
    page.locator("#settings").evaluate("one => { one.open = true; }")
    page.click("#context-on")
    page.fill("#context", "Un texte. " * 40)
    page.fill("#question", "Que fait le chat ?")
    page.wait_for_selector("#size.bad")
    yield "a text that is too long"
    page.select_option("#other", "pretrain")
    page.press("#question", "Enter")
    page.locator(".answer[aria-busy=false]").nth(1).wait_for()
    for button in page.locator(".actions [aria-expanded]").all():
        button.click()
    page.locator(".experts").nth(1).wait_for()
    for summary in page.locator(".experts summary").all():
        summary.click()
    page.locator(".actions .plain").nth(2).click()
    page.locator(".actions .plain[aria-pressed=true]").wait_for()
    yield "two answers from the inside"
    page.locator(".line .plain").click()
    yield "a question that is edited"
    fake.refuse = (500, "mot" * 300, None)
    page.fill("#question", "Et le chien ?")
    page.press("#question", "Enter")
    page.locator(".problem.bad").nth(1).wait_for()
    yield "a refusal"
    fake.refuse, fake.pause = None, 10
    page.fill("#question", "Et le chien ?")
    page.press("#question", "Enter")
    page.wait_for_selector(".answer[aria-busy=true]")
    yield "an answer that is waited for"


@pytest.mark.parametrize(
    ("width", "language", "scheme"), [(360, "fr", "dark"), (1280, "en", "light")]
)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(
    open_page: Callable[..., Any], fake: Fake, width: int, language: str, scheme: str
) -> None:
    page = open_page(width=width, language=language, scheme=scheme, reduced_motion="reduce")
    page.wait_for_selector("#lede span")
    for state in states(page, fake):
        assert not violations(page), state
        assert page.evaluate("document.documentElement.scrollWidth") == width, state
        assert page.evaluate(TARGETS) == [], state


@pytest.mark.parametrize("width", [700, 1600])
def test_two_answers_fit_every_width(open_page: Callable[..., Any], fake: Fake, width: int) -> None:
    fake.by_model["demo"] = "mot" * 400
    page = open_page(width=width)
    for _ in states(page, fake):
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_many_layers_and_experts_fit(open_page: Callable[..., Any], fake: Fake) -> None:
    fake.models[0]["experts"] = 128
    page = open_page(width=360)
    page.fill("#question", "Un ?")
    page.press("#question", "Enter")
    page.get_by_role("button", name="Look inside").click()
    box = page.locator(".cells svg").bounding_box()
    assert box["width"] > 250
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_nothing_moves_for_those_who_asked_for_it(
    open_page: Callable[..., Any], fake: Fake
) -> None:
    fake.pause = 10
    moving = []
    for motion in ("no-preference", "reduce"):
        page = open_page(reduced_motion=motion)
        page.fill("#question", "Un ?")
        page.press("#question", "Enter")
        page.wait_for_selector(".writing")
        moving.append(page.evaluate("document.getAnimations().length"))
    assert moving == [1, 0]


def test_the_dialog_for_a_key_is_accessible(open_page: Callable[..., Any], fake: Fake) -> None:
    fake.key = "key"
    page = open_page()
    page.wait_for_selector("dialog[open]")
    assert not violations(page)
