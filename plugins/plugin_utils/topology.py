"""Which hosts of an inventory do what, and where they reach each other."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.throat.stack.plugins.plugin_utils.workers import complete_workers, site_name

# Tiers that other hosts talk to, and whether they do so in the clear.
TIERS = {"postgres": False, "pgbouncer": False, "redis": True, "throat_gunicorn": True, "nginx": True}
# Every group of the inventory that a role is for.
ROLE_GROUPS = (*TIERS, "throat_build", "monitoring", "etcd")
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


def host_addresses(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return {host: address at which the other hosts reach it}: throat_address, else ansible_host, else its name."""
    return {host: str(hostvars[host].get("throat_address") or hostvars[host].get("ansible_host") or host) for host in groups.get("throat", ())}


def members(groups: Mapping[str, Sequence[str]], tiers: Iterable[str]) -> list[str]:
    """Return the hosts of these tiers, each once."""
    return list(dict.fromkeys(host for tier in tiers for host in groups.get(tier, ())))


def group_errors(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one line for each group that the site cannot do without and that has no host, and for each that is misspelt.

    An inventory may have some tiers only, and groups of its own: what no host needs is not missed, and a host of no role
    is refused only where the name of its group is nearly that of a role's.
    """
    unknown = [group for group in groups if group not in (*ROLE_GROUPS, "throat", "all", "ungrouped")]
    apps, webs, poolers = (list(groups.get(group, ())) for group in ("throat_gunicorn", "nginx", "pgbouncer"))
    pooled = [host for host in apps if hostvars[host].get("throat_database_pooling", "pgbouncer") == "pgbouncer"]
    direct = [host for host in apps if host not in pooled]
    # A web server alone may ask workers that others run; with a database or Redis beside it the site is whole.
    whole = members(groups, ("postgres", "pgbouncer", "redis"))
    # Group to those who need it: their group, hosts, and the variable by which the operator names something else instead.
    needs = {
        "throat_gunicorn": [("nginx", webs if whole else [], "nginx_upstreams")],
        "nginx": [("throat_gunicorn", apps, "")],
        "redis": [("throat_gunicorn", apps, "throat_gunicorn_redis_url")],
        "pgbouncer": [("throat_gunicorn", pooled, "throat_gunicorn_database")],
        "postgres": [
            ("throat_gunicorn", apps, "throat_gunicorn_migration_database"),
            ("throat_gunicorn", direct, "throat_gunicorn_database"),
            ("pgbouncer", poolers if pooled else [], "pgbouncer_databases"),
        ],
    }
    missing = {}
    for group, rows in needs.items():
        needy = [(f"{host} ({tier})", variable) for tier, hosts, variable in rows for host in hosts if variable not in hostvars[host]]
        if needy and not groups.get(group):
            who, variables = (list(dict.fromkeys(column)) for column in zip(*needy))
            instead = "throat_database_pooling to peewee or none" if group == "pgbouncer" else " and ".join(filter(None, variables))
            near = difflib.get_close_matches(group, unknown, n=1)
            advice = f"is {near[0]} meant for it?" if near else "add one" + (f", or set {instead}" if instead else "")
            missing[group] = f"{group}: no host of the inventory is in this group, but {', '.join(who)} cannot do without; {advice}"

    idle = set(groups.get("throat", ())) - set(members(groups, ROLE_GROUPS))
    misspelt = []
    for group in unknown:
        hosts = [host for host in groups[group] if host in idle]
        # Nearer than above, since a group of the operator's own is no mistake: ngnix is, nginx_old is not.
        near = difflib.get_close_matches(group, ROLE_GROUPS, n=1, cutoff=0.8)
        if hosts and near and near[0] not in missing:
            misspelt.append(f"{group}: no role is for this group, and {', '.join(hosts)} would do nothing; is {near[0]} meant?")
    return [*missing.values(), *misspelt]


def address_errors(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one line for each host that others could not reach, or not tell apart, by its address; where one host has it all, none is needed."""
    # Prometheus asks each host.
    connected = groups["throat"] if groups.get("monitoring") else members(groups, (*TIERS, "etcd"))
    found = {host: address for host, address in host_addresses(hostvars, groups).items() if host in connected}
    lines = []
    for host, address in found.items() if len(found) > 1 else ():
        try:
            if ipaddress.ip_address(address).is_loopback:
                lines.append(f"throat_address of {host}: {address} is the host's own loopback; set it to the IP address at which the other hosts reach {host}")
        except ValueError:
            said = "not set" if address == host else f"{address} is no IP address"
            lines.append(f"throat_address of {host}: {said}; set it to the IP address at which the other hosts reach {host}")
        others = [other for other in found if other != host and found[other] == address]
        if others:
            lines.append(f"throat_address of {host}: {address} is that of {', '.join(others)} as well; give each host its own")
    lines += cluster_errors(groups)
    return lines or private_errors(hostvars, groups, found)


def cluster_members(groups: Mapping[str, Sequence[str]], group: str = "postgres") -> list[str]:
    """Return the hosts that keep the database (or what Redis has) together, one of which leads; none where one host has it alone."""
    hosts = list(groups.get(group, ()))
    return hosts if len(hosts) > 1 else []


def voters(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the hosts of etcd, whose majority says who leads: those of its group, else those of the database itself."""
    return list(groups.get("etcd", ()) or cluster_members(groups)) if cluster_members(groups) else []


def cluster_errors(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one line for each group in which hosts could not agree on who leads."""
    lines = []
    for group in ("postgres", "redis"):
        hosts = cluster_members(groups, group)
        if len(hosts) == 2:
            lines.append(
                f"{group}: {' and '.join(hosts)} are in this group, but when two lose each other, neither can know whether the other one still takes writes, "
                "so that both would, or none; add a third host, or take one out"
            )
        elif hosts and not len(hosts) % 2:
            lines.append(_even(group, hosts))
    if groups.get("etcd") and not cluster_members(groups):
        lines.append(
            f"etcd: {', '.join(groups['etcd'])} in this group, but it is for PostgreSQL on three hosts, and the group postgres has not so many; "
            "take the group out"
        )
    elif groups.get("etcd") and (len(groups["etcd"]) < 3 or not len(groups["etcd"]) % 2):
        lines.append(_even("etcd", groups["etcd"]))
    return lines


def _even(group: str, hosts: Sequence[str]) -> str:
    """Say that hosts are too few, or one too many."""
    count, most = len(hosts), max(1, len(hosts) - 1)
    said = f"{count} bear the loss of no more of them than {most} do" if count > 2 else "the loss of one of them would stop all of it"
    advice = "add one, or take one out" if count > 2 else f"add {3 - count} more, or take the group out, and it runs beside PostgreSQL"
    return f"{group}: {', '.join(hosts)} are in this group, but a majority decides, and {said}; {advice}"


def private_errors(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> list[str]:
    """Return one line for each host whose requests or messages would pass in the clear at an address that is not private.

    PostgreSQL and PgBouncer are not among them: between hosts they speak TLS only. addresses: host to IP address.
    """
    clear = list(addresses) if groups.get("monitoring") else members(groups, [tier for tier, is_clear in TIERS.items() if is_clear])
    lines = []
    for host in clear if len(clear) > 1 else ():
        networks = hostvars[host].get("throat_private_networks", PRIVATE)
        address = ipaddress.ip_address(addresses[host])
        if not any(address in ipaddress.ip_network(network) for network in networks if ipaddress.ip_network(network).version == address.version):
            lines.append(
                f"throat_address of {host}: {address} is in none of throat_private_networks ({', '.join(networks)}), and what nginx, "
                f"the workers{', exporters' if groups.get('monitoring') else ''} and Redis say to each other "
                "is not encrypted; set it to the host's address in a private network (a VLAN, WireGuard), or name that network there"
            )
    return lines


def app_workers(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], defaults: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return {app host: its completed worker entries}, which listen at its address where an nginx on another host asks them, else on unix sockets.

    defaults: of the roles, for what a host does not set.
    """
    addresses = host_addresses(hostvars, groups)
    found = {}
    # Without application hosts in the inventory, a web server asks workers beside it.
    for host in groups.get("throat_gunicorn") or groups.get("nginx", ())[:1]:
        names = [f"throat_gunicorn_{option}" for option in ("workers", "listen_address", "listen_port", "config_name")]
        entries, address, port, config = (hostvars[host].get(name, defaults[name]) for name in names)
        reached = addresses[host] if set(groups.get("nginx", ())) - {host} else ""
        found[host] = complete_workers(entries, address or reached, port, site_name(config))
    return found


def guarded_services(
    tiers: Sequence[str], ports: Mapping[str, Any], clients: Mapping[str, Sequence[str]], addresses: Mapping[str, str], workers: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the TCP ports of a host that only some other hosts need: [{"name", "port", "addresses"}].

    tiers: groups of the host; ports: tier to port; clients: tier to the hosts that ask it; addresses: host to IP address;
    workers: completed entries of the host.
    """
    listening = [(tier, port, tier) for tier, port in ports.items() if tier in tiers]
    ported = [entry for entry in workers if not entry["listen"].startswith("/")]
    listening += [(f"throat-{entry['name']}", entry["listen"].rpartition(":")[2], "throat_gunicorn") for entry in ported]
    return [{"name": name, "port": int(port), "addresses": [addresses[client] for client in clients[tier]]} for name, port, tier in listening]


def as_network(address: str) -> str:
    """Return an IP address as a network of one host, 10.0.0.7/32 or 2001:db8::7/128."""
    return str(ipaddress.ip_network(address))
