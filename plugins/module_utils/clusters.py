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
    Members that follow are in the state "streaming", as the one that leads says.
    """
    told = read(f"/etc/patroni/{version}-main.yml")
    if not told:
        return {}
    found: dict[str, object] = {"began": os.path.exists(f"/var/lib/postgresql/{version}/main/patroni.dynamic.json")}
    address = re.search(r"^restapi:.*?^  connect_address: \"?([^\s\"]+)", told, re.MULTILINE | re.DOTALL)
    # It is this host that is asked, by the address that it listens at.
    asker = urllib.request.build_opener(urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))

    def ask(page: str) -> dict[str, object]:
        with asker.open(f"https://{address[1] if address else ''}/{page}", timeout=5) as answer:
            return json.load(answer)

    try:
        found["config"] = ask("config")
        members = ask("cluster").get("members", [])
        leader = next((member["name"] for member in members if member["role"] in ("leader", "master", "primary")), "")
        # Of a member that runs, Patroni of Debian 12 does not tell there whether it follows.
        running = [member for member in members if member["name"] != leader and member["state"] == "running"]
        sent = ask("patroni").get("replication") or [] if running else []
    except (OSError, ValueError):
        return found
    for member in running:
        if any((each["application_name"], each["state"]) == (member["name"], "streaming") for each in sent):
            member["state"] = "streaming"
    return {**found, "members": members, "leader": leader}
