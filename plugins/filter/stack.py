"""Filters of throat.stack: thin names for the pure functions in plugin_utils. <name>.yml beside this file documents each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.throat.stack.plugins.plugin_utils import (
    audit,
    backup,
    build,
    database,
    egress,
    looked,
    move,
    plan,
    routes,
    shown,
    status,
    status_page,
    tables,
    workers,
)


def _filter(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
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
            audit.audit_report,
            backup.migration_gap,
            backup.repositories,
            build.build_inputs,
            build.override_npm_lock,
            build.override_requirements,
            build.release_name,
            database.postgres_memory,
            database.redis_login,
            database.scram_verifier,
            egress.egress_before,
            egress.egress_rules,
            looked.address_errors,
            looked.admitted_before,
            looked.bad_releases,
            looked.block_marker,
            looked.certificate_errors,
            looked.certificates,
            looked.differing_databases,
            looked.differing_users,
            looked.differs,
            looked.guarded_before,
            looked.host_errors,
            looked.is_newer,
            looked.lacks,
            looked.look_paths,
            looked.marked_releases,
            looked.outdated_roles,
            looked.own_files,
            looked.rollback_choice,
            looked.unfinished_rollback,
            looked.peers_before,
            looked.pinned,
            looked.shows_its_file,
            move.move_errors,
            move.old_site,
            plan.platform_errors,
            routes.async_locations,
            routes.parse_route_list,
            shown.plan_data,
            shown.plan_text,
            status.status_plan,
            status.status_questions,
            status.status_report,
            status.status_text,
            status_page.status_page,
            tables.quantity,
            workers.complete_workers,
            workers.name_sockets,
            workers.stand_in_units,
            workers.units,
            workers.worker_states,
        )
        return {function.__name__: _filter(function) for function in functions}
