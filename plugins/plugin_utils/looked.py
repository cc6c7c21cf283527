"""What the module look has brought back, against what should be there."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.throat.stack.plugins.plugin_utils import backup
from ansible_collections.throat.stack.plugins.plugin_utils.database import scram_verifier
from ansible_collections.throat.stack.plugins.plugin_utils.workers import complete_workers, socket_errors

Files = Mapping[str, Mapping[str, Any]]


def differs(content: str, files: Files, path: str, owner: str = "root", group: str = "root", mode: str = "0644") -> bool:
    """Whether a file is missing, or has another content, owner, group or mode."""
    found = files.get(path, {})
    return (found.get("sha1"), found.get("owner"), found.get("group"), found.get("mode")) != (hashlib.sha1(content.encode()).hexdigest(), owner, group, mode)


def lacks(files: Files, path: str, text: str) -> bool:
    """Whether a file is missing, or has not these lines next to each other."""
    return f"\n{text.strip()}\n" not in f"\n{files.get(path, {}).get('content', '')}\n"


def is_newer(files: Files, paths: Iterable[str], than: float | None) -> bool:
    """Whether one of the files has changed since a moment (seconds since 1970): who has read them then does not know them."""
    return any(files[path]["mtime"] > (than or 0.0) for path in paths if path in files)


def admitted_before(files: Files, path: str, networks: Sequence[str], site: str = "") -> list[str]:
    """Return the networks that a file of ours lets in and that are not among these: of clients that have left, and may still be asked by others.

    site: whose block of the file is ours, where it is not ours as a whole.
    """
    text = files.get(path, {}).get("content", "")
    if site:
        text = text.partition(f"{block_marker(site).format(mark='BEGIN')}\n")[2].partition(block_marker(site).format(mark="END"))[0]
    words = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]
    return [network for network in dict.fromkeys(filter(None, map(_network, words))) if network not in map(_network, networks)]


def block_marker(site: str) -> str:
    """Return the line around a site's block in a file that others share, "{mark}" standing for BEGIN and END."""
    return f"# {{mark}} throat.stack{'' if site == 'throat' else f' {site}'}: made by Ansible, edits are lost"


def _network(word: str) -> str:
    """Return a network as it is written in full, empty for a word that is none, and for loopback and everybody."""
    try:
        network = ipaddress.ip_network(word)
    except ValueError:
        return ""
    return "" if network.is_loopback or not network.prefixlen else str(network)


