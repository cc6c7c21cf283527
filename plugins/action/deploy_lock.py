"""Let one deploy at a time go on."""

from __future__ import annotations

import getpass
import os
import pathlib
import shlex
import socket
import time
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

# Longer than any step of a deploy takes: each step that takes the lock again renews it.
EXPIRES = 3600
# Takes the lock where nobody has it, or who is expected to; else tells since when somebody has it, what time it is, and who.
# flock lets one of two win who come at once, and the file is moved to its place, so that it is whole or not there.
TAKE = """
cd "$(dirname "$1")"; lock=$(basename "$1")
if [ -e "$lock" ] && [ "$(cat "$lock")" != "$3" ]; then stat -c %Y "$lock"; date +%s; cat "$lock"; exit; fi
echo "$2" > "$lock.new"; mv "$lock.new" "$lock"; echo taken
"""
GIVE_BACK = '[ "$(cat "$1" 2>/dev/null)" != "$2" ] || rm -f "$1"'


def is_running(pid: str) -> bool:
    """Whether this process of the controller is a run of Ansible; in time another program gets the number of one that has ended."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    command = pathlib.Path(f"/proc/{pid}/cmdline")
    return not command.exists() or b"ansible" in command.read_bytes()


def is_stale(holder: str, seconds: float, me: str, alive=is_running) -> bool:
    """Whether the run that holds the lock is over: dead on this very controller, or silent for an hour on another one, or nobody knows where.

    holder, me: "<user>@<controller> pid <number>"; seconds: since it last took the lock.
    """
    controller, _word, pid = holder.partition(" pid ")
    if controller.partition("@")[2] == me.partition(" pid ")[0].partition("@")[2] and pid.isdecimal():
        return not alive(pid)
    return seconds > EXPIRES


def refusal(holder: str, since: str, path: str, host: str) -> str:
    """Return what to say to who comes second; since: time of the day."""
    whose = f"of {holder}" if " pid " in holder else f"of somebody (the lock says {repr(holder) if holder else 'nothing'}, and not who)"
    return (
        f"Another deploy is under way, {whose}, since {since}: nothing was changed. Wait until it ends and run this again; "
        f"if it is dead, remove {path} on {host}"
    )


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
        path = options["path"]
        host = self._task.delegate_to or task_vars["inventory_hostname"]
        me = f"{getpass.getuser()}@{socket.gethostname()} pid {os.getppid()}"

        def locked(script: str, *arguments: str) -> str:
            command = shlex.join(["flock", "--wait", "60", os.path.dirname(path), "sh", "-ec", script, "sh", path, *arguments])
            try:
                done = self._low_level_execute_command(command)
            except AnsibleConnectionFailure as error:
                done = {"rc": 1, "stdout": "", "stderr": str(error)}
            if done["rc"] and options["state"] == "present":
                raise AnsibleActionFail(
                    f"{host} has the lock that lets one deploy at a time go on ({path}), and it cannot be taken there: "
                    f"{done['stderr'].strip() or done['stdout'].strip()}; "
                    "nothing was changed. Mend that and run this again"
                )
            # Over ssh through a terminal, which ends lines by two characters.
            return done["stdout"].replace("\r\n", "\n")

        if options["state"] == "absent":
            locked(GIVE_BACK, me)
            return {"changed": False}
        said = locked(TAKE, me, me)
        if said.strip() != "taken":
            since, now, holder = said.split("\n", 2)
            seconds, holder = float(now) - float(since), holder.rstrip("\n")
            # Whoever has taken it over meanwhile is another holder than the dead one.
            if not is_stale(holder, seconds, me) or locked(TAKE, me, holder).strip() != "taken":
                raise AnsibleActionFail(refusal(holder, time.strftime("%H:%M", time.localtime(time.time() - seconds)), path, host))
        return {"changed": False}
