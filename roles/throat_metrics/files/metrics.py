"""Asks this host each minute how it is, as playbooks/status.yml does, and writes it for the node exporter.

What is wrong is found by the same code: probe.py and status.py are those of the collection. What needs several hosts is left to Prometheus, what is slow
(updates that wait, the log of an hour) to the playbook and to mtail.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
PLAN = "/etc/throat-metrics.json"
TEXT = "/var/lib/prometheus/node-exporter/throat.prom"
SECONDS = 60
HELP = {
    "throat_status_time_seconds": "When this host has last said how it is.",
    "throat_status_duration_seconds": "How long that took.",
    "throat_finding": "What is wrong, in the words of playbooks/status.yml; there is none of what is well.",
    "throat_limit": "From where on something is wrong (throat_status_limits).",
    "throat_release_info": "The release that is live.",
    "throat_release_time_seconds": "Since when it is.",
    "throat_worker_up": "Whether a worker answers its page.",
    "throat_worker_page_seconds": "How long that took.",
    "throat_pool_connections": "Connections of PgBouncer to a database.",
    "throat_pool_connections_limit": "How many there may be, by the budget.",
    "throat_pool_clients_waiting": "Requests that wait for one.",
    "throat_pool_wait_seconds": "How long the first of them has.",
    "throat_database_connections": "Connections of PostgreSQL.",
    "throat_database_connections_limit": "How many there may be.",
    "throat_database_bytes": "Size of the database.",
    "throat_certificate_until_seconds": "When the certificate runs out that visitors see.",
    "throat_virtual_address_held": "Whether it is this web server that holds an address which several have together.",
    "throat_virtual_address_servers": "How many web servers have it together.",
    "throat_backup_time_seconds": "When a backup or a drill has last ended.",
    "throat_backup_ok": "Whether that went well.",
}


def import_collection() -> tuple[Any, Any]:
    """Return the modules probe and status, which lie beside this file and not in the packages that they have in the collection."""
    of_collection = "ansible_collections.throat.stack.plugins"
    for name in ("ansible.module_utils.basic", f"{of_collection}.module_utils", f"{of_collection}.plugin_utils"):
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            package = sys.modules[".".join(parts[:count])] = types.ModuleType(".".join(parts[:count]))
            package.__path__ = [HERE]
    # The way in that Ansible takes is not taken here.
    sys.modules["ansible.module_utils.basic"].AnsibleModule = None
    import probe
    import status

    return probe, status


def metrics(roles: Mapping[str, Any], answer: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield (name, labels, value) of what a host has answered; roles: its part of the plan."""
    yield "throat_status_time_seconds", {}, answer["time"]
    yield "throat_status_duration_seconds", {}, answer["seconds"]
    for finding in findings:
        if finding["level"] != "ok":
            yield "throat_finding", {name: finding[name] for name in ("level", "subject", "tier", "should", "command")}, 1
    for name, limit in roles["site"]["status_limits"].items():
        yield "throat_limit", {"limit": name}, limit
    if answer["release"]:
        yield "throat_release_info", {"release": answer["release"]["name"]}, 1
        yield "throat_release_time_seconds", {}, answer["release"]["since"]
    for worker in roles["site"]["workers"]:
        page = answer["workers"].get(worker, {"status": 0})
        yield "throat_worker_up", {"worker": worker}, int(page["status"] == 200)
        if "seconds" in page:
            yield "throat_worker_page_seconds", {"worker": worker}, page["seconds"]
    for database, pool in answer.get("pgbouncer", {}).get("databases", {}).items():
        for name, key in (("connections", "connections"), ("connections_limit", "limit"), ("clients_waiting", "waiting"), ("wait_seconds", "wait")):
            yield f"throat_pool_{name}", {"database": database}, pool[key]
    server = answer.get("postgres", {})
    if "limit" in server:
        yield "throat_database_connections", {}, server["connections"]
        yield "throat_database_connections_limit", {}, server["limit"] - server["reserved"]
        yield "throat_database_bytes", {}, server["bytes"]
    if until := answer.get("web", {}).get("certificate", {}).get("until"):
        yield "throat_certificate_until_seconds", {}, until
    web = roles.get("nginx", {})
    for address in web.get("virtual_addresses", ()):
        yield "throat_virtual_address_held", {"address": address}, int(address.partition("/")[0] in answer["addresses"])
        yield "throat_virtual_address_servers", {"address": address}, 1 + len(web["virtual_peers"])
    for action, last in answer["backups"].items():
        yield "throat_backup_time_seconds", {"action": action}, last["at"]
        yield "throat_backup_ok", {"action": action}, int(last["ok"])


def text(found: Iterator[tuple[str, dict[str, str], float]]) -> str:
    """Return metrics in the format that Prometheus reads, each name with its help once."""
    lines: dict[str, list[str]] = {}
    for name, labels, value in found:
        said = ",".join(f'{key}="{escaped(label)}"' for key, label in labels.items())
        lines.setdefault(name, [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge"]).append(f"{name}{{{said}}} {value}")
    return "".join(f"{line}\n" for block in lines.values() for line in dict.fromkeys(block))


def escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def once(probe: Any, status: Any) -> None:
    with open(PLAN, encoding="utf-8") as file:
        plan = json.load(file)
    host, roles = plan["host"], plan["roles"]
    answer = probe.ask({"proxies": 1, **status.status_questions(roles, host), "now": time.time(), "brief": True})
    report = status.status_report({"hosts": {host: roles}}, {host: {"probe": answer}}, time.time())
    with open(f"{TEXT}.new", "w", encoding="utf-8") as file:
        file.write(text(metrics(roles, answer, report["findings"])))
    os.chmod(f"{TEXT}.new", 0o644)
    os.replace(f"{TEXT}.new", TEXT)


def main() -> None:
    probe, status = import_collection()
    while True:
        began = time.monotonic()
        try:
            once(probe, status)
        # That it is silent is an alert of its own.
        except Exception:
            traceback.print_exc()
        time.sleep(max(1, SECONDS - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
