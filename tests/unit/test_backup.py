"""What the program of the role throat_backup works out without asking anything, and what a restored database means for a release."""

import contextlib
import datetime
import importlib.util
import json
import pathlib
import sys
import types

import pytest
from ansible_collections.throat.stack.plugins.plugin_utils import backup as restored
from ansible_collections.throat.stack.plugins.plugin_utils import looked

ROOT = pathlib.Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("backup", ROOT / "roles/throat_backup/files/backup.py")
backup = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(backup)


def utc(*parts: int) -> datetime.datetime:
    return datetime.datetime(*parts, tzinfo=datetime.timezone.utc)


def entry(label: str, kind: str, stop: datetime.datetime, repo: int = 1, error: bool = False, server: int = 1) -> dict:
    """A backup as pgBackRest 2.45 and 2.55 report it."""
    return {
        "label": label,
        "type": kind,
        "error": error,
        "database": {"id": server, "repo-key": repo},
        "info": {"size": 31722412, "delta": 31722412, "repository": {"size": 3731424, "delta": 3731424}},
        "timestamp": {"start": int(stop.timestamp()) - 3, "stop": int(stop.timestamp())},
    }


INFO = json.dumps(
    [
        {"name": "other", "backup": []},
        {
            "name": "throat",
            "db": [{"id": 1, "repo-key": 1, "system-id": 7000, "version": "15"}, {"id": 2, "repo-key": 1, "system-id": 7001, "version": "17"}],
            "backup": [
                entry("20261122-033000F_20261123-033000D", "diff", utc(2026, 11, 23, 3, 31), server=2),
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
    assert [(found["label"], found["kind"], found["version"]) for found in BACKUPS] == [
        ("20261122-033000F", "full", "15"), ("20261122-033000F_20261123-033000D", "differential", "17")
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
    ("to", "kind", "label", "version"),
    [
        ("newest", "newest", "20261122-033000F_20261123-033000D", "17"),
        ("20261122T033105Z", "set", "20261122-033000F", "15"),
        ("20261122-033000F", "set", "20261122-033000F", "15"),
        # From the last backup that had ended by then.
        ("2026-11-23 03:00:00+00", "moment", "20261122-033000F", "15"),
        ("2026-11-23 08:00:00+00", "moment", "20261122-033000F_20261123-033000D", "17"),
    ],
)
def test_choice_begins_from_the_right_backup_with_the_programs_of_its_version(to, kind, label, version):
    chosen = backup.choose(to, SETS, BACKUPS, NOW)
    assert (chosen["kind"], chosen["label"], chosen["repo"], chosen["version"]) == (kind, label, 1, version)


def test_of_one_run_the_first_repository_serves_and_any_other_where_that_is_gone():
    copies = [BACKUPS[0] | {"repo": 1}, BACKUPS[0] | {"repo": 2, "ended": BACKUPS[0]["ended"] + 60, "label": "other"}]
    late = copies[1] | {"repo": 2, "ended": copies[0]["ended"] + 86400, "label": "late"}
    one = SETS[0] | {"set": "20261122T040000Z", "label": "other"}
    assert [backup.choose(to, [one], copies, NOW)["repo"] for to in ("newest", one["set"], "2026-11-22 12:00Z")] == [1, 1, 1]
    assert [backup.choose(to, [one], copies[1:], NOW)["label"] for to in ("newest", one["set"])] == ["other", "other"]
    # What the first one has missed is not replayed over days.
    assert backup.choose("newest", [one], [*copies, late], NOW)["label"] == "late"


def test_drills_take_turns_and_stay_with_what_has_failed():
    both = [BACKUPS[0] | {"repo": 1}, BACKUPS[0] | {"repo": 3}]
    assert [backup.turn(both, last) for last in ({}, {"repo": 1, "ok": True}, {"repo": 3, "ok": True}, {"repo": 3, "ok": False}, {"repo": 2, "ok": False})] == [1, 3, 1, 3, 3]


def test_old_sets_stay_from_a_drill_that_finds_a_broken_one_until_one_that_goes_well(tmp_path):
    host = backup.Host({"site": "throat", "database": "throat", "members": [], "repositories": [], "state_dir": str(tmp_path)})

    def drill(said: str, looks: bool) -> bool:
        def run() -> dict:
            host.is_proving = looks
            if said:
                raise backup.Refused(said)
            return {"repo": 1}

        host.drill = run
        with contextlib.suppress(backup.Refused):
            backup.act(host, "drill", [])
        return host.expires()

    told = [("no room", False), ("is corrupt", True), ("no room", False), ("", True)]
    assert [drill(*last) for last in told] == [True, False, False, True]


def test_member_takes_over_what_others_have_noted_and_loses_nothing_that_nobody_was_told_of(tmp_path, monkeypatch):
    host = backup.Host({"site": "throat", "database": "throat", "members": ["db1", "db2", "db3"], "repositories": [], "state_dir": str(tmp_path)})
    host.sets_dir.mkdir()
    # Brought back from a repository, on the first of three empty hosts.
    backup.write(host.sets_dir / "20261120T033000Z.json", {"set": "20261120T033000Z"}, 0o600)
    for noted, there in (
        ({"waits": True}, ["20261120T033000Z"]),
        ({"status": {}, "sets/20261121T033000Z": {"set": "20261121T033000Z"}}, ["20261120T033000Z", "20261121T033000Z"]),
        # Whoever leads has let the second one expire.
        ({"status": {}, "gaps": ["a gap"]}, ["20261120T033000Z"]),
        # The server is down.
        ({}, ["20261120T033000Z"]),
    ):
        monkeypatch.setattr(host, "noted", lambda noted=noted: noted)
        assert [found["set"] for found in host.sets()] == there
    assert host.gaps() == ["a gap"]


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


def test_wal_that_is_missing_is_found_by_its_numbers():
    segment = "17-1/{0:08X}{1:08X}/{0:08X}{1:08X}{2:08X}-" + "a" * 40 + ".zst"
    there = [(1, 0, 254), (1, 0, 255), (1, 1, 0), (1, 1, 3), (2, 1, 3), (2, 1, 4)]
    listed = {segment.format(*numbers): {"time": 100 + place} for place, numbers in enumerate(there)} | {"17-1/00000002.history": {"time": 1}}
    assert backup.find_gaps(json.dumps(listed)) == [(101, 103)] and backup.find_gaps("") == []


def test_wal_is_missing_between_one_leader_and_the_next_where_the_first_had_not_archived_it():
    segment = "17-1/{0:08X}{1:08X}/{0:08X}{1:08X}{2:08X}-" + "a" * 40 + ".zst"

    def gaps(*there):
        return backup.find_gaps(json.dumps({segment.format(*numbers): {"time": 100 + place} for place, numbers in enumerate(there)}))

    # The next one begins in the middle of a segment, and archives all of it.
    assert gaps((1, 0, 7), (1, 0, 8), (2, 0, 8), (2, 0, 9)) == gaps((1, 0, 7), (1, 0, 8), (2, 0, 9)) == []
    assert gaps((1, 0, 7), (1, 0, 8), (2, 0, 10)) == [(100, 102)]


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
        ("2026-11-28 06:10:55.092 P01  ERROR: [041]: unable to write '/b/x': [28] No space left on device", "throat_backup_repositories: /b is full"),
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
    roles = {"throat_backup": {"site": "throat", "key": "one", "database": "", "repositories": [{"type": "local", "path": "/a"}, {"type": "local", "path": "/b"}]}}
    told = f"{backup.fingerprint('one', '/a')} /a\n{backup.fingerprint('two', '/b')} /b\n"
    files = {"/var/lib/throat-backup/told": {"content": told}}
    (line,) = looked.key_errors(roles, files, "host1")
    assert line.startswith("throat_backup_key: /b of host1 was encrypted with another key")
    # Another place may have another key.
    roles["throat_backup"]["repositories"][1]["path"] = "/c"
    assert looked.key_errors(roles, files, "host1") == [] == looked.key_errors(roles, {}, "host1") == looked.key_errors({}, files, "host1")


SFTP = {"type": "sftp", "host": "backup.example.com", "user": "throat", "host_keys": ["ssh-ed25519 AAAA"]}
S3 = {"type": "s3", "host": "s3.example.com", "bucket": "throat", "region": "us-east-1", "access_key": "name", "secret_key": "the-secret"}


def test_both_programs_are_told_the_same_place_and_only_files_of_secrets_have_the_secret():
    arguments = {"site": "shop", "database": "shop", "repositories": [{"type": "local"}, SFTP | {"port": 2222, "path": "/there/"}, S3 | {"port": 9000, "ca_file": "/ca"}]}
    local, sftp, s3 = restored.repositories(arguments)
    assert [found["place"] for found in (local, sftp, s3)] == [
        "/var/lib/shop-backup/repository", "sftp://throat@backup.example.com:2222/there", "s3://s3.example.com:9000/throat/shop-backup",
    ]
    assert [found["restic"] for found in (local, sftp, s3)] == [
        "/var/lib/shop-backup/repository/restic", "sftp:throat@backup.example.com:/there/restic", "s3:https://s3.example.com:9000/throat/shop-backup/restic",
    ]
    assert [found["pgbackrest"]["path"] for found in (local, sftp, s3)] == ["/var/lib/shop-backup/repository/pgbackrest", "/there/pgbackrest", "/shop-backup/pgbackrest"]
    assert [found["is_own"] for found in (local, sftp, s3)] == [True, False, False] and sftp["known_hosts"] == ["[backup.example.com]:2222 ssh-ed25519 AAAA"]
    assert s3["pgbackrest"]["s3-uri-style"] == "path" and s3["options"] == ["--cacert", "/ca"] and "the-secret" not in s3["place"] + s3["restic"]
    amazon = restored.repositories(arguments | {"repositories": [S3 | {"host": "s3.eu-central-1.amazonaws.com"}]})[0]
    assert amazon["pgbackrest"]["s3-uri-style"] == "host" and amazon["address"] == ["s3.eu-central-1.amazonaws.com", 443]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (SFTP | {"host_keys": []}, "host_keys: not set, but required with type sftp; ssh-keyscan prints them"),
        (S3 | {"secret_key": None}, "secret_key: not set, but required with type s3; give it from a vault"),
        (S3 | {"host": "https://s3.example.com"}, "host https://s3.example.com has a letter that it may not have; write it as backup.example.com, without https://"),
        (SFTP | {"path": "there"}, "there is no path of the server; write it from its root"),
    ],
)
def test_a_place_that_is_not_told_whole_is_refused(entry, said):
    (line,) = restored.repository_errors([entry])
    assert line.startswith(f"throat_backup_repositories: {said}") and "the-secret" not in line
    assert restored.repository_errors([{"type": "local"}, SFTP, S3]) == []


def test_sftp_is_refused_where_pgbackrest_does_not_know_it():
    roles = {"throat_backup": {"site": "throat", "database": "throat", "repositories": [SFTP, S3]}}
    (line,) = looked.sftp_errors(roles, {"debian_postgres": "15"}, "host1")
    assert line.startswith("throat_backup_repositories: pgBackRest of host1 (Debian 12) knows no SFTP, for sftp://throat@backup.example.com:22/throat-backup")
    roles["throat_backup"]["repositories"] = [S3]
    assert looked.sftp_errors(roles, {"debian_postgres": "15"}, "host1") == [] == looked.sftp_errors({}, {"debian_postgres": "15"}, "host1")


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


@pytest.mark.parametrize(
    ("there", "is_ours"),
    [
        ({"15/main/global/pg_control": 7000, "17/main/global/pg_control": 7002}, False),
        ({"15/main/global/pg_control": 7001, "17/main/global/pg_control": 7002}, True),
        # By hard links.
        ({"15/main/global/pg_control.old": 7001, "17/main/global/pg_control": 7002}, True),
        ({"17/main/global/pg_control": 7002}, False),
    ],
)
def test_a_repository_is_of_the_server_that_was_upgraded_or_of_another(tmp_path, there, is_ours):
    for path, identifier in there.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(identifier.to_bytes(8, sys.byteorder) + b"more")
    host = backup.Host({"site": "throat", "database": "throat", "members": [], "repositories": [], "state_dir": "", "stanza": "throat", "data_dir": str(tmp_path / "17/main")})
    host.by_itself = lambda *_arguments: types.SimpleNamespace(stdout=INFO)
    assert host.is_own_past({}) is is_ours
