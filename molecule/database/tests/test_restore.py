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


@pytest.fixture
def pause() -> float:
    """Seconds between two requests of a visitor, of which each kind waits for its answer."""
    return 0.05


@pytest.mark.campaign
def test_writes_below_a_load_do_not_notice_a_backup(visitors, on_host):
    """Of three rounds; the visitors see to it that each row that was answered is there, once."""
    on_host(f"""{PSQL} throat -c 'DROP TABLE IF EXISTS filler' -c "CREATE TABLE filler AS SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 400000) AS i" """)
    spans = {"during a full backup": [], "without": []}
    for _ in range(3):
        began = time.monotonic()
        on_host("systemctl start throat-backup@full")
        ended = time.monotonic()
        time.sleep(ended - began)
        spans["during a full backup"].append((began, ended))
        spans["without"].append((ended, time.monotonic()))
    on_host(f"{PSQL} throat -c 'DROP TABLE filler'")
    longest = {}
    for name, rounds in spans.items():
        writes = [visit for visit in visitors.visits if visit.kind == "post" and any(began <= visit.began < ended for began, ended in rounds)]
        seconds = sorted(visit.seconds for visit in writes)
        longest[name] = seconds[-1]
        print(f"{name}: {sum(ended - began for began, ended in rounds):.0f} s, {len(writes)} writes, {sum(bool(visit.failure) for visit in writes)} failed, "
              f"p50 {seconds[len(seconds) // 2]:.3f} s, p99 {seconds[len(seconds) * 99 // 100]:.3f} s, longest {seconds[-1]:.3f} s")
    assert not [visit for visit in visitors.visits if visit.failure]
    assert longest["during a full backup"] <= 2 * longest["without"]


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


@pytest.mark.campaign
def test_migrations_that_fail_after_a_restore_leave_a_way_back(release, run_site, restore, write, written, on_host, url):
    def status() -> int:
        return requests.get(f"{url}/_ref/sleep?s=0", verify=False, timeout=30).status_code

    write("moment-1")
    before = json.loads(on_host("throat-backup now"))["set"]
    write("moment-2")
    # It goes well where it is deployed, and not where it is restored.
    begins = "import os\n\n\ndef migrate(migrator, database, fake=False, **kwargs):\n"
    fails = f"{begins}    assert not os.path.exists('/srv/fails'), 'as the test wants it'\n    migrator.sql('CREATE TABLE later (i int)')\n"
    newer = {"throat_gunicorn_source": release({"migrations/900_later.py": fails})}
    run_site(newer, playbook="playbooks/deploy.yml")
    on_host("touch /srv/fails")
    run = restore(before, check=False)
    assert run.returncode != 0 and status() == 503
    assert "The site is closed, with the restored database; -e undo=true brings back what was there, and opens it." in run.said
    assert "The migrations of release" in run.said and "as the test wants it" in run.said and "goes on serving" not in run.said
    began = time.monotonic()
    restore()
    print(f"undo after migrations that failed: {time.monotonic() - began:.0f} s")
    assert status() == 200 and written("moment-") == ["moment-1", "moment-2"] and on_host(f"{PSQL} throat -c 'SELECT count(*) FROM later'") == "0"
    # It can be tried again when it is mended; one that somebody has closed stays so.
    on_host("rm /srv/fails; echo 'closed by somebody' > /etc/nginx/throat-maintenance")
    restore(before)
    assert status() == 503 and on_host("cat /etc/nginx/throat-maintenance; rm /etc/nginx/throat-maintenance") == "closed by somebody"
    assert status() == 200 and written("moment-") == ["moment-1"] and on_host(f"{PSQL} throat -c 'SELECT count(*) FROM later'") == "0"
    restore()
    assert written("moment-") == ["moment-1", "moment-2"]
    on_host(FORGET)
    on_host(f"{PSQL} throat -c 'DROP TABLE later'")


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


def test_drill_finds_a_broken_index_that_was_backed_up(drill, on_host):
    on_host("runuser -u throat -- touch /var/lib/throat/uploads/of-a-drill && throat-backup now")
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


