"""The gunicorn services of an app host: defaults of a worker entry, and what makes a set of them impossible."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

CLASSES = ("sync", "gevent", "socketio")
DEFAULTS: dict[str, dict[str, Any]] = {
    "sync": {"processes": 2, "threads": 1, "graceful_timeout": 30},
    # 40 bounds the database connections of the worker, as Throat's own documentation advises.
    "gevent": {"processes": 1, "connections": 40, "graceful_timeout": 30},
    # Each open browser tab holds one connection here, and none of the database.
    # An open websocket uses up the whole graceful timeout, so it is short.
    "socketio": {"processes": 1, "connections": 1000, "graceful_timeout": 5},
}
OPTIONS = ("name", "class", "processes", "threads", "connections", "database_connections", "listen", "graceful_timeout", "environment")
# Websockets ask the database now and then, so that a pool of this size serves thousands of them.
SOCKETIO_POOL = 10
# What proves that a worker serves: a page read from the database, or (socketio) a handshake.
HEALTH_PATHS = {"sync": "/all/new", "gevent": "/all/new", "socketio": "/socket.io/?EIO=4&transport=polling"}
# Name of the unit that restarts the async workers after Redis.
FOLLOWER = "follow-redis"


def site_name(config_name: str) -> str:
    """Return what the site of a configuration is called on its hosts: its user, directories, units and database.

    The underscore keeps them apart: throat-*.service are the units of one site and never those of throat_test.
    """
    return "throat" if config_name == "production" else f"throat_{config_name}"


def complete_workers(workers: Sequence[Mapping[str, Any]], address: str = "", port: int = 5000, site: str = "throat") -> list[dict[str, Any]]:
    """Return the worker entries with every option filled in, and `health_path` and `socket` (the name of its unit) added.

    address: where they listen that do not say so; empty for a unix socket each, in /run/<site>. Their ports follow from their class, so that
    a worker more or less moves no other: sync, gevent and socketio at `port` and the two after it, a second one of its class three further on.
    """
    completed: list[dict[str, Any]] = []
    for worker in workers:
        host = f"[{address}]" if ":" in address else address
        number = CLASSES.index(worker["class"]) + len(CLASSES) * sum(entry["class"] == worker["class"] for entry in completed)
        listen = f"{host}:{int(port) + number}" if address else f"/run/{site}/{worker['name']}.sock"
        entry = {"listen": listen, "socket": f"{site}-{worker['name']}", "environment": {}, **DEFAULTS[worker["class"]]}
        entry.update({key: value for key, value in worker.items() if value is not None})
        served = int(entry["threads"] if entry["class"] == "sync" else entry["connections"])
        entry.setdefault("database_connections", min(served, SOCKETIO_POOL) if entry["class"] == "socketio" else served)
        entry["health_path"] = HEALTH_PATHS[entry["class"]]
        completed.append(entry)
    return completed


def open_sockets(files: Mapping[str, Mapping[str, Any]], site: str = "throat") -> dict[str, str]:
    """Return the socket units of a host, {"throat-sync": "/run/throat/sync.sock"}; files: path to what the look has found."""
    found = {}
    for path, state in files.items():
        unit = re.fullmatch(rf"/etc/systemd/system/({site}-[a-z0-9_-]+)\.socket", path)
        listen = re.search(r"^ListenStream=(.*)$", state.get("content", ""), re.MULTILINE)
        if unit and listen and state.get("is_ours"):
            found[unit[1]] = listen[1]
    return found


def name_sockets(workers: Sequence[Mapping[str, Any]], files: Mapping[str, Mapping[str, Any]], site: str = "throat") -> list[dict[str, Any]]:
    """Return completed entries with the `socket` of those that move changed, and `open` (the units of the sockets that each has now) added.

    systemd opens a socket elsewhere only after it has closed it. So a worker that moves gets a second unit (throat-sync_2), and listens at both addresses
    until nginx asks at the new one.
    """
    there = open_sockets(files, site)
    named = []
    for worker in workers:
        unit = f"{site}-{worker['name']}"
        names = [unit, *(f"{unit}_{number}" for number in range(2, len(there) + 3))]
        mine = [name for name in names if there.get(name) == worker["listen"]] or [name for name in names if name not in there]
        named.append({**worker, "socket": mine[0], "open": [name for name in names if name in there]})
    return named


def socket_errors(workers: Sequence[Mapping[str, Any]], files: Mapping[str, Mapping[str, Any]], host: str, site: str = "throat") -> list[str]:
    """Return one line for each address that a worker would take from another one, which nginx asks there until it has been told."""
    lines = []
    for worker in workers:
        for unit, listen in open_sockets(files, site).items():
            if listen == worker["listen"] and re.sub(r"_\d+$", "", unit) != f"{site}-{worker['name']}":
                lines.append(
                    f"throat_gunicorn_workers: worker {worker['name']}: {listen} of {host} is where {unit}.socket listens, "
                    "which nginx asks until it has been told of "
                    "the change; set throat_gunicorn_listen_port to another one, ten further on for example, or give this worker a listen of its own"
                )
    return lines


def worker_errors(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line per reason why this set of worker entries cannot serve Throat."""
    if isinstance(workers, (str, Mapping)) or not all(isinstance(worker, Mapping) for worker in workers):
        return ["throat_gunicorn_workers: no list of entries; begin each with a dash, as in '- {name: gevent, class: gevent}'"]
    errors = []
    names: set[str] = set()
    for worker in workers:
        name, kind = str(worker.get("name", "")), worker.get("class")
        where = f"throat_gunicorn_workers: worker {name}"
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            errors.append(f"{where}: a name is made of lower-case letters, digits and dashes; rename it")
        if name in (FOLLOWER, "metrics", "firewall"):
            errors.append(f"{where}: this name belongs to a unit of ours; rename it")
        if name in names:
            errors.append(f"{where}: named twice; give each entry a name of its own")
        names.add(name)
        for option in sorted(set(worker) - set(OPTIONS)):
            near = difflib.get_close_matches(option, OPTIONS, n=1)
            errors.append(f"{where}: {option}: no such option; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(OPTIONS)}"))
        if kind not in CLASSES:
            errors.append(f"{where}: class is {kind or 'missing'}, but must be one of {', '.join(CLASSES)}")
            continue
        if kind == "socketio" and worker.get("processes") not in (None, 1, "1"):
            errors.append(f"{where}: processes is {worker['processes']}, but a socketio worker is always exactly 1 process; remove the line")
        if kind == "sync" and worker.get("connections") is not None:
            errors.append(f"{where}: connections is {worker['connections']}, but a sync worker takes processes and threads; remove the line")
        if kind != "sync" and worker.get("threads") not in (None, 1, "1"):
            errors.append(f"{where}: threads is {worker['threads']}, but only a sync worker has threads; remove the line")
        for option in ("processes", "threads", "connections", "database_connections"):
            value = worker.get(option)
            if value is not None and not (str(value).isdecimal() and int(value) >= 1):
                errors.append(f"{where}: {option} is {value}, but must be a whole number of 1 or more")
    kinds = [worker.get("class") for worker in workers]
    if set(kinds) - set(CLASSES):
        return errors
    if not {"gevent", "socketio"} & set(kinds):
        errors.append("throat_gunicorn_workers: no gevent or socketio worker, but log-in and posting need one; add a worker of class socketio")
    elif "socketio" not in kinds:
        errors.append("throat_gunicorn_workers: no socketio worker, but every page opens a websocket; add a worker of class socketio")
    if kinds.count("socketio") > 1:
        errors.append("throat_gunicorn_workers: two workers of class socketio, but exactly 1 process may serve websockets; remove one")
    return errors


