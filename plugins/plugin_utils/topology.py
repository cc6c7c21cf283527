"""Where the hosts of an inventory reach each other."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any


def host_addresses(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return {host: address at which the other hosts reach it}: throat_address, else ansible_host, else its name."""
    return {host: str(hostvars[host].get("throat_address") or hostvars[host].get("ansible_host") or host) for host in groups.get("throat", ())}


def address_errors(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one line for each host that others could not reach, or not tell apart, by its address; where one host has it all, none is needed."""
    connected = {host for tier in ("postgres", "pgbouncer", "throat_gunicorn") for host in groups.get(tier, ())}
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
    return lines


def as_network(address: str) -> str:
    """Return an IP address as a network of one host, 10.0.0.7/32 or 2001:db8::7/128."""
    return str(ipaddress.ip_network(address))
