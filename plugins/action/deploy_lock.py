"""Let one deploy at a time go on."""

from __future__ import annotations

import getpass
import os
import pathlib
import shlex
import socket
import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Longer than any step of a deploy takes: each step that takes the lock again renews it.
EXPIRES = 3600


def is_stale(holder: str, seconds: float, me: str, alive=lambda pid: pathlib.Path(f"/proc/{pid}").exists()) -> bool:
    """Whether the run that holds the lock is over: dead on this very controller, or silent for an hour on another one.

    holder, me: "<user>@<controller> pid <number>"; seconds: since it last took the lock.
    """
    controller, _, pid = holder.partition(" pid ")
    if controller.partition("@")[2] == me.partition(" pid ")[0].partition("@")[2] and pid.isdecimal():
        return not alive(pid)
    return seconds > EXPIRES


class ActionModule(ActionBase):
    """What plugins/modules/deploy_lock.py documents."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _result, options = self.validate_argument_spec(
            {"path": {"type": "path", "required": True}, "state": {"type": "str", "choices": ["present", "absent"], "default": "present"}}
        )
        if self._task.check_mode:
            return {"changed": False, "skipped": True}
        path = shlex.quote(options["path"])
        me = f"{getpass.getuser()}@{socket.gethostname()} pid {os.getppid()}"

        def shell(command: str) -> str:
            return self._low_level_execute_command(command)["stdout"].strip()

        if options["state"] == "absent":
            shell(f"[ \"$(cat {path} 2>/dev/null)\" = {shlex.quote(me)} ] && rm -f {path}")
            return {"changed": False}
        # noclobber lets one of two win who come at once.
        take = f"(set -C; echo {shlex.quote(me)} > {path}) 2>/dev/null"
        held = shell(f"{take} || {{ cat {path}; stat -c %Y {path}; date +%s; }}").splitlines()
        if len(held) == 3:
            holder, since, now = held
            if holder == me or is_stale(holder, float(now) - float(since), me):
                shell(f"echo {shlex.quote(me)} > {path}")
            else:
                began = time.strftime("%H:%M", time.localtime(time.time() - (float(now) - float(since))))
                raise AnsibleActionFail(
                    f"Another deploy is under way, of {holder}, since {began}: nothing was changed. Wait until it ends and run this again; "
                    f"if it is dead, remove {options['path']} on {self._task.delegate_to or task_vars['inventory_hostname']}"
                )
        return {"changed": False}