def guarded_before(files: Files, path: str, services: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a firewall of ours lets in and these services do not: [{"name", "port", "addresses"}]."""
    named = {(service["port"], _network(address)) for service in services for address in service["addresses"]}
    found: dict[int, dict[str, Any]] = {}
    rules = files.get(path, {}).get("content", "")
    for port, address, name in re.findall(r'^\s*tcp dport (\d+) ip6? saddr (\S+) accept comment "([^"]*)"', rules, re.MULTILINE):
        if (int(port), _network(address)) not in named:
            found.setdefault(int(port), {"name": name, "port": int(port), "addresses": []})["addresses"].append(address)
    return list(found.values())


def peers_before(files: Files, path: str, peers: Sequence[str]) -> list[str]:
    """Return the hosts that a firewall of ours lets say who holds a virtual address, and that are not among these."""
    named = re.findall(r"^\s*meta l4proto 112 ip6? saddr (\S+) accept", files.get(path, {}).get("content", ""), re.MULTILINE)
    return [address for address in dict.fromkeys(named) if _network(address) not in map(_network, peers)]


def outdated_roles(roles: Mapping[str, Any], files: Files) -> list[str]:
    """Return the roles of a host that still let in clients which have left the inventory, and what runs beside the site where it shall not any more.

    roles: the host's part of the plan.
    """
    found = []
    if "postgres" in roles:
        networks = [address for access in roles["postgres"]["access"] for address in access["addresses"] or ()]
        if any(admitted_before(files, path, networks, roles["postgres"]["site"]) for path in files if path.endswith("/pg_hba.conf")):
            found.append("postgres")
    if "pgbouncer" in roles and admitted_before(files, "/etc/pgbouncer/hba.conf", roles["pgbouncer"]["client_networks"]):
        found.append("pgbouncer")
    if "throat_backup" not in roles and any(path.startswith("/etc/systemd/system/timers.target.wants/") for path in files):
        found.append("throat_backup")
    # The machine's, as the firewall is.
    for role, path in (("throat_metrics", "/etc/systemd/system/throat-metrics.service"), ("monitoring", "/etc/prometheus/throat.yml")):
        if role not in roles and path in files and roles["site"]["is_production"]:
            found.append(role)
    rules = "/etc/throat-firewall.nft"
    if "firewall" in roles:
        told = roles["firewall"]
        is_outdated = bool(guarded_before(files, rules, told["services"]) or peers_before(files, rules, told["vrrp_peers"]))
    else:
        # Another site on the machine leaves it alone.
        is_outdated = rules in files and roles["site"]["is_production"]
    return [*found, "firewall"] if is_outdated else found


def look_paths(roles: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the look must bring that is wherever the operator wants it: certificates with their keys, and the link to the static files.

    roles: role to its arguments.
    """
    paths = [made[name] for made in roles.values() for name in ("tls_certificate", "tls_key", "static_dir") if made.get(name)]
    web = roles.get("nginx", {})
    return paths + [f"/etc/letsencrypt/live/{web['server_name']}/{name}.pem" for name in ("fullchain", "privkey") if web.get("tls_mode") == "acme"]


def certificate_errors(roles: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any], host: str) -> list[str]:
    """Return one line for each certificate of the operator's that is missing or does not belong to its key.

    A server told of those would refuse all it is told.
    """
    lines = []
    for role in ("postgres", "pgbouncer", "nginx"):
        made = roles.get(role, {})
        paths = [made[name] for name in ("tls_certificate", "tls_key") if made.get(name) and made.get("tls_mode", "files") == "files"]
        missing = [path for path in paths if role == "nginx" and path not in facts["files"]]
        if missing:
            lines.append(f"nginx_tls_mode: files, but {host} has no {' and no '.join(missing)}; put it there, or choose self_signed or acme")
        elif len({facts["files"].get(path, {}).get("public_key") for path in paths} - {None, ""}) > 1:
            lines.append(
                f"{role}_tls_certificate: {paths[0]} of {host} does not belong to the key {paths[1]} ({role}_tls_key); "
                "put the pair there, or name another one"
            )
    return lines


