"""What a database that is brought back means for the release that is to serve it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def migration_gap(migrations: Sequence[str], paths: Sequence[str], live: str) -> dict[str, Any]:
    """Return what a release makes of a database: {"errors": [line], "pending": [migration that the database has not seen]}.

    migrations: those that the database has seen; paths: the migrations of all releases that are kept, as releases/<release>/migrations/<name>.py;
    live: the release that serves.
    """
    releases: dict[str, set[str]] = {}
    for path in paths:
        _releases, release, *_more, name = path.split("/")
        releases.setdefault(release, set()).add(name.removesuffix(".py"))
    own, seen = releases.get(live, set()), set(migrations)
    if foreign := sorted(seen - own):
        able = sorted(release for release, names in releases.items() if seen <= names)
        advice = (
            f"go over to {able[0]} first, which has: playbooks/deploy.yml -e throat_gunicorn_release={able[0]}"
            if able
            else "and no release that is kept has; deploy a version of Throat that has it first"
        )
        said = f"the database has been changed by {', '.join(foreign)}, which the release {live} does not have; {advice}"
        return {"errors": [f"restore_to: {said}"], "pending": []}
    return {"errors": [], "pending": sorted(own - seen)}
