"""What the program of the role throat_backup works out without asking anything, and what a restored database means for a release."""

import datetime
import importlib.util
import json
import pathlib

import pytest
from ansible_collections.throat.stack.plugins.plugin_utils import backup as restored
from ansible_collections.throat.stack.plugins.plugin_utils import looked

ROOT = pathlib.Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("backup", ROOT / "roles/throat_backup/files/backup.py")
backup = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(backup)


def utc(*parts: int) -> datetime.datetime:
    return datetime.datetime(*parts, tzinfo=datetime.timezone.utc)


def entry(label: str, kind: str, stop: datetime.datetime, repo: int = 1, error: bool = False) -> dict:
    """A backup as pgBackRest 2.45 and 2.55 report it."""
    return {
        "label": label,
        "type": kind,
        "error": error,
        "database": {"id": 1, "repo-key": repo},
        "info": {"size": 31722412, "delta": 31722412, "repository": {"size": 3731424, "delta": 3731424}},
        "timestamp": {"start": int(stop.timestamp()) - 3, "stop": int(stop.timestamp())},
    }


INFO = json.dumps(
    [
        {"name": "other", "backup": []},
        {
            "name": "throat",
            "backup": [
                entry("20261122-033000F_20261123-033000D", "diff", utc(2026, 11, 23, 3, 31)),
                entry("20261122-033000F", "full", utc(2026, 11, 22, 3, 31)),
                entry("20261124-033000F", "full", utc(2026, 11, 24, 3, 31), error=True),
            ],
        },
    ]
)
BACKUPS = backup.read_info(INFO, "throat")
SETS = [{"set": "20261122T033105Z", "label": "20261122-033000F", "kind": "full", "rows": {"public.sub_post": 7}, "release": "abc", "files": {"count": 2, "bytes": 2048}},
        {"set": "20261123T033105Z", "label": "20261122-033000F_20261123-033000D", "kind": "differential"}]
NOW = utc(2026, 11, 23, 12)


def test_info_gives_the_sound_backups_the_oldest_first():
    assert [(found["label"], found["kind"]) for found in BACKUPS] == [
        ("20261122-033000F", "full"), ("20261122-033000F_20261123-033000D", "differential")
    ]
    assert backup.read_info("[]", "throat") == [] == backup.read_info("", "throat") == backup.read_info(INFO, "none")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23 08:00:00+00", utc(2026, 11, 23, 8)),
        ("2026-11-23 08:00Z", utc(2026, 11, 23, 8)),
        ("2026-11-23T10:00:00+0200", utc(2026, 11, 23, 8)),
        ("2026-11-23 03:30:00.5 -04:30", utc(2026, 11, 23, 8, 0, 0, 500000)),
        ("20261123T033105Z", None),
        ("newest", None),
    ],
)
def test_moments_are_read_with_their_zone(text, moment):
    assert backup.read_moment(text) == moment


@pytest.mark.parametrize(("text", "said"), [("2026-11-23 08:00:00", "has no time zone"), ("2026-13-23 08:00:00+00", "is no moment")])
def test_other_moments_are_refused_with_an_example(text, said):
    with pytest.raises(backup.Refused, match=rf"{said}.*'20.*[+]00'"):
        backup.read_moment(text)


@pytest.mark.parametrize(
    ("to", "kind", "label"),
    [
        ("newest", "newest", "20261122-033000F_20261123-033000D"),
        ("20261122T033105Z", "set", "20261122-033000F"),
        ("20261122-033000F", "set", "20261122-033000F"),
        # From the last backup that had ended by then.
        ("2026-11-23 03:00:00+00", "moment", "20261122-033000F"),
        ("2026-11-23 08:00:00+00", "moment", "20261122-033000F_20261123-033000D"),
    ],
)
def test_choice_begins_from_the_right_backup(to, kind, label):
    chosen = backup.choose(to, SETS, BACKUPS, NOW)
    assert (chosen["kind"], chosen["label"], chosen["repo"]) == (kind, label, 1)


