#!/usr/bin/python
# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Ask a host once how it is."""

from __future__ import annotations

DOCUMENTATION = """
module: probe
short_description: Ask a host once how it is
description:
  - Asks the services of a host, and the host itself, how they are, and changes nothing. All questions are asked at once, and each has a time-out, so that
    one that hangs costs seconds. What cannot be found out is left out.
  - A worker is asked only while its service runs, since systemd would start it for whoever asks.
options:
  site:
    description: Name of the site, which its files bear.
    type: str
    default: throat
  now:
    description: The controller's time, seconds since 1970.
    type: float
    required: true
  units:
    description: Units to tell of, as systemctl takes them, patterns among them.
    type: list
    elements: str
    default: []
  workers:
    description: Workers of the host.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Its name.
        type: str
        required: true
      unit:
        description: Its service.
        type: str
        required: true
      listen:
        description: Path of its socket, or address and port.
        type: str
        required: true
      path:
        description: Page that is asked for.
        type: str
        required: true
  proxies:
    description: Proxies that the workers believe. They are asked for an address of their own (127.0.0.2), so that nobody's limit of requests is touched.
    type: int
    default: 1
  web:
    description: The web server, where the host has one.
    type: dict
    suboptions:
      name:
        description: Name that visitors ask for.
        type: str
        required: true
      port:
        description: Port at which it serves the site.
        type: int
        required: true
      tls:
        description: Whether that is by https.
        type: bool
        required: true
      closed:
        description: File that closes the site for maintenance.
        type: path
        required: true
  postgres:
    description: The database server, where the host has one.
    type: dict
    suboptions:
      port:
        description: Its port.
        type: int
        required: true
      database:
        description: Database of the site.
        type: str
        required: true
      notes:
        description: Table in which whoever leads has noted how the backups went, where several hosts have the database.
        type: str
        default: ""
  pgbouncer:
    description: The pooler, where the host has one.
    type: dict
    suboptions:
      port:
        description: Its port.
        type: int
        required: true
      server:
        description: Host and port of the PostgreSQL that it asks, where that is another host, and as whom.
        type: list
        elements: str
        default: []
  redis:
    description: Redis, where the host has it.
    type: dict
    suboptions:
      address:
        description: Address at which it listens.
        type: str
        required: true
      port:
        description: Its port.
        type: int
        required: true
      user:
        description: User that root of the host is to it.
        type: str
        required: true
      operator:
        description: File on the host with that user's random password.
        type: path
        required: true
      sentinel_port:
        description: Port of the Sentinel beside it, where several hosts have Redis together.
        type: int
        default: 0
  etcd:
    description: etcd, where the host has it.
    type: dict
    suboptions:
      port:
        description: Its port for clients.
        type: int
        required: true
  haproxy:
    description: HAProxy, where it takes clients of Redis to one of several hosts.
    type: dict
    suboptions:
      redis:
        description: Members that may lead Redis.
        type: list
        elements: str
        default: []
  addresses:
    description: IP addresses that several hosts have together, one of which holds them.
    type: list
    elements: str
    default: []
  certificates:
    description: Files with certificates. Those that are not there are passed over.
    type: list
    elements: path
    default: []
  paths:
    description: Directories whose file systems matter.
    type: list
    elements: path
    default: []
  has_rules:
    description: Whether rules of nftables are to be there.
    type: bool
    default: false
  brief:
    description: Whether to leave out what takes long, the log of the last hour and the updates that wait, for whoever asks each minute.
    type: bool
    default: false
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Ask the host
  throat.stack.probe:
    now: "{{ now(utc=true).timestamp() }}"
    units: [nginx.service]
    paths: [/, /var/log]
"""
RETURN = """
probe:
  description:
    - What it has answered. Times are seconds since 1970, sizes bytes. docs/status.md describes each part.
    - C(units), C(failed), C(restarts), C(killed), C(workers), C(release), C(files), C(web), C(requests), C(postgres), C(pgbouncer), C(redis), C(haproxy),
      C(addresses), C(certificates), C(disks), C(memory), C(swap), C(load), C(clock), C(reboot), C(updates), C(backups), C(backups_since) and C(nft_tables),
      each where it applies.
  returned: always
  type: dict
"""