PLACES = """
id throat-store >/dev/null 2>&1 || useradd --system --home-dir /srv/store --shell /usr/sbin/nologin throat-store
mkdir -p /srv/store/throat-backup /etc/ssh/keys /root/s3 && rm -f /etc/ssh/keys/* && chown throat-store: /srv/store/throat-backup && cd /root/s3
printf 'Match User throat-store\n  ChrootDirectory /srv/store\n  ForceCommand internal-sftp\n  AuthorizedKeysFile /etc/ssh/keys/%%u\n' > /etc/ssh/sshd_config.d/store.conf
ssh-keygen -A >/dev/null && systemctl restart ssh
# (Nobody in a sandbox sees the home of root.)
test -e /etc/ssl/s3.key || openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout /etc/ssl/s3.key -out /etc/ssl/s3.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
test -e moto/bin/moto_server || { python3 -m venv moto && moto/bin/pip install --quiet 'moto[server,s3]==5.2.5'; }
# (Its own TLS closes without saying so, which pgBackRest takes for an attack.)
echo 'server { listen 9000 ssl; ssl_certificate /etc/ssl/s3.pem; ssl_certificate_key /etc/ssl/s3.key; client_max_body_size 0;
location / { proxy_pass http://127.0.0.1:9001; proxy_set_header Host $http_host; proxy_request_buffering off; } }' > /etc/nginx/conf.d/s3.conf
systemctl reload nginx; systemctl stop s3 2>/dev/null; systemd-run --quiet --unit=s3 --setenv=INITIAL_NO_AUTH_ACTION_COUNT=4 moto/bin/moto_server -H 127.0.0.1 -p 9001
until curl -s -o /dev/null 127.0.0.1:9001/moto-api; do sleep 0.5; done
moto/bin/python - <<END
import boto3, json
told = dict(endpoint_url="http://127.0.0.1:9001", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
iam = boto3.client("iam", **told)
iam.create_user(UserName="throat")
iam.put_user_policy(UserName="throat", PolicyName="s3", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}))
boto3.client("s3", **told).create_bucket(Bucket="throat")
print(json.dumps(iam.create_access_key(UserName="throat")["AccessKey"], default=str))
END
"""


@pytest.fixture(scope="module")
def places(on_host):
    """An account on an SFTP server and a bucket of a store that checks signatures, as entries of the inventory; both on the host itself."""
    key = json.loads(on_host(PLACES).splitlines()[-1])
    known = [" ".join(line.split()[:2]) for line in on_host("cat /etc/ssh/ssh_host_*_key.pub").splitlines()]
    yield {
        "sftp": {"type": "sftp", "host": "localhost", "user": "throat-store", "host_keys": known},
        "s3": {"type": "s3", "host": "localhost", "port": 9000, "bucket": "throat", "access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"], "ca_file": "/etc/ssl/s3.pem"},
    }
    on_host("rm -rf /etc/nginx/conf.d/s3.conf /etc/ssh/sshd_config.d/store.conf /srv/store; systemctl stop s3 ssh; systemctl reload nginx")


@pytest.mark.campaign
def test_any_place_gives_all_back_when_the_others_are_gone(run_site, restore, write, written, on_host, places):
    every = {"throat_backup_repositories": [{"type": "local"}, *places.values()]}
    assert "does not admit this host; write this line into the account" in run_site(every, "--tags", "throat_backup", check=False).said
    on_host("install -m 644 /var/lib/throat-backup/ssh/key.pub /etc/ssh/keys/throat-store")
    # As of an operator who has that tag alone in mind.
    run = run_site(every, "--tags", "postgres")
    on_host("head -c 100000 /dev/urandom > /var/lib/throat/uploads/elsewhere.png; throat-backup full")
    write("emptied-elsewhere")
    assert [json.loads(on_host("throat-backup drill"))["repo"] for _ in range(3)] in ([1, 2, 3], [2, 3, 1], [3, 1, 2])
    assert places["s3"]["secret_key"] not in run.output + on_host("journalctl --boot --no-pager -o cat | grep -i backup")
    everything = f"{PSQL} throat -c 'SELECT sum(hashtext(u::text)) FROM user_metadata u' && sha256sum /var/lib/throat/uploads/*"
    before = on_host(f"{PSQL} postgres -c 'SELECT pg_switch_wal()' >/dev/null; sleep 8; {everything}")
    for name in places:
        on_host("systemctl stop 'throat-*.socket' 'throat-*.service'; pg_dropcluster --stop 17 main; cd /var/lib/throat-backup && find . -mindepth 1 -not -path './ssh*' -delete; rm /var/lib/throat/uploads/*")
        left = {"throat_backup_repositories": [{"type": "local"}, places[name]]}
        run_site({**left, "throat_backup_take_over": True})
        began = time.monotonic()
        assert run_site({**left, "restore_to": "newest"}, playbook="playbooks/restore.yml").returncode == 0
        print(f"all back from {name} alone: {time.monotonic() - began:.0f} s")
        assert on_host(everything) == before and written("emptied-elsewhere") == ["emptied-elsewhere"]
        on_host("while systemctl is-active --quiet throat-backup@full || [ $(systemctl show -P SubState throat-backup@full) = start ]; do sleep 1; done")
    assert run_site(left).changed == 0
    run_site()


