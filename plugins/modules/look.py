#!/usr/bin/python
# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Look at a host once: what it is, what it has, and what its services have read."""

from __future__ import annotations

DOCUMENTATION = """
module: look
short_description: Look at a host once
description:
  - Brings back, in one call and without changing anything, all that the roles of this collection ask of a host. Their tasks then do only what differs.
  - Of what M(ansible.builtin.setup), M(ansible.builtin.package_facts) and M(ansible.builtin.service_facts) return it has the part that the roles ask for, under
    the same names; those take seconds and return thousands of values, which Ansible carries from task to task.
options:
  site:
    description: Name of the site, which its files bear.
    type: str
    default: throat
  paths:
    description:
      - Further files and links to bring, wherever they are. They may be somebody else's, who keeps the date of what he copies, so that C(mtime) is when
        such a file was changed or put there, whichever was later; of a certificate or a key without a passphrase there is a checksum of its
        C(public_key) as well.
    type: list
    elements: path
    default: []
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Look at the host
  throat.stack.look:
    site: throat
    paths: [/etc/ssl/certs/site.pem, /etc/ssl/private/site.key]
"""
RETURN = """
ansible_facts:
  description: Facts to add to ansible_facts.
  returned: always
  type: dict
  contains:
    distribution:
      description: Name of the distribution, as Debian; with C(distribution_version), C(distribution_major_version) and C(distribution_release).
      type: str
    memtotal_mb:
      description: The host's memory in MiB.
      type: int
    mounts:
      description: Each mounted file system with its C(mount), the directory.
      type: list
      elements: dict
    packages:
      description: Names of the installed packages.
      type: list
      elements: str
    has_ipv6:
      description: Whether it has IPv6 at all.
      type: bool
    has_user_namespaces:
      description: Whether a service may have a user namespace of its own.
      type: bool
    nft_tables:
      description: Tables of nftables that are loaded, as V(inet throat).
      type: list
      elements: str
    listeners:
      description: Who listens at which TCP port - C(address), C(port), C(program) and C(pid), where the kernel tells, and all C(programs) that share it.
      type: list
      elements: dict
    services:
      description: >-
        Name of each loaded service, as nginx.service, and of logrotate.timer, to its C(name), C(state) (V(running) or what else systemd says of it),
        C(status) (V(enabled), V(disabled), ...), C(source) (V(systemd)), C(started) and C(told), seconds since 1970 when it has started and when it has
        last started or reloaded, and C(is_stale), whether systemd has not read its changed unit.
      type: dict
    files:
      description: >-
        Path of each file that the stack has or shares to its C(sha1), C(mode), C(owner), C(group), C(mtime) (of a link to a file the later of both), of a link
        C(link), and C(content) where it is small, no secret, and ours in part only.
      type: dict
    looked_paths:
      description: The option O(paths), for another look in the same run.
      type: list
      elements: str
    accounts:
      description: Each user to its C(uid), C(gid), C(home) and C(shell).
      type: dict
    postgres:
      description: >-
        Of the cluster "main" that is in force, where it runs, its C(version), C(pid) and C(port), C(loaded) (seconds since 1970 when it has last read its
        files), C(roles) and C(databases). Empty where it does not answer.
      type: dict
    patroni:
      description: >-
        Of the cluster of several hosts that this one is a member of, whether it has data of it (C(began)), and where Patroni answers C(config), C(members) and
        the name of the C(leader). Empty where there is none.
      type: dict
    postgres_version:
      description: Major version of the cluster "main" that is in force, which has the data; where there is none yet, the distribution's.
      type: str
    postgres_rivals:
      description: Versions whose clusters "main" all have sites and start at boot, where there is more than one.
      type: list
      elements: str
    postgres_upgrade:
      description: The versions that an upgrade is under way between, or has been and did not come to its end, as "15 17".
      type: str
    debian_postgres:
      description: Major version of the distribution's PostgreSQL, empty where it is not known.
      type: str
    foreign_pools:
      description: Names of the databases that a PgBouncer serves which was there before this collection.
      type: list
      elements: str
    redis_operator:
      description: SHA-256 of the random password by which root of this host tells Redis who is let in, empty where there is none yet.
      type: str
    redis_check_hash:
      description: SHA-256 of the password by which HAProxy asks hosts that have Redis together who leads, as such a host or HAProxy here knows it; or empty.
      type: str
    nonlocal_bind:
      description: Whether a service may listen at an address before the host has it, now and after a boot.
      type: bool
    certificates:
      description: Path of each certificate in /etc/ssl/certs and /etc/letsencrypt that a site serves to its C(names) and C(until), seconds since 1970.
      type: dict
"""

