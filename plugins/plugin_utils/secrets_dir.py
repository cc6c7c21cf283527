"""Secrets that are made and kept on the controller, and what of them may be changed while people use the site."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import string
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible.parsing.dataloader import DataLoader

# Those that playbooks/rotate_secrets.yml changes, each with the variables by which an inventory may give it.
ROTATED = {
    "database_password": ("throat_database_password", "postgres_users", "pgbouncer_users", "pgbouncer_databases", "throat_gunicorn_database_password"),
    "redis_password": ("throat_redis_password", "redis_password", "throat_gunicorn_redis_url"),
    "secret_key": ("throat_secret_key", "throat_gunicorn_secret_key"),
}
# Why it does not change the others.
KEPT = {
    "backup_key": "what is in a repository stays encrypted with its key; give a further repository another key (throat_backup_repositories, docs/backups.md)",
    "admin_password": "it is of the new account only; the administrator changes it on the site",
}


class SecretsDir:
    """A file for each secret: <name>, and <name>.next while another one takes its place. Encrypted by ansible-vault where a password for that is given.

    directory: as the inventory has it; loader: Ansible's, which knows the passwords.
    """

    def __init__(self, directory: str, loader: DataLoader) -> None:
        self.directory, self.loader = pathlib.Path(loader.path_dwim(directory)), loader

    def path(self, name: str) -> pathlib.Path:
        return self.directory / name

    @property
    def begun(self) -> list[str]:
        """Secrets of which there is a next one."""
        return [name for name in ROTATED if self.path(f"{name}.next").exists()]

    def in_force(self, name: str, length: int) -> str:
        """Return a secret that the site is to have, which is made where there is none."""
        return self.read(f"{name}.next") or self.make(name, length)

    @property
    def previous_key(self) -> str:
        """The session key of before, which workers still know somebody by; empty where there is none."""
        return self.read("secret_key" if "secret_key" in self.begun else "secret_key.previous")

    def read(self, name: str) -> str:
        """Return what a file holds, empty where there is none."""
        path = self.path(name)
        if not path.exists():
            return ""
        text = self.loader.get_text_file_contents(str(path)).rstrip()
        if self._vault.secrets and not path.read_bytes().startswith(b"$ANSIBLE_VAULT;"):
            self.write(name, text)
        # Plain text, without what Ansible remembers of its origin.
        return str.__str__(text)

    def make(self, name: str, length: int) -> str:
        """Return what a file holds, in letters and digits that are made where there is none."""
        if not self.path(name).exists():
            self.write(name, "".join(secrets.choice(string.ascii_letters + string.digits) for _letter in range(length)), anew=True)
        return self.read(name)

    def write(self, name: str, text: str, anew: bool = False) -> None:
        """Write a file, whole or not at all; anew: unless there is one by now, of another run."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.directory, prefix=".", suffix=".new", delete=False) as file:
            file.write(self._vault.encrypt(text) if self._vault.secrets else f"{text}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        if anew:
            with contextlib.suppress(FileExistsError):
                os.link(file.name, self.path(name))
            os.unlink(file.name)
        else:
            os.replace(file.name, self.path(name))

    def put_in_force(self, forget: bool) -> list[str]:
        """Let each next secret take the place of the one before; returns their names. The session key of before is kept, unless it is to be forgotten.

        It may be cut short anywhere, and begun again.
        """
        names = self.begun
        if forget:
            self.path("secret_key.previous").unlink(missing_ok=True)
        elif "secret_key" in names:
            self.write("secret_key.previous", self.read("secret_key"))
        for name in names:
            os.replace(self.path(f"{name}.next"), self.path(name))
        return names

    @property
    def _vault(self) -> Any:
        return self.loader._vault


def chosen(wanted: Sequence[str], given: Collection[str]) -> list[str]:
    """Return the secrets to change: those that are asked for, or all that no variable of the inventory gives."""
    return list(wanted) or [name for name, variables in ROTATED.items() if not set(variables) & set(given)]


def rotation_errors(wanted: Sequence[str], given: Collection[str], directory: str, hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one line for each secret that cannot be changed.

    wanted: what the operator asks for, nothing for all; given: variables that the inventory has; hosts: of the plan, host to its parts.
    """
    lines = []
    for name in chosen(wanted, given):
        if name in KEPT:
            lines.append(f"rotate: {name} is not changed by this; {KEPT[name]}")
        elif name not in ROTATED:
            lines.append(f"rotate: {name}, but must be some of {', '.join(ROTATED)}, with commas between")
        elif theirs := [variable for variable in ROTATED[name] if variable in given]:
            more = ", give the old one as throat_previous_secret_key," if name == "secret_key" else ""
            lines.append(f"rotate: {name} is yours ({theirs[0]} of the inventory); write another one there{more} and run playbooks/site.yml")
        elif name == "database_password":
            lines += [
                f"rotate: database_password, but {host} proves it to another host, where a role has one at a time: requests would fail meanwhile; "
                "name the others, and change this one while the site is closed (docs/security.md)"
                for host, roles in hosts.items()
                if roles.get("throat_gunicorn", {}).get("database_password")
                or any("password" in database for database in roles.get("pgbouncer", {}).get("databases", ()))
            ]
    if not directory or not chosen(wanted, given):
        return ["rotate: the inventory gives all secrets, so change them there; playbooks/site.yml lets the old ones in until nobody uses them"]
    return lines


def unfinished_errors(begun: Sequence[str], directory: str) -> list[str]:
    """Return a line where secrets are being changed, so that a run of some of the hosts' parts would use what others do not know yet."""
    return [
        f"throat_secrets_dir: {directory} has {name}.next, of a change that has not come to its end; run playbooks/rotate_secrets.yml, which goes on with it"
        for name in begun
    ]
