"""The plan of a site: what an inventory says and what follows from it, for each host the arguments of each of its roles.

The variables of all hosts come in, everything that the roles read comes out: complete, converted and checked. A value that somebody
has set wins over one that follows from the hosts. Nothing of Ansible is in here; plugins/action/plan.py brings the inventory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import ipaddress
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from ansible_collections.throat.stack.plugins.plugin_utils import arguments, backup, budget, topology, workers
from ansible_collections.throat.stack.plugins.plugin_utils.checks import CHECKS, config_name_errors, source_errors
from ansible_collections.throat.stack.plugins.plugin_utils.database import redis_login

COLLECTION = pathlib.Path(__file__).parents[2]
# The workers first, since the others serve them.
ROLES = ("throat_gunicorn", "throat_backup", "throat_metrics", "monitoring", "etcd", "postgres", "haproxy", "pgbouncer", "redis", "nginx", "firewall")
# Those that are made and kept on the controller where nobody gives them: name to length, in letters and digits.
SECRETS = {"throat_database_password": 40, "throat_redis_password": 40, "throat_secret_key": 50, "throat_admin_password": 20, "throat_backup_key": 48}
# Where several hosts have the database, one more: by which they know each other.
CLUSTER_SECRETS = {"throat_cluster_password": 40}
# Groups of the inventory that a role is for.
GROUPS = topology.ROLE_GROUPS
SOCKET = {"host": "/run/postgresql"}
# Certificates by which members of a cluster know each other, and other hosts know them.
MEMBER_CERTIFICATE = {"etcd": "/etc/etcd/throat", "postgres": "/etc/patroni/throat"}
# Where HAProxy says on its host whether there is a leader.
LEADER_SOCKET = "/run/haproxy/throat-leader.sock"
# libyaml's, where PyYAML was built with it, takes a tenth of the time.
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# User of the system that Debian's exporters run as, by which PostgreSQL knows one.
EXPORTER = "prometheus"


@functools.cache
def options(name: str) -> dict[str, Any]:
    """Return the options of a role, or of the site as a whole ("site"), by its argument specification."""
    path = "playbooks/vars/site_spec.yml" if name == "site" else f"roles/{name}/meta/argument_specs.yml"
    return yaml.load((COLLECTION / path).read_bytes(), YAML_LOADER)["argument_specs"]["main"]["options"]


@functools.cache
def defaults() -> dict[str, Any]:
    """Return the default of every variable, of the site and of all roles."""
    return {name: value for owner in ("site", *ROLES) for name, value in arguments.defaults(options(owner)).items()}


def secrets_of(groups: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the secrets that a site needs, name to length."""
    return SECRETS | (CLUSTER_SECRETS if topology.cluster_members(groups) or topology.cluster_members(groups, "redis") else {})


def owner_of(name: str) -> str | None:
    """Return the role that a variable belongs to by its name, "site" for one of the site, None for somebody else's.

    Nobody's is also what an earlier plan of the same run has given a host, under the name of its role.
    """
    if name in ROLES and name not in options("site"):
        return None
    return next((role for role in ROLES if name.startswith(f"{role}_")), "site" if name.startswith("throat_") else None)


