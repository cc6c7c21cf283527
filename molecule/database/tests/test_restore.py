"""What was backed up comes back: to a moment, to now, onto an emptied host; and what cannot is told in one line."""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import time

import pytest
import requests

PSQL = "cd / && runuser -u postgres -- psql -Atqd"
# What restores have put away.
FORGET = f"{PSQL} postgres -c \"SELECT datname FROM pg_database WHERE datname ~ '^throat_(before|undone)'\" | xargs --no-run-if-empty -n 1 runuser -u postgres -- dropdb"


@pytest.fixture(scope="module")
def write(url):
    """Write a row as a visitor does; returns the moment after it, with a second on both sides."""

    def post(value: str) -> str:
        assert requests.post(f"{url}/_ref/write", data={"value": value}, verify=False, timeout=30).ok
        time.sleep(1)
        moment = datetime.datetime.now(datetime.timezone.utc)
        time.sleep(1)
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f+00")

    return post


@pytest.fixture(scope="module")
def written(on_host):
    """The rows that begin with a word, as they are in the database; none of an earlier run on a host that stands."""
    on_host(FORGET)
    on_host(f"""{PSQL} throat -c "DELETE FROM user_metadata WHERE value ~ '^(moment|between|emptied|while)'" """)

    def rows(word: str) -> list[str]:
        return on_host(f"""{PSQL} throat -c "SELECT value FROM user_metadata WHERE value LIKE '{word}%' ORDER BY xid" """).split()

    return rows


@pytest.fixture(scope="module")
def restore(run_site):
    def run(to: str = "", check: bool = True):
        return run_site({"restore_to": to} if to else {"undo": True}, playbook="playbooks/restore.yml", check=check)

    return run


@pytest.fixture
def drill(on_host):
    """Run the drill by its unit, as the timer does: (whether it went well, the result that it leaves)."""

    def run() -> tuple[bool, dict]:
        went = on_host("systemctl start throat-backup@drill 2>/dev/null && echo well || echo badly")
        return went == "well", json.loads(on_host("cat /var/lib/throat-backup/status.json"))["drill"]

    return run


def test_nobody_notices_a_backup_and_its_table_shows_it(send_load, run_site, secrets, on_host):
    quiet = send_load()
    runs = []
    load = send_load(lambda: runs.append(run_site({"kind": "full"}, playbook="playbooks/backup.yml")))
    print(f"without a backup: {quiet}\nduring a full one: {load}")
    assert quiet.failed == load.failed == 0
    assert "full" in runs[0].said and "Last backup: " in runs[0].said and "FAILED" not in runs[0].said
    # On its own disk it is none.
    assert "which is no backup when the disk goes" in runs[0].said
    assert secrets["backup_key"] not in runs[0].output and secrets["backup_key"] not in on_host("journalctl --boot --no-pager -o cat | grep -i backup")
    assert on_host("systemctl is-enabled throat-backup@full.timer throat-backup@differential.timer throat-backup@drill.timer") == "\n".join(["enabled"] * 3)


