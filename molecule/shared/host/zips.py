"""Keeps what Python has compiled of the modules that Ansible sends.

They come as zips, and Python compiles anew whatever it imports from a zip: half of a module's CPU time, and modules are a third of what the
scenarios cost. It stands on a function of Python's own that is not public; where that is missing, everything is only slower.
"""

import marshal
import os
import sys
import zipimport

# What one Python has compiled another one cannot run: a host may go from one Debian to the next.
KEPT = f"/var/cache/test-host-zips/{sys.implementation.cache_tag}"
compile_source = getattr(zipimport, "_compile_source", None)


def compile_once(path, source):
    import hashlib

    name = f"{KEPT}/{hashlib.sha1(source).hexdigest()}"
    try:
        with open(name, "rb") as file:
            return marshal.load(file)
    except (OSError, EOFError, ValueError, TypeError):
        code = compile_source(path, source)
    try:
        os.makedirs(KEPT, exist_ok=True)
        with open(f"{name}.{os.getpid()}", "wb") as file:
            marshal.dump(code, file)
        os.replace(file.name, name)
    except OSError:
        # Another user's.
        pass
    return code


if compile_source and os.getuid() == 0:
    zipimport._compile_source = compile_once
