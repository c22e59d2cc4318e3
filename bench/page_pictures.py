"""Take the pictures of docs/page.md: the page of `quatrain serve` in Chromium.

    python bench/page_pictures.py MODEL OTHER "A question" "Another one"

MODEL is the one that is asked; OTHER stands beside it. Needs playwright, Pillow and Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip
VIEWS = [
    ("page-1280-light", 1280, "light", "en", False),
    ("page-360-light", 360, "light", "fr", False),
    ("page-1280-dark", 1280, "dark", "fr", True),
    ("page-360-dark", 360, "dark", "fr", True),
]
"""Name, width, scheme, language, and whether questions are asked."""


def save(page: Any, name: str) -> None:
    """Save the whole page, in a window as high as it is."""
    width, height = page.viewport_size["width"], page.evaluate("document.body.scrollHeight")
    page.set_viewport_size({"width": width, "height": height})
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few = picture.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(PICTURES / f"{name}.png", optimize=True)  # a third of the size
    print(name, (PICTURES / f"{name}.png").stat().st_size, "bytes")


def converse(page: Any, questions: list[str], width: int) -> None:
    """Ask, compare, and look inside the last answer."""
    for number, question in enumerate(questions):
        last = number == len(questions) - 1
        if last and width > 1000:
            page.select_option("#other", index=2)
        page.fill("#question", question)
        page.press("#question", "Enter")
        turn = page.locator(".turn").nth(number)
        turn.locator(".answer[aria-busy=false]").nth(int(last and width > 1000)).wait_for()
        page.uncheck("#earlier")
    for button in reversed(turn.locator("[aria-expanded]").all()):
        button.click()
    for answer in reversed(turn.locator(".answer").all()):
        answer.locator("[role=option]").nth(1).focus()
    page.mouse.move(0, 0)


def take(address: str, questions: list[str]) -> None:
    """Take every picture from a running server."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for name, width, scheme, language, talks in VIEWS:
            context = browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme, locale=language
            )
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector("#lede span")
            if talks:
                converse(page, questions, width)
            else:
                page.fill("#question", questions[0])
                page.locator("#size-text:not(:empty)").wait_for()
            save(page, name)
            context.close()
        browser.close()


def main() -> None:
    """Serve two models, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("other")
    parser.add_argument("questions", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "quatrain", "--lang", "en", "serve"),
            *(options.model, options.other, "--port", "0"),
            *("--feedback", f"{folder}/judged.jsonl"),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            address = next(line for line in server.stderr if "http://" in line)
            try:
                take("http://" + address.split("http://")[1].split()[0], options.questions)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
