"""How a site is: what its hosts have answered (the module probe), against the plan. Findings, the worst first, and the screen that shows them.

A finding says what is seen, what it should be, and the command that helps. What follows from another one is told with that one: where Redis
is down every worker answers 500, and one line says so.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.throat.stack.plugins.plugin_utils import backup, workers
from ansible_collections.throat.stack.plugins.plugin_utils.tables import table

SCHEMA = 1
LEVELS = ("broken", "warning", "ok")
# Of the whole run, for whoever asks by a program: as Nagios and its like have them.
EXIT = {"ok": 0, "warning": 1, "broken": 2}
# Fits 120 columns with Ansible's margin of eight.
WIDTH = 112
# From here on a warning is trouble.
FULL_PERCENT, FULL_WAIT, LAST_DAYS = 97, 10, 2
DAY, MIB = 86400, 1 << 20
TIERS = {"nginx": "nginx", "throat_gunicorn": "workers", "pgbouncer": "PgBouncer", "postgres": "PostgreSQL", "redis": "Redis"}
# Those that others rest upon first.
CAUSES = ("postgres", "pgbouncer", "redis", "throat_gunicorn", "nginx")
# Directories whose file systems matter, of every host and of each role.
PATHS = {
    "": ["/", "/var/log", "/var/tmp"],
    "postgres": ["/var/lib/postgresql"],
    "redis": ["/var/lib/redis"],
    "monitoring": ["/var/lib/prometheus"],
    "throat_gunicorn": ["/opt/{site}", "/var/lib/{site}"],
    "nginx": ["/var/lib/{site}", "/var/www"],
}
# What of a host's plan all this rests upon: what a host must know that asks itself. No secret, and nothing that each deploy changes.
KNOWN = {
    "site": ("name", "is_production", "public_url", "roles", "apps", "workers", "pooling", "pooler_host", "status_limits"),
    "throat_gunicorn": ("workers", "listen_address", "listen_port", "trusted_proxy_count", "runtime"),
    "nginx": ("tls_mode", "tls_certificate", "server_name", "http_port", "https_port", "virtual_addresses", "virtual_peers"),
    "postgres": ("site", "port", "listen_addresses", "tls_certificate", "max_connections", "server_settings", "members"),
    "etcd": ("port",),
    "pgbouncer": ("port", "client_networks", "tls_certificate", "max_db_connections", "databases", "leader_socket"),
    "redis": ("instance", "listen_addresses", "port", "user", "members", "sentinel_port"),
    "haproxy": ("redis_servers",),
    "throat_backup": ("site", "database", "files", "repositories"),
    "throat_metrics": ("exporters",),
}
Roles = Mapping[str, Mapping[str, Any]]
Probe = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is seen of something, what it should be, and the command that helps; so: what follows from it elsewhere."""

    level: str
    host: str
    subject: str
    seen: str
    should: str = ""
    command: str = ""
    # The role that it is about, empty for the host itself.
    tier: str = ""
    so: tuple[str, ...] = ()


# -- what a host is asked


def status_questions(roles: Roles, host: str) -> dict[str, Any]:
    """Return what the module probe is to be told for a host, but for the time; roles: the host's part of the plan."""
    site = roles["site"]["name"]
    told: dict[str, Any] = {"site": site, "units": [], "workers": [], "addresses": [], "certificates": [], "paths": list(PATHS[""])}
    told["has_rules"] = bool(_tables(roles, host))
    for role in roles["site"]["roles"]:
        told["paths"] += [path.format(site=site) for path in PATHS.get(role, ())]
    app = _app(roles, host)
    if app:
        for worker in app_workers(roles, host):
            unit = f"{site}-{worker['name']}.service"
            told["units"] += [f"{worker['socket']}.socket", unit]
            told["workers"].append({"name": worker["name"], "unit": unit, "listen": worker["listen"], "path": worker["health_path"]})
        told["units"] += [f"{site}-{workers.FOLLOWER}.service", f"{site}-*_next.service"] + (["docker.service"] if app["runtime"] == "container" else [])
        told["proxies"] = app["trusted_proxy_count"]
    if "nginx" in roles:
        web = roles["nginx"]
        has_tls = web["tls_mode"] != "none"
        told["units"] += ["nginx.service"] + (["certbot.timer"] if web["tls_mode"] == "acme" else [])
        port, closed = web["https_port"] if has_tls else web["http_port"], f"/etc/nginx/{site}-maintenance"
        told["web"] = {"name": web["server_name"], "port": port, "tls": has_tls, "closed": closed}
        told["certificates"] += _web_certificates(web)
        if web["virtual_addresses"]:
            told["units"].append("keepalived.service")
            told["addresses"] = [address.partition("/")[0] for address in web["virtual_addresses"]]
    if "postgres" in roles:
        told["postgres"] = {"port": roles["postgres"]["port"], "database": site}
        if roles["postgres"]["members"] and "etcd" in roles:
            told["units"].append("patroni-spread-leaders.service")
        if roles["postgres"]["members"] and "throat_backup" in roles:
            # Where whoever leads has noted how the backups went.
            told["postgres"]["notes"] = f"{site}_backup.notes"
        if len(roles["postgres"]["listen_addresses"]) > 1:
            told["certificates"].append(roles["postgres"]["tls_certificate"])
    if "pgbouncer" in roles:
        told["units"].append("pgbouncer.service")
        told["pgbouncer"] = {"port": roles["pgbouncer"]["port"], "server": _server(roles)}
        if roles["pgbouncer"]["client_networks"]:
            told["certificates"].append(roles["pgbouncer"]["tls_certificate"])
    if "etcd" in roles:
        told["units"].append("etcd.service")
        told["etcd"] = {"port": roles["etcd"]["port"]}
    if "haproxy" in roles:
        told["units"] += ["haproxy.service"] + (["pgbouncer-follow-leader.service"] if _holds_clients(roles) else [])
        if roles["haproxy"]["redis_servers"]:
            told["haproxy"] = {"redis": [server["name"] for server in roles["haproxy"]["redis_servers"]]}
    if "redis" in roles:
        redis = roles["redis"]
        told["units"].append(redis_unit(redis))
        name = f"redis-{redis['instance']}" if redis["instance"] else "throat"
        told["redis"] = {
            "address": redis["listen_addresses"][0], "port": redis["port"], "user": f"{redis['user']}-operator", "operator": f"/etc/redis/{name}.operator"
        }
        if redis["members"]:
            told["units"].append("redis-sentinel.service")
            told["redis"]["sentinel_port"] = redis["sentinel_port"]
    if "firewall" in roles:
        told["units"].append("throat-firewall.service")
    if "throat_backup" in roles:
        told["paths"] += [found["path"] for found in backup.repositories(roles["throat_backup"]) if found["path"]]
        told["units"] += [f"{site}-backup@{kind}.timer" for kind in ("full", "differential", "drill")]
    told["units"] += _watching(roles)
    return {name: list(dict.fromkeys(value)) if name in ("units", "certificates", "paths") else value for name, value in told.items()}


