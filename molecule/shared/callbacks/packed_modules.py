"""A callback for ansible-playbook that does nothing but let the runs of the tests share the modules that they pack.

ansible-core packs each module that a run uses, for an eighth of the CPU of a run with nothing to do, into a directory of that run alone.
"""

import hashlib
import os
import pathlib

from ansible import constants as C
from ansible.plugins.callback import CallbackBase

ROOT = pathlib.Path(__file__).parents[3]


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "packed_modules"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        # Anew whenever one of our own changes, or a version of Ansible and of the collections that come with it.
        sources = [ROOT / "requirements.txt", *sorted(ROOT.glob("plugins/module*/*.py"))]
        shared = ROOT / ".cache/modules" / hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
        shared.mkdir(parents=True, exist_ok=True)
        os.symlink(shared, pathlib.Path(C.DEFAULT_LOCAL_TMP) / "ansiballz_cache")
