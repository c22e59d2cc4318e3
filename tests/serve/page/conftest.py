"""A server of tests, and the page in a browser that is watched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from page_server import Fake, serving

_STATUS = re.compile(r"Failed to load resource: (the server responded|net::ERR_)")
"""What Chromium says of an answer that tests make on purpose."""


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as server:
        yield server


@pytest.fixture
def open_page(browser: Any, fake: Fake) -> Iterator[Callable[..., Any]]:
    """Open the page as often as asked; no page may complain, nor ask another host."""
    contexts, said, asked, addresses = list[Any](), list[str](), list[str](), list[str]()

    def opened(
        width: int = 1280,
        language: str = "en",
        scheme: str = "light",
        address: str = fake.url,
        **more: Any,
    ) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, locale=language,
                                      color_scheme=scheme, **more)  # fmt: skip
        context.set_default_timeout(30_000)  # a machine may be busy
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        context.on("request", lambda request: asked.append(request.url))
        addresses.append(address)
        page.goto(address)
        page.wait_for_selector("dialog[open], .columns:not([hidden])")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in said if not _STATUS.match(text)] == []
    assert [url for url in asked if not url.startswith((*addresses, "data:", "blob:"))] == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    """The page in English at 1,280 pixels."""
    shown = open_page()
    shown.wait_for_selector("#lede span")
    return shown
