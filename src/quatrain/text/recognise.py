r"""Find the chat format of a model directory: from its own file, or from the template's output.

The template is rendered in a sandbox for a conversation of known words. The text between these
words gives the pieces of a ChatFormat:

    <|im_start|>user\nQUESTION<|im_end|>\n<|im_start|>assistant\nANSWER<|im_end|>\n ...
                              end_of_turn  after_turn, header_start, role, after_header

Then the format and the template encode test conversations, and the ids must be equal. A template
whose output no ChatFormat can represent is refused, and the difference shown. So is a tokenizer
that gives content other ids on its own than within a prompt. Tools are left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from quatrain.errors import CheckpointError
from quatrain.text.chat import CHAT_FORMAT_FILE, CHATML, LLAMA3, LLAMA4, TEMPLATE_FILE, ChatFormat
from quatrain.text.conversation import Conversation, Message
from quatrain.text.sandbox import DAY, render
from quatrain.text.tokenizer import Tokenizer
from quatrain.text.tokenizer_files import CONFIG_FILE, MAX_CONFIG_BYTES, read_capped, read_object
from quatrain.words import Sentence, say

logger = logging.getLogger(__name__)

_KNOWN = {"Llama 4": LLAMA4, "Llama 3": LLAMA3, "ChatML": CHATML}
_SHOWN = 60  # characters of two texts, from a little before they differ
_BEFORE = 20

Turns = tuple[Message, ...]

SYSTEM, QUESTION, ANSWER, AGAIN = "Qsystem", "Qquestion", "Qanswer", "Qagain"
"""The known words, which no template writes by itself."""


def _turns(*contents: str, system: str = "") -> Turns:
    roles = ("user", "assistant")
    spoken = tuple(Message(roles[n % 2], text) for n, text in enumerate(contents))  # type: ignore[arg-type]
    return (Message("system", system), *spoken) if system else spoken


_LEARNT_FROM = (
    _turns(QUESTION, ANSWER, AGAIN, system=SYSTEM),
    _turns(QUESTION),
)
_PROBES = (
    _turns("Où est-ce ?"),
    _turns("42 fois 2 ?\nEt 3,5 % ?", "« Oui », 84.", "Là ?", "1) Là-bas.\n\n- ici", "É"),
    _turns("L'été ?", "…", "Pourquoi ?", system="Sois bref."),
    _turns("Qui ?", "Elle.", system="Tu réponds :\n\n1. en français"),
    _turns("Dis-moi « bonjour ».", "Bonjour !"),
)
"""Each tests something: no system message, long dialogues, various beginnings of content."""


def chat_format_of(directory: Path, tokenizer: Tokenizer) -> ChatFormat:
    """Find the format of a model directory: its file, what its template writes, or Llama 4's.

    Raises:
        CheckpointError: Q430 when neither file exists and the tokenizer is not Llama 4's, Q432 when
            the tokenizer lacks a control token of the file's format, Q435 when no format can
            represent the template, Q436 when the tokenizer encodes parts of a prompt differently.
    """
    path = Path(directory) / CHAT_FORMAT_FILE
    template = find_template(Path(directory))
    if path.is_file():
        chat = ChatFormat.load(directory)
        tokenizer.require(chat.control_tokens(), needed_by="the chat format")
    elif template is not None:
        return recognise(template, tokenizer)
    else:
        chat = LLAMA4
        lacking = [name for name in chat.control_tokens() if not tokenizer.has_control(name)]
        if lacking:
            raise CheckpointError("Q430.no_template", path=path, lacking=", ".join(lacking))
        logger.info(say("log.llama4_format", directory=directory, file=CHAT_FORMAT_FILE))
    if tokenizer.names.unknown != "error":  # its alphabet may lack characters of the probes
        for probe in _PROBES:
            _prove_pieces(chat, probe, tokenizer)
    return chat


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
        default = (one for one in found if isinstance(one, dict) and one.get("name") == "default")
        found = next(default, {}).get("template")
    return found if isinstance(found, str) else None


def recognise(template: str, tokenizer: Tokenizer) -> ChatFormat:
    """Find the format that gives the ids of a template.

    Raises:
        CheckpointError: Q435 when there is none, Q436 when the tokenizer is at fault.
    """
    texts = _render(template, tokenizer)
    chat = _learn(texts[: len(_LEARNT_FROM)], tokenizer)
    for probe, text in zip(_PROBES, texts[len(_LEARNT_FROM) :], strict=True):
        _prove(chat, probe, text, tokenizer)
    names = [
        name
        for name, known in _KNOWN.items()
        if (known.header_start, known.end_of_turn) == (chat.header_start, chat.end_of_turn)
    ]
    logger.info(say("log.format", name=names[0] if names else chat.header_start))
    return chat


def _render(template: str, tokenizer: Tokenizer) -> list[str]:
    """Render the conversations that a format is derived from, and the probes."""
    given = tokenizer.names
    names = {"bos": given.bos, "eos": given.eos, "pad": given.pad, "unk": given.unk}
    wanted = [*_LEARNT_FROM, *_PROBES]
    rendered = render(
        template,
        [[{"role": one.role, "content": one.content} for one in turns] for turns in wanted],
        {f"{name}_token": token for name, token in names.items() if token},
    )
    for turns, one in zip(wanted, rendered.each, strict=True):
        if one.error:
            roles = ", ".join(message.role for message in turns)
            raise _refused(Sentence.of("reasons.template.fails", roles=roles, why=one.error))
    if rendered.dated:
        logger.warning(say("log.date", day=f"{DAY:%Y-%m-%d}"))
    return [one.text for one in rendered.each]


# --- learning ----------------------------------------------------------------------------------


def _learn(texts: Sequence[str], tokenizer: Tokenizer) -> ChatFormat:
    """Take the pieces of a format from the text around the known words."""
    head, to_question, to_answer, to_again, _ = _between(
        texts[0], (SYSTEM, QUESTION, ANSWER, AGAIN)
    )
    start, end, after_turn, user = _joint(to_again, tokenizer)
    *_, assistant = _joint(to_answer, tokenizer)
    header_end, user_role, after_header = user
    after_system, _, _ = to_question.partition(end)
    begin, system_role, before_system = _beginning(head, start, header_end, after_header, tokenizer)
    known = next(
        (one for one in _KNOWN.values() if (one.header_start, one.end_of_turn) == (start, end)),
        None,
    )
    end_of_text = known.end_of_text if known else tokenizer.names.eos or end
    fields = {
        "begin": begin,
        "header_start": start,
        "header_end": header_end,
        "after_header": after_header,
        "end_of_turn": end,
        "after_turn": after_turn,
        "before_system": before_system,
        "after_system": after_system,
        "system_role": system_role,
        "user_role": user_role,
        "assistant_role": assistant[1],
    }
    rest = {
        "end_of_text": end_of_text,
        "stop": tuple({*(known.stop if known else ()), end, end_of_text}),
        "pad": known.pad if known else tokenizer.names.pad or start,
    }
    drawn = ChatFormat.model_construct(**{**dict(LLAMA4), **fields, **rest})
    chat = ChatFormat.model_validate(drawn.adapted_to(tokenizer).model_dump())
    alone, _ = _between(texts[1], (QUESTION,))
    first, last = begin + chat.header("system"), end + after_turn + chat.header("user")
    if alone.startswith(first) and alone.endswith(last):
        chat = chat.model_copy(update={"default_system": alone[len(first) : -len(last)]})
    return chat


def _between(text: str, words: Sequence[str]) -> list[str]:
    """Cut a rendering at the known words, which must occur once each and in order."""
    around = re.split("|".join(map(re.escape, words)), text)
    if re.findall("|".join(map(re.escape, words)), text) != list(words):
        raise _refused(Sentence.of("reasons.template.contents", text=text[:_SHOWN]))
    return around


def _joint(text: str, tokenizer: Tokenizer) -> tuple[str, str, str, tuple[str, str, str]]:
    """Cut the text between two contents: header_start, end_of_turn, after_turn, the header."""
    pieces = _pieces(text, tokenizer)
    controls = [index for index, piece in enumerate(pieces) if tokenizer.has_control(piece)]
    after = 1 if controls[:2] == [0, 1] else 2
    if not controls or controls[0] != 0 or after not in controls:
        raise _refused(Sentence.of("reasons.template.joint", text=text))
    header = pieces[after + 1 :]
    if header and not tokenizer.has_control(header[0]):
        if len(header) == 1:  # without a token after the role's name, which ends at white space
            role, white, rest = re.fullmatch(r"(\S*)(\s*)(.*)", header[0], re.DOTALL).groups()  # type: ignore[union-attr]
            found = ("", role, white + rest)
        elif tokenizer.has_control(header[1]):
            found = (header[1], header[0], "".join(header[2:]))
        if len(header) <= 3 and found[1]:
            return pieces[after], pieces[0], "".join(pieces[1:after]), found
    raise _refused(Sentence.of("reasons.template.joint", text=text))


def _beginning(
    head: str, start: str, header_end: str, after_header: str, tokenizer: Tokenizer
) -> tuple[str, str, str]:
    """Cut the text before the system message: begin, the role's name, and text before it."""
    begin, found, rest = head.partition(start)
    role, ends, before = rest.partition(header_end + after_header)
    if found and ends and role and (not begin or tokenizer.has_control(begin)):
        return begin, role, before
    raise _refused(Sentence.of("reasons.template.beginning", text=head))


