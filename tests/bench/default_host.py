"""The host of a molecule scenario, for the benchmarks that measure on it; that of molecule/default unless they say another."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
INVENTORY = ROOT / "molecule/default/inventory"
HOST = "throat-stack-default"


def on_host(command: str, stdin: str = "", host: str = HOST) -> str:
    """Standard output of a shell command on the host; ends the program when it fails."""
    done = subprocess.run(["docker", "exec", "-i", host, "bash", "-c", command], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


def play(*arguments: object, inventory: pathlib.Path = INVENTORY) -> None:
    """Run a playbook; ends the program when it fails."""
    done = subprocess.run(["ansible-playbook", "-i", inventory, *map(str, arguments)], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"ansible-playbook {' '.join(map(str, arguments))}\n{done.stdout[-3000:]}")
