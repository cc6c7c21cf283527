"""A callback for ansible-playbook that kills its whole process group, as the kernel or an impatient operator would.

KILL_AT=<name of a task>, KILL_AFTER=<seconds since that task began>.
"""

import os
import signal
import threading

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "kill_at"

    def v2_playbook_on_task_start(self, task, is_conditional):
        if task.get_name().endswith(os.environ["KILL_AT"]):
            threading.Timer(float(os.environ["KILL_AFTER"]), os.killpg, (0, signal.SIGKILL)).start()
