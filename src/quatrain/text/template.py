r"""The chat format as a Jinja template, for programs that read nothing else.

An export only, never read back. On ordinary text its ids are the encoder's, but a template joins
control tokens and content into one string, so *content that contains control tokens can forge
turns* in programs that use it. For Llama 4:

    {{- '<|begin_of_text|>' }}
    {%- for message in messages %} ... {{- '<|header_start|>' + message['role'] + ...
"""

from __future__ import annotations

from quatrain.text.roles import ROLES
from quatrain.text.wording import Wording


def chat_template(chat: Wording) -> str:
    """Write the template; blocks are trimmed on their left, so its line ends print nothing."""
    known = ", ".join(_literal(role) for role in ROLES)
    before = f"{_literal(chat.header_start)} + {_role_name(chat)} + "
    after_role = _literal(chat.header_end + chat.after_header)
    lines = [
        "{%- for message in messages %}",
        f"{{%- if message['role'] not in [{known}] %}}",
        "{{- raise_exception('roles are " + ", ".join(ROLES) + "') }}",
        "{%- endif %}",
        "{%- set content = message['content'] | trim %}",
        "{%- if content or message['role'] != 'system' %}",
        *_frame(chat),
        "{{- " + before + after_role + " + content + "
        f"{_literal(chat.end_of_turn + chat.after_turn)}" + " }}",
        "{%- endif %}",
        "{%- endfor %}",
        "{%- if add_generation_prompt %}",
        "{{- " + _literal(chat.header("assistant")) + " }}",
        "{%- endif %}",
    ]
    if chat.default_system:
        said = chat.header("system") + chat.default_system + chat.end_of_turn
        lines = [
            "{%- if messages[0]['role'] != 'system' %}",
            "{{- " + _literal(said + chat.after_turn) + " }}",
            "{%- endif %}",
            *lines,
        ]
    if chat.begin:
        lines.insert(0, "{{- " + _literal(chat.begin) + " }}")
    return "\n".join(lines)


def _frame(chat: Wording) -> list[str]:
    """Write the text that a format puts around a system message."""
    if not chat.before_system and not chat.after_system:
        return []
    before, after = _literal(chat.before_system), _literal(chat.after_system)
    return [
        "{%- if message['role'] == 'system' %}",
        f"{{%- set content = {before} + content + {after} %}}",
        "{%- endif %}",
    ]


def _role_name(chat: Wording) -> str:
    """Give the expression of a role's name: itself, or looked up where a format renames it."""
    names = {role: chat.role_name(role) for role in ROLES}
    if all(role == name for role, name in names.items()):
        return "message['role']"
    pairs = ", ".join(f"{_literal(role)}: {_literal(name)}" for role, name in names.items())
    return "{" + pairs + "}[message['role']]"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