import glob
import grp
import hashlib
import json
import os
import pwd
import re
import stat
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.throat.stack.plugins.module_utils.clusters import in_force, patroni, read

# What the stack writes or shares, {site} being the site's name.
FILES = (
    "/etc/postgresql/*/main/conf.d/throat.conf",
    "/etc/pgbouncer/*",
    "/etc/redis/throat.conf",
    "/etc/redis/redis-{site}.conf",
    "/etc/redis/*-users.conf",
    "/etc/redis/throat-sentinel.conf",
    "/etc/redis/throat-member.sh",
    "/run/*-users.conf.told",
    "/etc/nginx/snippets/{site}-proxy-params.conf",
    "/etc/nginx/sites-enabled/*",
    "/etc/nginx/conf.d/*",
    "/etc/ssl/certs/{site}.pem",
    "/etc/systemd/system/{site}-*",
    "/run/systemd/system/{site}-*_next.*",
    "/etc/systemd/system/*.d/throat*.conf",
    "/etc/systemd/system/pgbouncer-pause@.service",
    "/etc/systemd/system/pgbouncer-follow-leader.service",
    "/etc/systemd/system/patroni-spread-leaders.service",
    "/etc/systemd/system/throat-firewall.service",
    "/etc/tmpfiles.d/{site}.conf",
    "/etc/{site}/*",
    "/run/{site}/*.started",
    "/opt/{site}/bad/*",
    "/opt/{site}/releases/*/.built",
    "/opt/{site}/releases/*/.image",
    "/opt/{site}/releases/*/.served",
    "/var/www/{site}/static/live",
    "/usr/bin/npm",
    "/etc/sysctl.d/60-throat.conf",
    "/etc/systemd/journald.conf.d/50-throat.conf",
    "/etc/pgbackrest/conf.d/{site}.conf",
    "/etc/systemd/system/timers.target.wants/{site}-backup@*",
    "/var/lib/etcd/throat/member",
    "/etc/{site}-backup.json",
    "/usr/local/sbin/{site}-backup",
    "/usr/local/lib/throat-metrics/*",
    "/etc/throat-metrics.*",
    "/etc/mtail/throat.mtail",
    "/etc/prometheus/throat*",
    "/etc/etcd/trusted.pem",
    "/etc/haproxy/throat*",
    "/etc/keepalived/*",
    "/etc/patroni/*-main.yml",
    "/etc/patroni/trusted.pem",
    # Directories.
    "/opt/{site}/*",
    "/run/{site}",
    "/etc/{site}",
    "/var/lib/{site}/*",
)
# Of these the text as well: somebody else's but for some lines.
TEXTS = (
    "/etc/postgresql/*/main/pg_hba.conf",
    "/etc/postgresql/*/main/pg_ident.conf",
    "/etc/pgbouncer/hba.conf",
    "/etc/throat-firewall.nft",
    "/etc/{site}/egress.nft",
    "/etc/redis/redis.conf",
    "/etc/nginx/nginx.conf",
    "/etc/logrotate.d/nginx",
    "/opt/{site}/current/routes.txt",
    "/opt/{site}/releases/*/.inputs",
    "/opt/{site}/rollback",
    "/etc/pgbouncer/server.pem",
    "/etc/{site}/database.pem",
    "/etc/systemd/system/{site}-*.socket",
    "/var/lib/{site}-backup/told",
    "/etc/etcd/throat.pem",
    "/etc/patroni/throat.pem",
)
# Only lines that are asked for: the rest may be a secret.
LINES = {"/etc/redis/redis.conf": r"include "}
LARGE = 1 << 20
QUERY = """
SELECT json_build_object(
  'loaded', extract(epoch FROM pg_conf_load_time()),
  'pending_restart', (SELECT count(*) FROM pg_settings WHERE pending_restart),
  'roles', (SELECT json_object_agg(rolname, json_build_object(
      'password', encode(sha256(convert_to(coalesce(rolpassword, ''), 'UTF8')), 'hex'),
      'is_plain', rolcanlogin AND NOT (rolsuper OR rolcreatedb OR rolcreaterole),
      'settings', coalesce((SELECT setconfig FROM pg_db_role_setting WHERE setrole = a.oid AND setdatabase = 0), '{}')))
    FROM pg_authid a WHERE rolname NOT LIKE 'pg\\_%'),
  'databases', (SELECT json_object_agg(datname, json_build_object(
      'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding),
      'is_open', EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0)))
    FROM pg_database))
"""


