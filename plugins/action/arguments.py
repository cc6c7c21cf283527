"""Bring the arguments of a role that is used by itself to plugin_utils/plan.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.throat.stack.plugins.plugin_utils import plan


class ActionModule(ActionBase):
    """What plugins/modules/arguments.py documents; nothing is sent to the host."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _result, options = self.validate_argument_spec({"role": {"type": "str", "required": True, "choices": list(plan.ROLES)}})
        task_vars, role = task_vars or {}, options["role"]
        named = {name: self._templar.template(task_vars[name]) for name in task_vars if plan.owner_of(name) == role}
        made, errors = plan.role_arguments(role, named, task_vars.get("ansible_facts") or {}, task_vars["inventory_hostname"])
        return {"changed": False, "made": made, "refusals": errors}
