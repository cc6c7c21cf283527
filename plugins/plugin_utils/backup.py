"""Where backups are written to, and what a database that is brought back means for the release that is to serve it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

PORTS = {"sftp": 22, "s3": 443}


def repositories(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what both programs are told of each repository of the role throat_backup, and the program that runs them.

    arguments: the role's. Each is {"number": pgBackRest's, "place": what people call it, "path": of the host, empty for others, "is_own": whether the
    program makes that, "address": [host, port] to see whether it answers, "known_hosts": lines of that file, "pgbackrest": its options without repo<number>-,
    "restic": the repository's name, "options": restic's, "environment": restic's variables, "key": what encrypts it}. Three of them have secrets.
    """
    site, found = arguments["site"], []
    # A place that two hosts have holds one repository of each.
    name = "restic" if arguments["database"] else "restic-files"
    for number, told in enumerate(arguments["repositories"], 1):
        kind, state = told["type"], f"/var/lib/{site}-backup"
        path = (told.get("path") or (f"{state}/repository" if kind == "local" else f"/{site}-backup")).rstrip("/")
        port = told.get("port") or PORTS.get(kind)
        made: dict[str, Any] = {"place": path, "path": path, "restic": f"{path}/{name}", "pgbackrest": {"path": f"{path}/pgbackrest"}}
        if kind == "sftp":
            host, user, key, known = told["host"], told["user"], f"{state}/ssh/key", f"{state}/ssh/known_hosts"
            ssh = f"ssh -p {port} -i {key} -o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o BatchMode=yes -o ServerAliveInterval=15"
            made |= {
                "place": f"sftp://{user}@{host}:{port}{path}",
                "known_hosts": [f"{host if port == PORTS['sftp'] else f'[{host}]:{port}'} {known}" for known in told["host_keys"]],
                "restic": f"sftp:{user}@{host}:{path}/{name}",
                "options": ["-o", f"sftp.command={ssh} {user}@{host} -s sftp"],
            }
            made["pgbackrest"] |= {"type": "sftp", "sftp-host": host, "sftp-host-port": port, "sftp-host-user": user, "sftp-host-key-hash-type": "sha256"}
            made["pgbackrest"] |= {"sftp-private-key-file": key, "sftp-known-host": known, "sftp-host-key-check-type": "strict"}
        if kind == "s3":
            host, bucket, authority = told["host"], told["bucket"], told.get("ca_file")
            endpoint = host if port == PORTS["s3"] else f"{host}:{port}"
            # As restic chooses it by itself.
            style = "host" if host.endswith(".amazonaws.com") else "path"
            made |= {
                "place": f"s3://{endpoint}/{bucket}{path}",
                "restic": f"s3:https://{endpoint}/{bucket}{path}/{name}",
                "options": ["--cacert", authority] if authority else [],
                "environment": {
                    "AWS_ACCESS_KEY_ID": told["access_key"], "AWS_SECRET_ACCESS_KEY": told["secret_key"], "AWS_DEFAULT_REGION": told["region"]
                },
            }
            made["pgbackrest"] |= {"type": "s3", "s3-endpoint": host, "s3-bucket": bucket, "s3-region": told["region"], "s3-uri-style": style}
            made["pgbackrest"] |= {"storage-port": port, "s3-key": told["access_key"], "s3-key-secret": told["secret_key"]}
            made["pgbackrest"] |= {"storage-ca-file": authority} if authority else {}
        if kind != "local":
            made |= {"path": "", "address": [told["host"], port]}
        made |= {"number": number, "key": told.get("key") or arguments.get("key"), "is_own": kind == "local" and path == f"{state}/repository"}
        found.append({"address": [], "known_hosts": [], "options": [], "environment": {}, **made})
    return found


def repository_errors(repositories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each entry of throat_backup_repositories that does not say where it is, or that leads nowhere else than another.

    repositories: with the defaults of their options.
    """
    lines = []
    needs = {"local": (), "sftp": ("host", "user", "host_keys"), "s3": ("host", "bucket", "access_key", "secret_key")}
    hints = {
        "host": "name the server", "user": "name the account", "bucket": "name the bucket", "access_key": "name the key pair",
        "secret_key": "give it from a vault", "host_keys": "ssh-keyscan prints them, behind the name; ask its owner whether they are those",
    }
    for entry in repositories:
        kind, path = entry["type"], entry.get("path") or "/x"
        lines += [f"{name}: not set, but required with type {kind}; {hints[name]}" for name in needs[kind] if not entry.get(name)]
        where = "the host" if kind == "local" else "the server" if kind == "sftp" else "the bucket"
        if not re.fullmatch(r"/[^\s'\"]+", path):
            lines.append(f"{path} is no path of {where}; write it from its root, as in /mnt/backup")
        lines += [
            f"{name} {entry[name]} has a letter that it may not have; write it as {example}"
            for name, pattern, example in (
                ("host", r"[A-Za-z0-9][A-Za-z0-9.-]*", "backup.example.com, without https:// and without a path"),
                ("user", r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "throat"),
                ("bucket", r"[a-z0-9][a-z0-9.-]+", "throat-backup"),
                ("ca_file", r"/[^\s'\"]+", "/usr/local/share/ca-certificates/store.crt"),
            )
            if entry.get(name) and not re.fullmatch(pattern, entry[name])
        ]
        lines += [
            f"host_keys {known} is no key of a server; write it as ssh-ed25519 AAAA..."
            for known in entry.get("host_keys") or ()
            if not re.fullmatch(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+", known)
        ]
    return [f"throat_backup_repositories: {line}" for line in dict.fromkeys(lines)]


def migration_gap(migrations: Sequence[str], paths: Sequence[str], live: str) -> dict[str, Any]:
    """Return what a release makes of a database: {"errors": [line], "pending": [migration that the database has not seen]}.

    migrations: those that the database has seen; paths: the migrations of all releases that are kept, as releases/<release>/migrations/<name>.py;
    live: the release that serves.
    """
    releases: dict[str, set[str]] = {}
    for path in paths:
        _releases, release, *_more, name = path.split("/")
        releases.setdefault(release, set()).add(name.removesuffix(".py"))
    own, seen = releases.get(live, set()), set(migrations)
    if foreign := sorted(seen - own):
        able = sorted(release for release, names in releases.items() if seen <= names)
        advice = (
            f"go over to {able[0]} first, which has: playbooks/deploy.yml -e throat_gunicorn_release={able[0]}"
            if able
            else "and no release that is kept has; deploy a version of Throat that has it first"
        )
        said = f"the database has been changed by {', '.join(foreign)}, which the release {live} does not have; {advice}"
        return {"errors": [f"restore_to: {said}"], "pending": []}
    return {"errors": [], "pending": sorted(own - seen)}
