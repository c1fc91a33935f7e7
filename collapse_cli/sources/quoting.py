"""Names out of a file, made fit to stand in a message."""

__all__ = ["is_text", "quoted"]

#: A 64 kB tensor name must not fill a terminal.
_LONGEST = 200


def is_text(name: str) -> bool:
    """Whether a string is whole characters: JSON can write half of one, which no file or terminal takes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def quoted(name: str) -> str:
    r"""The name in double quotes on one line: control characters escaped (`\x1b`), the middle left out when long."""
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 :]}"
    if name.isprintable():
        return f'"{name}"'
    escaped = (character if character.isprintable() else ascii(character)[1:-1] for character in name)
    return '"' + "".join(escaped) + '"'