import concurrent.futures
import csv
import ctypes
import datetime
import glob
import json
import os
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.throat.stack.plugins.module_utils.clusters import in_force, patroni, read

# Seconds that one question may take; a page of a worker, and nginx asking a worker of each class, longer.
PATIENCE = 4
PAGE_PATIENCE = 5
HEALTH_PATIENCE = 8
DAY = 86400
# Of the access log no more than this is read, from its end.
LOG_BYTES = 32 << 20
# An address of nobody, so that its count of requests is nobody's.
ASKER = "127.0.0.2"
# systemd's own numbers for "a restart is scheduled" and "killed for want of memory".
RESTARTED = "5eb03494b6584870a536b337290809b3"
KILLED = "fe6faa94e7774663a0da52717891d8ef"
PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,StateChangeTimestampMonotonic"
# What pg_isready ends with where nobody answers; one that refuses for now is reached.
NO_RESPONSE = 2
# What adjtimex returns where nothing keeps the clock.
CLOCK_UNSYNCHRONISED = 5
AS_POSTGRES: dict[str, object] = {"user": "postgres", "group": "postgres", "extra_groups": [], "environment": {"PGCONNECT_TIMEOUT": "3"}}
QUERY = """
SELECT json_build_object(
  'limit', current_setting('max_connections')::int,
  'reserved', current_setting('superuser_reserved_connections')::int,
  'connections', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  'waiting', (SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'),
  'longest', (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
              FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
  'bytes', pg_database_size(current_database()),
  'archive_fails', (SELECT extract(epoch FROM last_failed_time) FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, 'epoch')),
  'is_replica', pg_is_in_recovery())
"""

# (Of a table that is not there the server would log that somebody has asked for it.)
NOTED = """SELECT to_regclass('{notes}') IS NOT NULL AS is_there \\gset
\\if :is_there
SELECT noted FROM {notes} WHERE name = 'status';
\\endif
"""


def units(shown: str, booted: float) -> dict[str, dict[str, object]]:
    """Return the units, by name, of what "systemctl show" prints of the properties PROPERTIES; booted: seconds since 1970 at which its clock began."""
    found = {}
    for block in filter(None, shown.split("\n\n")):
        unit = dict(line.split("=", 1) for line in block.strip().splitlines())
        found[unit["Id"]] = {
            "is_there": unit["LoadState"] != "not-found",
            "active": unit["ActiveState"],
            "sub": unit["SubState"],
            "enabled": unit["UnitFileState"],
            "result": unit.get("Result", ""),
            "since": round(booted + int(unit.get("StateChangeTimestampMonotonic") or 0) / 1e6),
        }
    return found


def journal(lines: str) -> dict[str, dict[str, int]]:
    """Return {"restarts": {unit: times}, "killed": {unit: times}} of journal entries as JSON, one a line."""
    found: dict[str, dict[str, int]] = {"restarts": {}, "killed": {}}
    for line in lines.splitlines():
        entry = json.loads(line)
        counts = found["killed" if entry.get("MESSAGE_ID") == KILLED else "restarts"]
        unit = str(entry.get("UNIT", ""))
        counts[unit] = counts.get(unit, 0) + 1
    return found


def requests(lines: Iterable[bytes], since: float) -> dict[str, int]:
    """Count what nginx's log says of requests since a moment, the last line first: {"requests", "errors", "failed_logins", "first" (seconds since 1970)}.

    An error is a 5xx that a worker has answered or that nginx has answered for one; not the 503 of a site that is closed, which asks none.
    Throat answers a log-in that succeeds by leading on (302), or with 200 to a program.
    """
    counts = {"requests": 0, "errors": 0, "failed_logins": 0, "first": 0}
    for line in lines:
        at = re.match(rb'\{"time":"([^"]+)"', line)
        if not at:
            continue
        moment = datetime.datetime.fromisoformat(at[1].decode()).timestamp()
        if moment < since:
            break
        counts["first"] = int(moment)
        counts["requests"] += 1
        status = int((re.search(rb'"status":(\d+)', line) or [b"", b"0"])[1])
        if status >= 500 and not (status == 503 and b'"upstream":""' in line):
            counts["errors"] += 1
        login = re.search(rb'"method":"POST","uri":"(/login|/api/v3/login)(?:\?[^"]*)?"', line)
        if login and not (status in (200, 302) if login[1] != b"/login" else status == 302):
            counts["failed_logins"] += 1
    return counts


