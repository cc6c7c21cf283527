"""The backups of a site on one of its hosts: makes them, lists them, proves them, and brings back what is in them.

The units <site>-backup@*.service and the playbooks backup.yml and restore.yml run it, as root. What it has to know is in /etc/<its own name>.json.

Usage: <site>-backup try < FILE              whether the repositories that a new configuration names open with its key
       <site>-backup prepare [take-over]     make the repositories, or find that they are ours; "take-over": the server that they are of is no more
       <site>-backup anew                    begin without what a server of before has left: nothing of it is to be restored
       <site>-backup full|differential|now   make a set: database, files, and what is in them ("differential" passes where there is a young one)
       <site>-backup list                    show the sets and how far back the archive goes
       <site>-backup drill                   restore the newest set beside, compare it with what was written down, and throw it away
       <site>-backup choose TO               what would be restored; TO is "newest", a set, or a moment with its time zone
       <site>-backup bring TO                restore that beside, and bring the database into the server as <site>_restored
       <site>-backup exchange                give <site>_restored the site's name; what had it is kept as <site>_before_<when>
       <site>-backup undoable                what undo would bring back
       <site>-backup undo                    bring back what the last exchange has kept
       <site>-backup files MOMENT            add the uploads of a moment that are not there
       <site>-backup restored                all is back: make backups again

What cannot be done is said in one line on standard error, with status 1. The last result of each is in <state_dir>/status.json.

Where several hosts have the database together, whichever leads makes the backups of it, and what it notes of them is in the database "postgres" as well,
so that whichever leads next goes on from there. The others make those of their files alone.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

UTC = datetime.timezone.utc
MIB = 1 << 20
# Beside what a restored database needs: WAL that is replayed, and a server that goes on writing.
MARGIN = 512 * MIB
# A timer that comes so soon after a set has nothing to do.
YOUNG = datetime.timedelta(hours=1)
# Commits at the very instant at which rows are counted may be on either side.
SLACK_ROWS = 50
SAMPLE = 20
# Another host may be at work in a repository of files.
LOCKED_SECONDS = 900
# restic asks a store that refuses it again for a quarter of an hour.
PATIENCE_SECONDS = 45
# restic takes so many names at once.
CHUNK = 500
KINDS = ("full", "differential", "now")
FOR_WHOEVER_LEADS = (*KINDS, "drill", "list", "choose", "bring", "exchange", "undo", "undoable")


class Refused(Exception):
    """What cannot be done, in one line."""


# -- what is worked out without asking anything


def shown(moment: datetime.datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00")


def named(moment: datetime.datetime) -> str:
    """Return the name of a set that is made at a moment."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def meant(name: str) -> datetime.datetime:
    """Return the moment of a set, by its name."""
    return datetime.datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def read_moment(text: str) -> datetime.datetime | None:
    """Return the moment that somebody has written, None where it is none. Refused without a time zone: two hours beside what was meant are lost posts."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d(?:\.\d{1,6})?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?", text.strip())
    if not found:
        return None
    day, minute, second, zone = found.groups()
    if not zone:
        example = f"'{day} {minute}{second or ':00'}+00'"
        raise Refused(f"restore_to: {text} has no time zone, and each machine has another idea of it; write it as {example} (UTC), or with yours")
    zone = "+00:00" if zone == "Z" else f"{zone[:3]}:{zone[-2:] if len(zone) > 3 else '00'}"
    try:
        return datetime.datetime.fromisoformat(f"{day}T{minute}{second or ':00'}{zone}")
    except ValueError as error:
        raise Refused(f"restore_to: {text} is no moment ({error}); write it as '2026-11-27 08:00:00+00'") from None


def servers(text: str, stanza: str) -> list[dict[str, Any]]:
    """Return the servers that a repository is of, by "pgbackrest info --output=json"."""
    return [server for entry in json.loads(text or "[]") if entry["name"] == stanza for server in entry.get("db", [])]


def read_info(text: str, stanza: str) -> list[dict[str, Any]]:
    """Return the sound backups of "pgbackrest info --output=json", the oldest first: [{"label", "kind", "repo", "version", "began", "ended", "size",
    "stored"}]; version: of PostgreSQL, which an upgrade has changed since."""
    found = next((entry for entry in json.loads(text or "[]") if entry["name"] == stanza), {"backup": []})
    versions = {(server["repo-key"], server["id"]): server["version"] for server in found.get("db", [])}
    backups = [
        {
            "label": backup["label"],
            "kind": {"full": "full", "diff": "differential", "incr": "incremental"}[backup["type"]],
            "repo": backup["database"]["repo-key"],
            "version": versions.get((backup["database"]["repo-key"], backup["database"]["id"]), ""),
            "began": backup["timestamp"]["start"],
            "ended": backup["timestamp"]["stop"],
            "size": backup["info"]["size"],
            "stored": backup["info"]["repository"].get("delta", 0),
        }
        for backup in found["backup"]
        if not backup.get("error")
    ]
    return sorted(backups, key=lambda backup: backup["ended"])


def find_gaps(text: str) -> list[tuple[int, int]]:
    """Return (moment that there is WAL up to, moment that there is WAL from) of each place where some is missing.

    text: what "pgbackrest repo-ls --output=json" says of an archive.
    """
    timelines: dict[str, list[tuple[int, int]]] = {}
    for path, found in json.loads(text or "{}").items():
        if match := re.search(r"([^/]+)/[0-9A-F]{16}/([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})-[0-9a-f]{40}", path):
            archive, timeline, high, low = match.groups()
            # 256 of 16 MiB each.
            timelines.setdefault(f"{archive}/{timeline}", []).append((int(high, 16) * 256 + int(low, 16), found["time"]))
    ordered = {name: sorted(segments) for name, segments in timelines.items()}
    # What came last before may have waited long; the one before that was full when it began.
    gaps = [
        (segments[max(place - 1, 0)][1], segments[place + 1][1])
        for segments in ordered.values()
        for place in range(len(segments) - 1)
        if segments[place + 1][0] > segments[place][0] + 1
    ]
    # Where another server has led from, it begins with the segment that the one before was in, whose last one the archive may never have had.
    for (name, before), (following, after) in zip(sorted(ordered.items()), sorted(ordered.items())[1:]):
        if name.rpartition("/")[0] == following.rpartition("/")[0] and after[0][0] > before[-1][0] + 1:
            gaps.append((before[max(len(before) - 2, 0)][1], after[0][1]))
    return gaps


def explained(said: str, repositories: Sequence[Mapping[str, Any]], status: int) -> str:
    """Return what pgBackRest or restic has said as one line that tells what to do."""
    where = ", ".join(repository["place"] for repository in repositories)
    if "No space left on device" in said:
        return f"throat_backup_repositories: {where} is full; make room there, or keep fewer sets (throat_backup_fulls_kept, throat_backup_files_days)"
    if ("unable to load info file" in said and re.search("FormatError|CryptoError", said)) or "wrong password or no key found" in said:
        return (
            f"throat_backup_key: {where} was encrypted with another key; give that one (backup_key of the secrets it was made with), "
            "or name another place in throat_backup_repositories"
        )
    if tried := re.findall(r"returned error, retrying after \S+: (.*)", said):
        return f"{tried[-1]} (repository {where})"
    lines = [re.sub(r"^[\d :.-]*P\d+\s+", "", line).strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"ERROR|Fatal", line)]
    return f"{(errors or lines or [f'status {status}'])[0]} (repository {where})"


def origin(backup: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a restore has to know of the backup that it begins from."""
    return {"label": backup["label"], "repo": backup["repo"], "version": backup.get("version", "")}


