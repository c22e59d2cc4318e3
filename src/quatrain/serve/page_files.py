"""The page: its files, read once, and the policy that lets it load these and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""A report has no script; what it draws has attributes of style."""


@dataclass(frozen=True)
class File:
    """One file, as it is sent."""

    content: bytes
    kind: str


def read_page(directory: Path = PAGE) -> dict[str, File]:
    """Read the files of the page, by name; none where there is no page."""
    found = {}
    for path in sorted(directory.glob("*")):
        if path.suffix in _TYPES and path.is_file():
            found[path.name] = File(path.read_bytes(), _TYPES[path.suffix])
    return found


def policy(files: Mapping[str, File]) -> str:
    """Allow this server's files, and the scripts and styles that stand in the page, by hash."""
    inline: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for tag, text in _INLINE.findall(files[INDEX].content):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        inline[tag].append(f" 'sha256-{digest}'")
    return (
        "default-src 'none'; "
        f"script-src 'self'{''.join(inline[b'script'])}; "
        f"style-src 'self'{''.join(inline[b'style'])}; "
        "connect-src 'self'; img-src 'self' data:; font-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
