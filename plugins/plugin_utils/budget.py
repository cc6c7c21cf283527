"""The connection budget: what the workers may ask of the database, against the pools and the server's limit.

All numbers are connections. A site is read from the inventory, the values that nobody set are derived so that they agree,
and what was set is kept and checked. Sources: Throat's doc/deploy.md; PostgreSQL's manual, "Connections and Authentication";
PgBouncer's manual, "Connection sanity checks" and "Pool settings"; peewee's manual, "Connection Pool".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.throat.stack.plugins.plugin_utils.workers import complete_workers, worker_errors

POOLINGS = ("pgbouncer", "peewee", "none")
# Without one set, all poolers together open this many server connections: enough to keep a large server busy.
POOLED = 100
# One pooler never opens more by itself, however few poolers there are.
POOLED_BY_ONE = 25
# Above this PostgreSQL spends its time on switching between processes.
MANY = 500
# With fewer connections than this a pool makes a busy site wait.
SMALL_POOL = 5
# Fewer browser tabs than this are a mistake on a public site.
FEW_TABS = 200
# Clients of a pooler beside the workers: commands of the application, operators, monitoring.
FURTHER_CLIENTS = 20
# Of each host that has the database with others: Patroni, and whoever goes back to where another leader began.
MEMBER_CONNECTIONS = 3
# PostgreSQL's default; only superusers may take these.
SUPERUSER_RESERVED = 3
# Where a number stands twice, the budget would see the wrong one.
POOLER_OPTIONS = ("default_pool_size", "reserve_pool_size", "max_db_connections", "max_client_conn")


@dataclasses.dataclass(frozen=True)
class Worker:
    """A gunicorn service on one host; pool is peewee's max_connections in each of its processes."""

    host: str
    name: str
    kind: str
    processes: int
    threads: int
    connections: int
    pool: int

    @property
    def each(self) -> int:
        """Requests that one process serves at once."""
        return self.threads if self.kind == "sync" else self.connections

    @property
    def demand(self) -> int:
        """Requests at once, each of which may hold a database connection."""
        return self.processes * self.each


@dataclasses.dataclass(frozen=True)
class Pooler:
    """A PgBouncer; all databases and users that it serves count as if they were on our server. None is a value that nobody set."""

    host: str
    clients: int = 0
    databases: int = 1
    users: int = 1
    default_pool_size: int | None = None
    reserve_pool_size: int | None = None
    max_db_connections: int | None = None
    max_client_conn: int | None = None

    @property
    def share(self) -> int:
        """Server connections that it opens at most: a pool for each database and user, 0 in max_db_connections meaning no limit."""
        one = self.users * ((self.default_pool_size or 0) + (self.reserve_pool_size or 0))
        return self.databases * (min(one, self.max_db_connections) if self.max_db_connections else one)


@dataclasses.dataclass(frozen=True)
class Site:
    """What counts in an inventory. server is the host of PostgreSQL, None where it is not in the inventory."""

    pooling: str
    workers: tuple[Worker, ...]
    poolers: tuple[Pooler, ...] = ()
    # App host to the host of its pooler.
    pooler_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    server: str | None = None
    max_connections: int | None = None
    superuser_reserved: int = SUPERUSER_RESERVED
    headroom: int = 10
    # Connections of the members themselves, where several hosts have the database: whoever leads next must admit them as well.
    members: int = 0
    pool_timeout: int = 20
    # The limit of the server with which every pool has the size that it would get by itself.
    wanted: int = 0
    # What could not be read.
    errors: tuple[str, ...] = ()

    def share(self, worker: Worker) -> int:
        """Server connections that a worker opens by itself."""
        return {"pgbouncer": 0, "peewee": worker.processes * worker.pool, "none": worker.demand}[self.pooling]

    @property
    def pooled(self) -> int:
        """Server connections of the whole application."""
        return sum(pooler.share for pooler in self.poolers) + sum(self.share(worker) for worker in self.workers)

    @property
    def kept(self) -> int:
        return self.headroom + self.members + self.superuser_reserved


