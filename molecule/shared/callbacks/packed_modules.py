"""A callback for ansible-playbook that does nothing but spare the tests' runs what each of them would do anew.

ansible-core packs each module that a run uses into a directory of that run alone, for an eighth of the CPU of a run with nothing to do: here all
runs share them. A host compiles what is packed at each task: here it is packed with its bytecode, and a stat takes 150 ms of CPU in place of 215.
"""

import base64
import compileall
import dataclasses
import hashlib
import io
import os
import pathlib
import py_compile
import shutil
import tempfile
import zipfile

from ansible import constants as C
from ansible.executor import module_common
from ansible.plugins.callback import CallbackBase

ROOT = pathlib.Path(__file__).parents[3]


def with_bytecode(packed: bytes) -> bytes:
    """A packed module (zip, base64) with this Python's bytecode beside each source. A host that has another Python goes by the source, as ever."""
    with tempfile.TemporaryDirectory() as directory:
        sources = pathlib.Path(directory, "module")
        zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))).extractall(sources)
        compileall.compile_dir(sources, quiet=1, legacy=True, stripdir=sources, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        archive = shutil.make_archive(f"{directory}/packed", "zip", sources)
        return base64.b64encode(pathlib.Path(archive).read_bytes())


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "packed_modules"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        # Anew whenever one of our own changes, or a version of Ansible and of the collections that come with it.
        sources = [pathlib.Path(__file__), ROOT / "requirements.txt", *sorted(ROOT.glob("plugins/module*/*.py"))]
        shared = ROOT / ".cache/modules" / hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
        shared.mkdir(parents=True, exist_ok=True)
        os.symlink(shared, pathlib.Path(C.DEFAULT_LOCAL_TMP) / "ansiballz_cache")
        keep = module_common._CachedModule.dump
        module_common._CachedModule.dump = lambda module, path: keep(dataclasses.replace(module, zip_data=with_bytecode(module.zip_data)), path)
