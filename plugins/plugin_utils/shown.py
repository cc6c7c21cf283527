"""The plan as people and machines may see it: secrets as "set", who listens where and for whom as a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.throat.stack.plugins.plugin_utils import backup, plan, workers
from ansible_collections.throat.stack.plugins.plugin_utils.tables import table


def masked(options: Mapping[str, Any], values: Any) -> Any:
    """Return values with every secret (no_log, at any depth) as "set", or "not set" where it is empty."""
    if isinstance(values, list):
        return [masked(options, item) for item in values]
    if not isinstance(values, dict):
        return _without_login(values)
    found = {}
    for name, value in values.items():
        option = options.get(name, {})
        found[name] = ("set" if value else "not set") if option.get("no_log") else masked(option.get("options", {}), value)
    return found


def _without_login(value: Any) -> Any:
    """A git address may hold a token."""
    return re.sub(r"://[^/@\s]+@", "://********@", value) if isinstance(value, str) else value


def plan_data(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan that holds no secret: {"hosts": {host: {"site": ..., role: its arguments}}, "budget": table, "notes": [line]}."""
    hosts = {}
    for host, roles in made["hosts"].items():
        hosts[host] = {"site": roles["site"]}
        for role in roles["site"]["roles"]:
            options = {name.removeprefix(f"{role}_"): option for name, option in plan.options(role).items()}
            hosts[host][role] = masked(options, roles[role])
    return {"hosts": hosts, "budget": made["budget"], "notes": made["notes"]}


