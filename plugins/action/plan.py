"""Bring the inventory to plugin_utils/plan.py."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

from ansible_collections.throat.stack.plugins.plugin_utils import plan


class ActionModule(ActionBase):
    """What plugins/modules/plan.py documents; no host is asked."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _result, options = self.validate_argument_spec({"make_secrets": {"type": "bool", "default": True}, "needs_source": {"type": "bool", "default": True}})
        task_vars = task_vars or {}
        groups = {name: list(hosts) for name, hosts in task_vars["groups"].items()}
        variables, unreadable = {}, []
        for host in dict.fromkeys(host for name in ("throat", *plan.GROUPS) for host in groups.get(name, ())):
            theirs = task_vars["hostvars"][host]
            variables[host] = {}
            for name in theirs:
                variables[host][name] = None
                if plan.owner_of(name) or name == "ansible_host":
                    try:
                        variables[host][name] = theirs[name]
                    except AnsibleError as error:
                        unreadable.append(f"{name} on {host}: cannot be worked out: {str(error).splitlines()[0]}")
            self._add_secrets(variables[host], options["make_secrets"], task_vars)
        made = plan.make(variables, groups, options["needs_source"])
        return {"changed": False, **made, "refusals": unreadable + made["refusals"]}

    def _add_secrets(self, variables: dict[str, Any], make: bool, task_vars: dict[str, Any]) -> None:
        """Secrets that are not given are made once and kept on the controller, in throat_secrets_dir."""
        directory = variables.get("throat_secrets_dir")
        for name, length in plan.SECRETS.items() if directory else ():
            if variables.get(name) is None and make:
                lookup = lookup_loader.get("ansible.builtin.password", loader=self._loader, templar=self._templar)
                path = f"{directory}/{name.removeprefix('throat_')}"
                (variables[name],) = lookup.run([path], variables=task_vars, length=length, chars=["ascii_letters", "digits"])
            elif variables.get(name) is None:
                variables[name] = "made-by-the-first-run"