def platform(release: str) -> dict[str, str]:
    """Return the distribution of an os-release file as the facts of Ansible name it."""
    values = dict(re.findall(r'^(\w+)="?(.*?)"?$', release, re.MULTILINE))
    version = values.get("VERSION_ID", "")
    return {
        "distribution": (values.get("NAME", "").split() or [""])[0],
        "distribution_version": version,
        "distribution_major_version": version.partition(".")[0],
        "distribution_release": values.get("VERSION_CODENAME", ""),
    }


def packages(shown: str) -> list[str]:
    """Return the installed packages of lines like "ii  nginx"; others have left their configuration only."""
    return sorted({line.split()[1] for line in shown.splitlines() if line[1:2] == "i"})


def listeners(shown: str) -> list[dict[str, object]]:
    """Return who listens at which TCP port, of lines like 'LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=1,fd=3))'."""
    found = []
    for line in shown.splitlines():
        words = line.split(None, 5)
        address, _colon, port = words[3].rpartition(":")
        programs = re.findall(r'\("([^"]+)",pid=(\d+)', words[5]) if len(words) > 5 else []
        name, pid = programs[0] if programs else ("", 0)
        found.append({"address": address, "port": int(port), "program": name, "pid": int(pid), "programs": [each for each, _pid in programs]})
    return found


def interfaces(shown: str) -> dict[str, str]:
    """Return {address: interface} of lines like "2: eth0    inet 10.0.0.7/24 brd 10.0.0.255 scope global eth0"."""
    words = [line.split() for line in shown.splitlines()]
    return {line[3].partition("/")[0]: line[1] for line in words if len(line) > 3}


def services(shown: str, booted: float) -> dict[str, dict[str, object]]:
    """Return the services, by name, of what "systemctl show" prints of the properties PROPERTIES; booted: seconds since 1970 at which its clock began."""
    found = {}
    for block in filter(None, shown.split("\n\n")):
        unit = dict(line.split("=", 1) for line in block.strip().splitlines())
        found[unit["Id"]] = {
            "name": unit["Id"],
            "state": unit["SubState"],
            "status": unit["UnitFileState"],
            "source": "systemd",
            "started": booted + int(unit.get("ActiveEnterTimestampMonotonic") or 0) / 1e6,
            "told": booted + int(unit.get("StateChangeTimestampMonotonic") or 0) / 1e6,
            "is_stale": unit.get("NeedDaemonReload") == "yes",
        }
    return found


# Of each Debian, the major version of its PostgreSQL, by which its packages name the cluster.
POSTGRES = {"12": "15", "13": "17"}
UNITS = ("*.service", "logrotate.timer")
PROPERTIES = "Id,SubState,UnitFileState,ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic,NeedDaemonReload"


def file_state(path: str, with_text: bool) -> dict[str, object]:
    """Return what is to be known of a file; of a text that is not whole ours only some lines."""
    info = os.lstat(path)
    state: dict[str, object] = {"mode": f"{stat.S_IMODE(info.st_mode):04o}", "mtime": info.st_mtime}
    for key, name, number in (("owner", pwd.getpwuid, info.st_uid), ("group", grp.getgrgid, info.st_gid)):
        try:
            state[key] = name(number)[0]
        except KeyError:
            state[key] = str(number)
    if stat.S_ISLNK(info.st_mode):
        state["link"] = os.readlink(path)
        if os.path.isfile(path):
            state["mtime"] = max(info.st_mtime, os.stat(path).st_mtime)
    elif stat.S_ISREG(info.st_mode) and info.st_size < LARGE:
        with open(path, "rb") as file:
            raw = file.read()
        state["sha1"] = hashlib.sha1(raw).hexdigest()
        # What tells a unit of ours from others', and a worker's stamp.
        state["is_ours"] = b"X-Throat=yes" in raw
        if with_text:
            text = raw.decode(errors="replace")
            state["content"] = "\n".join(line for line in text.splitlines() if re.match(LINES[path], line)) if path in LINES else text
    return state