def status_plan(roles: Roles) -> dict[str, dict[str, Any]]:
    """Return what a host must know of its part of the plan to ask itself how it is."""
    kept = {role: {name: made[name] for name in KNOWN.get(role, ())} for role, made in roles.items()}
    if "throat_backup" in kept:
        # Those of other machines have secrets, and no disk of this host.
        local = [told for told in kept["throat_backup"]["repositories"] if told["type"] == "local"]
        kept["throat_backup"]["repositories"] = [{name: told[name] for name in ("type", "path") if name in told} for told in local]
    if "pgbouncer" in kept:
        # The way there, and not what is said there.
        kept["pgbouncer"]["databases"] = [{name: told[name] for name in ("host", "port") if name in told} for told in kept["pgbouncer"]["databases"]]
    return kept


def _watching(roles: Roles) -> list[str]:
    """Units that tell of the host, or of all."""
    found = []
    if "throat_metrics" in roles:
        exporters = roles["throat_metrics"]["exporters"]
        found += ["throat-metrics.service", *("mtail.service" if name == "mtail" else f"prometheus-{name}-exporter.service" for name in exporters)]
    return found + (["prometheus.service", "prometheus-alertmanager.service"] if "monitoring" in roles else [])


def _app(roles: Roles, host: str) -> Mapping[str, Any] | None:
    """A host that only builds serves nobody."""
    return roles["throat_gunicorn"] if "throat_gunicorn" in roles and host in roles["site"]["apps"] else None


def app_workers(roles: Roles, host: str) -> list[dict[str, Any]]:
    """Return the completed worker entries of a host, none where it serves none."""
    app = _app(roles, host)
    return workers.complete_workers(app["workers"], app["listen_address"], app["listen_port"], roles["site"]["name"]) if app else []


def _server(roles: Roles) -> list[str]:
    """Return host and port of the PostgreSQL that the host's pooler asks by the network, and as whom, nothing where that is by a socket."""
    asked = next(iter(roles["pgbouncer"]["databases"]), {})
    host = asked.get("host") or "/"
    return [] if host.startswith("/") else [host, str(asked.get("port") or 5432), roles["site"]["name"]]


def _tables(roles: Roles, host: str) -> dict[str, str]:
    """Return the tables of nftables that a host should have loaded, each to the command that loads it."""
    site, found = roles["site"]["name"], {}
    if _app(roles, host):
        found[f"inet {site}_egress"] = f"nft -f /etc/{site}/egress.nft"
    if "firewall" in roles:
        found["inet throat"] = "systemctl reload throat-firewall"
    return found


def _holds_clients(roles: Roles) -> bool:
    """Whether the pooler of a host holds its clients while nobody leads the database."""
    return bool(roles.get("pgbouncer", {}).get("leader_socket"))


def redis_unit(redis: Mapping[str, Any]) -> str:
    return f"redis-server{'@' + redis['instance'] if redis['instance'] else ''}.service"


def _web_certificates(web: Mapping[str, Any]) -> list[str]:
    if web["tls_mode"] == "none":
        return []
    # The self-signed one serves until the authority's is there.
    return ([f"/etc/letsencrypt/live/{web['server_name']}/fullchain.pem"] if web["tls_mode"] == "acme" else []) + [web["tls_certificate"]]


# -- numbers for people


def period(seconds: float) -> str:
    """Return a length of time in its largest unit, as 3 d."""
    for unit, length in (("d", DAY), ("h", 3600), ("min", 60)):
        if abs(seconds) >= length:
            return f"{int(seconds / length)} {unit}"
    return f"{seconds:.0f} s"


