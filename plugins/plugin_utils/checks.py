"""What a role refuses beyond the types of its variables: one line per reason, from converted values."""

from __future__ import annotations

import ipaddress
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.throat.stack.plugins.plugin_utils import backup
from ansible_collections.throat.stack.plugins.plugin_utils.build import runtime_errors
from ansible_collections.throat.stack.plugins.plugin_utils.workers import worker_errors

Arguments = Mapping[str, Any]


def _named(variable: str, value: str, pattern: str, allowed: str) -> list[str]:
    return [] if re.fullmatch(pattern, value) else [f"{variable}: {value or 'empty'}, but must be made of {allowed}"]


def _networks(variable: str, values: Iterable[str]) -> list[str]:
    lines = []
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            lines.append(f"{variable}: {value} is no network ({error}); write it as 10.0.0.0/24, 10.0.0.7/32 or 2001:db8::/48")
    return lines


def _passwords(variable: str, users: Iterable[Mapping[str, Any]]) -> list[str]:
    # PostgreSQL prepares others by SASLprep.
    return [
        f"{variable}: the password of {user['name']} has characters outside ASCII, which a database role's may not; choose another"
        for user in users
        if not user["password"].isascii()
    ]


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _endpoints(variable: str, entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line for each entry that is no rule of nftables."""
    lines = []
    for entry in entries:
        # nft would ask the name service for anything else, whenever the rules are loaded.
        addresses = all(_is_network(address) for address in entry["addresses"])
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", entry["name"]) or not 1 <= (entry.get("port") or 1) <= 65535 or not addresses:
            lines.append(
                f'{variable}: {entry} needs a name of letters, digits and "_.-", a port from 1 to 65535, and addresses or networks such as 10.0.0.1, '
                "10.0.0.0/24 or fd00::/64 (no host names)"
            )
    return lines


def _services(config: Any, path: str = "") -> Iterator[tuple[str, str, int | None]]:
    """Yield (key, host, port) of each server that config.yaml has workers ask (mail.server, auth.keycloak.server, storage.endpoint_url ...).

    The port is that of the address, or what stands beside it; none where neither says.
    """
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, str) and key in ("server", "host", "homeserver", "endpoint_url"):
            if "://" in value:
                url = urllib.parse.urlsplit(value)
                port = re.search(r":([0-9]+)$", url.netloc)
                yield name, url.hostname or "", int(port[1]) if port else {"http": 80, "https": 443}.get(url.scheme)
            else:
                beside = str(config.get("port", ""))
                yield name, value, int(beside) if beside.isdecimal() else None
        else:
            yield from _services(value, name)


def _fenced(config: Any, egress: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each server of config.yaml that is not public and not among the exceptions: workers would not reach it, and nobody would say so."""
    lines = []
    for key, host, port in _services(config):
        try:
            address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            continue
        admitted = [entry for entry in egress if any(address in ipaddress.ip_network(network, strict=False) for network in entry["addresses"])]
        ports = [entry.get("port") for entry in admitted]
        if address.is_global or None in ports or (admitted and (port is None or port in ports)):
            continue
        at = f", port: {port}" if admitted else ""
        which = f"port {port} of {host}" if admitted else host
        lines.append(
            f"throat_gunicorn_config: {key} leads to {which}, which is not public, so that workers may not reach it; "
            f"add it to throat_gunicorn_egress, as in [{{name: {key.split('.')[0]}, addresses: [{address}]{at}}}]"
        )
    return lines


def postgres(arguments: Arguments) -> list[str]:
    lines = _named("postgres_site", arguments["site"], r"[A-Za-z0-9_]+", "letters, digits and underscores")
    for access in arguments["access"]:
        lines += _networks("postgres_access", access["addresses"])
    return lines + _passwords("postgres_users", arguments["users"])


def pgbouncer(arguments: Arguments) -> list[str]:
    return _networks("pgbouncer_client_networks", arguments["client_networks"]) + _passwords("pgbouncer_users", arguments["users"])


def redis(arguments: Arguments) -> list[str]:
    lines = _named("redis_instance", arguments["instance"], r"[A-Za-z0-9_]*", "letters, digits and underscores") + _named(
        "redis_user", arguments["user"], r"[A-Za-z0-9_.-]+", "letters, digits, underscores, dots and dashes"
    )
    # Anything else, a password or a pattern of keys, would be another user than it looks.
    named = "the name of a command, of a subcommand (script|load) or of a category (@read), in lower case"
    lines += [line for command in arguments["commands"] for line in _named("redis_commands", command, r"@?[a-z]+(\|[a-z]+)?", named)]
    members = arguments["members"]
    if members and (arguments["instance"] or not arguments["member_password"] or not arguments["check_password"]):
        lines.append("redis_members: set, which wants redis_member_password and redis_check_password as well, and no redis_instance")
    elif members and arguments["member"] not in [member["name"] for member in members]:
        lines.append(f"redis_member: {arguments['member'] or 'empty'}, but must be one of redis_members")
    for name in ("member_password", "check_password") if members else ():
        lines += _unquoted(f"redis_{name}", arguments[name])
    return lines + _addresses("redis_members", members)


def _virtual(addresses: Sequence[str], own: str, peers: Sequence[str]) -> list[str]:
    """Refuse virtual addresses that are none, that nobody has together, or that keepalived could not speak of between these hosts."""
    lines, name = [], "nginx_virtual_addresses"
    for address in addresses:
        try:
            ipaddress.ip_interface(address)
        except ValueError:
            lines.append(f"{name}: {address} is no IP address; write one, as 203.0.113.10")
    if not addresses or lines:
        return lines
    if not (own and peers):
        return [f"{name}: set, but nobody has them together; set nginx_virtual_own_address and nginx_virtual_peers"]
    kind = "IPv6" if ":" in own else "IPv4"
    if {":" in peer for peer in peers} != {":" in own}:
        own_addresses = ", ".join(sorted([own, *peers]))
        return [f"{name}: the web servers speak of it at {own_addresses}, but by one kind of address only; give all of them IPv4, or all IPv6"]
    if not any((":" in address) == (":" in own) for address in addresses):
        return [f"{name}: {', '.join(addresses)}, but the web servers speak of it by {kind} (throat_address), and one at least must be {kind}; add one"]
    return []


def nginx(arguments: Arguments) -> list[str]:
    lines = _named("nginx_site", arguments["site"], r"[a-z][a-z0-9_]*", "lower-case letters, digits and underscores, a letter first")
    if arguments["tls_mode"] == "acme" and not arguments["acme_email"]:
        lines.append("nginx_acme_email: not set, but required with nginx_tls_mode acme; set the address that the authority shall write to")
    for proxy in arguments["proxies"]:
        lines += _networks(f"nginx_proxies: {proxy['name']}", proxy["addresses"])
    lines += _virtual(arguments["virtual_addresses"], arguments["virtual_own_address"], arguments["virtual_peers"])
    if not 1 <= arguments["virtual_priority"] <= 254:
        lines.append(f"nginx_virtual_priority: {arguments['virtual_priority']}, but must be from 1 to 254")
    numbers = ("limited_rate", "limited_burst", "upload_rate", "upload_burst", "upload_connections", "client_timeout")
    lines += [f"nginx_{name}: 0 is too low; set 1 or more" for name in numbers if not arguments[name]]
    return lines + _networks("nginx_maintenance_addresses", arguments["maintenance_addresses"])


def throat_backup(arguments: Arguments) -> list[str]:
    lines = _named("throat_backup_site", arguments["site"], r"[A-Za-z0-9_]+", "letters, digits and underscores")
    for path in arguments["files"]:
        if not re.fullmatch(r"/[^\s']+", path):
            lines.append(f"throat_backup_files: {path} is no path of the host; write it from its root, as in /var/lib/shop")
    if not arguments["repositories"]:
        lines.append("throat_backup_repositories: empty; name one, or set throat_backup to false for no backups")
    if said := backup.repository_errors(arguments["repositories"]):
        lines += said
    else:
        places = [repository["place"] for repository in backup.repositories(arguments)]
        twice = [place for place in dict.fromkeys(places) if places.count(place) > 1]
        lines += [f"throat_backup_repositories: {place} is named twice; a copy is in another place" for place in twice]
    # (A missing one has been named as such.)
    keys = [("throat_backup_key:", arguments["key"]), *(("throat_backup_repositories: key", entry.get("key")) for entry in arguments["repositories"])]
    lines += [
        f"{name} must be 16 or more ASCII characters, without a space around them; openssl rand -hex 24 makes one"
        for name, key in keys
        if key and not re.fullmatch(r"[!-~][ -~]{14,}[!-~]", key)
    ]
    if not arguments["fulls_kept"]:
        lines.append("throat_backup_fulls_kept: 0 is too low; set 1 or more")
    return lines


EXPORTERS = ("node", "postgres", "redis", "nginx", "mtail")


def throat_metrics(arguments: Arguments) -> list[str]:
    lines = _named("throat_metrics_site", arguments["site"], r"[A-Za-z0-9_]+", "letters, digits and underscores")
    for name in arguments["exporters"]:
        if name not in EXPORTERS:
            lines.append(f"throat_metrics_exporters: {name} is none; choose of {', '.join(EXPORTERS)}")
    try:
        ipaddress.ip_address(arguments["listen_address"])
    except ValueError:
        lines.append(f"throat_metrics_listen_address: {arguments['listen_address']} is no IP address; write one of the host's, as 127.0.0.1")
    ports = arguments["ports"]
    for name, port in ports.items():
        if not 1 <= port <= 65535:
            lines.append(f"throat_metrics_ports: {name} {port} is no port; write a number from 1 to 65535")
    for port in sorted({port for port in ports.values() if list(ports.values()).count(port) > 1}):
        lines.append(f"throat_metrics_ports: {' and '.join(name for name in ports if ports[name] == port)} are both {port}; give each its own")
    return lines


def monitoring(arguments: Arguments) -> list[str]:
    lines = []
    if arguments["webhook_url"] and not re.match(r"https?://\S+$", arguments["webhook_url"]):
        lines.append("monitoring_webhook_url: is no address; write it as https://alerts.example.com/throat")
    for name in ("mail_to", "mail_from"):
        if (arguments["mail_to"] or arguments[name]) and not re.fullmatch(r"\S+@\S+", arguments[name]):
            lines.append(f"monitoring_{name}: {arguments[name] or 'empty'} is no address; write it as ops@example.com")
    for name, least in (("interval", 5), ("retention_days", 1), ("retention_gb", 1)):
        if arguments[name] < least:
            lines.append(f"monitoring_{name}: {arguments[name]} is too low; set {least} or more")
    return lines


def firewall(arguments: Arguments) -> list[str]:
    lines = _endpoints("firewall_services", arguments["services"])
    both = sorted({service["port"] for service in arguments["services"]} & set(arguments["public_ports"]))
    if both:
        lines.append(
            f"firewall_public_ports: {', '.join(map(str, both))} is in firewall_services as well, which opens it to some addresses only; "
            "take it out of one of them"
        )
    return lines


def etcd(arguments: Arguments) -> list[str]:
    if arguments["member"] not in [member["name"] for member in arguments["members"]]:
        return [f"etcd_member: {arguments['member'] or 'empty'}, but must be one of etcd_members"]
    return _addresses("etcd_members", arguments["members"])


def haproxy(arguments: Arguments) -> list[str]:
    lines = _addresses("haproxy_servers", arguments["servers"]) + _addresses("haproxy_redis_servers", arguments["redis_servers"])
    if arguments["redis_servers"] and not arguments["redis_password"]:
        lines.append("haproxy_redis_password: empty, but by it HAProxy asks haproxy_redis_servers who leads; set it to their redis_check_password")
    lines += _unquoted("haproxy_redis_password", arguments["redis_password"])
    if not arguments["leader_socket"].startswith("/run/haproxy/"):
        lines.append(f"haproxy_leader_socket: {arguments['leader_socket']}, but must be below /run/haproxy")
    return lines


def _unquoted(variable: str, password: str | None) -> list[str]:
    """Refuse a password that means something else in the files of Redis, Sentinel or HAProxy; it is shown to nobody."""
    if re.fullmatch(r"[A-Za-z0-9._~-]*", password or ""):
        return []
    return [f"{variable}: has a letter that it may not have; make one of letters and digits (openssl rand -hex 24)"]


def _addresses(variable: str, members: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for member in members:
        try:
            ipaddress.ip_address(member["address"])
        except ValueError:
            lines.append(f"{variable}: {member['address']} of {member['name']} is no IP address; write one, as 10.0.0.1")
    return lines


def config_name_errors(name: str) -> list[str]:
    return _named("throat_gunicorn_config_name", name, r"[a-z][a-z0-9]*", "lower-case letters and digits, a letter first, as in test")


def throat_gunicorn(arguments: Arguments) -> list[str]:
    lines = config_name_errors(arguments["config_name"])
    if re.search(r"://[^/@\s]+@", arguments["source"]) and not arguments["source"].startswith("ssh://"):
        lines.append(
            "throat_gunicorn_source: holds a password or a token, which everybody on the host would see; take it out, and give it to git by the environment: "
            "throat_gunicorn_build_environment: {GIT_CONFIG_COUNT: '1', GIT_CONFIG_KEY_0: http.extraHeader, GIT_CONFIG_VALUE_0: 'Authorization: ...'}"
        )
    lines += runtime_errors(*(arguments[name] for name in ("runtime", "source_type", "source", "version", "image_base")))
    if wrong := _endpoints("throat_gunicorn_egress", arguments["egress"]):
        return lines + wrong + worker_errors(arguments["workers"])
    return lines + _fenced(arguments["config"], arguments["egress"]) + worker_errors(arguments["workers"])


def source_errors(arguments: Arguments) -> list[str]:
    """Return one line where the source of a release should be on the controller and is not."""
    kind, source = arguments["source_type"], arguments["source"]
    if not arguments["release"] and (kind == "directory" or (kind in ("archive", "image_archive") and re.match(r"[~/]", source))):
        path = pathlib.Path(source).expanduser()
        if not (path.is_dir() if kind == "directory" else path.is_file()):
            return [
                f"throat_gunicorn_source: {source} is no {'directory' if kind == 'directory' else 'file'} of this machine, "
                f"which throat_gunicorn_source_type {kind} asks for; name one, or choose another type"
            ]
    return []


_OF_ROLES = (postgres, pgbouncer, redis, throat_gunicorn, throat_backup, throat_metrics, monitoring, etcd, haproxy, nginx, firewall)
CHECKS: dict[str, Callable[[Arguments], list[str]]] = {check.__name__: check for check in _OF_ROLES}