def main() -> None:
    options = {"site": {"type": "str", "default": "throat"}, "paths": {"type": "list", "elements": "path", "default": []}}
    module = AnsibleModule(options, supports_check_mode=True)
    site, paths = module.params["site"], module.params["paths"]

    def ask(*command: str) -> str:
        """What a program says, nothing where there is no such program or it fails."""
        if module.get_bin_path(command[0]) is None:
            return ""
        status, said, _errors = module.run_command(list(command))
        return "" if status else said

    files = {}
    for patterns, with_text in ((FILES, False), (TEXTS, True)):
        for pattern in patterns:
            for path in glob.glob(pattern.format(site=site)):
                files[path] = file_state(path, with_text)
    for path in filter(os.path.lexists, paths):
        files[path] = {**file_state(path, False), **files.get(path, {})}
        if os.path.isfile(path):
            files[path]["mtime"] = max(files[path]["mtime"], os.lstat(path).st_ctime, os.stat(path).st_ctime)
            text = read(path)
            kind = ("x509", "-noout", "-pubkey") if "BEGIN CERTIFICATE" in text else ("pkey", "-pubout", "-passin", "pass:") if "PRIVATE KEY" in text else ()
            said = ask("openssl", *kind, "-in", path) if kind else ""
            files[path]["public_key"] = said and hashlib.sha256(said.encode()).hexdigest()

    os_release = platform(read("/etc/os-release"))
    debian_postgres = POSTGRES.get(os_release["distribution_major_version"], "")
    clusters = in_force()
    version = (clusters or [debian_postgres])[0]
    postgres = {}
    lines = read(f"/var/lib/postgresql/{version}/main/postmaster.pid").splitlines()
    if len(lines) > 3 and os.path.exists(f"/proc/{lines[0]}"):
        said = ask("runuser", "-u", "postgres", "--", "psql", "-p", lines[3], "-XAtqwd", "postgres", "-c", QUERY)
        postgres = {"version": version, "pid": int(lines[0]), "port": int(lines[3]), **json.loads(said or "{}")}

    certificates = {}
    for path in (f"/etc/ssl/certs/{site}.pem", *glob.glob("/etc/letsencrypt/live/*/fullchain.pem")):
        said = ask("openssl", "x509", "-in", path, "-noout", "-enddate", "-ext", "subjectAltName") if os.path.exists(path) else ""
        until = re.search(r"notAfter=(.*)", said)
        if until:
            end = time.strptime(until[1].strip(), "%b %d %H:%M:%S %Y %Z")
            certificates[path] = {"names": re.findall(r"DNS:([^,\s]+)", said), "until": time.mktime(end) - time.timezone}

    redis = f"/etc/redis/{'throat' if site == 'throat' else f'redis-{site}'}"
    operator = read(f"{redis}.operator").strip()
    known = re.search(r"^user \S+-check on .* #([0-9a-f]{64})$", read(f"{redis}-users.conf"), re.MULTILINE)
    asks = re.search(r'"AUTH \S+-check ([0-9a-f]+)\\r', read("/etc/haproxy/throat.cfg"))
    pools = read("/etc/pgbouncer/pgbouncer.ini")
    named = re.findall(r"^\s*([^\s;#=\[]+)\s*=", pools.partition("[databases]")[2].partition("\n[")[0], re.MULTILINE)
    memory = re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo"))
    booted = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    facts = {
        **os_release,
        "postgres_version": version,
        "postgres_rivals": clusters[1:] and clusters,
        "postgres_upgrade": read("/var/lib/postgresql/throat-upgrade").strip(),
        "debian_postgres": debian_postgres,
        "memtotal_mb": int(memory[1]) // 1024 if memory else 0,
        "mounts": [{"mount": line.split()[1]} for line in read("/proc/mounts").splitlines()],
        "has_ipv6": bool(read("/proc/net/if_inet6")),
        "has_user_namespaces": int(read("/proc/sys/user/max_user_namespaces") or 0) > 0,
        "nft_tables": [line.removeprefix("table ") for line in ask("nft", "list", "tables").splitlines()],
        "interfaces": interfaces(ask("ip", "-oneline", "address")),
        "listeners": listeners(ask("ss", "-Hltnp")),
        "packages": packages(ask("dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\n")),
        "services": services(ask("systemctl", "show", f"--property={PROPERTIES}", *UNITS), booted),
        "files": files,
        "looked_paths": paths,
        "accounts": {user.pw_name: {"uid": user.pw_uid, "gid": user.pw_gid, "home": user.pw_dir, "shell": user.pw_shell} for user in pwd.getpwall()},
        "postgres": postgres,
        "patroni": patroni(version),
        "foreign_pools": [] if "Ansible managed" in pools else named,
        "redis_operator": hashlib.sha256(operator.encode()).hexdigest() if operator else "",
        "redis_check_hash": known[1] if known else hashlib.sha256(asks[1].encode()).hexdigest() if asks else "",
        "nonlocal_bind": "/etc/sysctl.d/60-throat.conf" in files and read("/proc/sys/net/ipv4/ip_nonlocal_bind").strip() == "1",
        "certificates": certificates,
    }
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
