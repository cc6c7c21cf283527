"""What a move to other hosts (playbooks/move.yml) finds on the old ones, and what is in its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# MiB that a file system keeps for its blocks, and a host for its logs meanwhile.
SPARE = 100


def old_site(hosts: Mapping[str, Mapping[str, Any]], site: str) -> dict[str, Any]:
    """Return who of the old hosts has what: {"database": host, "files": host, "apps": [host], "webs": [host], "errors": [line]}.

    hosts: each with "ansible_facts" of the module look, and what it has answered ("__move_look"); site: name of the site.
    """
    lines, found = [], {}
    for host, known in hosts.items():
        if "files" in known.get("ansible_facts", {}):
            found[host] = known["ansible_facts"]
        else:
            said = str(known.get("__move_look", {}).get("msg") or "no answer").strip().splitlines()[0]
            lines.append(f"throat_old: {host} cannot be reached, or not be looked at as root: {said}")

    def having(path: str) -> list[str]:
        return [host for host, facts in found.items() if path in facts["files"]]

    databases = [host for host, facts in found.items() if site in (facts.get("postgres", {}).get("databases") or {})]
    files, apps, webs = having(f"/var/lib/{site}/uploads"), having(f"/etc/{site}/config.yaml"), having(f"/etc/nginx/sites-enabled/zz-{site}.conf")
    wanted = {
        f"PostgreSQL that runs and has the database {site}": databases,
        f"uploads (/var/lib/{site}/uploads)": files,
        f"workers (/etc/{site}/config.yaml)": apps,
        f"web server of the site (/etc/nginx/sites-enabled/zz-{site}.conf)": webs,
    }
    if not lines:
        lines = [f"throat_old: {', '.join(hosts)} has no {what}; add the host that has" for what, those in wanted.items() if not those]
    return {"database": (databases + [""])[0], "files": (files + [""])[0], "apps": apps, "webs": webs, "errors": lines}


def database_said(lines: Sequence[str]) -> dict[str, Any]:
    """Return what files/move_database.sh says of a database: {"server", "is_unfinished", "size" (MiB), "posts", "migrations"}."""
    return {"server": lines[0], "is_unfinished": lines[1] != "", "size": int(lines[2]), "posts": int(lines[3]), "migrations": list(lines[4:])}


def move_size(asked: Mapping[str, Any]) -> int:
    """Return the MiB that are to come, at most: the database as it is, although its dump is compressed, and the files that are not there yet."""
    old, new = asked["files"]
    return database_said(asked["old"])["size"] + max(0, old - new) + SPARE


def move_errors(asked: Mapping[str, Any], overwrite: bool = False) -> list[str]:
    """Return one line for each thing that is in the way of a move.

    asked: "hosts" (names of the old and of the new server's host), "versions" (of PostgreSQL there), "old" and "new" (lines that
    files/move_database.sh says of each database), "keys" (hash of the secret key of both sites), "migrations" (of the new release), "files"
    (MiB on both sides), "rooms" ([{"stdout": MiB, "item": {"host", "path", "times" (of what comes)}}]); overwrite: whether posts that the new site has may go.
    """
    old, new = database_said(asked["old"]), database_said(asked["new"])
    whose, here = asked["hosts"]
    lines = []
    if old["server"] == new["server"]:
        lines.append(f"throat_old: {whose} and {here} have the same PostgreSQL, and nothing would move; name the old host there, and the new one in throat")
    if len(set(asked["keys"])) > 1:
        lines.append(
            f"throat_secret_key: not the one of {whose}, so that everybody would be logged out; give this inventory the secrets of the old one "
            "(the same throat_secrets_dir, or the same vault), run playbooks/site.yml, and this again"
        )
    if asked["versions"][1] < asked["versions"][0]:
        lines.append(
            f"postgres: {here} has PostgreSQL {asked['versions'][1]}, and {whose} {asked['versions'][0]}, whose dump an older one cannot read; "
            "choose a new host with the same Debian or a later one"
        )
    foreign = [name for name in old["migrations"] if name not in asked["migrations"]]
    if foreign:
        lines.append(
            f"throat_gunicorn_version: the release of the new site does not know {', '.join(foreign)}, which the database of {whose} has seen; "
            "deploy one that does (playbooks/deploy.yml), and run this again"
        )
    if new["posts"] and not new["is_unfinished"] and not overwrite:
        lines.append(f"{here}: the site there has posts of its own ({new['posts']}); if it may be replaced, say -e overwrite=true")
    for place in asked["rooms"]:
        host, path, times = (place["item"][name] for name in ("host", "path", "times"))
        room, needed = int(place["stdout"]), move_size(asked) * times
        if room < needed:
            lines.append(f"{host}: /var/tmp and {path} must each have room for {needed} MiB, but one of them has {room}; make room there")
    return lines
