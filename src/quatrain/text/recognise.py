r"""Recognise the chat format of a model made elsewhere by its template, which is never run.

A template is told by its headers and by what ends its turns: Llama 4's, Llama 3's, ChatML. From
its text are taken whether it writes a beginning, and the system message that it writes where a
conversation has none:

    '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'     gives default_system

Formats whose headers are not control tokens around a role's name, such as [INST], are none that
ChatFormat can say. Dates and marks of thinking, which some templates write, are left out with a
warning; tools are left out.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from quatrain.text.chat import CHATML, LLAMA3, LLAMA4, TEMPLATE_FILE, ChatFormat
from quatrain.text.tokenizer import Tokenizer
from quatrain.text.tokenizer_files import CONFIG_FILE, MAX_CONFIG_BYTES, read_capped, read_object
from quatrain.words import say

logger = logging.getLogger(__name__)

_KNOWN = {"Llama 4": LLAMA4, "Llama 3": LLAMA3, "ChatML": CHATML}
_LEFT_OUT = {"date_string": "log.date", "strftime_now": "log.date", "<think>": "log.thinking"}
_LONGEST = 4096
"""Characters of a system message."""


def find_template(directory: Path) -> str | None:
    """Read a directory's template from its own file, or from tokenizer_config.json.

    Raises:
        CheckpointError: Q431 for a file that cannot be read.
    """
    if (directory / TEMPLATE_FILE).is_file():
        return read_capped(directory / TEMPLATE_FILE, MAX_CONFIG_BYTES)
    if not (directory / CONFIG_FILE).is_file():
        return None
    found = read_object(directory / CONFIG_FILE, MAX_CONFIG_BYTES).get("chat_template")
    if isinstance(found, list):  # several, by name: [{"name": "default", "template": ...}, ...]
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def recognise(template: str, tokenizer: Tokenizer) -> ChatFormat | None:
    """Find the format of a template's text, as far as its tokenizer can say it; None if unknown."""
    for name, known in _KNOWN.items():
        needed = [
            part for part in (known.header_start, known.header_end, known.end_of_turn) if part
        ]
        if all(part in template and tokenizer.has_control(part) for part in needed):
            logger.info(say("log.format", name=name))
            for what in sorted({what for sign, what in _LEFT_OUT.items() if sign in template}):
                logger.warning(say("log.left_out", what=say(what)))
            return known.adapted_to(tokenizer).model_copy(
                update={
                    "begin": _begin(template, known, tokenizer),
                    "default_system": _default_system(template, known),
                }
            )
    return None


def _begin(template: str, known: ChatFormat, tokenizer: Tokenizer) -> str:
    """Name the token that the template puts first; empty where it puts none."""
    candidates = [known.begin] if known.begin and known.begin in template else []
    if "bos_token" in template:
        candidates = [name for name in (tokenizer.names.bos, known.begin) if name]
    return next((name for name in candidates if tokenizer.has_control(name)), "")


def _default_system(template: str, known: ChatFormat) -> str:
    """Find a whole system message that is written as text; empty where there is none."""
    head = re.escape(known.header("system")).replace("\\\n", r"(?:\n|\\n)")
    tail = re.escape(known.end_of_turn)
    if found := re.search(rf"(['\"]){head}((?:\\.|(?!\1)[^\\]){{1,{_LONGEST}}}?){tail}", template):
        try:  # a literal's escapes, as Jinja reads them
            return found[2].encode("ascii", "backslashreplace").decode("unicode-escape").strip()
        except UnicodeDecodeError:
            return ""
    found = re.search(rf"{head}([^'\"\\{{}}]{{1,{_LONGEST}}}?){tail}", template)
    return found[1].strip() if found else ""