def upstreams(hosts: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return nginx's upstreams, one per worker class in use: [{"name": class, "servers": [...], "sticky": whether a client stays with one server}].

    hosts: the completed entries of each app host; all entries of one class share an upstream.
    """
    made = []
    for kind in CLASSES:
        listens = [entry["listen"] for entries in hosts for entry in entries if entry["class"] == kind]
        if listens:
            servers = [f"unix:{listen}" if listen.startswith("/") else listen for listen in listens]
            made.append({"name": kind, "servers": servers, "sticky": kind == "socketio" and len(servers) > 1})
    return made


def units(workers: Sequence[Mapping[str, Any]], site: str = "throat", runtime: str = "native") -> list[dict[str, Any]]:
    """Return the systemd units of an app host: [{"name", "template", "worker"}], the socket of a worker before its service.

    workers: completed entries; runtime: native or container.
    """
    templates = {"socket": "throat.socket.j2", "service": "throat-container.service.j2" if runtime == "container" else "throat.service.j2"}
    made = []
    for worker in workers:
        names = {"socket": worker["socket"], "service": f"{site}-{worker['name']}"}
        made += [{"name": f"{names[kind]}.{kind}", "template": template, "worker": worker} for kind, template in templates.items()]
    return [*made, {"name": f"{site}-{FOLLOWER}.service", "template": f"throat-{FOLLOWER}.service.j2", "worker": None}]


def stand_in_units(worker: Mapping[str, Any], shares: Sequence[str], site: str = "throat", runtime: str = "native") -> list[dict[str, Any]]:
    """Return the units of the worker that serves while this one restarts, as units() does.

    It serves at some sockets of this one (`shares`), and has one of its own, at which it can be asked before the other is told to stop.
    """
    name = f"{worker['name']}_next"
    entry = {**worker, "name": name, "listen": f"/run/{site}/{name}.sock", "socket": f"{site}-{name}", "shares": list(shares)}
    return units([entry], site, runtime)[:-1]


def worker_states(
    workers: Sequence[Mapping[str, Any]],
    modified: Mapping[str, float],
    configs: Sequence[str],
    current: float,
    rewritten: Sequence[str] = (),
    site: str = "throat",
) -> dict[str, str]:
    """Return what each worker needs: {name: "restarted", "reloaded" or "started"}.

    A reload goes over to the live release and the configuration of now; a changed unit needs a restart.
    Decided by what is on disk, so that a run that was interrupted after a change is made good by the next one.
    modified: path to seconds of the last change, of the units, of configs and of /run/<site>/<site>-<name>.started, which systemd touches
    whenever it starts or reloads the worker; configs: paths of what gunicorn reads at a start or reload; current: when the live release was switched,
    infinite when this run has done it; rewritten: units that this run has written since.
    """
    states = {}
    for worker in workers:
        unit = f"{site}-{worker['name']}"
        began = modified.get(f"/run/{site}/{unit}.started", 0.0)
        files = [modified.get(f"/etc/systemd/system/{name}", 0.0) for name in (f"{worker['socket']}.socket", f"{unit}.service")]
        if unit in rewritten or max(files) > began:
            states[worker["name"]] = "restarted"
        else:
            states[worker["name"]] = "reloaded" if max(current, *(modified.get(config, 0.0) for config in configs)) > began else "started"
    return states