def pools(shown: str) -> dict[str, dict[str, object]]:
    """Return the databases, by name, of what PgBouncer says as CSV to SHOW POOLS and then to SHOW DATABASES; wait in seconds."""
    found: dict[str, dict[str, object]] = {}
    header: list[str] = []
    for row in csv.reader(shown.splitlines()):
        if row[:1] in (["database"], ["name"]):
            header = row
            continue
        values = dict(zip(header, row))
        name = values.get("database") if header[:1] == ["database"] else values.get("name")
        if name in (None, "pgbouncer"):
            continue
        pool = found.setdefault(name, {"active": 0, "waiting": 0, "wait": 0.0, "connections": 0, "limit": 0, "is_paused": False})
        if header[0] == "database":
            pool["active"] += int(values["sv_active"])
            pool["waiting"] += int(values["cl_waiting"])
            pool["wait"] = max(pool["wait"], int(values["maxwait"]) + int(values.get("maxwait_us") or 0) / 1e6)
        else:
            pool["connections"], pool["limit"] = int(values["current_connections"]), int(values["max_connections"])
            pool["is_paused"] = values["paused"] == "1"
    return found


def redis_info(said: str) -> dict[str, object]:
    """Return what matters of INFO; "answers" alone where this user may not ask for it."""
    values = dict(line.split(":", 1) for line in said.splitlines() if re.match(r"\w+:", line))
    if "used_memory" not in values:
        return {"answers": "PONG" in said, "said": " ".join(said.split())[:80]}
    numbers = {"memory": "used_memory", "limit": "maxmemory", "clients": "connected_clients", "client_limit": "maxclients", "evicted": "evicted_keys"}
    found = {"answers": True, "policy": values["maxmemory_policy"], **{name: int(values[key]) for name, key in numbers.items()}}
    if "role" in values:
        replicas = [dict(part.split("=", 1) for part in value.split(",")) for key, value in values.items() if re.fullmatch(r"slave\d+", key)]
        found["leads"] = values["role"] == "master"
        found["follows"] = values.get("master_host", "") if values.get("master_link_status") == "up" else ""
        found["followers"] = sorted(replica["ip"] for replica in replicas if replica["state"] == "online")
    return found


def sentinel_info(said: str) -> dict[str, object]:
    """Return whom a Sentinel takes for the leader, and whether that one answers it, of INFO sentinel; "answers" alone where it says nothing of that."""
    found = re.search(r"^master0:name=\w+,status=(\w+),address=(\S+):\d+,slaves=\d+,sentinels=(\d+)", said, re.MULTILINE)
    return {"answers": True, "leader": found[2], "is_well": found[1] == "ok"} if found else {"answers": False}


def updates(said: str) -> dict[str, int]:
    """Return {"waiting", "security"} of what apt-cache says of its policy for packages: how many have a newer version, and how many one for security."""
    found = {"waiting": 0, "security": 0}
    for block in re.split(r"^(?=\S)", said, flags=re.MULTILINE):
        versions = re.search(r"^  Installed: (\S+)\n  Candidate: (\S+)\n", block, re.MULTILINE)
        if versions and versions[1] != versions[2] and versions[2] != "(none)":
            found["waiting"] += 1
            # Where the candidate is from: the lines below its version, which are indented further.
            sources = re.search(rf"^ (?:\*\*\*|   ) {re.escape(versions[2])} .*\n((?: {{8}}.*\n?)*)", block, re.MULTILINE)
            found["security"] += bool(sources and "security" in sources[1])
    return found


def backup_records(text: str) -> dict[str, dict[str, object]]:
    """Return action ("backup", "drill") to {"at": when, "ok", "said": the reason where it failed}, of the file that the backups leave."""
    try:
        known = json.loads(text or "{}")
    except ValueError:
        return {}
    return {action: {"at": datetime.datetime.fromisoformat(last["at"]).timestamp(), "ok": last["ok"], "said": last["said"]} for action, last in known.items()}


