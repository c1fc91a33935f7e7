"""The page around the sections: templates, the one style and the one script, and the policy that allows no other."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from collapse_cli.core.text import json_safe, plain, tail
from collapse_cli.render.html_report.prose import inline, prose
from collapse_cli.render.verdict import counted, number

__all__ = ["page"]

#: A longer name is shown by its end, a longer sentence by its beginning.
_LONGEST_NAME, _LONGEST_SENTENCE = 400, 2_000


def page(template: str, context: Mapping[str, Any], *, data: Mapping[str, Any]) -> str:
    """The template with its context; `data` is embedded for the script, harmless wherever it came from."""
    style, script = _asset("style.css"), _asset("script.js")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # our own two files, not text out of a report
    ours = {"style": Markup(style), "script": Markup(script)}  # noqa: S704
    whole = _environment().get_template(template).render(context, **ours, policy=policy, data=_embedded(data))
    return whole.rstrip("\n") + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("collapse_cli.render.html_report", "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": lambda text: tail(text, _LONGEST_NAME),
        "sentence": _sentence,
        "opening": lambda text: text[:1].upper() + text[1:],
        "prose": prose,
        "inline": inline,
        "counted": counted,
        "number": number,
        "size": _size,
        "address": _address,
        "relative": _relative,
    }
    return environment


def _shown(value: object) -> object:
    """Every text of a template: what is not markup loses what a terminal or a CI runner would obey."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sentence(text: str) -> str:
    return text if len(text) <= _LONGEST_SENTENCE else f"{text[:_LONGEST_SENTENCE]}…"


def _size(count: int) -> str:
    """`35.9 kB`, in powers of a thousand."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if unit != "B" else f"{count} B"


def _address(url: str) -> str:
    """The address of a paper, or nothing where it is anything but a web address."""
    try:
        return url if urlsplit(url).scheme in ("http", "https") else ""
    except ValueError:
        return ""


def _relative(path: str) -> str:
    """The path as an address that can be nothing but a path."""
    try:
        return quote(path, safe="/", errors="surrogateescape")
    except UnicodeEncodeError:
        return quote(path, safe="/", errors="surrogatepass")


def _asset(name: str) -> str:
    return (files("collapse_cli.render.html_report") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: Mapping[str, Any]) -> Markup:
    r"""JSON inside a `<script>`: `<`, `>` and `&` are `\u003c`, `\u003e` and `\u0026`, so that no name ends it."""
    text = json_safe(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text.replace("##[", "#\\u0023["))  # noqa: S704 - nothing in it is markup any more
