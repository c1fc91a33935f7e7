"""Names made harmless: what comes from a file must not drive a terminal, a table or a log."""

import unicodedata

__all__ = ["plain"]

#: Control, format (bidirectional overrides), surrogate, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain(text: str) -> str:
    r"""The text with every character that a terminal would obey shown escaped (`\x1b`, `\n`, `\u202e`)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(one) if unicodedata.category(one) in _UNSAFE else one for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