def run(*command: str, seconds: float = PATIENCE, **how: object) -> tuple[int | None, str]:
    """Return (exit status, what a program says); the status is None where it is not there or does not end in time."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **how.pop("environment", {})}
    how = {"stdin": subprocess.DEVNULL, "cwd": "/", "env": environment, **how}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False, **how)
    except (OSError, subprocess.SubprocessError):
        return None, ""
    return done.returncode, done.stdout.decode(errors="replace")


def page(to: list[str], seconds: float) -> dict[str, object]:
    """Ask for a page by curl: {"status": of HTTP, 0 where none has come, "seconds", "release": that the answer names}."""
    shape = "%{http_code} %{time_total} %header{x-throat-release}"
    _status, said = run("curl", "--silent", "--output", "/dev/null", "--max-time", str(seconds), "--write-out", shape, *to, seconds=seconds + 1)
    # As "200 0.012 d4f19451d854", the last word only of a worker.
    words = said.split() or ["0", str(seconds)]
    return {"status": int(words[0]), "seconds": round(float(words[1]), 3), "release": words[2] if len(words) > 2 else ""}


def ask_worker(worker: dict[str, str], proxies: int) -> dict[str, object]:
    listen, path = worker["listen"], worker["path"]
    to = ["--unix-socket", listen, f"http://localhost{path}"] if listen.startswith("/") else [f"http://{listen}{path}"]
    return page(["--header", f"X-Forwarded-For: {', '.join([ASKER] * proxies)}", *to], PAGE_PATIENCE)


def ask_postgres(told: dict[str, object]) -> dict[str, object]:
    # Debian's unit is active although the server is down, so the server itself is asked; by setuid, since runuser would leave a line in the log each time.
    # As postgres, whom it lets in: of anybody else it would log that it does not.
    status, said = run("pg_isready", "-h", "/run/postgresql", "-p", str(told["port"]), "-U", "postgres", "-d", "postgres", "-t", "3", **AS_POSTGRES)
    # By its files; systemd itself does not know one that is stopped.
    versions = in_force()
    unit = f"postgresql@{versions[0]}-main" if versions else "postgresql"
    found: dict[str, object] = {"answers": status == 0, "said": said.rpartition(" - ")[2].strip() or "does not answer", "unit": unit}
    cluster = patroni(versions[0]) if versions else {}
    if cluster:
        found |= {"unit": f"patroni@{versions[0]}-main", "members": cluster.get("members"), "leader": cluster.get("leader", "")}
    if status == 0:
        psql = ["psql", "-h", "/run/postgresql", "-p", str(told["port"]), "-XAtq", "-d", str(told["database"])]
        # Not every version of the application has had migrations; what cannot be answered is left out.
        how = {**AS_POSTGRES, "environment": {**AS_POSTGRES["environment"], "PGOPTIONS": "-c statement_timeout=3000"}}
        _status, said = run(*psql, "-c", QUERY, "-c", "SELECT json_agg(name) FROM migratehistory", **how)
        answers = [json.loads(line) for line in said.splitlines() if line[:1] in "{["]
        found |= next((answer for answer in answers if isinstance(answer, dict)), {})
        found["migrations"] = next((answer for answer in answers if isinstance(answer, list)), None)
        if told.get("notes") and not found.get("is_replica"):
            _status, said = run(*psql[:-1], "postgres", stdin=None, input=NOTED.format(notes=told["notes"]).encode(), **how)
            found["backups"] = backup_records(said)
    return found


def ask_pgbouncer(told: dict[str, object]) -> dict[str, object]:
    psql = ("psql", "-h", "/run/postgresql", "-p", str(told["port"]), "-U", "pgbouncer", "-d", "pgbouncer", "-Xq", "--csv")
    status, said = run(*psql, "-c", "SHOW POOLS", "-c", "SHOW DATABASES", **AS_POSTGRES)
    found: dict[str, object] = {"answers": status == 0, "databases": pools(said) if status == 0 else {}}
    if told.get("server"):
        # PgBouncer's own connections look well for minutes after the way has been cut.
        host, port, user = told["server"]
        # Of one who may not come at all the server would log it.
        found["reaches"] = run("pg_isready", "-h", host, "-p", port, "-U", user, "-d", user, "-t", "3")[0] != NO_RESPONSE
    return found


def ask_etcd(told: dict[str, object]) -> dict[str, object]:
    """Whether a member of etcd finds a majority, which it needs for an answer."""
    asker = urllib.request.build_opener(urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))
    try:
        with asker.open(f"https://127.0.0.1:{told['port']}/health", timeout=4) as answer:
            return {"answers": True, "has_majority": str(json.load(answer).get("health")).lower() == "true"}
    except urllib.error.HTTPError:
        return {"answers": True, "has_majority": False}
    except (OSError, ValueError):
        return {"answers": False, "has_majority": False}


def ask_redis(told: dict[str, object]) -> dict[str, object]:
    cli = ("redis-cli", "--user", str(told["user"]), "-h", str(told["address"]), "-p", str(told["port"]))
    environment = {"REDISCLI_AUTH": read(str(told["operator"])).strip()}
    asked = b"PING\nINFO memory\nINFO clients\nINFO stats\n" + (b"INFO replication\n" if told.get("sentinel_port") else b"")
    status, said = run(*cli, input=asked, stdin=None, environment=environment)
    found = redis_info(said) if status is not None else {"answers": False, "said": "no answer in time"}
    if told.get("sentinel_port"):
        _status, said = run(*cli[:-1], str(told["sentinel_port"]), "INFO", "sentinel", environment=environment)
        found["sentinel"] = sentinel_info(said)
    return found


def ask_haproxy(told: dict[str, object]) -> dict[str, object]:
    """Whom it takes clients of Redis to."""
    asked = [(name, page(["--unix-socket", "/run/haproxy/throat-redis.sock", f"http://localhost/{name}"], PATIENCE)) for name in told["redis"]]
    return {"redis": [name for name, answer in asked if answer["status"] == 200]}


def certificate(pem: bytes, *form: str) -> dict[str, object]:
    """Return when a certificate ends and its SHA-256."""
    _status, said = run("openssl", "x509", *form, "-noout", "-enddate", "-fingerprint", "-sha256", input=pem, stdin=None)
    until, print_ = re.search(r"notAfter=(.*)", said), re.search(r"[Ff]ingerprint=(\S+)", said)
    if not until or not print_:
        return {}
    end = time.strptime(until[1].strip(), "%b %d %H:%M:%S %Y %Z")
    return {"until": int(time.mktime(end) - time.timezone), "sha256": print_[1].replace(":", "").lower()}


def served_certificate(name: str, port: int) -> dict[str, object]:
    """Return the certificate that visitors are shown, whoever has signed it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
            plain.settimeout(PATIENCE)
            with context.wrap_socket(plain, server_hostname=name) as wrapped:
                shown = wrapped.getpeercert(binary_form=True)
    except OSError:
        return {}
    return certificate(shown or b"", "-inform", "DER")