def certificates(text: str) -> list[str]:
    """Return the certificates in a text, as PEM, each once."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
    return list({"".join(block.split()): block for block in found}.values())


def pinned(shown: Sequence[str], known: str) -> list[str]:
    """Return the certificates that a client is to admit: what the servers show, and what it knows of one that cannot be asked, as it has them where it has all.

    known: a text with certificates, empty where each server has been asked.
    """
    before = {"".join(block.split()): block for block in certificates(known)}
    now = {"".join(block.split()): block for block in shown}
    return list((before if now.keys() <= before.keys() else now | before).values())


def shows_its_file(text: str) -> bool:
    """Whether a server shows the very certificates of its file; text: what it shows, and the file."""
    return text.count("BEGIN CERTIFICATE") == 2 * len(certificates(text)) > 0


def address_errors(
    web: Mapping[str, Any], facts: Mapping[str, Any], host: str, names: Sequence[str] = ("throat_address", "throat_virtual_addresses")
) -> list[str]:
    """Return one line for each thing on a web server that stands in the way of a virtual address; names: of the variables to set instead."""
    if not web.get("virtual_addresses"):
        return []
    own, lines = web["virtual_own_address"], []
    if own not in facts["interfaces"]:
        found = [address for address in facts["interfaces"] if not ipaddress.ip_address(address).is_loopback]
        lines.append(
            f"{names[0]} of {host}: {own} is on none of its interfaces, and the virtual address is added where it is; "
            f"set it to the one of {', '.join(found)} that the others reach"
        )
    if "/etc/keepalived/keepalived.conf" in facts["files"]:
        lines.append(
            f"{names[1]}: {host} has a keepalived of its own (/etc/keepalived/keepalived.conf), which would not be read any more; "
            "move that file away, or take the line out and let that keepalived have the address"
        )
    return lines


def host_errors(
    roles: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    host: str,
    builder: Mapping[str, Any],
    upgrades: bool = False,
    members: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return one line for each thing on a host that was there before and stands in the way.

    roles: role to its arguments, "site" to what playbooks ask; facts: what the module look returns; builder: the same of the
    host that builds releases, empty where that is not known; upgrades: whether PostgreSQL is what is going to be upgraded;
    members: the same of the hosts that have the database together.
    """
    lines: list[str] = []

    def port(name: str, number: int, ours: str, pid: int | None = None) -> None:
        for found in facts["listeners"]:
            if found["port"] == number and found["program"] and (found["pid"] != pid if pid is not None else found["program"] != ours):
                whose = f"another {found['program']}" if found["program"] == ours else found["program"]
                lines.append(f"{name}: {number} of {host} is taken by {whose} (process {found['pid']}); stop that, or set another port")
                return

    if "postgres" in roles and roles["postgres"]["server_settings"]:
        port("postgres_port", roles["postgres"]["port"], "postgres", facts["postgres"].get("pid", 0))
    if "postgres" in roles:
        lines += cluster_errors(facts, host, upgrades) + member_errors(roles["postgres"], facts, host, members)
    lines += address_errors(roles.get("nginx", {}), facts, host)
    if "pgbouncer" in roles:
        port("pgbouncer_port", roles["pgbouncer"]["port"], "pgbouncer")
        if facts["foreign_pools"]:
            lines.append(
                f"pgbouncer: /etc/pgbouncer/pgbouncer.ini of {host} serves {', '.join(facts['foreign_pools'])} already, and would be replaced; "
                "take it to another host, "
                "or name those databases in pgbouncer_databases, their roles in pgbouncer_users, and remove the file"
            )
    if "throat_metrics" in roles:
        told = roles["throat_metrics"]
        for name in told["exporters"]:
            # (The kernel cuts names of programs at 15 letters.)
            port("throat_metrics_ports", told["ports"][name], "mtail" if name == "mtail" else f"prometheus-{name}"[:15])
    if "redis" in roles:
        port("redis_port", roles["redis"]["port"], "redis-server")
        if roles["redis"].get("members"):
            port("redis_sentinel_port", roles["redis"]["sentinel_port"], "redis-sentinel")
    check = roles.get("redis", {}).get("check_password") or roles.get("haproxy", {}).get("redis_password")
    if check and facts["redis_check_hash"] not in ("", hashlib.sha256(check.encode()).hexdigest()):
        lines.append(
            f"throat_cluster_password: not the one that {host} knows (of Redis), and it cannot be changed; set the one of before (with throat_secrets_dir it "
            "is in the file cluster_password there). "
            f"Where {host} alone has another one, remove {'/etc/redis/throat-users.conf' if 'redis' in roles else '/etc/haproxy/throat.cfg'} there"
        )
    if "nginx" in roles:
        port("nginx_http_port", roles["nginx"]["http_port"], "nginx")
        if roles["nginx"]["tls_mode"] != "none":
            port("nginx_https_port", roles["nginx"]["https_port"], "nginx")
    builds_for = builder.get("distribution_major_version", facts["distribution_major_version"])
    if "throat_gunicorn" in roles and roles["throat_gunicorn"]["runtime"] == "native" and builds_for != facts["distribution_major_version"]:
        lines.append(
            f"throat_gunicorn: {host} runs Debian {facts['distribution_major_version']}, but the host that builds its release runs Debian {builds_for}, "
            "with another Python; "
            "let both run the same, or set throat_gunicorn_runtime to container"
        )
    lines += sftp_errors(roles, facts, host) + key_errors(roles, facts["files"], host)
    app, site = roles.get("throat_gunicorn"), roles.get("site", {}).get("name", "throat")
    if app and host in roles["site"]["apps"]:
        lines += socket_errors(complete_workers(app["workers"], app["listen_address"], app["listen_port"], site), facts["files"], host, site)
    return lines + certificate_errors(roles, facts, host)