def listeners(hosts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return (host, service, where it listens, by whom it is used) of all that listens on the hosts of a plan."""
    rows: list[tuple[str, str, str, str]] = []
    names = {network: host for host, roles in hosts.items() for network in roles["site"]["networks"]}
    webs, watching, voters = ([host for host, roles in hosts.items() if role in roles] for role in ("nginx", "monitoring", "etcd"))
    asking, asking_redis = ([host for host, roles in hosts.items() if roles.get("haproxy", {}).get(kind)] for kind in ("servers", "redis_servers"))
    members, redis_members = ([host for host, roles in hosts.items() if roles.get(role, {}).get("members")] for role in ("postgres", "redis"))

    def add(host: str, service: str, listens_at: str, users: Sequence[str]) -> None:
        ordered = sorted(dict.fromkeys(users), key=lambda user: user != host)
        rows.append((host, service, listens_at, ", ".join("this host" if user == host else user for user in ordered) or "others"))

    for host, roles in hosts.items():
        if "nginx" in roles:
            web = roles["nginx"]
            ports = [f"*:{web['http_port']}"] + ([f"*:{web['https_port']}"] if web["tls_mode"] != "none" else [])
            add(host, "nginx", ", ".join(ports), ["everybody"])
        if "throat_gunicorn" in roles and host in roles["site"]["apps"]:
            told = roles["throat_gunicorn"]
            for entry in workers.complete_workers(told["workers"], told["listen_address"], told["listen_port"], roles["site"]["name"]):
                amount = f"{entry['processes']} x {entry['threads']}" if entry["class"] == "sync" else f"{entry['processes']} x {entry['connections']}"
                add(host, f"worker {entry['name']} ({entry['class']}, {amount})", entry["listen"], [host] if entry["listen"].startswith("/") else webs)
        for role, clients in (("pgbouncer", "client_networks"), ("postgres", None), ("redis", None)):
            if role not in roles:
                continue
            told = roles[role]
            networks = told[clients] if clients else [network for access in told.get("access", ()) for network in access["addresses"]]
            others = [names.get(network, network) for network in networks if not network.startswith(("127.", "::1"))]
            if role == "redis":
                others = [*roles["site"]["apps"], *redis_members] if len(told["listen_addresses"]) > 1 else []
            add(host, role, ", ".join(f"{address}:{told['port']}" for address in told["listen_addresses"]), [host, *others])
        if "haproxy" in roles:
            told = roles["haproxy"]
            ports = ([told["port"]] if told["servers"] else []) + ([told["redis_port"]] if told["redis_servers"] else [])
            add(host, "haproxy", ", ".join(f"{address}:{port}" for address in told["listen_addresses"] for port in ports), [host])
        if host in members:
            own = next(member["address"] for member in roles["postgres"]["members"] if member["name"] == host)
            add(host, "patroni", f"{own}:{roles['postgres']['patroni_port']}", [host, *members, *asking])
        if host in redis_members:
            told = roles["redis"]
            doors = ", ".join(f"{address}:{told['sentinel_port']}" for address in told["listen_addresses"])
            add(host, "sentinel", doors, [host, *redis_members, *asking_redis])
        if "etcd" in roles:
            own = next(member for member in roles["etcd"]["members"] if member["name"] == host)
            add(host, "etcd", f"{own['address']}:{roles['etcd']['port']}, {own['address']}:{own['peer_port']}", [host, *voters, *members])
        if "throat_metrics" in roles:
            told = roles["throat_metrics"]
            for name in told["exporters"]:
                add(host, f"exporter {name}", f"{told['listen_address']}:{told['ports'][name]}", [host] if told["listen_address"] == "127.0.0.1" else watching)
    return rows


def together(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what several hosts of a plan have together, and where it is backed up: a line each."""
    lines, first = [], next(iter(hosts.values()))
    for role, name in (("postgres", "PostgreSQL"), ("redis", "Redis")):
        members = [member["name"] for roles in hosts.values() for member in roles.get(role, {}).get("members") or ()]
        if members:
            found = list(dict.fromkeys(members))
            lines.append(f"{name}: {', '.join(found)} together; one leads, and {(len(found) - 1) // 2} may be lost")
    webs = [host for host, roles in hosts.items() if roles.get("nginx", {}).get("virtual_addresses")]
    if webs:
        lines.append(f"Virtual addresses: {', '.join(hosts[webs[0]]['nginx']['virtual_addresses'])}, held by one of {', '.join(webs)}")
    if first["site"]["sharing"]:
        lines.append(f"Uploads: {', '.join(first['site']['sharing'])} share one file system, mounted at /var/lib/{first['site']['name']} on each")
    places = {host: [found["place"] for found in backup.repositories(roles["throat_backup"])] for host, roles in hosts.items() if "throat_backup" in roles}
    for told in dict.fromkeys(tuple(found) for found in places.values()):
        lines.append(f"Backups of {', '.join(host for host, found in places.items() if tuple(found) == told)}: to {', '.join(told)}")
    watching = [host for host, roles in hosts.items() if "monitoring" in roles]
    if watching:
        lines.append(f"Prometheus and Alertmanager: {', '.join(watching)}")
    return lines


def plan_text(made: Mapping[str, Any]) -> str:
    """Return a plan for people: addresses, listeners, connections, proxies, certificate and release."""
    data = plan_data(made)
    first = next(iter(data["hosts"].values()))
    rows = [("host", "service", "listens at", "used by"), *listeners(data["hosts"])]
    parts = [f"Site {first['site']['name']} at {first['site']['public_url']}", "\n".join(table(rows)), data["budget"]]
    web = next((roles["nginx"] for roles in data["hosts"].values() if "nginx" in roles), None)
    app = next((roles["throat_gunicorn"] for roles in data["hosts"].values() if "throat_gunicorn" in roles), None)
    if web:
        chain = [f"{proxy['name']} ({', '.join(proxy['addresses'])})" for proxy in web["proxies"]]
        count = f", SITE_TRUSTED_PROXY_COUNT {app['trusted_proxy_count']}" if app else ""
        parts.append(f"Proxies: {' -> '.join(['visitor', *chain, 'nginx', 'worker'])}{count}")
        kept = {"none": "none, TLS ends in front of nginx", "files": f"{web['tls_certificate']}, put there by the operator"}
        parts.append("Certificate: " + kept.get(web["tls_mode"], f"{web['tls_mode']} for {web['server_name']}"))
    if app:
        version = app["version"] if app["source_type"] != "directory" else ""
        parts.append(f"Release: {app['source_type']} {app['source']} {version}".rstrip() + f", in the runtime {app['runtime']}")
    parts += together(data["hosts"])
    has_members = any(roles.get(role, {}).get("members") for roles in data["hosts"].values() for role in ("postgres", "redis"))
    secrets = plan.SECRETS | (plan.CLUSTER_SECRETS if has_members else {})
    parts.append("Secrets: " + ", ".join(f"{name} set" for name in secrets))
    return "\n\n".join([*parts, *(f"Note: {line}" for line in data["notes"])])