def ask_web(told: dict[str, object], may_ask_workers: bool) -> dict[str, object]:
    scheme = "https" if told["tls"] else "http"
    found: dict[str, object] = {"is_closed": os.path.exists(str(told["closed"]))}
    if may_ask_workers:
        # nginx itself asks a worker of each class for it; no log, no limit.
        url = f"{scheme}://{told['name']}:{told['port']}/throat-health"
        found["health"] = page(["--insecure", "--connect-to", f"::127.0.0.1:{told['port']}", url], HEALTH_PATIENCE)
    if told["tls"]:
        found["certificate"] = served_certificate(str(told["name"]), int(str(told["port"])))
    return found


def last_lines(path: str) -> list[bytes]:
    """Return the lines of a log, the last one first, no more than LOG_BYTES of them."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    return lines[::-1] if size <= LOG_BYTES else lines[:0:-1]


def ask_log(site: str, now: float) -> dict[str, int]:
    """What nginx's log says of the last hour; a log that was begun anew since goes on in the one before."""
    path = f"/var/log/nginx/{site}.access.log"
    counts = requests(last_lines(path), now - 3600)
    if counts["requests"] == 0 or os.path.getsize(path) < LOG_BYTES:
        try:
            is_recent = os.path.getmtime(f"{path}.1") > now - 3600
        except OSError:
            is_recent = False
        if is_recent:
            older = requests(last_lines(f"{path}.1"), now - 3600)
            counts = {key: counts[key] + older[key] if key != "first" else older[key] or counts[key] for key in counts}
    return counts


