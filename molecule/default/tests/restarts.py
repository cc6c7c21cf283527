"""Which units a run has started anew."""

from __future__ import annotations

from collections.abc import Callable

WORKERS = ["throat-sync", "throat-gevent", "throat-socketio"]
UNITS = [*WORKERS, "nginx", "pgbouncer", "redis-server", "postgresql@17-main"]


def restarted_since(host) -> Callable[..., set[str]]:
    """Return what to call for the units that systemd has started anew since the last call; all of them run, but for those that are named as gone."""

    def starts() -> dict[str, str]:
        return {unit: host.check_output("systemctl show -p InvocationID -p ActiveState %s", unit) for unit in UNITS}

    seen = starts()

    def ask(*gone: str) -> set[str]:
        nonlocal seen
        before, seen = seen, starts()
        assert all("ActiveState=active" in state for unit, state in seen.items() if unit not in gone)
        return {unit for unit in UNITS if before[unit] != seen[unit] and unit not in gone}

    return ask