@pytest.mark.campaign
def test_an_hour_without_a_place_costs_what_it_says_and_the_database_goes_on(run_site, write, written, on_host, drill, places):
    hour = {"throat_backup_repositories": [{"type": "local"}, {**places["sftp"], "path": "/throat-backup/hour"}], "throat_backup_queue_max_mb": 256}
    # The first run makes the key by which the server knows the host.
    run_site(hour, "--tags", "throat_backup", check=False)
    on_host("install -m 644 /var/lib/throat-backup/ssh/key.pub /etc/ssh/keys/throat-store")
    run_site(hour, "--tags", "throat_backup")
    on_host("systemctl stop ssh")
    # WAL of an hour, whatever the clock says: a quiet site fills one segment of 16 MiB a minute, so that 60 of them, 960 MiB, are one.
    began = time.monotonic()
    waiting = [
        int(on_host(f"{PSQL} throat -c 'CREATE TABLE IF NOT EXISTS filler (t int); INSERT INTO filler VALUES (1)' -c 'SELECT pg_switch_wal()' >/dev/null; sleep 2; ls /var/lib/postgresql/17/main/pg_wal/archive_status | grep -c ready || true"))
        for _ in range(60)
    ]
    print(f"960 MiB of WAL in {time.monotonic() - began:.0f} s, of 3600 on a quiet site; waited at most {max(waiting)} segments, {max(waiting) * 16} MiB, of 256 MiB allowed")
    assert max(waiting) < 60
    write("while-away")
    assert written("while-away") == ["while-away"]
    line = "throat_backup_repositories: sftp://throat-store@localhost:22/throat-backup/hour does not answer"
    assert on_host("systemctl start throat-backup@full 2>/dev/null || echo failed") == "failed"
    assert on_host("journalctl -u throat-backup@full -o cat -n 20 | grep -c '^throat_backup_repositories' || true") != "0"
    listed = on_host("throat-backup list")
    assert "WAL DOES NOT REACH THE ARCHIVE since 20" in listed and line in listed
    on_host(f"systemctl start ssh; until [ $(ls /var/lib/postgresql/17/main/pg_wal/archive_status | grep -c ready) = 0 ]; do {PSQL} throat -c 'SELECT pg_switch_wal()' >/dev/null; sleep 5; done")
    # Told once, by the run that has mended it.
    said = on_host("throat-backup now 2>&1 >/dev/null | tail -n 1; throat-backup now >/dev/null 2>&1 && echo well")
    print(said)
    assert said.startswith("WAL is missing in ") and said.endswith("well") and "WAL is missing in " in on_host("throat-backup list")
    assert drill()[0] and drill()[0]
    on_host(f"{PSQL} throat -c 'DROP TABLE filler'")
    run_site({}, "--tags", "throat_backup")


@pytest.mark.campaign
def test_ten_drills_below_a_load_give_no_false_alarm(send_load, drill, on_host):
    on_host("throat-backup now")
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        run = beside.submit(lambda: [drill() for _ in range(10)])
        loads = []
        while not run.done():
            loads.append(send_load(clients=8))
    print(f"ten drills: {[result['seconds'] for _, result in run.result()]} s, {sum(len(load.seconds) for load in loads)} requests meanwhile")
    assert all(went for went, _ in run.result()) and sum(load.failed for load in loads) == 0


