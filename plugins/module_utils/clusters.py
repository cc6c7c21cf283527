# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Which of a host's PostgreSQL clusters "main" is in force, and what Patroni says of it where several hosts have it together."""

from __future__ import annotations

import glob
import json
import os
import re
import ssl
import urllib.request


def read(path: str) -> str:
    """Return the text of a file, nothing where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def in_force(root: str = "/etc/postgresql") -> list[str]:
    """Return the versions whose cluster has sites of ours and starts at boot, the oldest first: one, but while an upgrade has not come to its end.

    One that was brought to another version does not start at boot any more. Where none has a site yet, the newest that does start is in force; empty
    where there is none at all.
    """

    every = sorted((path.split("/")[-3] for path in glob.glob(f"{root}/*/main/pg_hba.conf")), key=float)
    ours = [version for version in every if "# BEGIN throat.stack" in read(f"{root}/{version}/main/pg_hba.conf")]
    awake = [version for version in every if not re.search(r"^(manual|disabled)", read(f"{root}/{version}/main/start.conf"), re.MULTILINE)]
    return [version for version in ours if version in awake] or ours[-1:] or awake[-1:]


def patroni(version: str) -> dict[str, object]:
    """Return what Patroni says of the cluster that this host is a member of, as far as it answers; empty where there is none.

    {"began": whether this host has data of it, "config": what belongs to it as a whole, "members": [...], "leader": name}
    """
    told = read(f"/etc/patroni/{version}-main.yml")
    if not told:
        return {}
    found: dict[str, object] = {"began": os.path.exists(f"/var/lib/postgresql/{version}/main/patroni.dynamic.json")}
    address = re.search(r"^restapi:.*?^  connect_address: \"?([^\s\"]+)", told, re.MULTILINE | re.DOTALL)
    # It is this host that is asked, by the address that it listens at.
    asker = urllib.request.build_opener(urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))
    try:
        for name in ("config", "cluster"):
            with asker.open(f"https://{address[1] if address else ''}/{name}", timeout=5) as answer:
                found[name] = json.load(answer)
    except (OSError, ValueError):
        return found
    members = found.pop("cluster").get("members", [])
    return {**found, "members": members, "leader": next((member["name"] for member in members if member["role"] in ("leader", "master", "primary")), "")}