@pytest.mark.parametrize(
    ("to", "sets", "backups", "said"),
    [
        ("newest", [], [], "there is no backup of the database yet; make one with playbooks/backup.yml"),
        ("2026-11-22 03:00:00+00", SETS, BACKUPS, "is outside of the archive; it goes from 2026-11-22 03:31:00+00 to 2026-11-23 12:00:00+00"),
        ("2026-11-23 12:00:01+00", SETS, BACKUPS, "is outside of the archive; it goes from"),
        ("2026-11-23 08:00", SETS, BACKUPS, "has no time zone"),
        ("yesterday", SETS, BACKUPS, "there is no set yesterday (the last ones: 20261122T033105Z, 20261123T033105Z); name one, or write newest"),
        ("20261122T033105Z", SETS, BACKUPS[1:], "is not in the repository any more"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_one_line(to, sets, backups, said):
    with pytest.raises(backup.Refused) as refused:
        backup.choose(to, sets, backups, NOW)
    assert str(refused.value).startswith("restore_to: ") and said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("counted", "has", "lost"),
    [
        ({"post": 1000}, {"post": 1000}, []),
        # A commit at the very instant.
        ({"post": 1000}, {"post": 1003}, []),
        ({"post": 1000}, {"post": 949}, ["post has 949 rows instead of 1000"]),
        ({"post": 10}, {"post": 0}, ["post has 0 rows instead of 10"]),
        ({"post": 0}, {}, ["post is missing"]),
        ({"post": 0}, {"post": 1, "new": 5}, []),
    ],
)
def test_rows_that_are_lost_are_named(counted, has, lost):
    assert backup.lost_rows(counted, has) == lost


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "2026-11-28 06:10:55.092 P00  ERROR: [029]: unable to load info file '/b/archive.info' or '/b/archive.info.copy':\n"
            "     FormatError: key/value found outside of section at line 1: x\n     HINT: has a stanza-create been performed?",
            "throat_backup_key: /b was encrypted with another key",
        ),
        ("Fatal: wrong password or no key found", "throat_backup_key: /b was encrypted with another key"),
        ("2026-11-28 06:10:55.092 P01  ERROR: [041]: unable to write '/b/x': [28] No space left on device", "throat_backup_repository: /b is full"),
        ("2026-11-28 06:10:55.092 P00   WARN: something\n2026-11-28 06:10:55.092 P00  ERROR: [056]: unable to find primary cluster", "ERROR: [056]: unable to find primary cluster (repository /b)"),
        ("", "status 7 (repository /b)"),
    ],
)
def test_what_the_programs_say_is_told_in_one_line(said, line):
    told = backup.explained(said, [{"place": "/b"}], 7)
    assert told.startswith(line) and "\n" not in told


def test_sets_are_shown_the_newest_first():
    lines = backup.sets_table(SETS, BACKUPS).splitlines()
    assert lines[0].split() == ["set", "kind", "release", "rows", "database", "stored", "files", "proven"]
    assert lines[2].split()[:3] == ["20261123T033105Z", "differential", "-"] and lines[3].split()[:4] == ["20261122T033105Z", "full", "abc", "7"]
    assert "30.3 MiB  3.6 MiB  2, 2 KiB  never" in lines[3]
    assert backup.sets_table([], []) == "There is no set yet."


def test_another_key_is_refused_before_any_host_is_changed():
    roles = {"throat_backup": {"site": "throat", "key": "one", "repository": "/a", "copies": [{"path": "/b"}]}}
    told = f"{backup.fingerprint('one', '/a')} /a\n{backup.fingerprint('two', '/b')} /b\n"
    files = {"/var/lib/throat-backup/told": {"content": told}}
    (line,) = looked.key_errors(roles, files, "host1")
    assert line.startswith("throat_backup_key: /b of host1 was encrypted with another key")
    # Another place may have another key.
    roles["throat_backup"]["copies"] = [{"path": "/c"}]
    assert looked.key_errors(roles, files, "host1") == [] == looked.key_errors(roles, {}, "host1") == looked.key_errors({}, files, "host1")


PATHS = ["releases/a/migrations/001_tables.py", "releases/b/migrations/001_tables.py", "releases/b/migrations/002_more.py"]


@pytest.mark.parametrize(
    ("seen", "live", "pending", "said"),
    [
        (["001_tables"], "a", [], ""),
        (["001_tables"], "b", ["002_more"], ""),
        (["001_tables", "002_more"], "a", [], "changed by 002_more, which the release a does not have; go over to b first, which has: playbooks/deploy.yml -e throat_gunicorn_release=b"),
        (["001_tables", "003_new"], "b", [], "changed by 003_new, which the release b does not have; and no release that is kept has"),
    ],
)
def test_a_database_is_served_by_a_release_that_knows_its_migrations(seen, live, pending, said):
    gap = restored.migration_gap(seen, PATHS, live)
    assert gap["pending"] == pending and (said in gap["errors"][0] if said else gap["errors"] == [])


def test_files_come_from_the_snapshots_next_to_a_moment_of_each_host_that_sent_some():
    found = [{"id": name, "hostname": host, "time": f"2026-11-{day}T03:30:00.123456789Z"} for name, host, day in (("c", "old", 27), ("a", "old", 25), ("b", "old", 26), ("d", "new", 28))]
    chosen = {host: [one["id"] for one in backup.nearest(found, host, utc(2026, 11, 26, 12))] for host in ("old", "new")}
    assert chosen == {"old": ["b", "c"], "new": ["d"]}
    assert [one["id"] for one in backup.nearest(found, "old", utc(2026, 11, 30))] == ["c"]


def test_files_that_a_user_removes_meanwhile_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "kept.png").write_bytes(b"1234")
    (tmp_path / "link.png").symlink_to("kept.png")
    monkeypatch.setattr(backup.os, "walk", lambda place: [(place, [], ["kept.png", "gone.png", "link.png"])])
    assert list(backup.walk(str(tmp_path))) == [(f"{tmp_path}/kept.png", 4)]
