"""From Throat's routing rules (Werkzeug syntax) to nginx locations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Pattern of a converter, and its rank: Werkzeug tries a fixed segment first (rank 0), then the converters in this order.
CONVERTERS = {"int": (r"\d+", 1), "float": (r"\d+\.\d+", 1), "": ("[^/]+", 2), "string": ("[^/]+", 2), "path": (".+", 3)}
METHOD = "(?:GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS)"
LINE = re.compile(rf"(?P<rule>/\S*?)(?:\s+|(?<=>))(?P<endpoint>[a-z_][\w.]*?)\s*(?P<methods>{METHOD}(?:, {METHOD})*)\s*(?P<note>gevent)?\s*")


def parse_route_list(text: str) -> list[dict[str, Any]]:
    """Return the rules that Throat's "route list" prints: [{"rule", "methods", "gevent"}], methods sorted.

    Its columns are padded to a fixed width without a separator, so that a long name runs into the next column.
    Raises ValueError for a line after the heading that cannot be read.
    """
    rules = []
    for line in text.splitlines():
        if not line.startswith("/"):
            continue  # the heading and its rule, or what the application logs at start
        found = LINE.fullmatch(line)
        if not found:
            raise ValueError(f"this line of Throat's route list cannot be read: {line.strip()}")
        rules.append({"rule": found["rule"], "methods": sorted(found["methods"].split(", ")), "gevent": bool(found["note"])})
    return rules


def _segments(rule: str) -> list[tuple[int, str]]:
    """Return (rank, pattern) of each segment between the slashes of a rule."""
    segments = []
    for segment in rule.split("/")[1:]:
        rank, pattern = 0, ""
        for piece in re.split(r"(<[^>]+>)", segment):
            if piece.startswith("<"):
                kind = re.sub(r"\(.*\)$", "", piece[1:-1].rpartition(":")[0])
                if kind not in CONVERTERS:
                    raise ValueError(f"{rule}: the converter {kind} is not known; only int, float, string and path are")
                converted, ranked = CONVERTERS[kind]
                pattern, rank = pattern + converted, max(rank, ranked)
            else:
                pattern += re.escape(piece)
        segments.append((rank, pattern))
    return segments


def _overlap(one: list[tuple[int, str]], other: list[tuple[int, str]]) -> bool:
    """Whether a path may match both rules; errs on the side of yes."""
    for (rank_a, a), (rank_b, b) in zip(one, other):
        if 3 in (rank_a, rank_b):
            return True
        if rank_a == 0 and rank_b == 0 and a != b:
            return False
        # A fixed segment against a converter: the pattern of the one must take the text of the other.
        if rank_a == 0 < rank_b and not re.fullmatch(b, re.sub(r"\\(.)", r"\1", a)):
            return False
        if rank_b == 0 < rank_a and not re.fullmatch(a, re.sub(r"\\(.)", r"\1", b)):
            return False
    return len(one) == len(other)


def rule_location(rule: str) -> str:
    """Return what stands between "location" and "{" for a rule: exact without converters, else an anchored regular expression."""
    if "<" not in rule:
        return f"= {rule}"
    return '~ "^/' + "/".join(pattern for _rank, pattern in _segments(rule)) + '$"'


def async_locations(
    rules: Iterable[Mapping[str, Any]], overrides: Sequence[Mapping[str, Any]] = (), named: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the nginx locations that send what needs gevent to an async worker: [{"rule", "match", "methods"}].

    rules: [{"rule", "methods", "gevent"}], as parse_route_list returns them.
    overrides: the operator's, in the same form; a rule named here is not taken from the application.
    named: rules that get a location of their own in any case, when the application has them.
    methods: those that go to the async worker, empty for all of them; what is left goes to the default class.
    A location with methods None belongs to the default class: it is named, or Werkzeug prefers it to one that would capture its paths.
    The order is nginx's: exact locations first, then regular expressions by Werkzeug's own preference, since nginx takes the first.
    """
    gevent: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    overridden = {rule["rule"] for rule in overrides}
    for rule in [*(rule for rule in rules if rule["rule"] not in overridden), *overrides]:
        (gevent if rule["gevent"] else others).setdefault(rule["rule"], set()).update(rule["methods"])
    captors = [_segments(name) for name in gevent if "<" in name]
    kept = [name for name in others if name not in gevent and (name in named or any(_overlap(_segments(name), captor) for captor in captors))]

    def preference(name: str) -> tuple[Any, ...]:
        return ("<" in name, [rank for rank, _pattern in _segments(name)], name)

    locations = []
    for name in sorted([*gevent, *kept], key=preference):
        methods: list[str] | None = []
        if name not in gevent:
            methods = None
        elif name in others:
            methods = sorted(gevent[name] | ({"HEAD"} if "GET" in gevent[name] else set()))
        locations.append({"rule": name, "match": rule_location(name), "methods": methods})
    return locations