@dataclasses.dataclass(eq=False)
class Site:
    """An inventory, understood.

    given: host to the converted variables that somebody has set for it, with ansible_host; groups: group to its hosts.
    """

    given: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, Sequence[str]]
    needs_source: bool = True

    def value(self, host: str, name: str) -> Any:
        """Return what is set, else the default of the specification."""
        return self.given.get(host, {}).get(name, defaults()[name])

    def group(self, name: str) -> list[str]:
        return list(self.groups.get(name, ()))

    def first(self, name: str) -> str:
        """Return the first host of a group, empty where there is none."""
        return next(iter(self.group(name)), "")

    @functools.cached_property
    def hosts(self) -> list[str]:
        return self.group("throat")

    @functools.cached_property
    def name(self) -> str:
        """What all that belongs to the site bears on its hosts."""
        return workers.site_name(self.value(self.hosts[0], "throat_gunicorn_config_name"))

    @functools.cached_property
    def is_production(self) -> bool:
        """What a machine has once (PgBouncer, firewall, settings of the servers as a whole) belongs to this one; another site lives beside it."""
        return self.name == "throat"

    @functools.cached_property
    def apps(self) -> list[str]:
        return self.group("throat_gunicorn")

    @functools.cached_property
    def lock_host(self) -> str:
        """Where one run at a time is let go on: a host that no deploy can do without, whatever its limit. Any member of a cluster may be away."""
        database = "" if self.members else self.first("postgres")
        return database or self.first("throat_build") or self.first("throat_gunicorn") or self.hosts[0]

    @functools.cached_property
    def addresses(self) -> dict[str, str]:
        return topology.host_addresses(self.given, self.groups)

    @functools.cached_property
    def budget(self) -> dict[str, Any]:
        return budget.connection_budget(self.given, self.groups, defaults())

    @functools.cached_property
    def pooled(self) -> bool:
        return self.budget["pooling"] == "pgbouncer"

    @functools.cached_property
    def members(self) -> list[str]:
        """The hosts that keep the database together, none where one has it alone."""
        return topology.cluster_members(self.groups)

    @functools.cached_property
    def redis_members(self) -> list[str]:
        """The hosts that have Redis together, none where one has it alone."""
        return topology.cluster_members(self.groups, "redis")

    @functools.cached_property
    def workers(self) -> dict[str, list[dict[str, Any]]]:
        return topology.app_workers(self.given, self.groups, defaults())

    @functools.cached_property
    def is_one_host(self) -> bool:
        """Whether one host has all tiers; another one may watch it."""
        return len(self.hosts) - len(set(self.group("monitoring")) - set(topology.members(self.groups, topology.TIERS))) == 1

    def url(self, host: str) -> urllib.parse.SplitResult:
        """Return the public address with its name in lower case, since names have no case."""
        parts = urllib.parse.urlsplit(str(self.given[host].get("throat_public_url", "")).rstrip("/").lower())
        try:
            return parts if parts.port is None or parts.hostname else urllib.parse.urlsplit("")
        except ValueError:
            return urllib.parse.urlsplit("")

    def pooler_of(self, host: str) -> str:
        return self.budget["pooler_of"].get(host, "")

    def clients(self, tier: str, host: str) -> list[str]:
        """Return the other hosts that ask a tier on a host."""
        asking = {
            "postgres": [*self.apps, *self.budget["poolers"], *self.members],
            "pgbouncer": [app for app in self.apps if self.pooler_of(app) == host],
            "redis": [*self.apps, *self.redis_members],
            "throat_gunicorn": self.group("nginx"),
            "throat_metrics": self.group("monitoring"),
        }[tier]
        return [client for client in dict.fromkeys(asking) if client != host]

    def networks(self, hosts: Sequence[str]) -> list[str]:
        return [topology.as_network(self.addresses[host]) for host in hosts if _is_address(self.addresses[host])]

    def listening(self, tier: str, host: str) -> list[str]:
        """Return where a tier listens: where it does by itself, and at the host's address where others ask it."""
        return [*defaults()[f"{tier}_listen_addresses"], *([self.addresses[host]] if self.clients(tier, host) else [])]

    def roles(self, host: str) -> list[str]:
        """Return the roles of a host, in the order of ROLES."""
        groups = {name for name, hosts in self.groups.items() if host in hosts}
        mine = groups | ({"throat_gunicorn"} if "throat_build" in groups else set()) | ({"firewall"} if self.firewall(host) != "none" else set())
        mine |= {"throat_metrics"} if self.value(host, "throat_metrics") else set()
        mine |= {"throat_backup"} if self.value(host, "throat_backup") and ("postgres" in groups or self.sends_files(host)) else set()
        mine = mine - {"etcd"} | ({"etcd"} if host in topology.voters(self.groups) else set())
        asking = [*(self.apps if self.members or self.redis_members else []), *(self.budget["poolers"] if self.members else [])]
        mine |= {"haproxy"} if host in asking else set()
        return [role for role in ROLES if role in mine and (role != "pgbouncer" or self.pooled)]

    def firewall(self, host: str) -> str:
        """Where one host has it all, nothing listens where others reach it but the web server; and a machine has one firewall."""
        return self.given[host].get("throat_firewall") or ("none" if len(self.hosts) == 1 or not self.is_production else "services")

    def redis_port(self, host: str) -> int:
        """Pub/sub knows no database numbers, so that a site on the same machine has a Redis of its own."""
        return self.given.get(host, {}).get("redis_port", defaults()["redis_port"] if self.is_production else 6380)

    def sharing(self, host: str) -> list[str]:
        """Return the hosts that must all see what users have sent, where this is one of several."""
        places = list(dict.fromkeys([*self.apps, *self.group("nginx")]))
        return places if len(places) > 1 and host in places and self.value(host, "throat_shared_files") else []

    def is_watched(self, host: str) -> bool:
        return "throat_metrics" in self.roles(host)

    def sends_files(self, host: str) -> bool:
        """Whether it backs up what users have sent; what hosts share is backed up by the first of them."""
        return host in self.apps and (not self.sharing(host) or host == self.apps[0])

    # -- what follows from the hosts for each role; what somebody has set wins over it

    def for_postgres(self, host: str) -> dict[str, Any]:
        clients = self.clients("postgres", host)
        # The cluster is the machine's, and so is its archive. (A store that is gone holds pgBackRest for long, which looks as it begins at what may wait.)
        archives = self.is_production and "throat_backup" in self.roles(host)
        access = {"database": self.name, "user": self.name, "system_users": [self.name, "postgres"], "addresses": ["127.0.0.1/32", *self.networks(clients)]}
        told = {
            "postgres_site": self.name,
            "postgres_server_settings": self.is_production,
            # On a host of its own it may plan with all memory, beside the other tiers with half.
            "postgres_memory_percent": 50 if self.is_one_host else 100,
            "postgres_max_connections": self.budget["max_connections"] or defaults()["postgres_max_connections"],
            # A statement that goes on for longer is ended, before gunicorn ends the worker (60 s) and with it everybody's requests.
            "postgres_users": [{"name": self.name, "password": self.secret(host, "database_password"), "settings": {"statement_timeout": "30s"}}],
            "postgres_databases": [{"name": self.name, "owner": self.name}],
            # The application's commands (as its own user) and a pooler on this host (postgres) come over the unix socket, which spares them the password.
            "postgres_access": [access, *([{"database": "postgres", "user": EXPORTER, "system_users": [EXPORTER]}] if self.is_watched(host) else [])],
            "postgres_listen_addresses": self.listening("postgres", host),
            "postgres_archive_command": f"timeout 120 pgbackrest --stanza={self.name} archive-push %p" if archives else "",
            # One on this host is held by a unit beside the server; on any other there may be one of before, which workers ask until later in the run.
            "postgres_poolers": [{"host": other, "port": self.value(other, "pgbouncer_port")} for other in self.hosts if other != host],
        }
        return told | (self.as_member(host, access) if self.members else {})

    def as_member(self, host: str, access: dict[str, Any]) -> dict[str, Any]:
        """Return what PostgreSQL is told beyond that where several hosts have the database; what is on its own host comes by its address as well."""
        access["addresses"] += self.networks([host])
        pair = MEMBER_CERTIFICATE["postgres"]
        return {
            "postgres_members": [{"name": member, "address": self.addresses[member], "port": self.value(member, "postgres_port")} for member in self.members],
            "postgres_member": host,
            "postgres_etcd": [
                {"name": voter, "address": self.addresses[voter], "port": self.value(voter, "etcd_port")} for voter in topology.voters(self.groups)
            ],
            "postgres_etcd_certificate": f"{MEMBER_CERTIFICATE['etcd']}.pem",
            "postgres_etcd_password": self.member_secret(host, "etcd patroni"),
            "postgres_cluster_password": self.secret(host, "cluster_password"),
            # Of a switchover all poolers must be told, that of this host as well.
            "postgres_poolers": [
                {"host": other, "port": self.value(other, "pgbouncer_port"), "leader_socket": LEADER_SOCKET} for other in self.budget["poolers"]
            ],
            "postgres_tls_certificate": f"{pair}.pem",
            "postgres_tls_key": f"{pair}.key",
        }

    def for_etcd(self, host: str) -> dict[str, Any]:
        voters = topology.voters(self.groups)
        return {
            "etcd_member": host,
            "etcd_members": [{"name": voter, "address": self.addresses[voter], "peer_port": self.value(voter, "etcd_peer_port")} for voter in voters],
            "etcd_root_password": self.member_secret(host, "etcd root"),
            "etcd_users": [{"name": "patroni", "password": self.member_secret(host, "etcd patroni"), "prefix": "/service/"}],
        }

    def member_secret(self, host: str, name: str) -> str:
        """Return the password of a user of etcd or of Redis; made of the cluster's, which it does not tell."""
        return hashlib.sha256(f"{name} {self.secret(host, 'cluster_password')}".encode()).hexdigest()

    def for_haproxy(self, host: str) -> dict[str, Any]:
        asks_redis = bool(self.redis_members) and host in self.apps
        return {
            # Who has workers; a pooler alone asks no Redis.
            "haproxy_redis_servers": self.redis_addresses if asks_redis else [],
            "haproxy_redis_user": f"{self.value(self.first('redis'), 'redis_user')}-check" if asks_redis else None,
            "haproxy_redis_password": self.member_secret(host, "redis check") if asks_redis else None,
            "haproxy_servers": [
                {
                    "name": member,
                    "address": self.addresses[member],
                    "port": self.value(member, "postgres_port"),
                    "check_port": self.value(member, "postgres_patroni_port"),
                }
                for member in self.members
            ],
            "haproxy_server_certificate": f"{MEMBER_CERTIFICATE['postgres']}.pem" if self.members else "",
            "haproxy_leader_socket": LEADER_SOCKET,
            "haproxy_max_connections": self.budget["max_connections"] + 100,
        }

    def by_haproxy(self, host: str) -> dict[str, Any]:
        """Return where a host asks whoever leads. It is always itself that it asks, so that an address of PostgreSQL does not stand anywhere else."""
        return {"host": "127.0.0.1", "port": self.value(host, "haproxy_port")}

    def for_pgbouncer(self, host: str) -> dict[str, Any]:
        server = self.first("postgres")
        database: dict[str, Any] = {"name": self.name, "port": self.value(server, "postgres_port"), **SOCKET}
        if server != host or self.members:
            database |= self.by_haproxy(host) if self.members else {"host": self.addresses.get(server, "")}
            if host in self.apps:
                # Clients that came by the socket have left no password to hand on.
                database |= {"user": self.name, "password": self.secret(host, "database_password")}
        return {
            "pgbouncer_databases": [database],
            "pgbouncer_listen_addresses": self.listening("pgbouncer", host),
            "pgbouncer_client_networks": self.networks(self.clients("pgbouncer", host)),
            "pgbouncer_users": [{"name": self.name, "password": self.secret(host, "database_password"), "peer": True}],
            "pgbouncer_pause_for_postgresql": "main" if host in self.group("postgres") and not self.members else "",
            # Clients wait while nobody leads, longer than it takes to choose another one.
            **({"pgbouncer_leader_socket": LEADER_SOCKET, "pgbouncer_query_wait_timeout": 40} if self.members else {}),
            **{f"pgbouncer_{name}": value for name, value in self.budget["poolers"].get(host, {}).items()},
        }

    def for_redis(self, host: str) -> dict[str, Any]:
        return {
            "redis_instance": "" if self.is_production else self.name,
            "redis_port": self.redis_port(host),
            "redis_password": self.secret(host, "redis_password"),
            "redis_listen_addresses": self.listening("redis", host),
            "redis_metrics_password": self.redis_metrics_password(host) if self.is_watched(host) else "",
            **(self.as_redis_member(host) if self.redis_members else {}),
        }

    @property
    def redis_addresses(self) -> list[dict[str, Any]]:
        """Where the hosts that have Redis together are reached."""
        return [
            {"name": member, "address": self.addresses[member], "port": self.redis_port(member), "sentinel_port": self.value(member, "redis_sentinel_port")}
            for member in self.redis_members
        ]

    def as_redis_member(self, host: str) -> dict[str, Any]:
        return {
            "redis_members": self.redis_addresses,
            "redis_member": host,
            "redis_member_password": self.member_secret(host, "redis member"),
            "redis_check_password": self.member_secret(host, "redis check"),
        }

    def redis_metrics_password(self, host: str) -> str:
        """Of a user who may ask how Redis is, and nothing else; made of the password, which it does not tell."""
        return hashlib.sha256(f"metrics {self.secret(host, 'redis_password')}".encode()).hexdigest()

    def redis_url(self, host: str) -> str:
        server = self.first("redis") or host
        address, port = "127.0.0.1" if server == host else self.addresses[server], self.redis_port(server)
        if self.redis_members:
            # HAProxy's, which leads to whoever leads.
            address, port = "127.0.0.1", self.value(host, "haproxy_redis_port")
        password = self.given.get(server, {}).get("redis_password", self.secret(host, "redis_password"))
        return f"redis://{self.value(server, 'redis_user')}:{redis_login(password or '')}@{_authority(address, port)}/0"

    def database(self, host: str, server: str, port: int) -> dict[str, Any]:
        """Return how a host asks a database server.

        On the same host the operating system vouches for it over the unix socket, which spares the password and most of the time;
        from elsewhere it proves the password, inside TLS, to a server that shows the very certificate that was read from its host.
        """
        if server == host:
            return {**SOCKET, "port": port}
        return {"host": self.addresses.get(server, ""), "port": port, "sslmode": "verify-ca", "sslrootcert": f"/etc/{self.name}/database.pem"}

    def leader(self, host: str, port: int) -> dict[str, Any]:
        """Return how a host asks PostgreSQL without a pooler: in a cluster by itself alone, with the certificates of all members to compare."""
        if self.members:
            return {**self.by_haproxy(host), "sslmode": "verify-ca", "sslrootcert": f"/etc/{self.name}/database.pem"}
        return self.database(host, self.first("postgres"), port)

    def database_host(self, host: str) -> str:
        """Return whom the workers of a host ask: their pooler, or PostgreSQL itself."""
        return self.pooler_of(host) if self.pooled else self.first("postgres")

    def for_throat_gunicorn(self, host: str) -> dict[str, Any]:
        server, asked = self.first("postgres"), self.database_host(host)
        # In a cluster the leader is mostly on another host, and never asked by the socket.
        is_far = bool(self.members) and not self.pooled
        url, secret = self.url(host), self.secret(host, "database_password")
        port = self.value(server, "postgres_port")
        migrations = self.leader(host, port) | ({} if server == host and not self.members else {"password": secret})
        beside = {name for name, hosts in self.groups.items() if host in hosts}
        beside |= ({"postgres"} if self.members else set()) | ({"redis"} if self.redis_members else set())
        redis = self.given[host].get("redis_instance", "" if self.is_production else self.name)
        units = {
            "postgres": "haproxy.service" if self.members else "postgresql.service",
            "pgbouncer": "pgbouncer.service",
            "redis": "haproxy.service" if self.redis_members else f"redis-server{f'@{redis}' if redis else ''}.service",
        }
        return {
            "throat_gunicorn_server_name": url.netloc,
            "throat_gunicorn_uploads_url": f"{url.geturl()}/media/uploads/",
            "throat_gunicorn_thumbnails_url": f"{url.geturl()}/media/thumbs/",
            "throat_gunicorn_secret_key": self.secret(host, "secret_key"),
            "throat_gunicorn_previous_secret_key": self.secret(host, "previous_secret_key"),
            "throat_gunicorn_database_password": "" if asked == host and not is_far else secret,
            "throat_gunicorn_database": {
                **(self.database(host, asked, self.value(asked, "pgbouncer_port")) if self.pooled else self.leader(host, port)),
                "name": self.name,
                "user": self.name,
            },
            "throat_gunicorn_database_pool": self.budget["pooling"] == "peewee",
            "throat_gunicorn_migration_database": migrations,
            "throat_gunicorn_redis_url": self.redis_url(host),
            "throat_gunicorn_admin": {"name": self.value(host, "throat_admin_name"), "password": self.secret(host, "admin_password")},
            "throat_gunicorn_build_host": self.first("throat_build"),
            "throat_gunicorn_dump_host": server,
            # HAProxy is not where the dump is made.
            **({"throat_gunicorn_dump_port": port} if self.members else {}),
            "throat_gunicorn_web_servers": ["127.0.0.1" if web == host else self.addresses[web] for web in self.group("nginx")],
            # On unix sockets, unless a web server on another host asks them.
            "throat_gunicorn_listen_address": self.addresses[host] if self.clients("throat_gunicorn", host) else "",
            # nginx itself, and each proxy in front of it.
            "throat_gunicorn_trusted_proxy_count": 1 + len(self.value(host, "throat_proxies")),
            "throat_gunicorn_state_is_mounted": bool(self.sharing(host)),
            "throat_gunicorn_local_services": list(dict.fromkeys(unit for tier, unit in units.items() if tier in beside)),
        }

    def for_nginx(self, host: str) -> dict[str, Any]:
        url = self.url(host)
        classes = {entry["class"] for entries in self.workers.values() for entry in entries}
        upload = self.value(host, "throat_gunicorn_upload_max_size")
        return {
            "nginx_site": self.name,
            "nginx_server_name": url.hostname or "",
            "nginx_https_port": (url.port if url.scheme == "https" else None) or 443,
            "nginx_http_port": self.http_port(host),
            "nginx_upstreams": workers.upstreams(list(self.workers.values())),
            "nginx_default_upstream": next((kind for kind in workers.CLASSES if kind in classes), "sync"),
            "nginx_async_upstream": next((kind for kind in ("gevent", "socketio") if kind in classes), "socketio"),
            "nginx_acme_peers": self.acme_peers(host),
            **self.for_keepalived(host),
            "nginx_tls_certificate": f"/etc/ssl/certs/{self.name}.pem",
            "nginx_tls_key": f"/etc/ssl/private/{self.name}.key",
            # Two for each open browser tab, and some for pages and files.
            "nginx_worker_connections": max(defaults()["nginx_worker_connections"], 2 * self.budget["tabs"] + 1024) if self.is_production else 0,
            "nginx_proxies": self.value(host, "throat_proxies"),
            # As large as the application allows an upload to be, and some room for the form around it.
            "nginx_client_max_body_size": f"{(upload + 1048576) // 1024}k",
            # A link in a directory of its own, where the files of a release stand before it serves, and bundles stay for pages that are open.
            "nginx_static_dir": f"/var/www/{self.name}/static/live" if self.apps else defaults()["nginx_static_dir"],
            "nginx_uploads_dir": f"/var/lib/{self.name}/uploads",
            "nginx_thumbnails_dir": f"/var/lib/{self.name}/thumbs",
        }

    def acme_peers(self, host: str) -> list[str]:
        """Return the other web servers, each as address and http port, where any of them has its certificate from an authority, which may ask any."""
        webs = self.group("nginx")
        asked = "acme" in [self.value(web, "nginx_tls_mode") for web in webs]
        return [_authority(self.addresses[web], self.http_port(web)) for web in webs if asked and web != host]

    def for_keepalived(self, host: str) -> dict[str, Any]:
        """Return what a web server is told of the addresses that all of them have together, nothing where there are none."""
        webs = self.group("nginx")
        if len(webs) < 2 or not self.value(host, "throat_virtual_addresses"):
            return {}
        return {
            "nginx_virtual_addresses": self.value(host, "throat_virtual_addresses"),
            "nginx_virtual_own_address": _canonical(self.addresses[host]),
            "nginx_virtual_peers": [_canonical(self.addresses[web]) for web in webs if web != host],
            "nginx_virtual_priority": max(1, 200 - webs.index(host)),
        }

    def http_port(self, host: str) -> int:
        url = self.url(host)
        return self.given[host].get("nginx_http_port") or (url.port if url.scheme == "http" else None) or 80

    def for_throat_backup(self, host: str) -> dict[str, Any]:
        state = f"/var/lib/{self.name}"
        sends = self.sends_files(host)
        return {
            "throat_backup_site": self.name,
            "throat_backup_key": self.secret(host, "backup_key"),
            "throat_backup_database": self.name if host in self.group("postgres") else "",
            "throat_backup_cluster": self.is_production,
            "throat_backup_members": self.members if host in self.members else [],
            "throat_backup_postgres_port": self.value(host, "postgres_port"),
            "throat_backup_files": [f"{state}/uploads", f"{state}/thumbs", f"/etc/{self.name}"] * sends,
            "throat_backup_mount": state if sends and self.sharing(host) else "",
        }

    def for_throat_metrics(self, host: str) -> dict[str, Any]:
        tiers = [tier for tier in ("postgres", "redis", "nginx") if tier in self.roles(host)]
        redis = self.arguments(host, "redis") if "redis" in tiers else {}
        return {
            "throat_metrics_site": self.name,
            "throat_metrics_exporters": ["node", *tiers, *(["mtail"] if "nginx" in tiers else [])],
            "throat_metrics_listen_address": self.addresses[host] if self.clients("throat_metrics", host) else "127.0.0.1",
            "throat_metrics_postgres_port": self.value(host, "postgres_port"),
            **({f"throat_metrics_redis_{name}": redis[name] for name in ("port", "user")} if redis else {}),
            "throat_metrics_redis_address": redis["listen_addresses"][0] if redis else None,
            "throat_metrics_redis_password": redis.get("metrics_password"),
        }

    def for_monitoring(self, host: str) -> dict[str, Any]:
        watched = {other: self.arguments(other, "throat_metrics") for other in self.hosts if self.is_watched(other)}
        return {
            "monitoring_site": self.name,
            "monitoring_targets": [
                {"host": other, "exporter": name, "address": _authority(made["listen_address"], made["ports"][name])}
                for other, made in watched.items()
                for name in made["exporters"]
            ],
        }

    def for_firewall(self, host: str) -> dict[str, Any]:
        tiers = [tier for tier in ("postgres", "pgbouncer", "redis") if host in self.group(tier)]
        ports = {"postgres": self.value(host, "postgres_port"), "pgbouncer": self.value(host, "pgbouncer_port"), "redis": self.redis_port(host)}
        clients = {tier: self.clients(tier, host) for tier in ("postgres", "pgbouncer")} | {"throat_gunicorn": self.group("nginx")}
        clients["redis"] = self.clients("redis", host) if self.redis_members else self.apps
        web = self.arguments(host, "nginx") if host in self.group("nginx") else None
        # Exporters ask for no password.
        watching = [self.addresses[other] for other in self.clients("throat_metrics", host)] if self.is_watched(host) else []
        told = self.arguments(host, "throat_metrics") if watching else {"exporters": [], "ports": {}}
        exporters = [{"name": f"{name}-exporter", "port": told["ports"][name], "addresses": watching} for name in told["exporters"]]
        exporters += self.member_ports(host)
        services = topology.guarded_services(tiers, ports, clients, self.addresses, self.workers.get(host, []) if host in self.apps else [])
        return {
            "firewall_policy": "host" if self.firewall(host) == "host" else "services",
            "firewall_services": services + exporters,
            "firewall_public_ports": [web["http_port"], web["https_port"]] if web else [],
            "firewall_vrrp_peers": web["virtual_peers"] if web else [],
        }

    def member_ports(self, host: str) -> list[dict[str, Any]]:
        """Return the ports by which members of a cluster agree on who leads, as the firewall is told."""
        found, voters = [], topology.voters(self.groups)

        def port(name: str, variable: str, clients: Sequence[str]) -> None:
            addresses = [self.addresses[client] for client in dict.fromkeys(clients) if client != host]
            found.append({"name": name, "port": self.value(host, variable), "addresses": addresses})

        if host in voters:
            port("etcd", "etcd_port", [*voters, *self.members])
            port("etcd-peers", "etcd_peer_port", voters)
        if host in self.members:
            port("patroni", "postgres_patroni_port", [*self.members, *self.apps, *self.budget["poolers"]])
        if host in self.redis_members:
            port("sentinel", "redis_sentinel_port", [*self.redis_members, *self.apps])
        return found

    def secret(self, host: str, name: str) -> str | None:
        return self.given.get(host, {}).get(f"throat_{name}")

    @functools.cached_property
    def arguments(self) -> Callable[[str, str], dict[str, Any]]:
        """What returns a role's arguments on a host, without the role's name in front of each; it works them out once."""
        return functools.cache(self.work_out)

    def work_out(self, host: str, role: str) -> dict[str, Any]:
        derived = getattr(self, f"for_{role}")(host)
        wanted = {name: derived[name] if derived.get(name) is not None else default for name, default in arguments.defaults(options(role)).items()}
        wanted |= {name: value for name, value in self.given[host].items() if name in wanted}
        # Fills in what nested options leave out.
        complete = {name: arguments.converted(name, options(role)[name], value)[0] if value is not None else None for name, value in wanted.items()}
        made = {name.removeprefix(f"{role}_"): value for name, value in complete.items()}
        return {**made, "site": self.name} if role == "throat_gunicorn" else made

    def facts(self, host: str) -> dict[str, Any]:
        """Return what playbooks ask beyond the roles' arguments."""
        web = self.arguments(self.first("nginx"), "nginx") if self.first("nginx") else None
        given, server, pooler = self.given[host], self.first("postgres"), self.pooler_of(host)
        return {
            "name": self.name,
            "is_production": self.is_production,
            "roles": self.roles(host),
            # As which the others let it in.
            "networks": self.networks([host]),
            "firewall": self.firewall(host),
            "pooling": self.budget["pooling"],
            "public_url": self.url(host).geturl(),
            "check_url": given.get("throat_check_url") or self.url(host).geturl(),
            "check_certificate": given.get("throat_check_certificate", bool(web) and web["tls_mode"] != "self_signed"),
            "admin": given.get("throat_gunicorn_admin", {}).get("name", self.value(host, "throat_admin_name")),
            "secrets_dir": given.get("throat_secrets_dir", ""),
            "backup_warning": self.backup_warning(),
            # Hosts whose certificate this one must know, empty where there is none to ask but itself.
            "database_hosts": self.members or [name for name in [server] if name not in ("", host)],
            # The hosts that keep the database together, where several do.
            "members": self.members,
            "pooler_host": "" if pooler == host else pooler,
            "database_certificate": self.arguments(server, "postgres")["tls_certificate"] if server else self.value(server, "postgres_tls_certificate"),
            "database_port": self.value(server, "postgres_port"),
            "pooler_certificate": self.value(pooler, "pgbouncer_tls_certificate"),
            "pooler_port": self.value(pooler, "pgbouncer_port"),
            "sharing": self.sharing(host),
            # The host that builds releases.
            "builder": (self.group("throat_build") + self.apps + [host])[0],
            "apps": self.apps,
            "lock_host": self.lock_host,
            # Whether web servers take the static files of each release, or the operator has a directory for them.
            "publishes": bool(self.apps) and "nginx_static_dir" not in given,
            "workers": [entry["name"] for entry in self.workers.get(host, [])] if host in self.apps else [],
            "web_servers": len(self.group("nginx")),
            # With the defaults of those that are left out.
            "status_limits": arguments.converted("throat_status_limits", options("site")["throat_status_limits"], self.value(host, "throat_status_limits"))[0],
        }

    def backup_warning(self) -> str:
        """Return what to say at the end of a run where what is backed up is lost with its backups."""
        backed = [host for host in self.hosts if "throat_backup" in self.roles(host)]
        alone = [host for host in backed if all(found["is_own"] for found in backup.repositories(self.arguments(host, "throat_backup")))]
        if not backed:
            return "There are no backups (throat_backup is false)."
        return (
            f"The backups of {', '.join(alone)} are on its own disk, which is no backup when the disk goes: name another place in throat_backup_repositories, "
            "and keep a copy of throat_backup_key elsewhere."
            if alone
            else ""
        )

    def notes(self) -> list[str]:
        """Return one line for each thing that works, and is not what somebody with several hosts means."""
        leaning = [app for app in self.apps if self.pooler_of(app) in self.members and self.pooler_of(app) != app]
        return [
            f"pgbouncer: {app} asks the PgBouncer of {self.pooler_of(app)}, and loses the database with that host although another one leads; "
            f"put {app} into the group pgbouncer"
            for app in leaning
        ]

    # -- what makes an inventory impossible

    def refusals(self) -> list[str]:
        """Return one line per reason why the inventory cannot work."""
        lines = topology.group_errors(self.given, self.groups)
        for name in GROUPS:
            outside = [host for host in self.group(name) if host not in self.hosts]
            lines += [f"{host}: in the group {name}, but not in throat, which has all hosts of the site; put {name} below throat" for host in outside]
        names = list(dict.fromkeys(self.value(host, "throat_gunicorn_config_name") for host in self.hosts))
        if len(names) > 1:
            return [*lines, f"throat_gunicorn_config_name: {' and '.join(names)}; set it once, for the group throat"]
        if said := config_name_errors(names[0]):
            return said
        taken = [] if self.is_production else self.taken()
        # Nothing can be said of hosts that are not known; and a second site does not lack the pooler that it may not have.
        if lines:
            return taken or lines
        lines = taken
        for host in self.hosts:
            url = str(self.given[host].get("throat_public_url", ""))
            if url and not (re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+/?", url) and self.url(host).hostname):
                lines.append(f"throat_public_url: {url} is no address; write it as https://throat.example.com, without a path")
            elif _is_address(self.url(host).hostname or ""):
                lines.append(
                    f"throat_public_url: {url} is a number, which no certificate is for; "
                    "write a name that leads to the web server, as https://throat.example.com"
                )
        lines += topology.address_errors(self.given, self.groups)
        lines += self.watch_errors()
        lines += self.web_errors()
        lines += self.budget["violations"]
        lines += self.member_errors()
        for host in self.hosts:
            for role in self.roles(host):
                made = self.arguments(host, role)
                said = arguments.missing(options(role), {f"{role}_{name}": value for name, value in made.items()})
                # A secret of the site that is missing has been named as such.
                named = [name for name in SECRETS if name in options("site") and self.secret(host, name.removeprefix("throat_")) in (None, "")]
                lines += [] if named and role != "throat_backup" else said
                lines += self.blamed(host, CHECKS[role](made))
                if role == "throat_gunicorn" and self.needs_source:
                    lines += source_errors(made)
        return list(dict.fromkeys(lines))

    def member_errors(self) -> list[str]:
        """Return one line for each thing that does not go together with a database, or Redis, on several hosts, or not yet."""
        lines = []
        asking = dict.fromkeys([*self.members, *topology.voters(self.groups), *self.redis_members, *(self.apps if self.redis_members else [])])
        secrets = {self.secret(host, "cluster_password") or "" for host in asking}
        if "" not in secrets and len(secrets) > 1:
            lines.append(f"throat_cluster_password: not the same for all of {', '.join(asking)}, who know each other by it; set it once, for the group throat")
        if "" in secrets:
            hosts = ", ".join(dict.fromkeys([*self.members, *self.redis_members]))
            lines.append(
                f"throat_cluster_password: not set, but required (by it {hosts} know each other{', and etcd them' if self.members else ''}); "
                "make one (openssl rand -hex 24), and keep it in a vault"
            )
        lines += self.redis_member_errors() if self.redis_members else []
        if not self.members:
            return lines
        hosts = ", ".join(self.members)
        kept = [self.arguments(host, "throat_backup") for host in self.members if "throat_backup" in self.roles(host)]
        whole = [made for made in kept if not backup.repository_errors(made["repositories"])]
        if any(found["is_own"] for made in whole for found in backup.repositories(made)):
            lines.append(
                f"throat_backup_repositories: a directory of each host's own, as is the default, but whichever of {hosts} leads goes on with the same backups; "
                "name a place that all of them reach (type sftp or s3, or the path of a directory that is mounted on each), and nothing else"
            )
        elif kept and (len(kept) < len(self.members) or any(made[name] != kept[0][name] for made in kept for name in ("key", "repositories"))):
            said = f"not the same for all of {hosts}, but whichever leads goes on with the same backups; set it once, for the group postgres"
            lines.append(f"throat_backup_repositories: {said}")
        if not self.is_production:
            lines.append(f"postgres: {hosts} are in this group, but a cluster belongs to the site of the configuration production; name one host")
        for name in ("postgres_port", "postgres_patroni_port"):
            values = list(dict.fromkeys(self.value(host, name) for host in self.members))
            if len(values) > 1:
                lines.append(f"{name}: {' and '.join(map(str, values))}, but is the same for all of {hosts}; set it once, for the group postgres")
        return lines

    def redis_member_errors(self) -> list[str]:
        hosts, lines = ", ".join(self.redis_members), []
        if not self.is_production:
            lines.append(f"redis: {hosts} are in this group, but a cluster belongs to the site of the configuration production; name one host")
        for name in ("redis_user", "redis_password"):
            if len({self.given[host].get(name) for host in self.redis_members}) > 1:
                lines.append(f"{name}: not the same for all of {hosts}, but whichever leads lets in the same workers; set it once, for the group redis")
        return lines

    def watch_errors(self) -> list[str]:
        """Return one line for each thing that a Prometheus of the inventory could not ask, or that others could ask as well."""
        watched = [host for host in self.hosts if self.is_watched(host)]
        if self.group("monitoring") and not watched:
            hosts = ", ".join(self.group("monitoring"))
            said = "but throat_metrics is false everywhere, so that there is nothing to ask; set it for the group throat"
            return [f"monitoring: {hosts} is in this group, {said}"]
        return [
            f"throat_firewall of {host}: none, but its exporters, which ask for no password, listen at {self.addresses[host]} for "
            f"{', '.join(self.clients('throat_metrics', host))}; set services, or take the line out"
            for host in watched
            if self.clients("throat_metrics", host) and self.firewall(host) == "none"
        ]

    def web_errors(self) -> list[str]:
        """Return one line for each certificate that web servers would not get, or that nobody has named."""
        lines: list[str] = []
        by_mode = {mode: [host for host in self.group("nginx") if self.value(host, "nginx_tls_mode") == mode] for mode in ("acme", "files", "none")}
        if by_mode["acme"] and by_mode["none"]:
            lines.append(
                f"nginx_tls_mode: acme on {', '.join(by_mode['acme'])}, but none on {', '.join(by_mode['none'])}, where the authority may ask as well "
                "and find no challenge; set one of them for all web servers"
            )
        webs = self.group("nginx")
        shared = {host: self.value(host, "throat_virtual_addresses") for host in webs}
        named = next(filter(None, shared.values()), []) if self.is_production else []
        if named and len(webs) == 1:
            lines.append(f"throat_virtual_addresses: {', '.join(named)}, but {webs[0]} is the only web server; add another one to the group nginx")
        elif named and len({tuple(addresses) for addresses in shared.values()}) > 1:
            lines.append(f"throat_virtual_addresses: not the same for all of {', '.join(webs)}, who have them together; set it once, for the group throat")
        elif taken := [host for host in self.hosts if _canonical(self.addresses[host]) in {_canonical(address.partition("/")[0]) for address in named}]:
            lines.append(
                f"throat_virtual_addresses: {self.addresses[taken[0]]} is the address of {taken[0]}, which has it alone; name one that no host has"
            )
        unnamed = [name for name in ("nginx_tls_certificate", "nginx_tls_key") if any(not self.given[host].get(name) for host in by_mode["files"])]
        if unnamed:
            # By default they are where the self-signed one is, which would go on serving.
            lines.append(
                f"{' and '.join(unnamed)}: not set, but required with nginx_tls_mode files; "
                "set the paths that the certificate with its chain, and its key, have on the web servers"
            )
        return lines

    def blamed(self, host: str, lines: Sequence[str]) -> list[str]:
        """Return refusals of a role with the name of what somebody has set, where the role was told something that follows from it."""
        origins = {
            "nginx_proxies": "throat_proxies",
            "nginx_virtual_addresses": "throat_virtual_addresses",
            **dict.fromkeys(("postgres_users", "pgbouncer_users"), "throat_database_password"),
        }
        renamed = []
        for line in lines:
            name, _colon, said = line.partition(":")
            origin = origins.get(name) if name not in self.given[host] else None
            # (The addresses that a firewall is told are refused as such.)
            if name in self.given[host] or name != "firewall_services":
                renamed.append(f"{origin or name}:{said}")
        return renamed

    def taken(self) -> list[str]:
        """Return one line for each thing of the machine that belongs to the site of the configuration production."""
        lines = []
        for host in self.hosts:
            given, made = self.given[host], self.for_redis(host)
            if given.get("throat_database_pooling", "pgbouncer") == "pgbouncer":
                lines.append(
                    "throat_database_pooling: pgbouncer, but the machine's PgBouncer belongs to the site of the configuration production; "
                    "set peewee or none"
                )
            if self.firewall(host) != "none":
                lines.append(
                    f"throat_firewall: {self.firewall(host)}, but the machine's firewall belongs to the site of the configuration production; "
                    "remove the line, and open there what this site needs"
                )
            if self.value(host, "throat_virtual_addresses"):
                lines.append(
                    "throat_virtual_addresses: set, but the machine's keepalived belongs to the site of the configuration production; "
                    "remove the line, and let this site's name lead to that one's addresses"
                )
            if self.value(host, "throat_metrics"):
                lines.append(
                    "throat_metrics: true, but the machine's exporters belong to the site of the configuration production, and tell of this one's "
                    "database as well; remove the line"
                )
            instance, port = given.get("redis_instance", made["redis_instance"]), made["redis_port"]
            if instance == "" or port == defaults()["redis_port"]:
                lines.append(
                    f"{'redis_instance: empty' if instance == '' else f'redis_port: {port}'}, but that is the Redis of the site of the configuration "
                    "production, and two sites in one Redis hear each other's messages; remove the line"
                )
        return lines


def _authority(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _canonical(address: str) -> str:
    """Return an IP address as programs write it, anything else as it is."""
    return str(ipaddress.ip_address(address)) if _is_address(address) else address


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def read(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], needs_source: bool = True) -> tuple[Site, list[str]]:
    """Return (the site of an inventory, one line for each variable that cannot be understood or is missing).

    variables: host to all its variables, raw; those of others are ignored.
    """
    known = {name: option for owner in ("site", *ROLES) for name, option in options(owner).items()}
    given, lines = {}, []
    for host, theirs in variables.items():
        where = f" on {host}" if len(variables) > 1 else ""
        mine = {name: value for name, value in theirs.items() if owner_of(name) and not name.startswith("__")}
        values: dict[str, Any] = {}
        for owner in ("site", *ROLES):
            raw = {name: value for name, value in mine.items() if owner_of(name) == owner}
            # Said in the words of somebody who writes workers, rather than those of a specification.
            entries = arguments.structured(raw.get("throat_gunicorn_workers"))
            if entries is not None and (said := workers.worker_errors(entries)):
                lines += [line.replace(":", f"{where}:", 1) for line in said]
                del raw["throat_gunicorn_workers"]
            converted, said = arguments.convert(options(owner), raw, where)
            values |= converted
            lines += said
        lines += arguments.misspelt_prefixes(theirs, known)
        refused = {line.partition(":")[0].removesuffix(where) for line in lines}
        lines += arguments.missing({name: option for name, option in options("site").items() if name not in refused}, values)
        given[host] = {**values, **{name: str(theirs[name]) for name in ("ansible_host",) if theirs.get(name)}}
    return Site(given, groups, needs_source), list(dict.fromkeys(lines))


def gathered(lines: Sequence[str], hosts: Sequence[str]) -> list[str]:
    """Return each refusal once: what is said of several hosts in one line of all of them, and nothing that only follows from another one."""
    same: dict[tuple[str, str], list[str]] = {}
    for line in dict.fromkeys(lines):
        found = re.fullmatch(r"(\S+) on (\S+): (.*)", line, re.DOTALL)
        name, host, said = found.groups() if found and found[2] in hosts else (line, "", "")
        same.setdefault((name, said), []).append(host)
    # A repository that cannot be understood is no directory of the host either.
    is_unclear = any(re.match(r"throat_backups?_repositor[a-z]*(\.|$)", name) and said for name, said in same)
    found = []
    for (name, said), named in same.items():
        if said:
            found.append(f"{name} on {'all hosts' if len(named) == len(hosts) > 1 else ', '.join(named)}: {said}")
        elif not (is_unclear and name.startswith("throat_backup_repositories: a directory of each host's own")):
            found.append(name)
    return found


def make(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], needs_source: bool = True) -> dict[str, Any]:
    """Return the plan: {"refusals": [line], "notes": [line], "budget": table, "violations": [line], "hosts": {host: its part}}.

    The part of a host is {"site": what playbooks ask, role: its arguments}. Where there are refusals, "hosts" is empty;
    "violations" are those of them that say which connections do not fit.
    needs_source: whether the run builds a release, so that a source that is not there is refused.
    """
    site, lines = read(variables, groups, needs_source)
    lines = gathered([*lines, *site.refusals()], site.hosts)
    hosts = {} if lines else {host: {"site": site.facts(host), **{role: site.arguments(host, role) for role in site.roles(host)}} for host in site.hosts}
    told = site.budget
    return {"refusals": lines, "notes": [*told["warnings"], *site.notes()], "budget": told["table"], "violations": told["violations"], "hosts": hosts}