def ask_disk(path: str) -> dict[str, object]:
    """What df says of the file system of a directory, which may be on another machine that does not answer."""
    status, said = run("df", "--block-size=1", "--output=size,used,avail,itotal,iavail,target", path)
    if status is None:
        return {"mount": path, "answers": False}
    words = said.splitlines()[-1].split(None, 5) if status == 0 else []
    if len(words) < 6:
        return {}
    size, used, free, inodes, free_inodes = (int(word) if word.isdigit() else 0 for word in words[:5])
    return {"mount": words[5], "answers": True, "size": size, "used": used, "free": free, "inodes": inodes, "free_inodes": free_inodes}


def disks(asked: Iterable[dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return the file systems, by mount, of what ask_disk has said of directories."""
    return {str(disk["mount"]): {key: value for key, value in disk.items() if key != "mount"} for disk in asked if disk}


def memory(text: str) -> dict[str, dict[str, int]]:
    """Return memory and swap of /proc/meminfo."""
    values = {name: int(number) * 1024 for name, number in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return {
        "memory": {"size": values.get("MemTotal", 0), "available": values.get("MemAvailable", 0)},
        "swap": {"size": values.get("SwapTotal", 0), "free": values.get("SwapFree", 0)},
    }


def is_clock_kept() -> bool | None:
    """Whether something keeps the clock right; None in a container, whose clock is the machine's."""
    if os.path.exists("/run/systemd/container"):
        return None
    return ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)) != CLOCK_UNSYNCHRONISED


def nft_tables() -> list[str] | None:
    """Return the tables of nftables that are loaded, as "inet throat"; None where that cannot be told."""
    status, said = run("nft", "list", "tables")
    return [line.removeprefix("table ") for line in said.splitlines()] if status == 0 else None


def ask_updates() -> dict[str, object]:
    """What waits, by the lists that apt has; a simulated upgrade says the same and takes ten times as long."""
    _status, said = run("dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${binary:Package}\n")
    # Those that are held back are so on purpose.
    names = [line.split()[1] for line in said.splitlines() if line.startswith("ii ")]
    status, said = run("apt-cache", "policy", *names) if names else (None, "")
    lists = "/var/lib/apt/lists"
    return {**updates(said), "known": round(os.path.getmtime(lists))} if status == 0 and os.path.exists(lists) else {}


def reboot_reason() -> str:
    """Why the host wants a reboot, empty where it does not."""
    if os.path.exists("/run/reboot-required"):
        return "an update has asked for it"
    kernel = os.path.basename(os.path.realpath("/vmlinuz")).removeprefix("vmlinuz-") if os.path.lexists("/vmlinuz") else ""
    running = os.uname().release
    return f"kernel {running} runs, {kernel} is installed" if kernel not in ("", running) and not os.path.exists("/run/systemd/container") else ""


def main() -> None:
    number = {"type": "int", "required": True}
    text, path = {"type": "str", "required": True}, {"type": "path", "required": True}
    options = {
        "site": {"type": "str", "default": "throat"},
        "now": {"type": "float", "required": True},
        "units": {"type": "list", "elements": "str", "default": []},
        "workers": {"type": "list", "elements": "dict", "default": [], "options": {"name": text, "unit": text, "listen": text, "path": text}},
        "proxies": {"type": "int", "default": 1},
        "web": {"type": "dict", "options": {"name": text, "port": number, "tls": {"type": "bool", "required": True}, "closed": path}},
        "postgres": {"type": "dict", "options": {"port": number, "database": text, "notes": {"type": "str", "default": ""}}},
        "pgbouncer": {"type": "dict", "options": {"port": number, "server": {"type": "list", "elements": "str", "default": []}}},
        "etcd": {"type": "dict", "options": {"port": number}},
        "redis": {"type": "dict", "options": {"address": text, "port": number, "user": text, "operator": path, "sentinel_port": {"type": "int", "default": 0}}},
        "haproxy": {"type": "dict", "options": {"redis": {"type": "list", "elements": "str", "default": []}}},
        "addresses": {"type": "list", "elements": "str", "default": []},
        "certificates": {"type": "list", "elements": "path", "default": []},
        "paths": {"type": "list", "elements": "path", "default": []},
        "has_rules": {"type": "bool", "default": False},
        "brief": {"type": "bool", "default": False},
    }
    module = AnsibleModule(options, supports_check_mode=True)
    module.exit_json(changed=False, probe=ask(module.params))