@pytest.mark.campaign
def test_a_drill_without_room_says_so_and_changes_nothing(drill, on_host):
    unit = "/run/systemd/system/throat-backup@drill.service.d"
    on_host(f"mkdir -p {unit} && printf '[Service]\nTemporaryFileSystem=/var/lib/postgresql/17:size=100M\n' > {unit}/room.conf && systemctl daemon-reload")
    try:
        went_well, result = drill()
        assert not went_well and "has 100 MiB free, and a restore beside needs" in result["said"]
    finally:
        on_host(f"rm -r {unit} && systemctl daemon-reload")
    assert drill()[0]


@pytest.mark.campaign
def test_a_full_repository_is_told_and_the_database_goes_on(write, written, on_host):
    # On a disk of its own, of 2 MiB more. (A service that runs does not see what is mounted in a container.)
    stopped = "cd /var/lib/throat-backup && rm -rf /srv/disk && systemctl stop postgresql@17-main && cp -a repository /srv/disk"
    started = "systemctl start postgresql@17-main; until pg_isready -q; do sleep 0.2; done"
    on_host(f"{stopped}; mount -t tmpfs -o size=$(( $(du -sm repository | cut -f1) + 2 ))m none repository && cp -a /srv/disk/. repository; {started}")
    try:
        on_host("head -c 100M /dev/zero > /var/lib/throat-backup/repository/filler 2>/dev/null || true")
        said = on_host("throat-backup full 2>&1 | tail -n 1")
        print(said)
        assert "throat_backup_repositories: /var/lib/throat-backup/repository is full" in said
        write("while-full")
        # (An empty segment is so small that there is room for it.)
        on_host(f"{PSQL} throat -c 'CREATE TABLE filler AS SELECT md5(random()::text) FROM generate_series(1, 100000)' -c 'DROP TABLE filler' -c 'SELECT pg_switch_wal()'")
        listed = on_host("for _ in $(seq 20); do throat-backup list | grep -q 'NOT REACH' && break; sleep 1; done; throat-backup list")
        assert written("while-full") == ["while-full"] and "WAL DOES NOT REACH THE ARCHIVE since 20" in listed
        # With room again, all is made up for by itself.
        on_host("rm /var/lib/throat-backup/repository/filler && mount -o remount,size=1G /var/lib/throat-backup/repository && sleep 61 && throat-backup now")
        assert "DOES NOT" not in on_host("throat-backup list") and "is missing" not in on_host("throat-backup list")
    finally:
        on_host(f"{stopped}; umount repository && rm -rf repository && mv /srv/disk repository; {started}")


# The server and the program have the day that is in a file, by libfaketime; restic, which it does not reach, is told the moment.
CLOCK = "/srv/days"
# Days that have been: restic keeps whatever is of a day to come.
TODAY = 100
PRETENDS = {
    "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "FAKETIME_TIMESTAMP_FILE": CLOCK,
    "FAKETIME_NO_CACHE": "1",
    # What waits goes by this one.
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "FAKETIME_DISABLE_SHM": "1",
}
RESTIC = f"""#!/bin/sh
case " $* " in *" backup "*) set -- "$@" --time "$(date --date "$(cut -d d -f 1 {CLOCK}) days" '+%F %T')" ;; esac
exec /usr/bin/restic.real "$@"
"""


