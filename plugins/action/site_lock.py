"""Let one run at a time change a site."""

from __future__ import annotations

import contextlib
import getpass
import os
import select
import shlex
import signal
import socket
import time
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from ansible import constants, context
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# A run says so often that it lives, and the lock goes when nothing was heard for so long (seconds).
BEAT, EXPIRES = 10, 60
# The unit's one process (with a child, systemd may wait for a minute and a half until it believes that the unit has ended): argv[1] is a file that has
# the time of the last hangup, argv[2] the seconds after which it ends without another one.
KEEP = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
while signal.sigtimedwait([signal.SIGHUP], float(sys.argv[2])):
    os.utime(sys.argv[1])
"""
# $1: the unit that is the lock, $2: whose it is to be. ("systemctl reload" and "kill" leave lines in the journal each time.)
GO_ON = """
whose=$(systemctl show --value --property=Description "$1") || exit
[ "$whose" = "$2" ] || { echo lost; exit; }
pid=$(systemctl show --value --property=MainPID "$1") && [ "$pid" -gt 1 ] && kill -HUP "$pid" && echo mine
"""
# $3: the seconds, $4: the program. systemd makes one unit of a name, whoever else comes at the same moment.
TAKE = f"""
take() {{
  systemd-run --quiet --collect --unit="$1" --description="$2" --property=RuntimeDirectory="$1" python3 -c "$4" "/run/$1" "$3"
}}
whose() {{ systemctl --quiet is-active "$1" && systemctl show --property=Description,ActiveEnterTimestamp "$1" && stat --format="heard=%Y" "/run/$1"; }}
said=$({GO_ON}) || exit
if [ "$said" = mine ]; then echo "$said"; exit; fi
# It may end in between, or be about to, or have ended in a way that systemd remembers.
tries=0
until take "$@" || whose "$@"; do
  tries=$((tries + 1)); [ $tries -lt 10 ] || exit 1
  systemctl --quiet reset-failed "$1" || true
  sleep 0.5
done
"""
GIVE_BACK = '[ "$(systemctl show --value --property=Description "$1")" != "$2" ] || systemctl stop "$1"'
LOST = "{unit}, the lock of this run, has ended: it was stopped there, the host was booted, or was not heard of for too long. Run this again"


def refusal(unit: str, host: str, properties: dict[str, str]) -> str:
    """Return what to say to who comes second."""
    return (
        f"Another run changes this site, {properties['Description']}, since {properties['ActiveEnterTimestamp']}: nothing was changed. "
        f"Wait until it ends and run this again; if it must not go on, end it where it runs, or from {host} by: systemctl stop {unit}"
    )


def expired(_number: int, _frame: Any) -> NoReturn:
    raise TimeoutError


class ActionModule(ActionBase):
    """What plugins/modules/site_lock.py documents."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _result, options = self.validate_argument_spec({"site": {"type": "str", "required": True}})
        if self._task.check_mode:
            return {"changed": False, "skipped": True}
        unit, host = f"ansible-{options['site']}.service", self._task.delegate_to or task_vars["inventory_hostname"]
        # The directory is of this run, and has a random part: two controllers may have the same name.
        run = os.path.basename(constants.DEFAULT_LOCAL_TMP).removeprefix("ansible-local-")
        me = f"{getpass.getuser()}@{socket.gethostname()} with {' '.join(context.CLIARGS['args'])} (run {run})"
        first = None
        # Who has it is refused nothing while he lives; one that is dead is waited for.
        for _try in range(EXPIRES):
            done = self._on_host(TAKE, unit, me, str(EXPIRES), KEEP)
            if done["rc"]:
                raise AnsibleActionFail(
                    f"{host}, which has the lock that lets one run at a time change the site ({unit}), cannot be asked for it as root: "
                    f"{(done['stderr'].strip() or done['stdout'].strip()).split(chr(10))[-1]}; nothing was changed. "
                    "It must be up, and the user that Ansible logs in as must be root, or may become it (ansible_become)"
                )
            if done["stdout"].strip() == "mine":
                return {"changed": False}
            properties = dict(line.split("=", 1) for line in done["stdout"].split("\n") if "=" in line)
            if not properties:
                break
            first = first or properties
            if properties != first:
                raise AnsibleActionFail(refusal(unit, host, properties))
            time.sleep(2)
        else:
            raise AnsibleActionFail(refusal(unit, host, first))
        playbook = os.getppid()
        if os.fork() == 0:
            try:
                self._keep(unit, me, playbook)
            finally:
                os._exit(0)
        return {"changed": False}

    def _keep(self, unit: str, me: str, playbook: int) -> None:
        """Keep the lock until the run is over, in a process of its own; a run that has lost it is interrupted.

        playbook: process of ansible-playbook. All of its processes have the writing end of its queue open: one that is killed may leave others at work.
        """
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, expired)
        # Nothing more is said through it, and it must not be kept open.
        display = Display()
        queue, display._final_q = display._final_q, None
        queue._writer.close()
        is_over = select.poll()
        is_over.register(queue._reader.fileno(), 0)
        # A laptop that sleeps is silent.
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        heard = time.clock_gettime(clock)
        while not is_over.poll(BEAT * 1000):
            signal.alarm(EXPIRES // 2)
            try:
                done = self._on_host(GO_ON, unit, me)
            except TimeoutError:
                done = {"rc": 1, "stdout": ""}
            signal.alarm(0)
            is_lost = done["stdout"].strip() == "lost"
            if done["rc"] == 0:
                heard = time.clock_gettime(clock)
            if is_lost or time.clock_gettime(clock) > heard + EXPIRES:
                # The other end of the pipe again; where there is no /proc it is interrupted without a word.
                with contextlib.suppress(OSError):
                    queue._writer = Connection(os.open(f"/proc/self/fd/{queue._reader.fileno()}", os.O_WRONLY), readable=False)
                    display._final_q = queue
                    display.error(LOST.format(unit=unit))
                    time.sleep(1)
                os.kill(playbook, signal.SIGINT)
                return
        self._on_host(GIVE_BACK, unit, me)

    def _on_host(self, script: str, *arguments: str) -> dict[str, Any]:
        """Run a shell script there, as the task would; a host that does not answer fails as well."""
        try:
            done = self._low_level_execute_command(shlex.join(["sh", "-c", script, "sh", *arguments]))
        except AnsibleError as error:
            done = {"rc": 1, "stdout": "", "stderr": str(error)}
        # Over ssh through a terminal, which ends lines by two characters.
        return {**done, "stdout": done["stdout"].replace("\r\n", "\n")}
