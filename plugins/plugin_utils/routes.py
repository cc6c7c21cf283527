"""From Throat's routing rules (Werkzeug syntax) to nginx locations."""

from __future__ import annotations

import re

CONVERTERS = {"int": r"\d+", "path": r".+"}


def rule_location(rule: str) -> str:
    """Return what stands between "location" and "{" for a rule such as /login/with-token/<token>.

    A rule without converters is an exact location, any other an anchored regular expression: neither
    captures a path that belongs to another rule.
    """
    if "<" not in rule:
        return f"= {rule}"
    pattern = ""
    for piece in re.split(r"(<[^>]+>)", rule):
        if piece.startswith("<"):
            pattern += CONVERTERS.get(piece[1:-1].rpartition(":")[0], "[^/]+")
        else:
            pattern += re.escape(piece)
    return f'~ "^{pattern}$"'
