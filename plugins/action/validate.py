"""Refuse a role's variables and platform, one line per error."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.throat.stack.plugins.plugin_utils.arguments import argument_errors, misspelt_prefixes, platform_errors


class ActionModule(ActionBase):
    """What plugins/modules/validate.py documents; nothing is sent to the host."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _result, options = self.validate_argument_spec(
            {
                "spec": {"type": "path", "required": True},
                "prefix": {"type": "str", "required": True},
                "ignore": {"type": "list", "elements": "str", "default": []},
                "siblings": {"type": "list", "elements": "path", "default": []},
            }
        )
        task_vars = task_vars or {}
        spec = pathlib.Path(options["spec"])
        ours = [name for name in task_vars if name.startswith(options["prefix"]) and not name.startswith(tuple(options["ignore"]))]
        named = {name: self._templar.template(task_vars[name]) for name in ours}
        errors = argument_errors(yaml.safe_load(spec.read_text()), named)
        siblings = [yaml.safe_load(pathlib.Path(path).read_text()) for path in options["siblings"]]
        known = {name for sibling in siblings for name in sibling["argument_specs"]["main"]["options"]}
        errors += misspelt_prefixes(task_vars, known)

        meta = spec.with_name("main.yml")
        facts = task_vars.get("ansible_facts") or {}
        if meta.is_file() and "distribution" in facts:
            errors += platform_errors(yaml.safe_load(meta.read_text()), spec.parent.parent.name, task_vars["inventory_hostname"], facts)
        if errors:
            raise AnsibleActionFail("\n".join(errors))
        return {"changed": False}
