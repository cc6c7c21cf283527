#!/usr/bin/python
# MIT License (see LICENSE), which the GNU General Public License version 3 of Ansible admits.
"""Pack a directory into a reproducible archive."""

from __future__ import annotations

DOCUMENTATION = """
module: source_archive
short_description: Pack a directory into a reproducible archive
description:
  - Packs a source directory into a tar file whose bytes depend on names, modes and contents only, so that its checksum names the content.
  - What a build makes and what a version control system keeps (C(.git), C(node_modules), C(.venv), C(__pycache__), C(config.yaml)) is left out.
options:
  path:
    description: Directory to pack.
    type: path
    required: true
author:
  - The throat.stack engineers (@Phuks-co)
"""
EXAMPLES = """
- name: Pack the source
  throat.stack.source_archive:
    path: /home/me/throat
  delegate_to: localhost
"""
RETURN = """
archive:
  description: Path of the tar file, in the user's cache directory.
  type: str
  returned: success
checksum:
  description: SHA-256 of its bytes, in hexadecimal.
  type: str
  returned: success
"""

import contextlib
import gzip
import hashlib
import os
import pathlib
import tarfile
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

LEFT_OUT = {".git", ".venv", "__pycache__", "config.yaml", "node_modules"}


def pack(source: pathlib.Path, target) -> None:
    """Write source as tar.gz to the file object target, in the order of names and without times and owners."""

    def neutral(info: tarfile.TarInfo):
        if LEFT_OUT & set(pathlib.PurePath(info.name).parts):
            return None
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.mode & 0o100 else 0o644
        return info

    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0, filename="") as compressed, tarfile.open(fileobj=compressed, mode="w") as tar:
        for name in sorted(os.listdir(source)):
            tar.add(source / name, arcname=name, filter=neutral)  # tarfile walks directories in sorted order


def prune(cache: pathlib.Path) -> None:
    """Remove archives that no run has packed for a day; each packs its own anew."""
    for archive in cache.glob("?" * 12 + ".tar.gz"):
        with contextlib.suppress(FileNotFoundError):
            if archive.stat().st_mtime < time.time() - 86400:
                archive.unlink()


def main() -> None:
    module = AnsibleModule({"path": {"type": "path", "required": True}}, supports_check_mode=True)
    source = pathlib.Path(module.params["path"])
    if not (source / "throat.py").is_file():
        module.fail_json(msg=f"throat_gunicorn_source: {source} holds no throat.py; name a directory with Throat's source")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "throat.stack"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, delete=False) as target:
        pack(source, target)
    digest = hashlib.sha256(pathlib.Path(target.name).read_bytes()).hexdigest()
    archive = cache / f"{digest[:12]}.tar.gz"
    os.replace(target.name, archive)
    prune(cache)
    module.exit_json(changed=False, archive=str(archive), checksum=digest)


if __name__ == "__main__":
    main()
