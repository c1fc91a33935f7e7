"""Names made harmless: what comes from a file must not drive a terminal, a table, a log or a spreadsheet."""

import re
import unicodedata

__all__ = ["inert", "json_safe", "plain", "tail"]

#: Control, format (bidirectional overrides), surrogate, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: What a CI runner would obey: `::command::` where a line begins, `##[command]` and `##vso[command]` anywhere.
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\w*\[)")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain(text: str) -> str:
    r"""The text with everything that a terminal or a CI runner would obey shown escaped (`\x1b`, `\n`, `\u202e`)."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(_escaped(one) if unicodedata.category(one) in _UNSAFE else one for one in text)
    return _COMMAND.sub(lambda match: f"{match[1]}\\x3a" if match[1] is not None else "\\x23", text)


def tail(text: str, length: int) -> str:
    """At most `length` characters of harmless text: the beginning of a longer one is cut, never its end."""
    text = plain(text)
    return text if len(text) <= length else f"…{text[len(text) - length + 1 :]}"


def inert(text: str) -> str:
    """Harmless text that a spreadsheet does not run as a formula."""
    text = plain(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def json_safe(text: str) -> str:
    r"""JSON text, equal in meaning, with every character escaped that a terminal would obey or UTF-8 cannot hold."""
    return re.sub(r"[^\n -~]", lambda match: _json_escaped(match[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _json_escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
