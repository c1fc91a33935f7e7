"""Measurements are kept until the mathematics changes: words and limits are no mathematics."""

import ast

from zoo.measure import _Wordless


def _meaning(source: str) -> str:
    return ast.dump(_Wordless().visit(ast.parse(source)))


_ANALYZER = '''
"""What it answers."""
RATIO = Metric("ratio", "1", "Share.", warn=Limit("below", 0.2, "provisional: a fifth"))

def analyzer(weight):
    """One line."""
    yield RATIO.at(weight.name, weight.rank / 3)
'''


def test_a_limit_a_source_or_a_docstring_may_change() -> None:
    changed = _ANALYZER.replace("0.2", "0.3").replace("provisional", "zoo").replace("One line.", "Two.\n\n    Lines.")
    assert changed != _ANALYZER
    assert _meaning(changed) == _meaning(_ANALYZER)


def test_a_formula_may_not() -> None:
    assert _meaning(_ANALYZER.replace("/ 3", "/ 4")) != _meaning(_ANALYZER)
