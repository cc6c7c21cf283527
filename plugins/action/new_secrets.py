"""Change secrets that are kept on the controller."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.throat.stack.plugins.plugin_utils import plan, secrets_dir


class ActionModule(ActionBase):
    """What plugins/modules/new_secrets.py documents; no host is asked."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _result, options = self.validate_argument_spec(
            {
                "directory": {"type": "str", "required": True},
                "names": {"type": "list", "elements": "str", "default": []},
                "put_in_force": {"type": "bool", "default": False},
                "forget_sessions": {"type": "bool", "default": False},
            }
        )
        kept = secrets_dir.SecretsDir(options["directory"], self._loader)
        before = kept.begun
        if not self._task.check_mode:
            for name in options["names"]:
                kept.make(f"{name}.next", plan.SECRETS[f"throat_{name}"])
            if options["put_in_force"]:
                kept.put_in_force(options["forget_sessions"])
        changes = before if options["put_in_force"] else set(options["names"]) - set(before)
        return {"changed": len(changes) > 0, "names": sorted(changes)}
