"""What the workers of a site may reach that is not public, as rules of nftables."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.throat.stack.plugins.plugin_utils.workers import complete_workers

# This host itself, by whatever address.
HERE = "fib daddr type local"


def egress_rules(arguments: Mapping[str, Any]) -> list[str]:
    """Return a rule, without its verdict, for each of the site's own tiers and of the operator's exceptions.

    arguments: of the role throat_gunicorn.
    """
    found = []
    for name, addresses, ports in _reached(arguments):
        where = f"tcp dport {{ {', '.join(map(str, ports))} }}" if ports else "meta l4proto tcp"
        found += [f'{_destination(address)}{where} accept comment "{name}"' for address in addresses]
    return list(dict.fromkeys(found))


def egress_before(written: str, rules: Sequence[str]) -> list[str]:
    """Return the rules that a file has and that are not among these: workers that go by a configuration of before still need them."""
    return [rule for rule in re.findall(r'^ +(.* accept comment "[^"]*")$', written, re.MULTILINE) if rule not in rules]


def _reached(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str], Sequence[int]]]:
    """Yield (name, addresses, ports) of all that is reached by TCP; no ports are all of them."""
    for name, server in (("database", arguments["database"]), ("migrations", arguments["migration_database"])):
        if not server["host"].startswith("/"):
            yield name, [server["host"]], [server["port"]]
    redis = urllib.parse.urlsplit(arguments["redis_url"])
    yield "redis", [redis.hostname or "127.0.0.1"], [redis.port or 6379]
    # Thumbnails of the site's own uploads are made from its public address.
    web = urllib.parse.urlsplit(arguments["uploads_url"])
    if arguments["web_servers"]:
        yield "web", arguments["web_servers"], sorted({80, web.port or (443 if web.scheme == "https" else 80)})
    # Each asks itself whether it answers, where that is not by a unix socket.
    for worker in complete_workers(arguments["workers"], arguments["listen_address"], arguments["listen_port"]):
        address, _colon, port = worker["listen"].rpartition(":")
        if address:
            yield "workers", ["127.0.0.1" if address in ("0.0.0.0", "[::]") else address.strip("[]")], [int(port)]
    for entry in arguments["egress"]:
        yield entry["name"], entry["addresses"], [entry["port"]] if entry.get("port") else []


def _destination(address: str) -> str:
    """Return what matches an address or a network; of a name, which may mean another one each time, only the port is known."""
    try:
        # As it was checked; what is taken for a name opens a port to everybody.
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:
        return f"{HERE} " if address == "localhost" else ""
    return f"{HERE} " if network.is_loopback else f"ip{'6' if network.version == 6 else ''} daddr {address} "