def cluster_errors(facts: Mapping[str, Any], host: str, upgrades: bool = False) -> list[str]:
    """Return a line where it is not certain which cluster of PostgreSQL has the data, or where that one cannot run."""
    version, rivals, unfinished = facts["postgres_version"], facts["postgres_rivals"], facts["postgres_upgrade"].split()
    if unfinished and not upgrades:
        return [
            f"postgres: the way of {host} from PostgreSQL {unfinished[0]} to {unfinished[1]} has not come to its end; "
            "run playbooks/postgres_upgrade.yml again, which goes on with it"
        ]
    if rivals and not unfinished:
        return [
            f"postgres: PostgreSQL {' and '.join(rivals)} of {host} both have sites and start at boot, so that either may have the data; "
            "see which has it, and write the word manual into /etc/postgresql/<version>/main/start.conf of the other"
        ]
    if version not in ("", facts["debian_postgres"]) and f"postgresql-{version}" not in facts["packages"]:
        return [
            f"postgres: the data is in PostgreSQL {version} of {host}, whose programs are gone; install postgresql-{version} from where it came "
            "(an older Debian, for one), and run playbooks/postgres_upgrade.yml"
        ]
    return []


def member_errors(made: Mapping[str, Any], facts: Mapping[str, Any], host: str, members: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each reason why a host cannot be one of those that have the database together.

    made: arguments of the role postgres; members: what the look has found of all of them that it could be asked.
    """
    if not made.get("members"):
        if facts.get("patroni"):
            return [
                f"postgres: {host} is a member of a cluster (Patroni), and would be its own server, which it is not made again; put the other members "
                "back into the group postgres, or restore onto an empty machine (docs/failover.md, Back to one host)"
            ]
        return []
    lines = []
    versions = {found["postgres_version"] for found in members if "postgres_version" in found}
    if len(versions) > 1 and host == made["members"][0]["name"]:
        lines.append(
            f"postgres: PostgreSQL {' and '.join(sorted(versions))} of {', '.join(member['name'] for member in made['members'])} cannot follow each other; "
            "let all of them run one release of Debian"
        )
    own = sorted(set(facts["postgres"].get("databases") or ()) - {"postgres", "template0", "template1"})
    begins = host == made["members"][0]["name"] and not any((found.get("patroni") or {}).get("began") for found in members)
    if own and not begins and not (facts.get("patroni") or {}).get("began"):
        lines.append(
            f"postgres: {host} has databases of its own ({', '.join(own)}), which a copy of the leader's would take the place of; "
            "dump and drop them first, or take another host"
        )
    return lines


def sftp_errors(roles: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any], host: str) -> list[str]:
    """Return one line where pgBackRest is too old for an account on an SFTP server (2.45, of Debian 12, which is that of PostgreSQL 15)."""
    made = roles.get("throat_backup", {})
    named = [repository["place"] for repository in backup.repositories(made) if repository["place"].startswith("sftp:")] if made.get("database") else []
    return [
        f"throat_backup_repositories: pgBackRest of {host} (Debian 12) knows no SFTP, for {place}; "
        "mount it there (sshfs) and name the directory, or use type s3"
        for place in named
        if facts["debian_postgres"] == "15"
    ]


def key_errors(roles: Mapping[str, Mapping[str, Any]], files: Files, host: str) -> list[str]:
    """Return one line for each place whose backups were encrypted with another key than the inventory has."""
    if "throat_backup" not in roles:
        return []
    made, told = roles["throat_backup"], files.get(f"/var/lib/{roles['throat_backup']['site']}-backup/told", {}).get("content", "")
    known = {place: fingerprint for fingerprint, _space, place in (line.partition(" ") for line in told.splitlines())}
    keys = {repository["place"]: repository["key"] for repository in backup.repositories(made)}
    return [
        f"throat_backup_key: {place} of {host} was encrypted with another key; give that one (backup_key of the secrets it was made with), "
        "or name another place"
        for place, key in keys.items()
        # (Known by the same in roles/throat_backup/files/backup.py.)
        if known.get(place, "") not in ("", hashlib.sha256(f"{place}:{key}".encode()).hexdigest()[:16])
    ]


def own_files(files: Files) -> list[dict[str, Any]]:
    """Return the files that bear the application role's mark: [{"path", "checksum", "mode", "mtime"}]."""
    return [{"path": path, "checksum": found["sha1"], "mode": found["mode"], "mtime": found["mtime"]} for path, found in files.items() if found.get("is_ours")]


def marked_releases(files: Files, base: str, marks: Sequence[str]) -> list[str]:
    """Return the releases in <base>/releases that have one of these marks (.built, .image, .served), those first that got it last."""
    found = {path: state["mtime"] for path, state in files.items() for mark in marks if path.startswith(f"{base}/releases/") and path.endswith(f"/{mark}")}
    return list(dict.fromkeys(path.split("/")[-2] for path in sorted(found, key=lambda path: -found[path])))


def bad_releases(files: Files, base: str) -> list[str]:
    """Return the releases that are marked as bad."""
    return [path.rpartition("/")[2] for path in files if path.startswith(f"{base}/bad/")]


def live_release(files: Files, base: str) -> str:
    """Return the release that is served, empty where none is yet."""
    return files.get(f"{base}/current", {}).get("link", "").rpartition("/")[2]


def unfinished_rollback(files: Files, base: str) -> list[str]:
    """Return [the release that is left, the one that is gone back to] of a rollback that has not come to its end on this host, empty where there is none.

    A host that serves neither of them has been deployed to since.
    """
    both = files.get(f"{base}/rollback", {}).get("content", "").strip().split(" -> ")
    return both if len(both) == 2 and live_release(files, base) in both else []


def rollback_choice(hosts: Sequence[Files], base: str) -> dict[str, Any]:
    """Return where a rollback goes: {"left": release, "chosen": release, "is_resumed": whether an earlier run has begun it}.

    left is the one that is served, chosen the one that served before, or empty.
    hosts: the files of each host, the first of which decides. A rollback that was cut short has made some hosts serve the older release already, which
    is not to be left in turn: it is gone on with, wherever it is written down.
    """
    live = live_release(hosts[0], base)
    for left, chosen in filter(None, (unfinished_rollback(files, base) for files in hosts)):
        if live in (left, chosen):
            return {"left": left, "chosen": chosen, "is_resumed": True}
    bad = bad_releases(hosts[0], base)
    good = [release for release in marked_releases(hosts[0], base, [".served"]) if release not in (live, *bad)]
    return {"left": live, "chosen": (good or [""])[0], "is_resumed": False}


def differing_users(users: Sequence[Mapping[str, Any]], postgres: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return those of postgres_users that the server does not have like this."""

    def is_there(user: Mapping[str, Any]) -> bool:
        found = (postgres.get("roles") or {}).get(user["name"], {})
        verifier = hashlib.sha256(scram_verifier(user["password"], user["name"]).encode()).hexdigest()
        settings = {f"{name}={value}" for name, value in (user.get("settings") or {}).items()}
        return found.get("password") == verifier and found.get("is_plain", False) and settings <= set(found.get("settings", ()))

    return [user for user in users if not is_there(user)]


def differing_databases(databases: Sequence[Mapping[str, Any]], postgres: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return those of postgres_databases that the server does not have, or has of another owner, or open to everybody."""
    found = postgres.get("databases") or {}
    return [database for database in databases if found.get(database["name"], {}).get("owner") != database["owner"] or found[database["name"]]["is_open"]]
