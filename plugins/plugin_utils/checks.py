"""What a role refuses beyond the types of its variables: one line per reason, from converted values."""

from __future__ import annotations

import ipaddress
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

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


def postgres(arguments: Arguments) -> list[str]:
    lines = _named("postgres_site", arguments["site"], r"[A-Za-z0-9_]+", "letters, digits and underscores")
    for access in arguments["access"]:
        lines += _networks("postgres_access", access["addresses"])
    return lines + _passwords("postgres_users", arguments["users"])


def pgbouncer(arguments: Arguments) -> list[str]:
    return _networks("pgbouncer_client_networks", arguments["client_networks"]) + _passwords("pgbouncer_users", arguments["users"])


def redis(arguments: Arguments) -> list[str]:
    return _named("redis_instance", arguments["instance"], r"[A-Za-z0-9_]*", "letters, digits and underscores") + _named(
        "redis_user", arguments["user"], r"[A-Za-z0-9_.-]+", "letters, digits, underscores, dots and dashes"
    )


def nginx(arguments: Arguments) -> list[str]:
    lines = _named("nginx_site", arguments["site"], r"[a-z][a-z0-9_]*", "lower-case letters, digits and underscores, a letter first")
    if arguments["tls_mode"] == "acme" and not arguments["acme_email"]:
        lines.append("nginx_acme_email: not set, but required with nginx_tls_mode acme; set the address that the authority shall write to")
    for proxy in arguments["proxies"]:
        lines += _networks(f"nginx_proxies: {proxy['name']}", proxy["addresses"])
    return lines + _networks("nginx_maintenance_addresses", arguments["maintenance_addresses"])


def throat_backup(arguments: Arguments) -> list[str]:
    lines = _named("throat_backup_site", arguments["site"], r"[A-Za-z0-9_]+", "letters, digits and underscores")
    for name, paths in (
        ("throat_backup_repository", [arguments["repository"]]),
        ("throat_backup_copies", [copy["path"] for copy in arguments["copies"]]),
        ("throat_backup_files", arguments["files"]),
    ):
        lines += [f"{name}: {path} is no path of the host; write it from its root, as in /mnt/backup" for path in paths if not re.fullmatch(r"/[^\s']+", path)]
    places = [arguments["repository"], *(copy["path"] for copy in arguments["copies"])]
    lines += [f"throat_backup_copies: {place} is named twice; a copy is in another place" for place in dict.fromkeys(places) if places.count(place) > 1]
    # (A missing one has been named as such.)
    if arguments["key"] and not re.fullmatch(r"[!-~][ -~]{14,}[!-~]", arguments["key"]):
        lines.append("throat_backup_key: must be 16 or more ASCII characters, without a space around them; openssl rand -hex 24 makes one")
    if not arguments["fulls_kept"]:
        lines.append("throat_backup_fulls_kept: 0 is too low; set 1 or more")
    return lines


def firewall(arguments: Arguments) -> list[str]:
    lines = []
    for service in arguments["services"]:
        # nft would ask the name service for anything else, whenever the rules are loaded.
        addresses = all(re.fullmatch(r"[0-9A-Fa-f.:]+(/[0-9]+)?", address) for address in service["addresses"])
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", service["name"]) or not 1 <= service["port"] <= 65535 or not addresses:
            lines.append(
                f'firewall_services: {service} needs a name of letters, digits and "_.-", a port from 1 to 65535, and addresses or networks such as 10.0.0.1, '
                "10.0.0.0/24 or fd00::/64 (no host names)"
            )
    both = sorted({service["port"] for service in arguments["services"]} & set(arguments["public_ports"]))
    if both:
        lines.append(
            f"firewall_public_ports: {', '.join(map(str, both))} is in firewall_services as well, which opens it to some addresses only; "
            "take it out of one of them"
        )
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
    return lines + worker_errors(arguments["workers"])


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


_OF_ROLES = (postgres, pgbouncer, redis, throat_gunicorn, throat_backup, nginx, firewall)
CHECKS: dict[str, Callable[[Arguments], list[str]]] = {check.__name__: check for check in _OF_ROLES}