def test_two_moments_are_restored_and_undone_below_a_load(send_load, write, written, restore, on_host):
    on_host("cd /var/lib/throat/uploads && head -c 100000 /dev/urandom > kept.png && cp kept.png lost.png && chown throat: *.png && throat-backup now")
    first = write("moment-1")
    second = write("moment-2")
    write("moment-3")
    on_host("rm /var/lib/throat/uploads/lost.png; echo changed > /var/lib/throat/uploads/kept.png")
    assert "has no time zone" in restore(first[:19], check=False).said

    loads = []
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        run = beside.submit(restore, first)
        while not run.done():
            loads.append(send_load(clients=8))
    print(f"a restore to a moment: {sum(len(load.seconds) for load in loads)} requests, longest {max(max(load.seconds) for load in loads):.2f} s")
    assert sum(load.failed for load in loads) == 0 and "1 files were added" in run.result().said
    assert written("moment-") == ["moment-1"]
    # What is missing is added, and what is there stays as it is.
    assert on_host("cd /var/lib/throat/uploads && stat --format %s:%U lost.png && cat kept.png") == "100000:throat\nchanged"

    write("between")
    restore(second)
    assert written("moment-") == ["moment-1", "moment-2"] and written("between") == []
    restore()
    assert written("moment-") == ["moment-1"] and written("between") == ["between"]
    restore()
    assert written("moment-") == ["moment-1", "moment-2", "moment-3"]
    assert "there is nothing to bring back" in on_host("throat-backup undoable 2>&1 || true")
    on_host(FORGET)


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("2020-01-01 00:00+00", "is outside of the archive; it goes from 20"),
        ("2099-01-01 00:00+00", "is outside of the archive; it goes from 20"),
        ("20200101T000000Z", "there is no set 20200101T000000Z (the last ones: 20"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(on_host, to, said):
    assert said in on_host(f"throat-backup choose '{to}' 2>&1 || true")


def test_a_key_of_another_site_is_refused_before_anything_is_changed(run_site):
    run = run_site({"throat_backup_key": "the-key-of-another-site"}, check=False)
    assert run.returncode != 0 and run.changed == 0
    assert "throat_backup_key: /var/lib/throat-backup/repository of" in run.said and "the-key-of-another-site" not in run.output


def test_drill_finds_a_broken_index_that_was_backed_up(drill, on_host):
    on_host("throat-backup now")
    went_well, result = drill()
    print(f"drill: {result['rows']} rows, {result['files']} files, {result['seconds']} s")
    assert went_well and result["ok"] and result["files"] > 0 and "/throat-side" not in on_host("ls -d /var/lib/postgresql/17/*")
    # The index as it was before some rows.
    file = on_host(f"""{PSQL} throat -c "SELECT pg_relation_filepath('user_metadata_pkey')" """)
    rows = "INSERT INTO user_metadata (key, value) SELECT 'x', 'x' || i FROM generate_series(1, 100) AS i"
    on_host(
        f"""{PSQL} throat -c CHECKPOINT; cp -p /var/lib/postgresql/17/main/{file} /root/index; {PSQL} throat -c "{rows}";
        systemctl stop postgresql@17-main; cp -p /root/index /var/lib/postgresql/17/main/{file}; systemctl start postgresql@17-main"""
    )
    try:
        on_host("until pg_isready -q; do sleep 0.2; done; throat-backup now; cd / && runuser -u postgres -- pgbackrest --stanza=throat verify")
        went_well, result = drill()
        assert not went_well and not result["ok"] and "is corrupt" in result["said"] and "user_metadata_pkey" in result["said"]
        # All that it has said.
        said = on_host("journalctl _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID throat-backup@drill) -o cat")
        assert said.split() == result["said"].split() and "\n" not in said
    finally:
        on_host(f"{PSQL} throat -c 'REINDEX TABLE user_metadata'")


def test_an_emptied_host_gets_all_back_from_its_repository(run_site, restore, write, written, on_host, answers_again):
    write("emptied-1")
    on_host("throat-backup now")
    write("emptied-2")
    everything = f"{PSQL} throat -c 'SELECT sum(hashtext(u::text)) FROM user_metadata u' && sha256sum /var/lib/throat/uploads/*"
    before = on_host(f"{PSQL} postgres -c 'SELECT pg_switch_wal()' >/dev/null; sleep 2; {everything}")
    # The repository is all that is left of the database, the uploads, and what was known of the backups.
    on_host(
        """systemctl stop 'throat-*.socket' 'throat-*.service' && pg_dropcluster --stop 17 main
        cd /var/lib/throat-backup && rm -r sets cache told status.json /var/lib/throat/uploads/*"""
    )
    began = time.monotonic()
    # A server that goes on elsewhere would lose its archive.
    assert "has the backups of another server, which may be alive" in run_site(check=False).said
    run_site({"throat_backup_take_over": True})
    # None of the empty site, of which nobody would want "newest".
    assert on_host("throat-backup now 2>&1 || true").startswith("backups of a server that was here before wait to be restored")
    shown = run_site(playbook="playbooks/restore.yml").said
    assert "They are of a server that was here before" in shown and written("emptied") == []
    restore("newest")
    print(f"an emptied host: {time.monotonic() - began:.0f} s")
    assert on_host(everything) == before and written("emptied") == ["emptied-1", "emptied-2"]
    answers_again(10)
    # The new server's first full backup has begun by itself.
    on_host("while systemctl is-active --quiet throat-backup@full || [ $(systemctl show -P SubState throat-backup@full) = start ]; do sleep 1; done")
    assert run_site().changed == 0
    assert json.loads(on_host("throat-backup list --json"))["status"]["backup"]["ok"]


@pytest.mark.campaign
def test_a_full_repository_is_told_and_the_database_goes_on(write, written, on_host):
    on_host("cd /var/lib/throat-backup && cp -a repository /root/ && mount -t tmpfs -o size=$(( $(du -sm repository | cut -f1) + 2 ))m none repository && cp -a /root/repository .")
    on_host("head -c 100M /dev/zero > /var/lib/throat-backup/repository/filler 2>/dev/null || true")
    said = on_host("throat-backup full 2>&1 | tail -n 1")
    print(said)
    assert "throat_backup_repository: /var/lib/throat-backup/repository is full" in said
    write("while-full")
    assert written("while-full") == ["while-full"] and "DOES NOT REACH THE ARCHIVE" in on_host("throat-backup list")
    on_host("rm /var/lib/throat-backup/repository/filler && mount -o remount,size=1G /var/lib/throat-backup/repository && sleep 61 && throat-backup now")
    assert "DOES NOT" not in on_host("throat-backup list")