def amount(size: float) -> str:
    """Return a number of bytes as people say it, as 12 GB."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}" if size < 10 * length else f"{size / length:.0f} {unit}"
    return f"{size / 1e3:.0f} kB"


def percent(part: float, whole: float) -> int:
    return round(100 * part / whole) if whole else 0


def disk_percent(disk: Mapping[str, Any]) -> int:
    """As df has it: of what others than root may use."""
    return percent(disk["used"], disk["used"] + disk["free"])


def inode_percent(disk: Mapping[str, Any]) -> int:
    return percent(disk["inodes"] - disk["free_inodes"], disk["inodes"])


# -- findings of one host


@dataclasses.dataclass(frozen=True)
class Host:
    """A host that has answered, what the plan says of it, and how an operator calls the inventory."""

    name: str
    roles: Roles
    probe: Probe
    inventory: str
    # When its answer was there, by the controller's clock.
    received: float

    @property
    def site(self) -> str:
        return self.roles["site"]["name"]

    @property
    def limits(self) -> Mapping[str, int]:
        return self.roles["site"]["status_limits"]

    def broken(self, subject: str, seen: str, should: str, command: str, tier: str = "") -> Finding:
        return Finding("broken", self.name, subject, seen, should, command, tier)

    def warning(self, subject: str, seen: str, should: str, command: str, tier: str = "") -> Finding:
        return Finding("warning", self.name, subject, seen, should, command, tier)

    def ok(self, subject: str, seen: str, tier: str = "") -> Finding:
        return Finding("ok", self.name, subject, seen, tier=tier)

    def unit(self, name: str) -> Mapping[str, Any]:
        return self.probe["units"].get(name, {"is_there": False, "active": "inactive", "sub": "dead", "enabled": "", "result": "", "since": 0})

    def runs(self, name: str) -> bool:
        return self.unit(name)["active"] in ("active", "reloading")

    def playbook(self, name: str) -> str:
        return f"ansible-playbook -i {self.inventory} playbooks/{name}"

    def psql(self, command: str) -> str:
        return f"sudo -u postgres psql -p {self.roles['pgbouncer']['port']} -U pgbouncer pgbouncer -c '{command}'"


def unit_findings(host: Host, unit: str, subject: str, tier: str) -> list[Finding]:
    """Return what is wrong with a unit that should run, and after the next boot as well."""
    state = host.unit(unit)
    if not state["is_there"]:
        return [host.broken(subject, f"{unit} is not there", "installed and running", host.playbook("site.yml"), tier)]
    if not host.runs(unit):
        since = f" for {period(host.probe['time'] - state['since'])}" if state["since"] else ""
        why = f" ({state['result']})" if state["result"] not in ("", "success") else ""
        helps = f"systemctl start {unit}" if state["active"] == "inactive" else f"journalctl -u {unit} -n 50"
        return [host.broken(subject, f"{unit} is {state['active']}{why}{since}", "active", helps, tier)]
    # A socket is opened by its service.
    if state["enabled"] == "disabled" and not unit.endswith(".socket"):
        return [host.warning(subject, f"{unit} does not start at boot", "enabled", f"systemctl enable {unit}", tier)]
    return []


def app_findings(host: Host) -> Iterator[Finding]:
    tier, limits, release = "throat_gunicorn", host.limits, (host.probe["release"] or {}).get("name", "")
    for worker in app_workers(host.roles, host.name):
        subject, service, socket = f"worker {worker['name']}", f"{host.site}-{worker['name']}.service", f"{worker['socket']}.socket"
        # One that moves has a second socket for a while (workers.name_sockets).
        wrong = unit_findings(host, service, subject, tier) or unit_findings(host, socket, subject, tier)
        if wrong:
            yield from wrong
            continue
        answer, journal = host.probe["workers"].get(worker["name"]), f"journalctl -u {service.removesuffix('.service')} -n 50"
        # It has started since its unit was asked for.
        if answer is None:
            continue
        should = f"200 within {limits['page_seconds']} s"
        # Whoever asks too often is limited, by a worker that serves.
        is_served = answer["status"] == 200 or (answer["status"] == 429 and answer["release"])
        if not answer["status"]:
            within = f" within {answer['seconds']:.0f} s" if answer["seconds"] >= 1 else ""
            restart = f"systemctl restart {service.removesuffix('.service')}"
            yield host.broken(subject, f"runs, and does not answer{within}", should, f"{journal}; {restart}", tier)
        elif not is_served:
            yield host.broken(subject, f"runs, and answers {answer['status']}", should, journal, tier)
        elif answer["release"] and release and answer["release"] != release:
            yield host.warning(subject, f"serves release {answer['release']}", f"{release}, which is live", host.playbook("site.yml"), tier)
        elif answer["seconds"] > limits["page_seconds"]:
            yield host.warning(subject, f"answers after {answer['seconds']:.1f} s", should, host.playbook("budget.yml"), tier)
        else:
            yield host.ok(subject, f"200 in {answer['seconds']:.2f} s", tier)
    wrong = unit_findings(host, f"{host.site}-{workers.FOLLOWER}.service", "follower of Redis", tier)
    if host.roles["throat_gunicorn"]["runtime"] == "container":
        wrong += unit_findings(host, "docker.service", "Docker", tier)
    yield from wrong
    # Of a run that was cut short: it serves whatever was the release then.
    for unit in host.probe["units"]:
        if unit.endswith("_next.service") and host.runs(unit):
            yield host.warning("workers", f"{unit} is left by a run that did not end", "none", host.playbook("site.yml"), tier)
    if not release:
        yield host.broken("release", "none is live", "one", host.playbook("site.yml"), tier)


def rules_findings(host: Host) -> Iterator[Finding]:
    """The kernel has the rules: the unit that has loaded them does not know that somebody has flushed them. Nobody else suffers from it: no tier."""
    wrong = unit_findings(host, "throat-firewall.service", "firewall", "") if "firewall" in host.roles else []
    yield from wrong
    loaded = host.probe.get("nft_tables")
    for table, command in _tables(host.roles, host.name).items() if loaded is not None else ():
        subject = "firewall" if table == "inet throat" else "egress of the workers"
        if table in loaded:
            yield host.ok(subject, "loaded")
        elif not wrong or subject != "firewall":
            yield host.broken(subject, f"nftables has no table {table}: nothing is refused", "loaded", command)


def web_findings(host: Host) -> Iterator[Finding]:
    tier, limits, web = "nginx", host.limits, host.probe["web"]
    wrong = unit_findings(host, "nginx.service", "nginx", tier)
    yield from wrong
    if host.runs("nginx.service"):
        # None of it is asked while a worker is stopped.
        health = web.get("health")
        if health and not health["status"]:
            helps = "nginx -t; journalctl -u nginx -n 50"
            within = f" within {health['seconds']:.0f} s" if health["seconds"] >= 1 else ""
            yield host.broken("nginx", f"does not answer{within}", "200 of /throat-health", helps, tier)
        elif health and health["status"] != 200:
            seen = f"no worker of some class answers it (/throat-health says {health['status']})"
            yield host.broken("way to the workers", seen, "200 of /throat-health", f"tail /var/log/nginx/{host.site}.error.log", tier)
        elif not wrong:
            yield host.ok("nginx", f"/throat-health 200 in {health['seconds']:.2f} s" if health else "runs", tier)
        if web["is_closed"]:
            yield host.warning("maintenance", "the site is closed", "open", f"{host.playbook('maintenance.yml')} -e maintenance=off", tier)
        # One that does not answer shows no certificate either.
        if host.roles["nginx"]["tls_mode"] != "none" and (not health or health["status"]):
            yield from served_certificate_findings(host)
    if host.roles["nginx"]["virtual_addresses"]:
        yield from unit_findings(host, "keepalived.service", "virtual address", tier)
    if host.roles["nginx"]["tls_mode"] == "acme":
        yield from unit_findings(host, "certbot.timer", "renewal of the certificate", tier)
    counts = host.probe.get("requests") or {}
    if counts:
        span = period(host.probe["time"] - counts["first"]) if counts["first"] else "1 h"
        if counts["errors"] > limits["errors"]:
            find = f"""grep '"status":5' /var/log/nginx/{host.site}.access.log | tail"""
            seen = f"{counts['errors']} of {counts['requests']} answers were 5xx in {span}"
            yield host.warning("errors", seen, f"{limits['errors']} an hour at most", find, tier)
        else:
            yield host.ok("errors", f"{counts['errors']} of {counts['requests']} answers in {span}", tier)
        if counts["failed_logins"] > limits["failed_logins"]:
            find = f"""grep '"POST","uri":"/login' /var/log/nginx/{host.site}.access.log | grep -o '"client":"[^"]*"' | sort | uniq -c | sort -n | tail"""
            yield host.warning("log-ins", f"{counts['failed_logins']} failed in {span}", f"{limits['failed_logins']} an hour at most", find, tier)


def served_certificate_findings(host: Host) -> Iterator[Finding]:
    served, known = host.probe["web"].get("certificate") or {}, host.probe["certificates"]
    mine = [path for path in _web_certificates(host.roles["nginx"]) if path in known]
    if not served:
        yield host.broken("certificate", "none is shown", "one that is valid", "nginx -t; systemctl reload nginx", "nginx")
        return
    if mine and known[mine[0]].get("sha256") not in (None, served["sha256"]):
        yield host.warning("certificate", f"nginx shows another one than {mine[0]} holds", "the same", "systemctl reload nginx", "nginx")
    yield from certificate_findings(host, "certificate", served["until"], "nginx")


def certificate_findings(host: Host, subject: str, until: int, tier: str) -> Iterator[Finding]:
    days, limit = (until - host.probe["time"]) / DAY, host.limits["certificate_days"]
    renew = "certbot renew; systemctl reload nginx" if tier == "nginx" and host.roles["nginx"]["tls_mode"] == "acme" else host.playbook("site.yml")
    if tier == "nginx" and host.roles["nginx"]["tls_mode"] == "files":
        renew = f"put a new one at {host.roles['nginx']['tls_certificate']}; {host.playbook('site.yml')}"
    if days < 0:
        yield host.broken(subject, f"has run out {period(-days * DAY)} ago", f"{limit} days left", renew, tier)
    elif days < limit:
        level = host.broken if days < LAST_DAYS else host.warning
        yield level(subject, f"runs out in {period(days * DAY)}", f"{limit} days left", renew, tier)
    else:
        yield host.ok(subject, f"{days:.0f} days left", tier)


def postgres_findings(host: Host) -> Iterator[Finding]:
    tier, limits, seen = "postgres", host.limits, host.probe["postgres"]
    if not seen["answers"]:
        yield host.broken("PostgreSQL", seen["said"], "accepting connections", f"journalctl -u {seen['unit']} -n 50; systemctl restart {seen['unit']}", tier)
        return
    if "limit" not in seen:
        yield host.broken("PostgreSQL", "accepts connections, and answers no query", "answers", f"journalctl -u {seen['unit']} -n 50", tier)
        return
    room = seen["limit"] - seen["reserved"]
    used, planned = percent(seen["connections"], room), host.roles["postgres"]["max_connections"]
    who = "sudo -u postgres psql -c 'SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3 ORDER BY 4 DESC'"
    if used >= limits["connections_percent"]:
        level = host.broken if used >= 100 else host.warning
        yield level("connections", f"{seen['connections']} of {room} are open", f"less than {limits['connections_percent']} %", who, tier)
    elif host.roles["postgres"]["server_settings"] and seen["limit"] != planned:
        yield host.warning("connections", f"max_connections is {seen['limit']}", f"{planned} by the plan", host.playbook("site.yml"), tier)
    else:
        yield host.ok("connections", f"{seen['connections']} of {room}", tier)
    if seen["longest"] > limits["transaction_seconds"]:
        oldest = "sudo -u postgres psql -c 'SELECT pid, usename, xact_start, state, query FROM pg_stat_activity ORDER BY xact_start LIMIT 5'"
        yield host.warning("transaction", f"one is open for {period(seen['longest'])}", f"{period(limits['transaction_seconds'])} at most", oldest, tier)
    if seen.get("archive_fails"):
        helps = f"{host.site}-backup list; journalctl -u {seen['unit']} -n 50"
        yield host.warning("archive", f"WAL does not reach it, since {period(host.probe['time'] - seen['archive_fails'])}", "each minute", helps, tier)
    yield host.ok("PostgreSQL", f"accepting connections, database {amount(seen['bytes'])}", tier)


# What a member that follows may be behind by, in bytes.
LAG = 64 << 20


def member_findings(host: Host) -> Iterator[Finding]:
    """Yield what one of several hosts that have the database says of the cluster: whoever leads says it for all, and each where nobody does."""
    seen, named = host.probe["postgres"], [member["name"] for member in host.roles["postgres"]["members"]]
    unit = seen["unit"]
    if "etcd" in host.roles:
        yield from unit_findings(host, "patroni-spread-leaders.service", "spreader of leaders", "")
    listed = f"sudo -u postgres patronictl -c /etc/patroni/{unit.partition('@')[2]}.yml list"
    if seen.get("members") is None:
        yield host.broken("Patroni", "does not answer", "answers, and watches PostgreSQL", f"journalctl -u {unit} -n 50; systemctl restart {unit}", "postgres")
    elif not seen.get("leader"):
        yield host.broken("cluster", "nobody leads", f"one of {', '.join(named)} leads", f"{listed}; journalctl -u etcd -u {unit} -n 50", "postgres")
    elif seen["leader"] == host.name:
        known = {member["name"]: member for member in seen["members"]}
        for name in named:
            member = known.get(name, {"state": "unknown to the cluster"})
            if name != host.name and member["state"] != "streaming":
                helps = f"{listed}; on {name}: journalctl -u {unit} -n 50"
                yield host.warning("cluster", f"{name} does not follow: {member['state']}", "streaming", helps, "postgres")
            elif name != host.name and isinstance(member.get("lag"), int) and member["lag"] > LAG:
                again = f"{listed.removesuffix(' list')} reinit {host.roles['postgres']['site']} {name}"
                yield host.warning("cluster", f"{name} lags by {amount(member['lag'])}", f"less than {amount(LAG)}", f"{listed}; {again}", "postgres")
        follow = [f"{name} ({known[name]['role'].replace('_', ' ')})" for name in named if name in known and known[name]["state"] == "streaming"]
        yield host.ok("cluster", f"leads; {', '.join(follow) or 'nobody'} follow", "postgres")


def etcd_findings(host: Host) -> Iterator[Finding]:
    seen = host.probe["etcd"]
    wrong = unit_findings(host, "etcd.service", "etcd", "postgres")
    yield from wrong
    if wrong:
        return
    if seen["has_majority"]:
        yield host.ok("etcd", "has a majority", "postgres")
    else:
        said, helps = "has no majority" if seen["answers"] else "does not answer", "journalctl -u etcd -n 50; systemctl start etcd on each"
        yield host.broken("etcd", said, "a majority of its members runs", helps, "postgres")


def haproxy_findings(host: Host) -> Iterator[Finding]:
    yield from unit_findings(host, "haproxy.service", "HAProxy", "pgbouncer")
    if _holds_clients(host.roles):
        yield from unit_findings(host, "pgbouncer-follow-leader.service", "holder of clients", "pgbouncer")
    if host.probe.get("haproxy") and host.runs("haproxy.service"):
        found, named = host.probe["haproxy"]["redis"], [server["name"] for server in host.roles["haproxy"]["redis_servers"]]
        if len(found) == 1:
            yield host.ok("way to Redis", f"leads to {found[0]}", "redis")
        else:
            helps = "journalctl -u haproxy -n 50; on each of them: journalctl -u redis-sentinel -u redis-server -n 50"
            yield host.broken("way to Redis", f"leads to {' and '.join(found) or 'nobody'}", f"one of {', '.join(named)}", helps, "redis")


def pgbouncer_findings(host: Host) -> Iterator[Finding]:
    tier, limits, seen = "pgbouncer", host.limits, host.probe["pgbouncer"]
    wrong = unit_findings(host, "pgbouncer.service", "PgBouncer", tier)
    yield from wrong
    if not host.runs("pgbouncer.service"):
        return
    if not seen["answers"]:
        yield host.broken("PgBouncer", "runs, and does not answer", "answers SHOW POOLS", "journalctl -u pgbouncer -n 50; systemctl restart pgbouncer", tier)
        return
    if seen.get("reaches") is False:
        server, port, _user = _server(host.roles)
        helps = f"pg_isready -h {server} -p {port}; ip route get {server}"
        yield host.broken("way to PostgreSQL", f"{server}:{port} does not answer this host", "answers", helps, tier)
    elif not wrong:
        yield host.ok("PgBouncer", "answers", tier)
    for name, pool in seen["databases"].items():
        subject = f"pool {name}"
        count = f"{pool['connections']} of {pool['limit']} connections"
        planned = host.roles["pgbouncer"]["max_db_connections"]
        if pool["is_paused"]:
            yield host.broken(subject, f"paused, {pool['waiting']} clients wait", "not paused", host.psql("RESUME"), tier)
        elif pool["waiting"] and pool["wait"] >= limits["wait_seconds"]:
            level = host.broken if pool["wait"] >= FULL_WAIT else host.warning
            seen_now = f"{pool['waiting']} wait, the longest for {pool['wait']:.1f} s ({count})"
            yield level(subject, seen_now, f"less than {limits['wait_seconds']} s", host.psql("SHOW POOLS"), tier)
        elif planned and pool["limit"] != planned:
            yield host.warning(subject, f"{pool['limit']} connections at most", f"{planned} by the plan", host.playbook("site.yml"), tier)
        else:
            yield host.ok(subject, count, tier)


def redis_findings(host: Host) -> Iterator[Finding]:
    tier, limits, seen, unit = "redis", host.limits, host.probe["redis"], redis_unit(host.roles["redis"])
    wrong = unit_findings(host, unit, "Redis", tier)
    yield from wrong
    if not host.runs(unit):
        return
    if not seen["answers"]:
        name = unit.removesuffix(".service")
        helps = f"journalctl -u {name} -n 50; systemctl restart {name}"
        yield host.broken("Redis", f"runs, and does not answer: {seen['said'] or 'nothing'}", "PONG", helps, tier)
        return
    memory, clients = seen.get("memory"), seen.get("clients")
    room = f"{memory / MIB:.0f} of {seen['limit'] / MIB:.0f} MiB" if memory else ""
    # Those that may be thrown away make room for others.
    if memory and seen["limit"] and seen["policy"] == "noeviction" and percent(memory, seen["limit"]) >= limits["memory_percent"]:
        level = host.broken if memory >= seen["limit"] else host.warning
        helps = f"raise redis_maxmemory_mb; {host.playbook('site.yml')}"
        yield level("Redis", f"{room}, and evicts nothing", f"less than {limits['memory_percent']} %", helps, tier)
    elif clients and percent(clients, seen["client_limit"]) >= limits["connections_percent"]:
        should, helps = f"less than {limits['connections_percent']} %", f"ss -tnp state established sport = :{host.roles['redis']['port']}"
        yield host.warning("Redis", f"{clients} of {seen['client_limit']} clients", should, helps, tier)
    elif not wrong:
        yield host.ok("Redis", f"{room}, {clients} clients, {seen['evicted']} evicted" if memory else "answers", tier)


def redis_member_findings(host: Host) -> Iterator[Finding]:
    """Yield what one of several hosts that have Redis together says of them: whoever leads says it for all, and each where nobody does."""
    tier, seen, members = "redis", host.probe["redis"], {member["address"]: member["name"] for member in host.roles["redis"]["members"]}
    wrong = unit_findings(host, "redis-sentinel.service", "Sentinel", tier)
    yield from wrong
    sentinel, look = seen.get("sentinel", {}), "journalctl -u redis-sentinel -u redis-server -n 50"
    if wrong or not host.runs(redis_unit(host.roles["redis"])):
        return
    if not sentinel.get("answers"):
        yield host.warning("Sentinel", "runs, and does not answer", "says who leads", f"{look}; systemctl restart redis-sentinel", tier)
    elif not sentinel["is_well"]:
        named = members.get(sentinel["leader"], sentinel["leader"])
        yield host.broken("Redis members", f"nobody leads: {named} does not answer", f"one of {', '.join(members.values())} leads", look, tier)
    elif seen.get("leads") and members.get(sentinel["leader"]) != host.name:
        seen_now = f"takes itself for the leader, which is {members.get(sentinel['leader'], sentinel['leader'])}"
        yield host.warning("Redis members", seen_now, "follows it", f"{look}; systemctl restart redis-server", tier)
    elif seen.get("leads"):
        follow = [name for address, name in members.items() if address in seen["followers"]]
        for name in members.values():
            if name not in (host.name, *follow):
                yield host.warning("Redis members", f"{name} does not follow", "follows", f"on {name}: {look}", tier)
        yield host.ok("Redis members", f"leads; {', '.join(follow) or 'nobody'} follow", tier)
    elif seen.get("follows"):
        yield host.ok("Redis members", f"follows {members.get(seen['follows'], seen['follows'])}", tier)


def machine_findings(host: Host) -> Iterator[Finding]:
    limits, probe = host.limits, host.probe
    for mount, disk in probe["disks"].items():
        if not disk["answers"]:
            yield host.broken(f"disk {mount}", "does not answer", "answers", f"df {mount}; mount | grep {mount}")
            continue
        for name, used in (("disk", disk_percent(disk)), ("inodes of", inode_percent(disk))):
            if used >= limits["disk_percent"]:
                level = host.broken if used >= FULL_PERCENT else host.warning
                left = f", {amount(disk['free'])} left" if name == "disk" else ""
                find = f"du -axh {mount} | sort -h | tail -20" if name == "disk" else f"du -x --inodes {mount} | sort -n | tail -20"
                yield level(f"{name} {mount}", f"{used} % used{left}", f"less than {limits['disk_percent']} %", find)
            elif name == "disk":
                yield host.ok(f"disk {mount}", f"{used} % used, {amount(disk['free'])} left")
    memory, swap = probe["memory"], probe["swap"]
    used = percent(memory["size"] - memory["available"], memory["size"])
    swapped = percent(swap["size"] - swap["free"], swap["size"])
    said = f"{used} % of {amount(memory['size'])} used" + (f", {swapped} % of swap" if swap["size"] else "")
    if used >= limits["memory_percent"]:
        yield host.warning("memory", said, f"less than {limits['memory_percent']} %", "ps -eo rss,unit,args --sort=-rss | head")
    else:
        yield host.ok("memory", said)
    load = probe["load"]["five"] / probe["load"]["cores"]
    said = f"{probe['load']['five']:.1f} on {probe['load']['cores']} cores"
    if load > limits["load"]:
        yield host.warning("load", said, f"{limits['load']} a core at most", "ps -eo pcpu,stat,unit,args --sort=-pcpu | head")
    else:
        yield host.ok("load", said)
    clock = probe["clock"]
    # It began after it was asked, and ended before it was heard, however long the way was.
    behind, ahead = clock["sent"] - clock["began"], clock["ended"] - host.received
    if max(behind, ahead) > limits["clock_seconds"]:
        way = "ahead of" if ahead > behind else "behind"
        yield host.broken("clock", f"{period(max(behind, ahead))} {way} the controller's", f"within {limits['clock_seconds']} s", "timedatectl")
    elif clock["is_synchronised"] is False:
        yield host.warning("clock", "nothing keeps it right", "synchronised", "timedatectl set-ntp true; timedatectl")
    else:
        yield host.ok("clock", "right")
    for unit, times in probe["restarts"].items():
        if times > limits["restarts"]:
            yield host.warning(f"restarts of {_short(unit)}", f"{times} in a day", f"{limits['restarts']} at most", f"journalctl -u {_short(unit)} --since -1d")
    for unit, times in probe["killed"].items():
        helps = f"journalctl -k --since -1d; systemctl status {_short(unit)}"
        yield host.warning(f"memory of {_short(unit)}", f"killed {times} times in a day for want of memory", "0 times", helps)
    ours = set(status_questions(host.roles, host.name)["units"])
    for unit in probe["failed"]:
        # The database is asked by itself, and the record of a backup says more, where it has one of the failure.
        action = "drill" if unit == f"{host.site}-backup@drill.service" else "backup" if unit.startswith(f"{host.site}-backup@") else ""
        is_recorded = not probe["backups"].get(action, {"ok": True})["ok"]
        if unit not in ours and not unit.startswith("postgresql@") and not is_recorded:
            yield host.warning(f"unit {_short(unit)}", "has failed", "not failed", f"systemctl status {unit}; systemctl reset-failed {unit}")
    yield from rules_findings(host)
    for unit in _watching(host.roles):
        # Visitors do not feel it.
        yield from (dataclasses.replace(finding, level="warning") for finding in unit_findings(host, unit, f"unit {_short(unit)}", ""))
    if probe["reboot"]:
        yield host.warning("reboot", probe["reboot"], "no reboot waits", "reboot")
    waiting = probe["updates"]
    if waiting:
        if waiting["security"] > limits["security_updates"]:
            helps = "apt-get update && apt-get upgrade"
            yield host.warning("updates", f"{waiting['security']} for security wait", f"{limits['security_updates']} at most", helps)
        else:
            yield host.ok("updates", f"{waiting['waiting']} wait")
    yield from backup_findings(host)


def backup_findings(host: Host) -> Iterator[Finding]:
    """The last backup and the last proof of one have gone well, and are not old."""
    if "throat_backup" not in host.roles:
        return
    now, made = host.probe["time"], f"{host.site}-backup"
    for kind in ("full", "differential", "drill"):
        yield from unit_findings(host, f"{made}@{kind}.timer", "backup", "")
    # Who follows makes backups of its files alone.
    follows = host.roles.get("postgres", {}).get("members") and host.probe["postgres"].get("leader") != host.name
    actions = {"backup": host.limits["backup_hours"] * 3600, "drill": host.limits["drill_days"] * DAY}
    if follows:
        actions = {"backup": actions["backup"]} if host.roles["throat_backup"]["files"] else {}
    for name, limit in actions.items():
        last, look = host.probe["backups"].get(name), f"journalctl -u '{made}@*' -n 50"
        # A host is new for as long.
        at = last["at"] if last else host.probe["backups_since"]
        age = now - at if at else 0
        if last and not last["ok"]:
            yield host.broken(name, f"the last one, {period(age)} ago, has failed: {last['said']}", "well", look)
        elif age > limit:
            seen = f"the last one was {period(age)} ago" if last else "has never run"
            yield host.warning(name, seen, f"every {period(limit)}", f"systemctl list-timers '{made}@*'; {look}")
        elif last:
            yield host.ok(name, f"{period(age)} ago")


def _short(unit: str) -> str:
    return unit.removesuffix(".service")


def host_findings(host: Host) -> list[Finding]:
    """Return all findings of a host that has answered."""
    found: list[Finding] = []
    if _app(host.roles, host.name):
        found += app_findings(host)
    for role, findings in (
        ("nginx", web_findings),
        ("pgbouncer", pgbouncer_findings),
        ("postgres", postgres_findings),
        ("redis", redis_findings),
        ("etcd", etcd_findings),
        ("haproxy", haproxy_findings),
    ):
        if role in host.roles:
            found += findings(host)
    if host.roles.get("postgres", {}).get("members"):
        found += member_findings(host)
    if host.roles.get("redis", {}).get("members"):
        found += redis_member_findings(host)
    for role in ("postgres", "pgbouncer"):
        path = host.roles.get(role, {}).get("tls_certificate")
        if path in host.probe["certificates"] and path in status_questions(host.roles, host.name)["certificates"] and host.probe["certificates"][path]:
            found += certificate_findings(host, f"certificate of {TIERS[role]}", host.probe["certificates"][path]["until"], role)
    return [*found, *machine_findings(host)]


# -- findings of the site


def address_findings(hosts: Mapping[str, Roles], probes: Mapping[str, Probe]) -> list[Finding]:
    """Return who holds each address that web servers have together: one of them, if all is well."""
    webs = [host for host, roles in hosts.items() if roles.get("nginx", {}).get("virtual_addresses")]
    asked = [host for host in webs if host in probes]
    found, helps = [], "journalctl -u keepalived -n 50"
    for address in hosts[webs[0]]["nginx"]["virtual_addresses"] if asked else ():
        holders = [host for host in asked if address.partition("/")[0] in probes[host]["addresses"]]
        if len(holders) == 1:
            found.append(Finding("ok", holders[0], "virtual address", f"holds {address}", tier="nginx"))
        elif holders:
            seen, should = f"{address} is held by {' and '.join(holders)}", "one of them, and VRRP (IP protocol 112) passes between them"
            found.append(Finding("broken", holders[0], "virtual address", seen, should, helps, "nginx"))
        # Else one that was not asked, or does not answer, may hold it.
        elif len(asked) > len(hosts[webs[0]]["nginx"]["virtual_peers"]):
            found.append(Finding("broken", webs[0], "virtual address", f"nobody holds {address}", f"one of {', '.join(webs)} does", helps, "nginx"))
    return found


def site_findings(hosts: Mapping[str, Roles], probes: Mapping[str, Probe], inventory: str) -> list[Finding]:
    """Return what only several hosts together tell: whether they serve one release, and whether the database is as that wants it."""
    found = []
    apps = {host: probe for host, probe in probes.items() if _app(hosts[host], host) and probe["release"]}
    releases = {host: probe["release"]["name"] for host, probe in apps.items()}
    live = max(releases.values(), key=list(releases.values()).count, default="")
    for host, release in releases.items():
        if release == live:
            age = probes[host]["time"] - probes[host]["release"]["since"]
            found.append(Finding("ok", host, "release", f"{release}, for {period(age)}", tier="throat_gunicorn"))
        else:
            command = f"ansible-playbook -i {inventory} playbooks/site.yml"
            found.append(Finding("warning", host, "release", f"{release} is live", f"{live}, as on the others", command, "throat_gunicorn"))
    found += address_findings(hosts, probes)
    for host, probe in probes.items():
        applied = (probe.get("postgres") or {}).get("migrations")
        wanted = next((probe["migrations"] for probe in apps.values() if probe["migrations"]), [])
        if not applied or not wanted:
            continue
        lacking = sorted(set(wanted) - set(applied))
        if lacking:
            seen = f"{len(lacking)} of the release are not applied, first {lacking[0]}"
            found.append(Finding("broken", host, "migrations", seen, "all", f"ansible-playbook -i {inventory} playbooks/site.yml", "postgres"))
        else:
            found.append(Finding("ok", host, "migrations", f"{applied[-1]} is the last of {len(applied)}", tier="postgres"))
    return found


def unreachable_reason(result: Mapping[str, Any]) -> str:
    """Return why a host has not told how it is, empty where it has; result: what Ansible registers of the module probe."""
    if result.get("probe"):
        return ""
    said = [str(result.get(name) or "") for name in ("module_stderr", "msg", "module_stdout")]
    line = next((text.strip().splitlines()[-1] for text in said if text.strip()), "no answer").removeprefix("Task failed: ")
    way = "cannot be reached" if result.get("unreachable") else "cannot be asked"
    return f"{way}: {' '.join(line.split())[:160]}"


def causes(hosts: Mapping[str, Roles], finding: Finding) -> list[tuple[str, str]]:
    """Return the (role, host) that something rests upon, those first that others of them rest upon."""
    site = hosts[finding.host]["site"]
    first = {role: next((host for host, roles in hosts.items() if role in roles), "") for role in ("postgres", "redis")}
    # Of several that have Redis none is missed.
    if first["redis"] and hosts[first["redis"]]["redis"].get("members"):
        first["redis"] = ""
    pooler = (site["pooler_host"] or finding.host) if site["pooling"] == "pgbouncer" else ""
    if finding.tier == "pgbouncer" and finding.subject.startswith(("pool ", "way to")):
        return [("postgres", first["postgres"])]
    if finding.tier == "throat_gunicorn" and "answer" in finding.seen:
        return [("postgres", first["postgres"]), ("pgbouncer", pooler), ("redis", first["redis"])]
    if finding.subject == "way to the workers" or (finding.subject == "nginx" and "answer" in finding.seen):
        each = [("pgbouncer", host) for host in hosts] + [("throat_gunicorn", app) for app in site["apps"]]
        return [("postgres", first["postgres"]), ("redis", first["redis"]), *each]
    return []


def folded(hosts: Mapping[str, Roles], findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings without those that follow from another broken one, which says so."""
    causing = {(tier, finding.host): finding for finding in reversed(findings) if finding.level == "broken" for tier in _causes_in(finding)}
    kept, following = [], {}
    for finding in findings:
        possible = causes(hosts, finding) if finding.level != "ok" else []
        cause = next((causing[key] for key in possible if key in causing and causing[key] is not finding), None)
        # A cause may itself follow from another one.
        while cause and (above := following.get(id(cause))):
            cause = above[0]
        if cause:
            following[id(finding)] = (cause, f"{finding.subject} on {finding.host}: {finding.seen}")
        else:
            kept.append(finding)
    return [dataclasses.replace(finding, so=tuple(said for cause, said in following.values() if cause is finding)) for finding in kept]