@pytest.fixture
def on_day(on_host, run_site):
    """Run throat-backup on a day of the last TODAY ones, in a repository of the test's own that keeps three full ones and ten days of files: what it says last."""
    server = "systemctl restart postgresql@17-main; until pg_isready -q; do sleep 0.2; done"
    on_host("apt-get install -y -qq libfaketime >/dev/null && mkdir -p /srv/month && rm -rf /srv/month/* && mv /var/lib/throat-backup/sets /srv/sets && mkdir -m 700 /var/lib/throat-backup/sets")
    run_site({"throat_backup_repositories": [{"type": "local", "path": "/srv/month"}], "throat_backup_files_days": 10}, "--tags", "throat_backup")
    settings = "".join(f"{name} = '{value}'\n" for name, value in PRETENDS.items())
    on_host(f"echo -{TODAY}d > {CLOCK}; chmod 644 {CLOCK}; cat >> /etc/postgresql/17/main/environment; mv /usr/bin/restic /usr/bin/restic.real; {server}", settings)
    on_host("cat > /usr/bin/restic && chmod 755 /usr/bin/restic", RESTIC)

    def run(day: int, kind: str) -> str:
        variables = " ".join(f"{name}={value}" for name, value in PRETENDS.items())
        # At once: it is read all the time.
        return on_host(f"echo -{TODAY - day}d > {CLOCK}.new; mv {CLOCK}.new {CLOCK}; env {variables} throat-backup {kind} 2>&1 | tail -n 1")

    yield run
    on_host(f"mv /usr/bin/restic.real /usr/bin/restic; sed -i '/FAKETIME\\|LD_PRELOAD/d' /etc/postgresql/17/main/environment; {server}")
    on_host("rm -rf /var/lib/throat-backup/sets /var/lib/throat-backup/status.json /var/lib/throat-backup/gaps.json && mv /srv/sets /var/lib/throat-backup/sets")
    run_site({}, "--tags", "throat_backup")
    # The WAL of the test is missing there, which is told once.
    on_host("rm -rf /srv/month; throat-backup full >/dev/null 2>&1 || true")


@pytest.mark.campaign
def test_thirty_days_leave_what_the_retention_says_and_the_last_good_set_stays(on_day, on_host):
    first = int(on_host("date +%s")) - TODAY * 86400

    def kept() -> dict[str, list[str]]:
        """The days of what there is."""
        stanza = json.loads(on_host("setpriv --reuid=postgres --regid=postgres --init-groups pgbackrest --stanza=throat info --output=json"))[0]
        files = json.loads(on_host("cd /etc && RESTIC_PASSWORD=$(python3 -c 'import json; print(json.load(open(\"/etc/throat-backup.json\"))[\"key\"])') restic.real --repo /srv/month/restic snapshots --json"))
        sets = on_host("ls /var/lib/throat-backup/sets").split()
        days = {kind: [round((one["timestamp"]["stop"] - first) / 86400) for one in stanza["backup"] if one["type"] == kind] for kind in ("full", "diff")}
        days["files"] = sorted(round((datetime.datetime.fromisoformat(one["time"]).timestamp() - first) / 86400) for one in files)
        days["sets"] = [round((datetime.datetime.strptime(f"{name} +0000", "%Y%m%dT%H%M%SZ.json %z").timestamp() - first) / 86400) for name in sets]
        return days

    for day in range(1, 31):
        assert '"set"' in on_day(day, "full" if day % 7 == 2 else "now")
    month = kept()
    print(f"after 30 days: {month}")
    # Three full ones and what belongs to them, by count; ten days of files, by age.
    assert month == {"full": [16, 23, 30], "diff": [*range(17, 23), *range(24, 30)], "files": list(range(21, 31)), "sets": list(range(16, 31))}

    # None succeeds for a month.
    on_host("mv /srv/month /srv/away")
    assert "/srv/month is not there" in on_day(40, "full") and "/srv/month is not there" in on_day(60, "full")
    on_host("mv /srv/away /srv/month")
    assert kept() == month

    # Sets that a drill cannot restore do not take the place of those that can.
    assert '"set"' in on_day(61, "full")
    newest = "$(ls -d /srv/month/pgbackrest/backup/throat/*F | tail -n 1)"
    on_host(f"for part in $(find {newest} -path '*bundle*' -type f); do printf broken | dd of=$part bs=1 seek=$(( $(stat -c %s $part) / 2 )) conv=notrunc status=none; done")
    print(said := on_day(61, "drill"))
    assert "repository /srv/month" in said
    for day in (68, 75, 82, 89):
        assert '"set"' in on_day(day, "full")
    assert "NOTHING EXPIRES until a drill ends well" in on_host("throat-backup list")
    held = kept()
    print(f"while a drill has failed: {held}")
    assert held["full"] == [23, 30, 61, 68, 75, 82, 89] and held["files"][-5:] == [61, 68, 75, 82, 89]
    assert '"seconds"' in on_day(90, "drill")
    assert '"set"' in on_day(96, "full")
    print(f"after the next that went well: {kept()}")
    assert kept()["full"] == [82, 89, 96] and kept()["files"] == [89, 96]