def assign_poolers(app_hosts: Sequence[str], pooler_hosts: Sequence[str]) -> dict[str, str]:
    """Return which pooler each app host uses: its own, else those that are on no app host, in turn."""
    shared = [host for host in pooler_hosts if host not in app_hosts] or list(pooler_hosts)
    without = [host for host in app_hosts if host not in pooler_hosts]
    assigned = {host: host for host in app_hosts if host in pooler_hosts}
    return assigned | {host: shared[index % len(shared)] for index, host in enumerate(without) if shared}


def read_site(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], defaults: Mapping[str, Any]) -> Site:
    """Return the site that an inventory describes; what is unset stays None.

    hostvars: host to its variables; groups: group to its hosts; defaults: of the roles, for workers that are not set.
    """
    errors: list[str] = []

    def number(host: str | None, name: str, lowest: int = 0, value: Any = None) -> int | None:
        value = hostvars[host].get(name) if value is None and host else value
        if value is None:
            return None
        if isinstance(value, bool) or not str(value).strip().lstrip("-").isdigit():
            errors.append(f"{name} on {host}: {value} is no whole number; set one of {lowest} or more")
            return None
        if int(value) < lowest:
            errors.append(f"{name} on {host}: {value} is too low; set {lowest} or more")
            return None
        return int(value)

    app_hosts, pooler_hosts, servers = (list(groups.get(name, ())) for name in ("throat_gunicorn", "pgbouncer", "postgres"))
    first = next(iter([*app_hosts, *servers, *pooler_hosts]), None)
    poolings = {str(hostvars[host].get("throat_database_pooling", "pgbouncer")): host for host in reversed(app_hosts or [first] if first else [])}
    pooling = next(reversed(poolings), "pgbouncer")
    if len(poolings) > 1:
        said = ", ".join(f"{value} on {host}" for value, host in reversed(poolings.items()))
        errors.append(f"throat_database_pooling: {said}; set it once, for the group throat")
    if pooling not in POOLINGS:
        errors.append(f"throat_database_pooling: {pooling}, but must be one of {', '.join(POOLINGS)}")
        pooling = "pgbouncer"

    workers = []
    for host in app_hosts:
        entries = hostvars[host].get("throat_gunicorn_workers", defaults["throat_gunicorn_workers"])
        found = worker_errors(entries)
        errors += [line.replace(":", f" on {host}:", 1) for line in found]
        for entry in [] if found else complete_workers(entries):
            if "DATABASE_MAX_CONNECTIONS" in entry["environment"]:
                errors.append(
                    f"throat_gunicorn_workers on {host}: worker {entry['name']}: environment has DATABASE_MAX_CONNECTIONS; "
                    "set database_connections instead"
                )
            numbers = {option: int(entry.get(option, 1)) for option in ("processes", "threads", "connections")}
            workers.append(Worker(host, entry["name"], entry["class"], **numbers, pool=int(entry["database_connections"])))

    pooler_of = assign_poolers(app_hosts, pooler_hosts) if pooling == "pgbouncer" else {}
    if pooling == "pgbouncer" and app_hosts and not pooler_hosts:
        errors.append("throat_database_pooling: pgbouncer, but no host is in the group pgbouncer; add one, or set peewee or none")
    poolers = []
    for host in pooler_hosts if pooling == "pgbouncer" else ():
        theirs = hostvars[host]
        for option in POOLER_OPTIONS:
            if option in (theirs.get("pgbouncer_settings") or {}):
                errors.append(f"pgbouncer_settings on {host}: {option} is counted in the connection budget; set pgbouncer_{option} instead")
        poolers.append(
            Pooler(
                host,
                clients=sum(worker.demand for worker in workers if pooler_of[worker.host] == host),
                databases=len(theirs.get("pgbouncer_databases") or [None]),
                users=len(theirs.get("pgbouncer_users") or [None]),
                **{option: number(host, f"pgbouncer_{option}", int(option in ("default_pool_size", "max_client_conn"))) for option in POOLER_OPTIONS},
            )
        )

    if app_hosts and not servers:
        needed = [(app_hosts, "throat_gunicorn_migration_database")]
        needed.append((pooler_hosts, "pgbouncer_databases") if pooling == "pgbouncer" else (app_hosts, "throat_gunicorn_database"))
        unset = [name for hosts, name in needed if any(name not in hostvars[host] for host in hosts)]
        if unset:
            errors.append(f"postgres: no host is in this group; add one, or name a server that is not in the inventory in {' and '.join(unset)}")
    server = servers[0] if servers else None
    settings = (hostvars[server].get("postgres_settings") or {}) if server else {}
    if "max_connections" in settings:
        errors.append(f"postgres_settings on {server}: max_connections is counted in the connection budget; set postgres_max_connections instead")
    reserved = number(server, "superuser_reserved_connections", 0, settings.get("superuser_reserved_connections", SUPERUSER_RESERVED)) or 0
    reserved += number(server, "reserved_connections", 0, settings.get("reserved_connections", 0)) or 0
    limit = number(server or first, "postgres_max_connections", 1)
    for other in servers[1:]:
        # Any of them may lead, and what follows must admit no less.
        if (theirs := number(other, "postgres_max_connections", 1)) != limit:
            said = ", ".join(f"{'nothing' if value is None else value} on {host}" for host, value in ((server, limit), (other, theirs)))
            errors.append(f"postgres_max_connections: {said}, but whoever leads next must admit the same; set it once, for the group postgres")
    # A second site on the machine has to do with what the first one has made of the server: Debian's default, or what this inventory says that it is.
    if limit is None and server and hostvars[server].get("throat_gunicorn_config_name", "production") != "production":
        limit = int(defaults["postgres_max_connections"])
    headroom, timeout = number(first, "throat_database_headroom"), number(first, "throat_gunicorn_database_pool_timeout")
    return Site(
        pooling,
        tuple(workers),
        tuple(poolers),
        pooler_of,
        server,
        max_connections=limit,
        superuser_reserved=reserved,
        headroom=Site.headroom if headroom is None else headroom,
        members=MEMBER_CONNECTIONS * len(servers) if len(servers) > 1 else 0,
        pool_timeout=Site.pool_timeout if timeout is None else timeout,
        errors=tuple(errors),
    )