def _causes_in(finding: Finding) -> Iterable[str]:
    """The roles of its host that do not serve others because of it."""
    return TIERS if finding.subject == "host" else [finding.tier] if finding.tier and finding.subject not in ("certificate", "migrations") else []


def status_report(made: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]], asked: float, inventory: str = "<inventory>") -> dict[str, Any]:
    """Return how the site is, as docs/status.md describes it.

    made: the plan; results: host to what Ansible registers of the module probe; asked: when they were there, seconds since 1970;
    inventory: as the operator names it.
    """
    hosts = {host: made["hosts"][host] for host in results if host in made["hosts"]}
    probes = {host: results[host]["probe"] for host in hosts if results[host].get("probe")}
    found: list[Finding] = []
    for host, roles in hosts.items():
        if host in probes:
            found += host_findings(Host(host, roles, probes[host], inventory, asked))
        else:
            found.append(Finding("broken", host, "host", unreachable_reason(results[host]), "answers", f"ansible -i {inventory} -m ping {host}"))
    # Causes before what follows from them, and then the worst first.
    order = ["", *CAUSES]
    found = sorted([*found, *site_findings(hosts, probes, inventory)], key=lambda one: order.index(one.tier))
    found = sorted(folded(hosts, found), key=lambda one: LEVELS.index(one.level))
    first = next(iter(hosts.values()), {"site": {"name": "", "public_url": ""}})
    return {
        "schema": SCHEMA,
        "site": first["site"]["name"],
        "url": first["site"]["public_url"],
        "inventory": inventory,
        "asked": datetime.datetime.fromtimestamp(asked, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "level": worst(found),
        "exit": EXIT[worst(found)],
        "findings": [{**dataclasses.asdict(finding), "so": list(finding.so)} for finding in found],
        "hosts": {
            host: {
                "level": worst(finding for finding in found if finding.host == host),
                "answers": host in probes,
                "roles": [role for role in roles["site"]["roles"] if role != "throat_gunicorn" or _app(roles, host)],
                "workers": [worker["name"] for worker in app_workers(roles, host)],
                "asks": asks(hosts, host),
                "probe": probes.get(host),
            }
            for host, roles in hosts.items()
        },
    }


def with_findings(report: Mapping[str, Any], further: Iterable[Finding]) -> dict[str, Any]:
    """Return a report with further findings in their places."""
    more = [{**dataclasses.asdict(finding), "so": list(finding.so)} for finding in further]
    found = sorted([*report["findings"], *more], key=lambda finding: LEVELS.index(finding["level"]))
    level = found[0]["level"] if found else "ok"
    return {**report, "findings": found, "level": level, "exit": EXIT[level]}


def drift_findings(said: str, inventory: str) -> list[Finding]:
    """Return what site.yml would change; said: what it prints in check mode by Ansible's callback "json"."""
    command = f"ansible-playbook -i {inventory} playbooks/site.yml"
    try:
        ran = json.loads(said[said.index("{") :])
    except ValueError:
        return [Finding("warning", "controller", "drift", "cannot be told: site.yml does not come to its end", "0 changes", f"{command} --check --diff")]
    changed: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    for task in (task for played in ran["plays"] for task in played["tasks"]):
        for host, result in task["hosts"].items():
            if result.get("changed"):
                changed.setdefault(host, []).append(task["task"]["name"].rpartition(" : ")[2])
            if result.get("failed") or result.get("unreachable"):
                failed.setdefault(host, task["task"]["name"].rpartition(" : ")[2])
    found = []
    for host in ran["stats"]:
        # What a block has rescued has not failed.
        if ran["stats"][host]["failures"] or ran["stats"][host]["unreachable"]:
            found.append(Finding("warning", host, "drift", f"cannot be told: {failed.get(host, 'a task')} fails", "0 changes", f"{command} --check --diff"))
        elif host in changed:
            count = len(changed[host])
            seen = f"site.yml would change {count} thing{'s' * (count > 1)}: {', '.join(dict.fromkeys(changed[host]))}"
            found.append(Finding("warning", host, "drift", textwrap.shorten(seen, 200, placeholder=" …"), "0 changes", f"{command} --check --diff"))
        elif host != "localhost":
            found.append(Finding("ok", host, "drift", "none"))
    return found


def asks(hosts: Mapping[str, Roles], host: str) -> list[list[str]]:
    """Return whom a host asks, as [its role, the other host, that one's role]."""
    roles, site = hosts[host], hosts[host]["site"]
    servers = [other for other, theirs in hosts.items() if "postgres" in theirs][:1]
    found = []
    if "nginx" in roles:
        found += [["nginx", app, "throat_gunicorn"] for app in site["apps"] if app in hosts]
    if _app(roles, host):
        if site["pooling"] == "pgbouncer":
            pooler = site["pooler_host"] or host
            found += [["throat_gunicorn", pooler, "pgbouncer"]] if pooler in hosts else []
        else:
            found += [["throat_gunicorn", server, "postgres"] for server in servers]
        found += [["throat_gunicorn", other, "redis"] for other, theirs in hosts.items() if "redis" in theirs]
    if "pgbouncer" in roles:
        found += [["pgbouncer", server, "postgres"] for server in servers]
    return found


def worst(findings: Iterable[Finding]) -> str:
    return min((finding.level for finding in findings), key=LEVELS.index, default="ok")


# -- the screen


def numbers(report: Mapping[str, Any], host: str) -> dict[str, str]:
    """Return the numbers of a host for people, empty ones where they do not apply."""
    probe = report["hosts"][host]["probe"]
    if not probe:
        return {}
    pool = next(iter((probe.get("pgbouncer") or {}).get("databases", {}).values()), None)
    server, redis, answers = probe.get("postgres") or {}, probe.get("redis") or {}, probe["workers"].values()
    disks = [disk_percent(disk) for disk in probe["disks"].values() if disk["answers"]]
    until = ((probe.get("web") or {}).get("certificate") or {}).get("until")
    counts = probe.get("requests")
    memory = probe["memory"]
    names, good = report["hosts"][host]["workers"], [answer for answer in answers if answer["status"] == 200]
    return {
        "release": (probe["release"] or {}).get("name", "")[:12] if names else "",
        "workers": f"{len(good)} of {len(names)}" if names else "",
        "page": f"{max((answer['seconds'] for answer in good), default=0):.2f} s" if good else "",
        "pool": f"{pool['connections']}/{pool['limit']}" if pool else "",
        "db": f"{server['connections']}/{server['limit'] - server['reserved']}" if "limit" in server else "",
        "redis": f"{redis['memory'] / MIB:.0f}/{redis['limit'] / MIB:.0f}M" if "memory" in redis else "",
        "5xx/h": f"{counts['errors']}/{counts['requests']}" if counts else "",
        "cert": f"{(until - probe['time']) / DAY:.0f} d" if until else "",
        "disk": f"{max(disks)} %" if disks else "",
        "memory": f"{percent(memory['size'] - memory['available'], memory['size'])} %",
        "load": f"{probe['load']['five']:.1f}/{probe['load']['cores']}",
    }


def cells(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the numbers of all hosts as rows, the first of which names the columns; columns that apply to no host are left out."""
    known = {host: numbers(report, host) for host in report["hosts"]}
    named = next((row for row in known.values() if row), {"": ""})
    columns = [column for column in named if not column or any(row.get(column) for row in known.values())]
    rows = [("host", *columns)]
    for host, row in known.items():
        rows.append((host, *(row.get(column) or "" for column in columns)) if row else (host, "no answer", *[""] * (len(columns) - 1)))
    return rows


def headline(report: Mapping[str, Any]) -> str:
    counts = {level: sum(finding["level"] == level for finding in report["findings"]) for level in LEVELS}
    said = [f"{counts['broken']} broken"] * bool(counts["broken"])
    said += [f"{counts['warning']} warning{'s' * (counts['warning'] > 1)}"] * bool(counts["warning"])
    return ", ".join(said) or "all is well"


def status_text(report: Mapping[str, Any]) -> str:
    """Return the screen: what is wrong, the worst first, each with the command that helps, and a table of numbers."""
    count = len(report["hosts"])
    when = report["asked"].replace("T", " ").replace("Z", " UTC")
    parts = [f"{report['url']}: {headline(report)} ({count} host{'s' * (count != 1)}, {when})"]
    wrong = [finding for finding in report["findings"] if finding["level"] != "ok"]
    if wrong:
        parts.append("\n".join(_wrong_lines(together(wrong))))
    parts.append("\n".join(_shortened(table(cells(report)))))
    return "\n\n".join(parts)


def together(findings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the findings with those that say the same of several hosts as one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for finding in findings:
        same = (*(finding[name] for name in ("level", "subject", "seen", "should", "command")), *finding["so"])
        if same in found:
            found[same]["host"] += f", {finding['host']}"
        else:
            found[same] = dict(finding)
    return list(found.values())


def _wrong_lines(wrong: Sequence[Mapping[str, Any]]) -> list[str]:
    host = min(max(len(finding["host"]) for finding in wrong), 24)
    subject = min(max(len(finding["subject"]) for finding in wrong), 24)
    should = min(max(9, *(len(finding["should"]) for finding in wrong)), 24)
    widths = (7, host, subject, WIDTH - 7 - host - subject - should - 8, should)
    lines = []
    for row in [("", "host", "what", "is", "should be"), *wrong]:
        texts = row if isinstance(row, tuple) else (row["level"].upper(), row["host"], row["subject"], row["seen"], row["should"])
        wrapped = [textwrap.wrap(text, width) or [""] for text, width in zip(texts, widths)]
        for number in range(max(map(len, wrapped))):
            lines.append("  ".join((cell[number] if number < len(cell) else "").ljust(width) for cell, width in zip(wrapped, widths)).rstrip())
        if not isinstance(row, tuple):
            # One that is longer than the screen is left whole, to be copied.
            lines.append(f"         > {row['command']}")
            if row["so"]:
                lines += textwrap.wrap(f"and so: {'; '.join(row['so'])}", WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 11)
    return lines


def _shortened(lines: Iterable[str]) -> list[str]:
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines]
