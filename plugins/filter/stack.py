"""Filters of throat.stack: thin names for the pure functions in plugin_utils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.throat.stack.plugins.plugin_utils import budget, build, database, routes, topology, workers


def _filter(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise AnsibleFilterError(str(error)) from None

    return wrapped


class FilterModule:
    """Names of the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        functions = (
            budget.connection_budget,
            build.override_npm_lock,
            build.override_requirements,
            build.runtime_errors,
            database.postgres_memory,
            database.scram_verifier,
            routes.async_locations,
            routes.parse_route_list,
            topology.address_errors,
            topology.app_workers,
            topology.as_network,
            topology.group_errors,
            topology.guarded_services,
            topology.host_addresses,
            workers.complete_workers,
            workers.site_name,
            workers.status_table,
            workers.units,
            workers.upstreams,
            workers.worker_errors,
            workers.worker_states,
        )
        return {function.__name__: _filter(function) for function in functions}