def ask(told: dict[str, object]) -> dict[str, object]:
    """Return what the host answers; told: the options of the module, without a server that the host has not."""
    began, site = time.time(), told["site"]
    booted = began - time.clock_gettime(time.CLOCK_MONOTONIC)
    _status, said = run("systemctl", "show", f"--property={PROPERTIES}", *told["units"])
    known = units(said, booted)

    def runs(unit: str) -> bool:
        return known.get(unit, {}).get("active") in ("active", "reloading")

    workers = [worker for worker in told["workers"] if runs(worker["unit"])]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        asked = {worker["name"]: pool.submit(ask_worker, worker, told["proxies"]) for worker in workers}
        servers = {"postgres": ask_postgres, "pgbouncer": ask_pgbouncer, "etcd": ask_etcd, "redis": ask_redis, "haproxy": ask_haproxy}
        questions = {name: pool.submit(ask, told[name]) for name, ask in servers.items() if told.get(name)}
        if told.get("web"):
            questions["web"] = pool.submit(ask_web, told["web"], len(workers) == len(told["workers"]))
            if not told["brief"]:
                questions["requests"] = pool.submit(ask_log, site, began)
        spaces = [pool.submit(ask_disk, directory) for directory in told["paths"]]
        if told["has_rules"]:
            questions["nft_tables"] = pool.submit(nft_tables)
        pending = pool.submit(dict if told["brief"] else ask_updates)
        failed = pool.submit(run, "systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", "--full")
        entries = pool.submit(
            run, "journalctl", "--quiet", "--output=json", "--output-fields=UNIT,MESSAGE_ID", "--since=-1d", f"MESSAGE_ID={RESTARTED}", f"MESSAGE_ID={KILLED}"
        )
        files = {file: certificate(read(file).encode()) for file in told["certificates"] if os.path.exists(file)}
        live = f"/opt/{site}/current"
        current, since = (os.path.basename(os.readlink(live)), os.lstat(live).st_mtime) if os.path.islink(live) else ("", 0)
        migrations = sorted(os.path.basename(file)[:-3] for file in glob.glob(f"{live}/migrations/*.py") if not os.path.basename(file).startswith("_"))
        wanted = f"/etc/systemd/system/timers.target.wants/{site}-backup@full.timer"
        load = os.getloadavg()
        answers = {name: answer.result() for name, answer in questions.items()}
        probe = {
            "time": round(began),
            "booted": round(booted),
            "units": known,
            "failed": [line.split()[0] for line in failed.result()[1].splitlines() if line.split()],
            **journal("\n".join(line for line in entries.result()[1].splitlines() if line.startswith("{"))),
            "workers": {name: answer.result() for name, answer in asked.items()},
            "release": {"name": current, "since": round(since)} if current else None,
            "migrations": migrations,
            **answers,
            "addresses": [address for address in told["addresses"] if run("ip", "-oneline", "address", "show", "to", address)[1]],
            "certificates": files,
            "disks": disks(space.result() for space in spaces),
            **memory(read("/proc/meminfo")),
            "load": {"five": round(load[1], 2), "cores": os.cpu_count()},
            "reboot": reboot_reason(),
            "updates": pending.result(),
            # Whoever leads a cluster has made them, or whoever has led before.
            "backups": answers.get("postgres", {}).pop("backups", None) or backup_records(read(f"/var/lib/{site}-backup/status.json")),
            "backups_since": os.lstat(wanted).st_mtime if os.path.lexists(wanted) else None,
        }
    # Whoever has asked knows when this has come back, which says more of a clock than the way here.
    ended = time.time()
    probe["clock"] = {"sent": told["now"], "began": began, "ended": ended, "is_synchronised": is_clock_kept()}
    probe["seconds"] = round(ended - began, 2)
    return probe


if __name__ == "__main__":
    main()