def _pieces(text: str, tokenizer: Tokenizer) -> list[str]:
    """Cut a text before and after control tokens."""
    names = sorted(tokenizer.control_names, key=len, reverse=True)
    return [piece for piece in re.split(f"({'|'.join(map(re.escape, names))})", text) if piece]


# --- proving -----------------------------------------------------------------------------------


def _prove(chat: ChatFormat, probe: Turns, theirs: str, tokenizer: Tokenizer) -> None:
    """Compare the output of a format and a template for a conversation: text, then ids."""
    ours = chat.written(probe)
    if probe[-1].role == "assistant":  # nothing is learnt after the last end of turn
        ours, theirs = (text.removesuffix(chat.after_turn) for text in (ours, theirs))
        answer = probe[-1].content + chat.end_of_turn
        before = ours.removesuffix(answer)
        if ours != theirs and theirs.startswith(before) and theirs.endswith(answer):
            added = theirs[len(before) : -len(answer)]
            logger.warning(say("log.before_answer", text=added[:_SHOWN]))
            return
    if ours != theirs:
        at = _num_equal(ours, theirs)
        shown = slice(max(0, at - _BEFORE), at + _SHOWN - _BEFORE)
        why = Sentence.of("reasons.template.differs", theirs=theirs[shown], ours=ours[shown])
        raise _refused(why)
    _prove_pieces(chat, probe, tokenizer)


def _prove_pieces(chat: ChatFormat, probe: Turns, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that encodes a whole prompt differently from its pieces."""
    if probe[-1].role == "user":
        pieces = chat.encode_prompt(probe, tokenizer)
    else:
        pieces = chat.encode_conversation(Conversation(probe, (), "", ""), tokenizer).ids
    whole = tokenizer.encode_joined(chat.written(probe))
    if whole == pieces:
        return
    at = _num_equal(whole, pieces)
    near = slice(max(0, at - 1), at + 3)
    spelt = [
        [str(tokenizer.backend.id_to_token(one)) for one in ids[near]] for ids in (whole, pieces)
    ]
    raise CheckpointError("Q436.pieces", whole=" ".join(spelt[0]), pieces=" ".join(spelt[1]))


def _num_equal(one: Sequence[object], other: Sequence[object]) -> int:
    """Count the equal elements at the start of two sequences."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _refused(why: Sentence) -> CheckpointError:
    return CheckpointError("Q435.template", why=why)