def derive(site: Site) -> Site:
    """Return the site with every value that nobody set; what was set is kept, whether it fits or not."""
    room = None if site.max_connections is None else site.max_connections - site.kept
    if site.pooling == "pgbouncer":
        roomy = dataclasses.replace(site, poolers=tuple(_sized(site.poolers, None)))
        site = dataclasses.replace(site, poolers=tuple(_sized(site.poolers, room)), wanted=roomy.pooled + roomy.kept)
    if site.max_connections is None and site.server:
        needed = site.pooled + site.kept
        site = dataclasses.replace(site, max_connections=max(100, -(-needed // 10) * 10))
    return site


def _sized(poolers: Sequence[Pooler], room: int | None) -> list[Pooler]:
    """Return the poolers with their sizes, which share room server connections (None: as many as are useful)."""
    unfinished = sum(pooler.default_pool_size is None or pooler.reserve_pool_size is None for pooler in poolers)
    # What is set counts first, and the rest is shared among those with something to derive.
    rest = (POOLED if room is None else min(POOLED, room)) - sum(pooler.share for pooler in poolers)
    for_one = max(0, rest) // max(1, unfinished)
    sized = []
    for pooler in poolers:
        # Of what one pool of it may open, four fifths at once and a fifth when clients wait.
        limit = pooler.max_db_connections // pooler.users if pooler.max_db_connections else POOLED_BY_ONE
        known = (pooler.default_pool_size or 0) + (pooler.reserve_pool_size or 0)
        one = max(1, min(known + for_one // (pooler.databases * pooler.users), POOLED_BY_ONE, limit))
        if room is None and pooler.max_db_connections is None:
            one = max(one, 3)
        size, reserve = pooler.default_pool_size, pooler.reserve_pool_size
        if size is None:
            size = max(1, one * 4 // 5 if reserve is None else one - reserve)
        if reserve is None:
            reserve = max(0, one - size) if pooler.default_pool_size is None else min(max(0, one - size), -(-size // 4))
        pooler = dataclasses.replace(pooler, default_pool_size=size, reserve_pool_size=reserve)
        if pooler.max_db_connections is None:
            pooler = dataclasses.replace(pooler, max_db_connections=pooler.users * (size + reserve))
        if pooler.max_client_conn is None:
            pooler = dataclasses.replace(pooler, max_client_conn=max(100, -(-(pooler.clients + FURTHER_CLIENTS) // 100) * 100))
        sized.append(pooler)
    return sized


def violations(site: Site) -> list[str]:
    """Return one line for each rule that a derived site breaks, saying which number to change to what."""
    lines = list(site.errors)
    for pooler in site.poolers:
        if pooler.max_client_conn is not None and pooler.clients > pooler.max_client_conn:
            lines.append(
                f"pgbouncer_max_client_conn on {pooler.host}: {pooler.max_client_conn} is less than the {pooler.clients} connections that the workers may "
                "ask it for; "
                f"set it to {pooler.clients + FURTHER_CLIENTS}"
            )
    if site.pooling == "peewee":
        for worker in site.workers:
            where = f"throat_gunicorn_workers on {worker.host}: worker {worker.name}"
            option = "threads" if worker.kind == "sync" else "connections"
            if worker.pool < worker.each and worker.kind != "socketio":
                lines.append(
                    f"{where}: database_connections is {worker.pool}, less than its {option} of {worker.each}; "
                    "set both to one number, or leave database_connections out"
                )
            elif worker.pool < worker.each and not site.pool_timeout:
                lines.append(
                    f"throat_gunicorn_database_pool_timeout: 0, but worker {worker.name} on {worker.host} has {worker.each} connections and a pool of "
                    f"{worker.pool}: "
                    "whoever finds it empty gets an error; set it to the seconds that one may wait, 20 for example"
                )
    if site.max_connections is not None:
        needed = site.pooled + site.kept
        if needed > site.max_connections:
            lines.append(
                f"postgres_max_connections{' on ' + site.server if site.server else ''}: "
                f"{site.max_connections} is less than the {needed} connections that can reach the server "
                f"({site.pooled} of the application, {site.headroom} of throat_database_headroom, "
                f"{f'{site.members} of the members of the cluster, ' if site.members else ''}{site.superuser_reserved} reserved for superusers); "
                f"{_remedy(site, needed)}"
            )
    return lines


def _remedy(site: Site, needed: int) -> str:
    raised = f"set it to {max(needed, site.wanted)}"
    if site.wanted > needed:
        raised += f" ({needed} is the least)"
    room = site.max_connections - site.kept
    if site.pooling != "pgbouncer":
        return f"{raised}, or throat_database_pooling to pgbouncer"
    pools = sum(pooler.databases * pooler.users for pooler in site.poolers)
    if room < pools:
        return raised
    return f"{raised}, or the sum of pgbouncer_default_pool_size and pgbouncer_reserve_pool_size to {room // pools}"


def warnings(site: Site) -> list[str]:
    """Return one line for each thing that works and will hurt."""
    lines = []
    for worker in site.workers:
        if worker.kind == "socketio" and worker.connections < FEW_TABS:
            lines.append(
                f"throat_gunicorn_workers on {worker.host}: worker {worker.name}: "
                f"connections is {worker.connections}, and each open browser tab takes one: tab number "
                f"{worker.connections + 1} hangs; set it to the tabs that you expect, 1000 for example"
                + (", and throat_database_pooling to pgbouncer, so that they do not count as database connections" if site.pooling == "none" else "")
            )
    for pooler in site.poolers:
        if pooler.default_pool_size < SMALL_POOL and site.max_connections is not None and site.wanted > site.max_connections:
            lines.append(
                f"pgbouncer_default_pool_size on {pooler.host}: postgres_max_connections of {site.max_connections} leaves {pooler.default_pool_size} for "
                f"{pooler.clients} requests at once, "
                f"which will wait for each other; set postgres_max_connections to {site.wanted}"
            )
    if site.max_connections is not None and site.max_connections > MANY:
        advice = "lower it" if site.pooling == "pgbouncer" else f"set throat_database_pooling to pgbouncer (it is {site.pooling})"
        lines.append(
            f"postgres_max_connections is {site.max_connections}: PostgreSQL runs a process for each, and more than {MANY} get in each other's way; "
            f"{advice}"
        )
    if site.max_connections is None and site.workers:
        lines.append(
            "postgres_max_connections: not set, and no host is in the group postgres: "
            f"make sure that your server admits {site.pooled + site.headroom} connections"
        )
    return lines


HEADER = ("host", "used by", "class", "at once", "pool or setting", "to PostgreSQL")


def table(site: Site) -> str:
    """Return a derived site as a table; hosts that are alike share their lines."""
    own = {pooler.host: pooler for pooler in site.poolers}
    blocks: dict[tuple[tuple[str, ...], ...], list[str]] = {}

    def pooler_line(pooler: Pooler) -> tuple[str, ...]:
        pool = f"{pooler.default_pool_size} + {pooler.reserve_pool_size} reserve"
        return ("pgbouncer", "", f"{pooler.clients} of {pooler.max_client_conn}", pool, str(pooler.share))

    for host in dict.fromkeys(worker.host for worker in site.workers):
        lines = []
        for worker in (worker for worker in site.workers if worker.host == host):
            if site.pooling == "pgbouncer":
                theirs = site.pooler_of.get(host, "-")
                lines.append((worker.name, worker.kind, str(worker.demand), "pgbouncer" if theirs == host else f"pgbouncer on {theirs}", ""))
            else:
                pool = f"peewee, {worker.processes} x {worker.pool}" if site.pooling == "peewee" else "postgres"
                lines.append((worker.name, worker.kind, str(worker.demand), pool, str(site.share(worker))))
        if host in own:
            lines.append(pooler_line(own.pop(host)))
        blocks.setdefault(tuple(lines), []).append(host)
    for pooler in own.values():
        blocks.setdefault((pooler_line(pooler),), []).append(pooler.host)

    rows = []
    for lines, hosts in blocks.items():
        name = hosts[0] if len(hosts) == 1 else f"{hosts[0]} ... {hosts[-1]} ({len(hosts)} hosts, each)"
        rows += [(name if index == 0 else "", *line) for index, line in enumerate(lines)]
    server = "whoever leads" if site.members else site.server or "server"
    rows.append((server, "migrations, backups, you", "", "", "throat_database_headroom", str(site.headroom)))
    if site.members:
        rows.append(("", "members of the cluster", "", "", f"{MEMBER_CONNECTIONS} for each", str(site.members)))
    rows.append(("", "superusers", "", "", "reserved by PostgreSQL", str(site.superuser_reserved)))
    limit = "unknown" if site.max_connections is None else str(site.max_connections)
    rows.append(("", "sum", "", "", "postgres_max_connections", f"{site.pooled + site.kept} of {limit}"))

    widths = [max(len(row[column]) for row in (HEADER, *rows)) for column in range(len(HEADER))]
    lines = [
        "  ".join(cell.rjust(width) if column in (3, 5) else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))).rstrip()
        for row in (HEADER, *rows)
    ]
    return "\n".join([f"Connection budget, throat_database_pooling: {site.pooling}", "", lines[0], "-" * max(map(len, lines)), *lines[1:]])


def connection_budget(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budget of an inventory.

    {"table": text, "violations": [line], "warnings": [line], "pooling": how, "max_connections": int,
     "poolers": {host: {default_pool_size, reserve_pool_size, max_db_connections, max_client_conn}}, "pooler_of": {app host: host},
     "tabs": open websockets at most}
    """
    site = derive(read_site(hostvars, groups, defaults))
    return {
        "table": table(site),
        "violations": violations(site),
        "warnings": warnings(site),
        "pooling": site.pooling,
        "max_connections": site.max_connections,
        "poolers": {pooler.host: {option: getattr(pooler, option) for option in POOLER_OPTIONS} for pooler in site.poolers},
        "pooler_of": dict(site.pooler_of),
        "tabs": sum(worker.connections for worker in site.workers if worker.kind == "socketio"),
    }
