"""What is known to be wrong with the packages of a release, and which override closes it."""

from __future__ import annotations

import json
from typing import Any

try:
    from packaging.version import InvalidVersion, Version
except ImportError:
    # Never where Ansible is, which needs it; ansible-test asks for the import without.
    InvalidVersion = Version = None

from ansible_collections.throat.stack.plugins.plugin_utils.tables import quantity, table

HEADER = ("package", "installed", "known as", "closed by")


def audit_report(python: str, npm: str) -> dict[str, Any]:
    """Return {"lines": [line of text], "unanswered": [line for each registry that has said nothing]}.

    python: what pip-audit prints with --format json; npm: what npm audit prints with --json (npm 7 and later). Either is empty where there is
    nothing to ask for, and anything but JSON where it could not ask.
    """
    rows, overrides, lines, unanswered = [HEADER], [], [], []
    for name, text, read in (("PyPI", python, _python), ("the npm registry", npm, _npm)):
        if not text:
            continue
        found, said = read(text)
        if said is not None:
            unanswered.append(f"{name} does not answer what is known of its packages ({said}): this says nothing about them")
            continue
        lines.append(found["asked"])
        rows += found["rows"]
        overrides += found["overrides"]
    if len(rows) > 1:
        lines += ["", *table(rows)]
    if overrides:
        lines += ["", "What closes them (prove it with playbooks/deploy.yml, which goes back where the site does not work with it):", "", *overrides]
    return {"lines": lines, "unanswered": unanswered}


def _python(text: str) -> tuple[dict[str, Any], str | None]:
    try:
        packages = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return {}, _last_line(text)
    asked = [package for package in packages if "skip_reason" not in package]
    if not asked:
        return {}, f"it skips all {len(packages)}"
    rows, closing = [], {}
    for package in asked:
        for hole in package["vulns"]:
            # The earliest that closes it.
            fix = min(hole["fix_versions"], key=_ordered, default="")
            known_as = next((alias for alias in hole.get("aliases", []) if alias.startswith("CVE-")), hole["id"])
            rows.append((package["name"], package["version"], known_as, fix or "nothing yet"))
            if fix:
                closing[package["name"]] = max(fix, closing.get(package["name"], fix), key=_ordered)
    said = f"{quantity(rows, 'known hole')} in {quantity(asked, 'Python package')}"
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    said += f"; nothing is said about {', '.join(skipped)}" if skipped else ""
    overrides = ["throat_gunicorn_python_overrides:", *(f"  - {name}=={version}" for name, version in closing.items())] if closing else []
    return {"asked": said, "rows": sorted(set(rows)), "overrides": overrides}, None


def _npm(text: str) -> tuple[dict[str, Any], str | None]:
    try:
        report = json.loads(text)
        packages, total = report["vulnerabilities"], report["metadata"]["dependencies"]["total"]
    except (ValueError, KeyError, TypeError):
        return {}, _last_line(text)
    rows = [
        (name, package["range"], hole["url"].rpartition("/")[2], f"a version outside {hole['range']} ({hole['severity']})")
        for name, package in packages.items()
        # Text names a package through which it has the hole of that one.
        for hole in package["via"]
        if isinstance(hole, dict)
    ]
    overrides = ["throat_gunicorn_npm_overrides, for each a version that npm view <package> names, and its integrity"] if rows else []
    return {"asked": f"{quantity(rows, 'known hole')} in {total} packages of the front end", "rows": sorted(set(rows)), "overrides": overrides}, None


def _last_line(text: str) -> str:
    """Of an error: what npm says in JSON, else the last line."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if isinstance(said, dict):
        error = said.get("error")
        text = str(said.get("message") or (error.get("summary") if isinstance(error, dict) else error) or "no reason given")
    return text.strip().splitlines()[-1][:200]


def _ordered(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")
