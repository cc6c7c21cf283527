"""Bring the inventory to plugin_utils/plan.py."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.throat.stack.plugins.plugin_utils import plan, secrets_dir

OPTIONS = {
    "make_secrets": {"type": "bool", "default": True},
    "needs_source": {"type": "bool", "default": True},
    "whole_site": {"type": "bool", "default": True},
    "rotate": {"type": "list", "elements": "str"},
    "forget_sessions": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """What plugins/modules/plan.py documents; no host is asked."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _result, options = self.validate_argument_spec(OPTIONS)
        task_vars = task_vars or {}
        groups = {name: list(hosts) for name, hosts in task_vars["groups"].items()}
        variables, refusals = {}, []
        for host in dict.fromkeys(host for name in ("throat", *plan.GROUPS) for host in groups.get(name, ())):
            theirs = task_vars["hostvars"][host]
            variables[host] = {}
            for name in theirs:
                variables[host][name] = None
                if plan.owner_of(name) or name == "ansible_host":
                    try:
                        variables[host][name] = theirs[name]
                    except AnsibleError as error:
                        refusals.append(f"{name} on {host}: cannot be worked out: {str(error).splitlines()[0]}; set what it names, a secret in a vault")
        given = {name for theirs in variables.values() for name, value in theirs.items() if value is not None}
        for directory in dict.fromkeys(theirs.get("throat_secrets_dir") or "" for theirs in variables.values()):
            mine = [theirs for theirs in variables.values() if (theirs.get("throat_secrets_dir") or "") == directory]
            refusals += self._add_secrets(mine, directory, options, plan.secrets_of(groups)) if directory else []
        made = plan.make(variables, groups, options["needs_source"])
        refusals = plan.gathered([*refusals, *made["refusals"]], groups.get("throat", []))
        if options["rotate"] is not None and not refusals:
            directory = next((theirs.get("throat_secrets_dir") for theirs in variables.values()), "")
            refusals = secrets_dir.rotation_errors(options["rotate"], given, directory, made["hosts"])
            made["rotated"] = secrets_dir.chosen(options["rotate"], given)
        return {"changed": False, **made, "refusals": refusals}

    def _add_secrets(self, hosts: list[dict[str, Any]], directory: str, options: dict[str, Any], wanted: dict[str, int]) -> list[str]:
        """Give hosts the secrets that the inventory does not, of a directory where each is made once; returns a line where that cannot be."""
        lacking = [name for name in wanted if any(variables.get(name) is None for variables in hosts)]
        made, lines = dict.fromkeys(lacking, "made-by-the-first-run"), []
        kept = secrets_dir.SecretsDir(directory, self._loader)
        if options["make_secrets"]:
            try:
                made = {name: kept.in_force(name.removeprefix("throat_"), wanted[name]) for name in lacking}
                if "throat_secret_key" in lacking:
                    made["throat_previous_secret_key"] = "" if options["forget_sessions"] else kept.previous_key
                lines = [] if options["whole_site"] else secrets_dir.unfinished_errors(kept.begun, directory)
            except (AnsibleError, OSError) as error:
                lines = [f"throat_secrets_dir: {directory} cannot be read: {str(error).splitlines()[0]}"]
        for variables in hosts:
            variables |= {name: value for name, value in made.items() if variables.get(name) is None}
        return lines
