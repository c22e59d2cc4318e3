"""Tools: tool calls and tool responses as the text of turns (data.tools=text).

    a call       <tool_call>{"name": "météo", "arguments": {"ville": "Lyon"}}</tool_call>
    an answer    <tool_response>12 °C</tool_response>

A call stands in the assistant's turn, on a line of its own below what the turn says; an answer is
the user's turn. Not for refusing them (turns.py), nor for calling anything.
"""

from __future__ import annotations

import json
from typing import Any

from quatrain.data.values import Unfit, is_nothing

CALL_KEYS = ("tool_calls", "tool_call", "function_call")
"""Keys of an assistant's turn that hold calls."""
CALLING = frozenset(CALL_KEYS)
"""Roles whose turn is a call."""
ANSWERING = frozenset(
    ("tool", "function", "ipython", "observation", "tool_response", "function_response")
)
"""Roles whose turn is what a tool says."""


def calls_of(value: Any) -> str:
    """Write one call or several, a line each; each may be wrapped as OpenAI does.

    Raises:
        Unfit: a call has no name, or is not JSON.
    """
    value = _parsed(value)
    if isinstance(value, list):
        return "\n".join(map(calls_of, value))
    if isinstance(value, dict) and "function" in value:
        value = _parsed(value["function"])
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise Unfit("reasons.tool_form")
    held = (value[key] for key in ("arguments", "parameters") if not is_nothing(value.get(key)))
    arguments: Any = next(held, {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    return f"<tool_call>{_json({'name': value['name'], 'arguments': arguments})}</tool_call>"


def response_of(value: Any) -> str:
    """Write what a tool says: text as it is, all else as JSON."""
    said = value if isinstance(value, str) else "" if value is None else _json(value)
    return f"<tool_response>{said}</tool_response>"


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise Unfit("reasons.tool_form") from None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