def role_arguments(role: str, variables: Mapping[str, Any], facts: Mapping[str, Any], host: str) -> tuple[dict[str, Any], list[str]]:
    """Return (the arguments of a role that is used by itself, one line per error).

    variables: raw, all that begin with the role's name; facts: ansible_facts, for the platform where they are gathered.
    """
    values, lines = arguments.convert(options(role), variables)
    refused = {line.partition(":")[0] for line in lines}
    lines += arguments.missing({name: option for name, option in options(role).items() if name not in refused}, values)
    complete = {name.removeprefix(f"{role}_"): values.get(name, default) for name, default in arguments.defaults(options(role)).items()}
    if not lines:
        lines = CHECKS[role](complete) + (source_errors(complete) if role == "throat_gunicorn" else [])
    if not lines and role == "throat_gunicorn":
        complete["site"] = workers.site_name(complete["config_name"])
    return complete, lines + platform_errors([role], host, facts)


def platform_errors(roles: Sequence[str], host: str, facts: Mapping[str, Any]) -> list[str]:
    """Return one line for each of these roles that does not support the host's distribution, nothing where it is not known."""
    metas = [(role, yaml.load((COLLECTION / f"roles/{role}/meta/main.yml").read_bytes(), YAML_LOADER)) for role in roles]
    return arguments.platform_errors(metas, host, facts) if "distribution" in facts else []