def base(backups: Sequence[Mapping[str, Any]], until: datetime.datetime) -> Mapping[str, Any] | None:
    """Return the backup that a moment is restored from, None where there is none: the last one before it, of one run that of the first repository."""
    before = [backup for backup in backups if backup["ended"] <= until.timestamp()]
    same_run = [backup for backup in before if backup["ended"] > before[-1]["ended"] - YOUNG.total_seconds()]
    return min(reversed(same_run), key=lambda backup: backup["repo"], default=None)


def choose(to: str, sets: Sequence[Mapping[str, Any]], backups: Sequence[Mapping[str, Any]], now: datetime.datetime) -> dict[str, Any]:
    """Return what is to be restored: {"kind": newest|set|moment, "moment": text, "set": its name or "", "label": the backup that it begins from, "repo",
    "version"}.

    sets: manifests, the oldest first; backups: as read_info returns them.
    """
    if not backups:
        raise Refused("restore_to: there is no backup of the database yet; make one with playbooks/backup.yml")
    begin = datetime.datetime.fromtimestamp(backups[0]["ended"], UTC)
    window = f"from {shown(begin)} to {shown(now)}"
    if to == "newest":
        return {"kind": "newest", "moment": shown(now), "set": "", **origin(base(backups, now))}
    found = next((manifest for manifest in sets if to in (manifest["set"], manifest.get("label"))), None)
    if found:
        # (The repository that it was in may be gone; another one has the WAL up to its point as well.)
        last = base(backups, meant(found["set"]))
        if last is None:
            raise Refused(f"restore_to: {to} is not in the repository any more; the archive goes {window}")
        return {"kind": "set", "moment": shown(meant(found["set"])), "set": found["set"], **origin(last)}
    moment = read_moment(to)
    if moment is None:
        known = ", ".join(manifest["set"] for manifest in sets[-5:]) or "none"
        raise Refused(f"restore_to: there is no set {to} (the last ones: {known}); name one, or write newest or a moment as '2026-11-27 08:00:00+00'")
    if not begin <= moment <= now:
        raise Refused(f"restore_to: {to} is outside of the archive; it goes {window}")
    last = base(backups, moment)
    return {"kind": "moment", "moment": moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00"), "set": "", **origin(last)}


def turn(backups: Sequence[Mapping[str, Any]], last: Mapping[str, Any]) -> int:
    """Return the repository that the next drill is about: each in its turn, and one that has failed until it has been mended. last: the drill before."""
    numbers, before = sorted({backup["repo"] for backup in backups}), last.get("repo", 0)
    if before in numbers and not last["ok"]:
        return before
    return next((number for number in numbers if number > before), min(numbers, default=0))


def lost_rows(counted: Mapping[str, int], restored: Mapping[str, int]) -> list[str]:
    """Return one part of a sentence for each table that does not have the rows which were counted when the set was made."""
    lines = []
    for table, rows in counted.items():
        has = restored.get(table)
        if has is None:
            lines.append(f"{table} is missing")
        elif abs(has - rows) > min(SLACK_ROWS, max(2, rows // 2)):
            lines.append(f"{table} has {has} rows instead of {rows}")
    return lines


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit in ("B", "KiB") or number >= 100 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def sets_table(sets: Sequence[Mapping[str, Any]], backups: Sequence[Mapping[str, Any]]) -> str:
    """Return the sets as a table, the newest first."""
    stored = {backup["label"]: backup for backup in backups}
    rows = [("set", "kind", "release", "rows", "database", "stored", "files", "proven")]
    for manifest in reversed(sets):
        backup = stored.get(manifest.get("label"), {})
        rows.append(
            (
                manifest["set"],
                manifest.get("kind", ""),
                manifest.get("release") or "-",
                str(sum(manifest["rows"].values())) if "rows" in manifest else "-",
                size(backup["size"]) if backup else "-",
                size(backup["stored"]) if backup else "-",
                f"{manifest['files']['count']}, {size(manifest['files']['bytes'])}" if manifest.get("files") else "-",
                manifest.get("proven", "never")[:16],
            )
        )
    return table(rows) if sets else "There is no set yet."


# -- the host


class Host:
    """A host with its backups.

    told: the content of /etc/<name>.json, as templates/etc/throat-backup.json.j2 writes it.
    """

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.told = told
        self.site: str = told["site"]
        self.database: str = told["database"]
        self.repositories: list[dict[str, Any]] = told["repositories"]
        self.state = pathlib.Path(told["state_dir"])
        self.sets_dir = self.state / "sets"
        # Hosts that have the database together; none where this one has it alone.
        self.members: list[str] = told["members"]
        self.restored = f"{self.site}_restored"
        # Number of the repository whose backup of the database a drill is about, and whether it has come as far as to look at one.
        self.proving, self.is_proving = 0, False

    # Programs that are asked

    def run(self, *command: str, user: str = "root", check: bool = True, text: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in an environment of its own: a PGUSER of whoever calls this would lead elsewhere."""
        # (runuser would write two lines into the journal for each question.)
        prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user != "root" else []
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": pwd.getpwnam(user).pw_dir, **environment}
        done = subprocess.run([*prefix, *command], env=clean, cwd="/", input=text, capture_output=True, text=True, check=False, errors="replace")
        if check and done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
            raise Refused(f"{pathlib.Path(command[0]).name}: {lines[-1] if 'ERROR' not in done.stderr else next(line for line in lines if 'ERROR' in line)}")
        return done

    def ask(self, query: str, database: str = "postgres", host: str = "") -> str:
        """Return what the server says to statements, without its decoration."""
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", host or "/run/postgresql", "-p", str(self.told["port"]), "-d", database]
        return self.run(*command, user="postgres", text=query).stdout.strip()

    def pgbackrest(self, *arguments: str, repository: Mapping[str, Any] | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        only = [f"--repo={repository['number']}"] if repository else []
        done = self.run("pgbackrest", f"--stanza={self.told['stanza']}", "--log-level-console=warn", *only, *arguments, user="postgres", check=False)
        if check and done.returncode:
            raise Refused(self.why(done, [repository] if repository else self.repositories))
        return done

    def why(self, done: subprocess.CompletedProcess[str], asked: Sequence[Mapping[str, Any]]) -> str:
        """Return why pgBackRest has failed; where WAL does not arrive, it says so of each repository, whichever is full."""
        # (Of an empty path there is no directory.)
        full = [repository for repository in self.repositories if os.path.isdir(repository["path"]) and shutil.disk_usage(repository["path"]).free < 32 * MIB]
        if full and "not archived before" in done.stdout + done.stderr:
            return explained("No space left on device", full, done.returncode)
        return explained(done.stdout + done.stderr, asked, done.returncode)

    def restic(self, repository: Mapping[str, Any], *arguments: str, check: bool = True, seconds: int = 0) -> subprocess.CompletedProcess[str]:
        """Ask restic; seconds: how long it may take, 0 for as long as it likes."""
        until = time.monotonic() + LOCKED_SECONDS
        command = [*(["timeout", str(seconds)] if seconds else []), "restic", "--repo", repository["restic"], *repository["options"]]
        while True:
            done = self.run(*command, *arguments, check=False, **self.environment(repository))
            if not done.returncode or "already locked" not in done.stderr or time.monotonic() > until:
                break
            # Of a run that was killed; those of one that goes on it leaves.
            self.run(*command, "unlock", check=False, **self.environment(repository))
            time.sleep(5)
        if check and done.returncode:
            raise Refused(explained(done.stderr or done.stdout, [repository], done.returncode))
        return done

    def environment(self, repository: Mapping[str, Any]) -> dict[str, str]:
        cache = str(self.state / "cache")
        return {"PATH": "/usr/bin:/bin", "RESTIC_PASSWORD": repository["key"], "RESTIC_CACHE_DIR": cache, **repository["environment"]}

    # What is there

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One at a time on a host; a timer waits for the one before it."""
        with open(f"/run/{self.site}-backup.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # What the hosts of a cluster know of each other's backups

    def follows(self) -> bool:
        """Whether another host leads, which makes the backups of the database."""
        return bool(self.members) and self.ask("SELECT pg_is_in_recovery()") == "t"

    @property
    def notes(self) -> str:
        """The table of what whoever leads notes, by names: sets/<set>, status, gaps, waits."""
        return f"{self.site}_backup.notes"

    def noted(self) -> dict[str, Any]:
        """Return what whoever has led has noted; empty where nobody has yet, and on a host that has the database alone."""
        if not self.members:
            return {}
        with contextlib.suppress(Refused):
            question = f"""SELECT to_regclass('{self.notes}') IS NOT NULL AS is_there \\gset
                \\if :is_there
                  SELECT json_object_agg(name, noted) FROM {self.notes};
                \\endif"""
            return json.loads(self.ask(question) or "null") or {}
        return {}

    def tell(self, name: str, noted: Any) -> None:
        """Note something for whichever host leads next; None: not any more. (Where the server is down there is nobody to tell.)"""
        value = json.dumps(noted).replace("'", "''")
        with contextlib.suppress(Refused):
            if self.members and not self.follows():
                self.ask(
                    f"""SET client_min_messages = warning;
                    CREATE SCHEMA IF NOT EXISTS {self.site}_backup;
                    CREATE TABLE IF NOT EXISTS {self.notes} (name text PRIMARY KEY, noted json NOT NULL);"""
                    + (
                        f"INSERT INTO {self.notes} VALUES ('{name}', '{value}') ON CONFLICT (name) DO UPDATE SET noted = EXCLUDED.noted;"
                        if noted is not None
                        else f"DELETE FROM {self.notes} WHERE name = '{name}';"
                    )
                )

    def learn(self) -> None:
        """Take over what another host has noted while it led."""
        noted = self.noted()
        if not noted or not self.sets_dir.is_dir():
            return
        sets = {name.removeprefix("sets/"): value for name, value in noted.items() if name.startswith("sets/")}
        # Those that were noted once, and are not any more; of others nobody has been told yet.
        seen = self.state / "noted.json"
        for name in set(json.loads(seen.read_text()) if seen.exists() else []) - set(sets):
            (self.sets_dir / f"{name}.json").unlink(missing_ok=True)
        for name, manifest in sets.items():
            write(self.sets_dir / f"{name}.json", manifest, 0o600)
        write(seen, sorted(sets), 0o600)
        write(self.gaps_file, noted.get("gaps", []), 0o600)

    def sets(self) -> list[dict[str, Any]]:
        """Return the manifests, the oldest first."""
        self.learn()
        return [json.loads(path.read_text()) for path in sorted(self.sets_dir.glob("*.json"))]

    def backups(self) -> list[dict[str, Any]]:
        """Return the backups of the database, of the repositories that are there; they need not have the same."""
        if not self.database:
            return []
        # (A second site's repositories are not those of the cluster.)
        asked = self.reachable()[0] if self.told["owns_cluster"] else [None]
        found = [backup for one in asked for backup in read_info(self.pgbackrest("info", "--output=json", repository=one).stdout, self.told["stanza"])]
        return sorted(found, key=lambda backup: backup["ended"])

    def keep(self, manifest: Mapping[str, Any]) -> None:
        write(self.sets_dir / f"{manifest['set']}.json", manifest, 0o600)
        self.tell(f"sets/{manifest['set']}", manifest)

    def status(self) -> dict[str, Any]:
        """Return the last result of each action, of whichever host has led."""
        path = self.state / "status.json"
        own = json.loads(path.read_text()) if path.exists() else {}
        return self.noted().get("status", own)

    def expires(self) -> bool:
        """Whether old sets may go: not while a drill has found what cannot be restored, or the last one that can would make room for those that cannot."""
        return not self.status().get("drill", {}).get("found_broken", False)

    def note(self, action: str, failure: str = "", **more: Any) -> None:
        """Leave the result of an action where others read it."""
        before = self.status()
        last = before.get(action, {}).get("last_success", "")
        at = shown(datetime.datetime.now(UTC))
        result = {"at": at, "ok": not failure, "said": failure, "last_success": last if failure else at, **more}
        status = {**before, action: result}
        write(self.state / "status.json", status, 0o644)
        self.tell("status", status)

    def present(self, repository: Mapping[str, Any]) -> None:
        """Stop where the place of a repository is not there: a mount that is gone would be written beneath, and restic asks a dead server for 15 minutes."""
        if repository["path"] and not os.path.isdir(repository["path"]):
            raise Refused(f"throat_backup_repositories: {repository['path']} is not there; mount it, or make the directory")
        if repository["address"]:
            try:
                socket.create_connection(tuple(repository["address"]), 10).close()
            except OSError as error:
                raise Refused(
                    f"throat_backup_repositories: {repository['place']} does not answer ({error.strerror or error}); "
                    "bring it back, or take it out of the list and run playbooks/site.yml"
                ) from None

    def reachable(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the repositories that are there, and why the others are not."""
        there, said = [], []
        for repository in self.repositories:
            try:
                self.present(repository)
                there.append(repository)
            except Refused as refused:
                said.append(str(refused))
        return there, said

    # Repositories

    @property
    def waits_file(self) -> pathlib.Path:
        return self.state / "of-another-server"

    def waits(self) -> bool:
        """Whether a repository has backups of a server that is no more: no set is made and nothing expires until it is decided what becomes of them."""
        return "waits" in self.noted() or self.waits_file.exists()

    def wait(self) -> None:
        self.waits_file.touch()
        self.tell("waits", True)

    def prepare(self, take_over: bool = False) -> list[str]:
        """Make what the repositories need; returns what was done. take_over: the server that they are of is no more."""
        done = []
        for directory, mode in ((self.state, 0o755), (self.sets_dir, 0o700), (self.state / "cache", 0o700)):
            if not directory.is_dir():
                directory.mkdir(parents=True)
                directory.chmod(mode)
        self.introduce()
        follows = self.follows()
        if follows:
            for repository in self.repositories:
                self.find_shared(repository)
        for repository in self.repositories if not follows else []:
            if repository["is_own"] and not os.path.isdir(repository["path"]):
                os.makedirs(repository["path"])
                os.chmod(repository["path"], 0o755)
            self.present(repository)
            if repository["path"] and self.told["owns_cluster"] and not os.path.isdir(f"{repository['path']}/pgbackrest"):
                os.mkdir(f"{repository['path']}/pgbackrest", 0o750)
                shutil.chown(f"{repository['path']}/pgbackrest", "postgres", "postgres")
            if not self.opens(repository):
                self.restic(repository, "init", "--quiet")
                done.append(f"made {repository['restic']}")
            elif self.recall(repository):
                # (What hosts share has not gone with one of them.)
                if not self.told["mount"]:
                    self.wait()
                done.append(f"found {len(self.sets())} sets in {repository['place']}")
        if self.members and not follows:
            # Of before it had others beside it, or of a repository.
            self.learn()
            for path in sorted(self.sets_dir.glob("*.json")):
                self.keep(json.loads(path.read_text()))
        if self.told["owns_cluster"] and not follows:
            done += [line for repository in self.repositories for line in self.make_stanza(repository, take_over)]
            # What is being archived as a place leaves the list goes on for two minutes, and then comes what has waited.
            self.pgbackrest("check", "--archive-timeout=300")
        told = "".join(f"{fingerprint(repository['key'], repository['place'])} {repository['place']}\n" for repository in self.repositories)
        (self.state / "told").write_text(told)
        (self.state / "told").chmod(0o600)
        return done

    def find_shared(self, repository: Mapping[str, Any]) -> None:
        """Stop where a repository is not the one that whoever leads has made: a directory may be there on each host, and not be the same."""
        self.present(repository)
        mine = int(self.ask("SELECT system_identifier FROM pg_control_system()"))
        known = servers(self.by_itself(repository, "info", "--output=json").stdout, self.told["stanza"])
        if not self.opens(repository) or mine not in [server["system-id"] for server in known]:
            raise Refused(
                f"throat_backup_repositories: {repository['place']} of {self.told['host']} is not the one that {', '.join(self.members)} share; "
                "mount the same on each of them, and run playbooks/site.yml for all of them"
            )

    def opens(self, repository: Mapping[str, Any]) -> bool:
        """Whether there is a repository of restic; stops where there is one that does not open."""
        found = self.restic(repository, "cat", "config", "--no-cache", check=False, seconds=PATIENCE_SECONDS)
        if found.returncode == 124 or found.returncode and not re.search("unable to open config file|does not exist|Is there a repository", found.stderr):
            raise Refused(explained(found.stderr, [repository], found.returncode))
        return not found.returncode

    def introduce(self) -> None:
        """Make the key by which servers know this host, and write down by what it knows them; stop where one does not admit it."""
        shell = [repository for repository in self.repositories if repository["known_hosts"]]
        if not shell:
            return
        directory, owner = self.state / "ssh", "postgres" if self.database else "root"
        key = directory / "key"
        directory.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o755)
        if not key.exists():
            self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{self.site}-backup of {self.told['host']}", "-f", str(key))
        (directory / "known_hosts").write_text("".join(f"{line}\n" for repository in shell for line in repository["known_hosts"]))
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, owner, owner)
        public = key.with_suffix(".pub").read_text().strip()
        for repository in shell:
            self.present(repository)
            host, port = repository["address"]
            where = f"{repository['pgbackrest']['sftp-host-user']}@{host}"
            asked = ["-i", str(key), "-o", f"UserKnownHostsFile={directory}/known_hosts", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
            answer = self.run("sftp", "-P", str(port), *asked, "-b", "-", where, text="pwd\n", check=False, user=owner)
            if "Permission denied" in answer.stderr:
                raise Refused(
                    f"throat_backup_repositories: {repository['place']} does not admit this host; "
                    f"write this line into the account's authorized_keys: {public}"
                )
            if answer.returncode:
                lines = [line for line in answer.stderr.splitlines() if line.strip() and "Connection closed" not in line]
                raise Refused(f"throat_backup_repositories: {repository['place']}: {(lines or ['it closes the connection'])[-1]}")

    def try_key(self) -> None:
        """Stop where a repository does not answer, or does not open with the key."""
        self.introduce()
        for repository in self.repositories:
            # (A directory of the host need not be there yet; it is made, or asked for, later.)
            if not repository["path"]:
                self.present(repository)
                self.opens(repository)
            elif os.path.exists(f"{repository['restic']}/config"):
                self.opens(repository)
            if self.told["owns_cluster"] and (not repository["path"] or os.path.exists(f"{repository['path']}/pgbackrest/backup/{self.told['stanza']}")):
                info = self.by_itself(repository, "info", "--output=json")
                if info.returncode or re.search("FormatError|CryptoError", info.stdout):
                    raise Refused(explained(f"unable to load info file {info.stdout}" if not info.returncode else info.stdout + info.stderr, [repository], 1))

    def by_itself(self, repository: Mapping[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Ask pgBackRest about one repository, whatever the configuration says of it and of others."""
        told = {
            "PG1_PATH": self.told["data_dir"],
            "PG1_PORT": str(self.told["port"]),
            "PG1_SOCKET_PATH": "/run/postgresql",
            **{f"REPO1_{name.replace('-', '_').upper()}": str(value) for name, value in repository["pgbackrest"].items()},
            "REPO1_CIPHER_TYPE": "aes-256-cbc",
            "REPO1_CIPHER_PASS": repository["key"],
        }
        only = {f"PGBACKREST_{name}": value for name, value in told.items()}
        command = ["pgbackrest", "--no-config", f"--stanza={self.told['stanza']}", "--log-level-console=warn"]
        return self.run(*command, *arguments, user="postgres", check=False, **only)

    def make_stanza(self, repository: Mapping[str, Any], take_over: bool) -> list[str]:
        """Let a repository take this server's backups, by itself: another one may have backups already where this one is new."""
        made = self.by_itself(repository, "stanza-create")
        if made.returncode == 28 and self.is_own_past(repository):
            made = self.by_itself(repository, "stanza-upgrade")
        elif made.returncode == 28:
            # That one could archive no more.
            if not take_over:
                raise Refused(
                    f"throat_backup_repositories: {repository['place']} has the backups of another server, which may be alive; "
                    "if it is no more, run this again with -e throat_backup_take_over=true, else name another place"
                )
            made = self.by_itself(repository, "stanza-upgrade")
            self.wait()
        if made.returncode:
            raise Refused(explained(made.stdout + made.stderr, [repository], made.returncode))
        return [f"{repository['place']} has backups of a server that was here before; playbooks/restore.yml brings them back"] if self.waits() else []

    def is_own_past(self, repository: Mapping[str, Any]) -> bool:
        """Whether the server that a repository is of is another cluster of this host, which this one was upgraded from, or has gone back to."""
        found = json.loads(self.by_itself(repository, "info", "--output=json").stdout or "[]")
        last = max((entry for stanza in found if stanza["name"] == self.told["stanza"] for entry in stanza["db"]), key=lambda entry: entry["id"], default={})
        # pg_upgrade puts the old one's away where both share their files.
        clusters = pathlib.Path(self.told["data_dir"]).parents[1]
        controls = [path for name in ("pg_control", "pg_control.old") for path in clusters.glob(f"*/main/global/{name}")]
        return last.get("system-id") in [int.from_bytes(path.read_bytes()[:8], sys.byteorder) for path in controls if path.exists()]

    def recall(self, repository: Mapping[str, Any]) -> bool:
        """Bring the manifests back from a repository, where this host has none; whether there were any."""
        if any(self.sets_dir.iterdir()):
            return False
        snapshots = [found for found in self.snapshots(repository) if str(self.sets_dir) in found["paths"]]
        if not snapshots:
            return False
        with tempfile.TemporaryDirectory(dir=self.state) as directory:
            self.restic(repository, "restore", snapshots[-1]["id"], "--target", directory, "--include", str(self.sets_dir))
            for path in pathlib.Path(f"{directory}{self.sets_dir}").glob("*.json"):
                shutil.move(path, self.sets_dir / path.name)
        return True

    def snapshots(self, repository: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the site's snapshots of this host, of any host where it has none (its name may be another one now) or others make sets as well, the oldest
        first."""
        found = json.loads(self.restic(repository, "snapshots", "--json", "--tag", self.site).stdout or "[]")
        mine = [snapshot for snapshot in found if snapshot["hostname"] == self.told["host"] and not self.members] or found
        return sorted(mine, key=lambda snapshot: snapshot["time"])

    # Making a set

    def counted(self, database: str, host: str = "", point: str = "") -> tuple[dict[str, int], list[str]]:
        """Return (rows of each table, migrations), as one snapshot sees them, which the restore point of that name marks in the WAL."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ;" + (f"SELECT 'point', pg_create_restore_point('{point}');" if point else "")
        answer = self.ask(
            begin
            + r"""
            SELECT format('SELECT %L, count(*) FROM %I.%I', 'rows ' || schemaname || '.' || tablename, schemaname, tablename)
              FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 \gexec
            SELECT to_regclass('migratehistory') IS NOT NULL AS is_migrated \gset
            \if :is_migrated
              SELECT 'migration', name FROM migratehistory ORDER BY name;
            \endif
            COMMIT;""",
            database,
            host,
        )
        pairs = [line.rsplit("|", 1) for line in answer.splitlines() if "|" in line]
        rows = {name.removeprefix("rows "): int(value) for name, value in pairs if name.startswith("rows ")}
        return rows, [value for name, value in pairs if name == "migration"]

    def archive(self) -> str:
        """Let all that was written until now reach the archive, and a commit after it, by which a restore knows where to end; returns that place."""
        if self.ask("SHOW archive_mode") == "off":
            raise Refused("throat_backup: PostgreSQL archives nothing (archive_mode is off); run playbooks/site.yml")
        # (An empty transaction would not be written down.)
        said = self.ask("SELECT pg_current_wal_insert_lsn(); SELECT pg_current_xact_id(); SELECT pg_walfile_name(pg_switch_wal());").splitlines()
        place, segment = said[0], said[-1]
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if self.ask(f"SELECT coalesce(last_archived_wal >= '{segment}', false) FROM pg_stat_archiver") == "t":
                return place
            time.sleep(0.2)
        gone = self.reachable()[1] if self.told["owns_cluster"] else []
        why = "; ".join(gone) or self.why(self.pgbackrest("check", check=False), self.repositories)
        raise Refused(f"the database's WAL does not reach the archive: {why}")

    @property
    def gaps_file(self) -> pathlib.Path:
        return self.state / "gaps.json"

    def gaps(self) -> list[str]:
        """Return what is known of moments that cannot be restored, as it was found after the last backup."""
        return json.loads(self.gaps_file.read_text()) if self.gaps_file.exists() else []

    def new_gaps(self) -> list[str]:
        """Look for WAL that is missing in the archives, and remember it; returns what was not known yet."""
        known, found = self.gaps(), []
        for repository in self.repositories if self.told["owns_cluster"] else []:
            listed = self.pgbackrest("repo-ls", "--recurse", "--output=json", f"archive/{self.told['stanza']}", repository=repository).stdout
            spans = [" to ".join(shown(datetime.datetime.fromtimestamp(moment, UTC)) for moment in gap) for gap in find_gaps(listed)]
            said = f"WAL is missing in {repository['place']}: no moment from {{}} can be restored, nor one from there to the next backup"
            found += [said.format(span) for span in spans]
        write(self.gaps_file, found, 0o600)
        self.tell("gaps", found)
        return [gap for gap in found if gap not in known]

    def release(self) -> str:
        try:
            return os.readlink(f"/opt/{self.site}/current").rpartition("/")[2]
        except OSError:
            return ""

    def backup(self, kind: str) -> dict[str, Any]:
        """Make a set. Files go to each repository that can be written; the database to all or to none, as its WAL does, without which no backup is whole."""
        if self.waits():
            raise Refused(
                f"backups of a server that was here before wait to be restored (playbooks/restore.yml); {self.site}-backup anew begins without them"
            )
        leads = bool(self.database) and not self.follows()
        if leads:
            self.open_again()
            # Of a drill that was killed.
            self.clear_side()
        wanted = "full" if kind == "full" else "differential"
        manifest: dict[str, Any] = {"site": self.site, "host": self.told["host"], "release": self.release()}
        began = time.monotonic()
        writable: list[dict[str, Any]] = []
        there, failures = self.reachable()
        has_database = leads and not (self.told["owns_cluster"] and failures)
        for repository in there:
            try:
                if has_database and self.told["owns_cluster"]:
                    say(f"backing the database up to {repository['place']} ({wanted})")
                    kept = [] if self.expires() else ["--no-expire-auto"]
                    self.pgbackrest("backup", f"--type={'full' if wanted == 'full' else 'diff'}", *kept, repository=repository)
                writable.append(repository)
            except Refused as refused:
                failures.append(str(refused))
        now = datetime.datetime.now(UTC)
        manifest["set"] = named(now)
        if has_database and writable:
            try:
                manifest |= self.mark(manifest["set"])
            except Refused as refused:
                failures.append(str(refused))
        for repository in writable:
            try:
                say(f"backing the files up to {repository['place']}")
                self.save_files(repository, manifest, wanted)
            except Refused as refused:
                failures.append(str(refused))
        manifest["seconds"] = round(time.monotonic() - began, 1)
        if failures:
            raise Refused("; ".join(dict.fromkeys(failures)))
        # (Without its database it is no set.)
        if leads or not self.database:
            self.keep(manifest)
        return manifest

    def mark(self, name: str) -> dict[str, Any]:
        """Mark the moment of a set in the WAL, by its name; returns what the database is at it."""
        backups = self.backups()
        if not backups:
            raise Refused("throat_backup: the database has no backup yet, which the site of the configuration production makes; run its backup.yml first")
        rows, migrations = self.counted(self.database, point=f"{self.site}-{name}")
        self.archive()
        return {
            "label": backups[-1]["label"],
            # A second site's is a point in the archive, which belongs to the machine.
            "kind": backups[-1]["kind"] if self.told["owns_cluster"] else "point",
            "postgres": self.ask("SHOW server_version"),
            "rows": rows,
            "migrations": migrations,
            "migration": (migrations or [""])[-1],
        }

    def save_files(self, repository: Mapping[str, Any], manifest: dict[str, Any], kind: str) -> None:
        """Take a snapshot of the site's files, with the manifests, the new one among them."""
        places = [place for place in self.told["files"] if os.path.isdir(place)]
        # Nothing is saved where nothing is mounted, and restic would call that a success.
        gone = [place for place in self.told["files"] if place not in places]
        if gone or (self.told["mount"] and not os.path.ismount(self.told["mount"])):
            raise Refused(f"throat_backup: {self.told['mount'] or gone[0]} is not there, so that there is nothing to back up; mount it")
        sent = {path: length for place in places if place.startswith("/var/") for path, length in walk(place)}
        manifest["sample"] = {}
        for path in random.sample(sorted(sent), min(SAMPLE, len(sent))):
            # Its owner may have removed it meanwhile.
            with contextlib.suppress(FileNotFoundError):
                manifest["sample"][path] = checksum(path)
        manifest["files"] = {"count": len(sent), "bytes": sum(sent.values())}
        is_set = "rows" in manifest or not self.database
        if is_set:
            self.keep(manifest)
        paths = [*places, *[str(self.sets_dir)] * is_set]
        if not paths:
            return
        mine = ["--host", self.told["host"], "--tag", self.site]
        said = self.restic(repository, "backup", "--json", "--quiet", *mine, *paths).stdout
        summary = json.loads(said.strip().splitlines()[-1])
        manifest.setdefault("snapshots", {})[repository["place"]] = summary["snapshot_id"]
        if not self.expires():
            return
        prune = ["--prune"] if kind == "full" else []
        kept = ["--keep-within", f"{self.told['files_days']}d", "--keep-last", "1"]
        self.restic(repository, "forget", "--quiet", *mine, "--group-by", "tags", *kept, *prune)

    def forget(self) -> None:
        """Remove the manifests of before the first backup that there still is."""
        if not self.expires():
            return
        if self.database:
            first = self.backups()[0]["ended"]
            for manifest in self.sets():
                if meant(manifest["set"]).timestamp() < first:
                    (self.sets_dir / f"{manifest['set']}.json").unlink()
                    self.tell(f"sets/{manifest['set']}", None)
        else:
            for manifest in self.sets():
                if datetime.datetime.now(UTC) - meant(manifest["set"]) > datetime.timedelta(days=self.told["files_days"]):
                    (self.sets_dir / f"{manifest['set']}.json").unlink()

    # Bringing one back

    def side_dir(self) -> pathlib.Path:
        return pathlib.Path(self.told["data_dir"]).parent / f"{self.site}-side"

    def clear_side(self) -> None:
        """Take away a side instance, also one that a run has left which was killed."""
        side = self.side_dir()
        if side.exists():
            # As postgres: in the sandbox of the unit nobody sees processes of others.
            end = 'for at in /proc/[0-9]*; do tr "\\0" "\\n" < $at/cmdline | grep -qxFe "--pg1-path=$1" && kill -KILL ${at#/proc/}; done'
            self.run("sh", "-c", end, "sh", str(side), user="postgres", check=False)
            self.run(f"{self.told['bin_dir']}/pg_ctl", "-D", str(side), "-m", "immediate", "-w", "stop", user="postgres", check=False)
            shutil.rmtree(side)

    def make_room(self, times: int, backups: Sequence[Mapping[str, Any]]) -> None:
        """Stop where there is no room for so many times the database."""
        needed = backups[-1]["size"] * times + MARGIN
        free = shutil.disk_usage(self.side_dir().parent).free
        if free < needed:
            raise Refused(f"throat_backup: {self.side_dir().parent} has {size(free)} free, and a restore beside needs {size(needed)}; make room there")

    @contextlib.contextmanager
    def beside(self, choice: Mapping[str, Any]) -> Iterator[str]:
        """A server of its own with what was chosen: nobody reaches it but by its socket, and it archives nothing. Yields the socket's directory."""
        side, version = self.side_dir(), choice.get("version", "")
        # Of an earlier version, which has been upgraded since.
        bin_dir = f"/usr/lib/postgresql/{version}/bin" if version else self.told["bin_dir"]
        if not os.path.isdir(bin_dir):
            raise Refused(f"restore_to: the backup {choice['label']} is of PostgreSQL {version}, whose programs are not here; install postgresql-{version}")
        self.clear_side()
        self.run("mkdir", "--mode=700", str(side), user="postgres")
        try:
            target = {
                "newest": ["--type=lsn", f"--target={choice['place']}", "--target-action=promote"] if choice.get("place") else ["--type=default"],
                "set": ["--type=name", f"--target={self.site}-{choice['set']}", "--target-action=promote"],
                "moment": ["--type=time", f"--target={choice['moment']}", "--target-action=promote"],
            }[choice["kind"]]
            # Other sites' databases come as empty files. Of this one's all, since an exchange during or after that backup may have changed their names.
            stored = json.loads(self.pgbackrest("info", "--output=json", f"--set={choice['label']}", f"--repo={choice['repo']}").stdout)
            names = [entry["name"] for backup in stored[0]["backup"] for entry in backup.get("database-ref") or []]
            ours = [name for name in names if re.fullmatch(rf"{self.database}(_(before|undone)_\d+_\d+|_restored)?", name)]
            only = [f"--db-include={name}" for name in ours]
            # Of a second site they are production's.
            asked = self.repositories if self.told["owns_cluster"] else []
            repository = next((found for found in asked if found["number"] == choice["repo"]), {"number": choice["repo"], "place": "the machine's archive"})
            where = [f"--pg1-path={side}", f"--set={choice['label']}", "--archive-mode=off"]
            self.pgbackrest("restore", *where, *target, *only, repository=repository)
            own = {
                "postgresql.conf": f"""
                    listen_addresses = ''
                    unix_socket_directories = '{side}'
                    port = {self.told['port']}
                    hba_file = '{side}/pg_hba.conf'
                    ident_file = '{side}/pg_ident.conf'
                    archive_mode = off
                    # Not held to the connections of the server that the WAL is of.
                    hot_standby = off
                    # Thrown away after use.
                    fsync = off
                    full_page_writes = off
                    autovacuum = off
                    """,
                "pg_hba.conf": "local all postgres peer\n",
                "pg_ident.conf": "",
            }
            for name, text in own.items():
                self.run("tee", str(side / name), user="postgres", text=text)
            log = side / "log"
            # Until it has written down that it is there, which takes a while on a busy machine; whoever asks before hears that there is none.
            self.run(f"{bin_dir}/pg_ctl", "-D", str(side), "-l", str(log), "-w", "start", user="postgres", check=False)
            while self.run("pg_isready", "-q", "-h", str(side), "-p", str(self.told["port"]), check=False).returncode:
                time.sleep(0.2)
                if self.run(f"{bin_dir}/pg_ctl", "-D", str(side), "status", user="postgres", check=False).returncode:
                    said = re.findall(r"(?:FATAL|PANIC): +(.*)", log.read_text(errors="replace"))
                    if any("before configured recovery target was reached" in line for line in said):
                        raise Refused(
                            f"WAL is missing in {repository['place']}, which ends before {choice['set'] or choice['moment']}; "
                            "choose an earlier moment or set, and make a backup"
                        )
                    raise Refused(f"the restored database does not start: {(said or ['it says nothing'])[0]}")
            yield str(side)
        finally:
            self.clear_side()

    def choice(self, to: str) -> dict[str, Any]:
        """Return what is meant, after all that was written until now has reached the archive."""
        place = ""
        if not self.waits() and self.database and re.match(r"newest$|\d{4}-", to):
            place = self.archive()
        chosen, mine = choose(to, self.sets(), self.backups(), datetime.datetime.now(UTC)), pathlib.Path(self.told["bin_dir"]).parent.name
        if float(chosen["version"] or 0) > float(mine):
            raise Refused(f"restore_to: {to} is of PostgreSQL {chosen['version']}, which the {mine} of this server cannot read; choose an earlier one")
        return {**chosen, "place": place}

    def manifest_of(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        return next((manifest for manifest in self.sets() if manifest["set"] == choice["set"]), {})

    def bring(self, to: str) -> dict[str, Any]:
        """Bring the database of a choice into the server, beside the one that serves."""
        choice, began = self.choice(to), time.monotonic()
        self.ask(f'DROP DATABASE IF EXISTS "{self.restored}" WITH (FORCE)')
        # The side server, the database that comes, and the WAL that it writes.
        self.make_room(3, self.backups())
        with self.beside(choice) as side:
            if self.ask(f"SELECT count(*) FROM pg_database WHERE datname = '{self.database}'", host=side) != "1":
                raise Refused(f"restore_to: there was no database {self.database} at {choice['moment']}; choose a later moment")
            rows, migrations = self.counted(self.database, side)
            if lost := lost_rows(self.manifest_of(choice).get("rows", {}), rows):
                raise Refused(f"the restored database is not what was backed up: {', '.join(lost)}; choose another set")
            try:
                as_now = f"FROM pg_database WHERE datname = '{self.database}'"
                self.ask(
                    f"""SELECT format('CREATE DATABASE {self.restored} TEMPLATE template0 ENCODING UTF8 LC_COLLATE %L LC_CTYPE %L OWNER %I',
                    datcollate, datctype, pg_get_userbyid(datdba)) {as_now} \\gexec"""
                )
                self.ask(f'REVOKE ALL ON DATABASE "{self.restored}" FROM PUBLIC; COMMENT ON DATABASE "{self.restored}" IS \'of {choice["moment"]}\'')
                port = str(self.told["port"])
                # Those of the server, which reads no dump of a later one.
                pipe = 'set -o pipefail; "$5/pg_dump" -h "$1" -p "$2" -Fc -Z0 "$3" | "$5/pg_restore" -h /run/postgresql -p "$2" -e -O -x --role "$3" -d "$4"'
                self.run("bash", "-c", pipe, "bash", side, port, self.database, self.restored, self.told["bin_dir"], user="postgres")
                self.ask("ANALYZE", self.restored)
                brought = self.counted(self.restored)[0]
                if brought != rows:
                    raise Refused(f"the restored database did not arrive as it was: {', '.join(lost_rows(rows, brought)) or 'tables differ'}; run this again")
            except Refused:
                self.ask(f'DROP DATABASE IF EXISTS "{self.restored}" WITH (FORCE)')
                raise
        return {**choice, "database": self.restored, "rows": sum(rows.values()), "migrations": migrations, "seconds": round(time.monotonic() - began, 1)}

    def states(self, kinds: str = "before") -> list[str]:
        """Return the databases that earlier exchanges have kept, the newest last."""
        return self.ask(f"SELECT datname FROM pg_database WHERE datname ~ '^{self.site}_({kinds})_[0-9]{{8}}_[0-9]{{6}}$' ORDER BY 1").splitlines()

    def exchange(self, new: str, left: str) -> str:
        """Give a database the site's name, and the one that has it another; nobody is asked to wait but for two renames."""
        old = f"{self.site}_{left}_{datetime.datetime.now(UTC):%Y%m%d_%H%M%S}"
        # Whatever becomes of this run.
        open_again = f'ALTER DATABASE "{self.database}" WITH ALLOW_CONNECTIONS true'
        psql = ["/usr/sbin/runuser", "-u", "postgres", "--", "/usr/bin/psql", "-Xqp", str(self.told["port"]), "-c", open_again]
        self.run("systemd-run", "--quiet", "--collect", "--on-active=60", *psql)
        statements = f"""
            ALTER DATABASE "{self.database}" WITH ALLOW_CONNECTIONS false;
            SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname IN ('{self.database}', '{new}');
            BEGIN;
            ALTER DATABASE "{self.database}" RENAME TO "{old}";
            ALTER DATABASE "{new}" RENAME TO "{self.database}";
            ALTER DATABASE "{old}" WITH ALLOW_CONNECTIONS true;
            COMMIT;
            COMMENT ON DATABASE "{self.database}" IS NULL;
            """
        try:
            self.ask(statements)
        except Refused:
            self.ask(open_again)
            raise
        return old

    def open_again(self) -> None:
        """Let everybody in where a crash between two renames has left the door shut."""
        shut = f"FROM pg_database WHERE datname ~ '^{self.database}(_(before|undone)_[0-9_]+)?$' AND NOT datallowconn"
        self.ask(f"SELECT format('ALTER DATABASE %I WITH ALLOW_CONNECTIONS true', datname) {shut} \\gexec")

    def begin(self) -> bool:
        """Make backups again; whether they have waited."""
        if not self.waits():
            return False
        self.waits_file.unlink(missing_ok=True)
        if self.follows():
            return False
        self.tell("waits", None)
        # What is written from now on is in no backup, whatever there is of the server of before.
        self.run("systemctl", "start", "--no-block", f"{self.site}-backup@full.service")
        return True

    def add_files(self, moment: datetime.datetime) -> int:
        """Add the files of a moment that are not there; returns how many. Those that are there stay as they are."""
        places = [place for place in self.told["files"] if place.startswith("/var/")]
        if places and self.told["mount"] and not os.path.ismount(self.told["mount"]):
            raise Refused(f"throat_backup: {self.told['mount']} is not there; mount it")
        added = 0
        there, said = self.reachable()
        if places and not there:
            raise Refused("; ".join(said))
        for repository in there if places else []:
            every = json.loads(self.restic(repository, "snapshots", "--json", "--tag", self.site).stdout or "[]")
            # Of each host that has ever sent them: this one may have had another name.
            for snapshot in [found for name in sorted({one["hostname"] for one in every}) for found in nearest(every, name, moment)]:
                listed = [json.loads(line) for line in self.restic(repository, "ls", "--json", "--recursive", snapshot["id"], *places).stdout.splitlines()]
                missing = {entry["path"]: entry["size"] for entry in listed if entry.get("type") == "file" and not os.path.lexists(entry["path"])}
                free = shutil.disk_usage(os.path.dirname(places[0])).free
                if free < sum(missing.values()) + MARGIN:
                    raise Refused(f"{places[0]} has room for {size(free)}, and {size(sum(missing.values()) + MARGIN)} are needed; make room there")
                for first in range(0, len(missing), CHUNK):
                    added += self.fetch(repository, snapshot["id"], places, sorted(missing)[first : first + CHUNK])
        return added

    def fetch(self, repository: Mapping[str, Any], snapshot: str, places: Sequence[str], paths: Sequence[str]) -> int:
        """Bring files of a snapshot to their places; returns how many."""
        # On the file system where they belong.
        with tempfile.TemporaryDirectory(dir=os.path.dirname(places[0]), prefix=".restored-") as directory:
            self.restic(repository, "restore", snapshot, "--target", directory, *(f"--include={path}" for path in paths))
            for path in paths:
                above = pathlib.Path(path).parent
                for made in reversed([one for one in (above, *above.parents) if not one.exists()]):
                    made.mkdir()
                    made.chmod(0o755)
                    shutil.chown(made, self.site, self.site)
                os.rename(f"{directory}{path}", path)
                shutil.chown(path, self.site, self.site)
        return len(paths)

    # Proving

    def drill(self) -> dict[str, Any]:
        """Restore the newest set where nobody is, and compare it with what was written down as it was made."""
        sets = self.sets()
        if not sets:
            raise Refused("there is no set to prove yet")
        manifest, began, found = sets[-1], time.monotonic(), {}
        if self.database:
            backups = self.backups()
            if not backups:
                raise Refused("; ".join(self.reachable()[1]) or "no repository has a backup of the database")
            self.make_room(1, backups)
            self.proving, self.is_proving = turn(backups, self.status().get("drill", {})), True
            mine = [backup for backup in backups if backup["repo"] == self.proving]
            with self.beside(choose(manifest["set"], sets, mine, datetime.datetime.now(UTC))) as side:
                rows = self.counted(self.database, side)[0]
                if lost := lost_rows(manifest["rows"], rows):
                    raise Refused(f"set {manifest['set']} is not what was backed up: {', '.join(lost)}")
                there = ["-h", side, "-p", str(self.told["port"]), "-d", self.database]
                amcheck = [f"{self.told['bin_dir']}/pg_amcheck", *there, "--install-missing", "--heapallindexed"]
                checked = self.run(*amcheck, user="postgres", check=False)
                if checked.returncode:
                    lines = [line.strip() for line in (checked.stdout + checked.stderr).splitlines() if line.strip()]
                    raise Refused(f"set {manifest['set']} {'is corrupt' if checked.returncode == 2 else 'could not be checked'}: {' '.join(lines[:2])}")
                found["rows"] = sum(rows.values())
        if manifest.get("sample") is not None:
            for repository in self.repositories:
                self.is_proving = True
                self.compare_files(repository, manifest)
            found["files"] = len(manifest["sample"])
        manifest["proven"] = shown(datetime.datetime.now(UTC))
        self.keep(manifest)
        return {"set": manifest["set"], **found, "repo": self.proving, "seconds": round(time.monotonic() - began, 1)}

    def compare_files(self, repository: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Stop where a sample of a set's files does not come out of a repository as it was written down."""
        if not manifest["sample"]:
            return
        # The newest set of a host that was emptied does not name its own snapshot, which it is part of.
        snapshot = manifest.get("snapshots", {}).get(repository["place"], "latest")
        mine = ["--host", manifest["host"], "--tag", self.site] if snapshot == "latest" else []
        with tempfile.TemporaryDirectory(dir=self.state) as directory:
            included = [f"--include={path}" for path in manifest["sample"]]
            self.restic(repository, "restore", snapshot, *mine, "--target", directory, *included)
            for path, expected in manifest["sample"].items():
                if not os.path.isfile(f"{directory}{path}") or checksum(f"{directory}{path}") != expected:
                    raise Refused(f"set {manifest['set']} in {repository['place']} does not have {path} as it was backed up")

    def listed(self) -> dict[str, Any]:
        """Return what there is: {"text": a table for people, "sets", "window", "status", "states"}."""
        sets, backups, gone = self.sets(), self.backups(), self.reachable()[1]
        status = self.status()
        places = ", ".join(repository["place"] for repository in self.repositories)
        lines = [f"Backups of {self.site} on {self.told['host']}, in {places}", "", sets_table(sets, backups)]
        window, states = "", []
        if self.database:
            # (An attempt that goes on for minutes has not failed yet.)
            last, failed = self.ask(
                """SELECT date_trunc('second', coalesce(last_archived_time, stats_reset)),
                          coalesce(last_failed_time > coalesce(last_archived_time, 'epoch'), false) FROM pg_stat_archiver"""
            ).split("|")
            behind = failed == "t" or (gone and self.told["owns_cluster"])
            if backups:
                window = f"from {shown(datetime.datetime.fromtimestamp(backups[0]['ended'], UTC))} to {last if behind else 'now'}"
                lines += ["", f"Any moment {window} can be restored.", *self.gaps()]
            lines += [f"WAL DOES NOT REACH THE ARCHIVE since {last}; {'; '.join(gone) or 'the log of PostgreSQL says why'}."] if behind else []
            states = self.states("before|undone")
            lines += [f"Kept by earlier restores: {', '.join(states)}"] if states else []
            if not self.expires():
                lines.append("NOTHING EXPIRES until a drill ends well.")
            if self.waits():
                lines.append("They are of a server that was here before; none is made and none removed until playbooks/restore.yml has brought one back.")
        for action, last in status.items():
            lines.append(f"Last {action}: {last['at']}, {'well' if last['ok'] else 'FAILED: ' + last['said']}")
        return {"text": "\n".join(lines), "sets": sets, "window": window, "status": status, "states": states}


def write(path: pathlib.Path, content: Any, mode: int) -> None:
    """Write a file as JSON, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.chmod(mode)
    new.rename(path)


def walk(place: str) -> Iterator[tuple[str, int]]:
    """The files below a directory, with their length; users remove some meanwhile."""
    for directory, _below, names in os.walk(place):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(os.path.join(directory, name))
                if stat.S_ISREG(found.st_mode):
                    yield os.path.join(directory, name), found.st_size


def nearest(snapshots: Sequence[Mapping[str, Any]], host: str, moment: datetime.datetime) -> list[Mapping[str, Any]]:
    """Return the snapshots of a host that are next to a moment, before it and after it."""
    known = sorted((at(found), number) for number, found in enumerate(snapshots) if found["hostname"] == host)
    chosen = [number for when, number in known if when <= moment][-1:] + [number for when, number in known if when > moment][:1]
    return [snapshots[number] for number in chosen]


def at(snapshot: Mapping[str, Any]) -> datetime.datetime:
    # (Python 3.11 reads no nanoseconds.)
    return datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", snapshot["time"]).replace("Z", "+00:00"))


def checksum(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(key: str, place: str) -> str:
    """Return by what a key is known again for a place, in plugin_utils/looked.py as well."""
    return hashlib.sha256(f"{place}:{key}".encode()).hexdigest()[:16]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def act(host: Host, action: str, rest: Sequence[str]) -> Any:
    """Do what was asked for, and return what is to be printed."""
    if action == "try":
        return host.try_key()
    if action == "prepare":
        return host.prepare("take-over" in rest)
    if action in ("anew", "restored"):
        return {"begun": host.begin()}
    if action in FOR_WHOEVER_LEADS and host.follows() and not (action in KINDS and host.told["files"]):
        said = f"another of {', '.join(host.members)} leads, where the backups of the database are made"
        if action in (*KINDS, "drill"):
            return said
        if action == "list":
            return {"text": f"Backups of {host.site} on {host.told['host']}: {said}.", "sets": [], "window": "", "status": host.status(), "states": []}
        raise Refused(f"{said}; ask it there")
    if action in KINDS:
        follows = host.follows()
        last = host.sets()[-1:]
        if action == "differential" and last and not follows and datetime.datetime.now(UTC) - meant(last[0]["set"]) < YOUNG:
            return f"{last[0]['set']} is young enough"
        try:
            made = host.backup(action)
        except Exception as failed:
            host.note("backup", str(failed) or repr(failed))
            raise
        if follows:
            host.note("backup", seconds=made["seconds"])
            return made
        host.forget()
        lost = "; ".join(host.new_gaps())
        host.note("backup", lost, set=made["set"], seconds=made["seconds"])
        if lost:
            raise Refused(f"{lost}. The backup {made['set']} was made")
        return made
    if action == "drill":
        try:
            proven = host.drill()
        # Whatever it was: the result of the one before is not the last.
        except Exception as failed:
            # One that could not look has found nothing, and proven nothing either.
            broken = (host.is_proving and not host.reachable()[1]) or not host.expires()
            host.note("drill", str(failed) or repr(failed), repo=host.proving or host.status().get("drill", {}).get("repo", 0), found_broken=broken)
            raise
        host.note("drill", **proven)
        return proven
    if action == "list":
        return host.listed()
    if action == "choose":
        choice = host.choice(rest[0])
        host.make_room(3, host.backups())
        return {**choice, "migrations": host.manifest_of(choice).get("migrations")}
    if action == "bring":
        return host.bring(rest[0])
    if action == "exchange":
        return {"kept": host.exchange(host.restored, "before")}
    if action in ("undo", "undoable"):
        states = host.states()
        if not states:
            raise Refused("undo: no restore has kept a state of before; there is nothing to bring back")
        if action == "undo":
            return {"kept": host.exchange(states[-1], "undone"), "live": states[-1]}
        return {"kind": "undo", "database": states[-1], "migrations": host.counted(states[-1])[1]}
    if action == "files":
        return {"added": host.add_files(read_moment(rest[0]) or datetime.datetime.now(UTC))}
    raise Refused(f"{action}: no such action")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 2
    os.umask(0o077)
    action, rest = sys.argv[1], sys.argv[2:]
    # As in the unit, whose sandbox does not let it ask for that.
    if action in ("full", "differential", "now", "drill") and os.getpriority(os.PRIO_PROCESS, 0) < 19:
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    host = Host(json.loads(sys.stdin.read() if action == "try" else pathlib.Path(f"/etc/{pathlib.Path(sys.argv[0]).name}.json").read_text()))
    try:
        # An exchange does not wait for a backup, since whoever asks waits for it.
        with host.alone() if action not in ("list", "undoable", "exchange", "undo") else contextlib.nullcontext():
            if host.database and action in ("prepare", "choose", "undoable") and not host.follows():
                host.open_again()
            done = act(host, action, rest)
    except (Refused, OSError) as refused:
        print(" ".join(str(refused).split()), file=sys.stderr)
        return 1
    print(done["text"] if action == "list" and "--json" not in rest else json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
