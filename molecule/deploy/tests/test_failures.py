"""What goes wrong in deploys: the site answers all the while, and the next run makes it right."""

import concurrent.futures
import getpass
import json
import shlex
import socket
import time

import pytest
import requests
from conftest import MIGRATION, PROBES, ROOT

DEPLOY = "playbooks/deploy.yml"
LOCK = "ansible-throat.service"
# Where runs are killed, one after the other, and how many seconds after the task has begun: at the beginning of a task, or while it runs on the host.
# In each run of the tests those of a build, a migration and a roll, each run from where the one before has died; in the campaign each by itself.
KILLS = {
    "Release | Name the release": 0,
    "Build | Unpack the source": 0.6,
    "Build | Compile the translations and the code, and compress the static files": 0.4,
    "Fetch | Add them to those that are served, or to be": 0.4,
    "Prove | Boot the release once": 0.6,
    "Database | Apply the migrations, one deploy at a time": 1.5,
    "Roll | Make the release the current one": 0,
    "Worker | Start it, now and at boot": 0.6,
    "Worker | Wait until it answers from the release": 0,
    "Clean | Remember that the release has served": 0,
}
IN_TURN = ["Build | Unpack the source", "Database | Apply the migrations, one deploy at a time", "Worker | Start it, now and at boot"]
SLOW = f"""import time


{MIGRATION}    if not fake:
        time.sleep(3)
        migrator.sql("INSERT INTO user_metadata (key, value) VALUES ('migrated', '%s')")
"""
FAILS = f"""{MIGRATION}    if not fake:
        migrator.sql("INSERT INTO user_metadata (key, value) VALUES ('migrated', '%s')")
        migrator.sql("SELECT 1 / 0")
"""


@pytest.fixture
def pause() -> float:
    """Longer than elsewhere: that nobody is turned away need not be seen by thousands."""
    return 0.4


@pytest.fixture
def serving(url, flush_limits):
    """The release that all worker classes answer from."""

    def ask() -> str:
        flush_limits()
        (found,) = {requests.get(url + path, verify=False, timeout=30).headers["X-Throat-Release"] for path in PROBES}
        return found

    return ask


def rows(host, name: str) -> int:
    """How often a migration has been applied."""
    return int(host.check_output(f"cd / && runuser -u postgres -- psql -d throat -Atqc \"SELECT count(*) FROM user_metadata WHERE key = 'migrated' AND value = '{name}'\""))


def wait_for_the_lock(host) -> None:
    """Wait until a run has ended with all that it had begun on the host, or whoever comes next is refused."""
    host.check_output(f"timeout 60 sh -c 'while systemctl --quiet is-active {LOCK}; do sleep 0.2; done'")


@pytest.mark.parametrize(
    "tasks",
    [pytest.param(IN_TURN, id="a build, a migration and a roll"), *(pytest.param([task], marks=pytest.mark.campaign, id=task) for task in KILLS)],
)
def test_run_that_is_killed_is_made_good_by_the_next(run_site, kill_run, release, visitors, host, serving, tasks):
    before, name = serving(), f"{time.time():.0f}"
    change = {"app/views.py": f"\n# version {name}\n"}
    migrates = any("migrations" in task for task in tasks)
    if migrates:
        change[f"migrations/910_{name}.py"] = SLOW % name
    source = {"throat_gunicorn_source": release(change)}
    for task in tasks:
        kill_run(source, DEPLOY, task, KILLS[task])
        left = {requests.get(f"{visitors.urls[0]}{path}", verify=False, timeout=30).headers["X-Throat-Release"] for path in PROBES}
        print(f"killed at '{task}' + {KILLS[task]} s: {before} served, then {' and '.join(sorted(left))}")
        wait_for_the_lock(host)
    run_site(source, playbook=DEPLOY)
    after = serving()
    print(f"the next run: {after}, {len(visitors.visits)} requests, {len(visitors.failed())} failed")
    assert after != before and visitors.failed() == []
    if migrates:
        assert rows(host, name) == 1


def refused(run_site, source: str, variables=None):
    run = run_site({"throat_gunicorn_source": source, **(variables or {})}, playbook=DEPLOY, check=False)
    assert run.returncode != 0
    return run


def test_migration_that_fails_half_way_leaves_the_old_release_and_two_runs_at_once_mend_it_once(run_site, release, visitors, host, serving):
    before, name = serving(), f"{time.time():.0f}"
    source = release({f"migrations/911_{name}a.py": SLOW % f"{name}a", f"migrations/912_{name}b.py": FAILS % name})
    # Without room for a dump nothing is migrated, and one that was cut short is gone.
    dumps = "/var/backups/throat"
    host.check_output(f"mkdir -p {dumps} && mount -t tmpfs -o size=1m tmpfs {dumps} && touch {dumps}/.20200101T000000Z-before-x.dump")
    run = refused(run_site, source)
    assert host.check_output(f"ls -A {dumps}; umount {dumps}") == ""
    assert f"MiB, and {dumps} has room for 1 MiB; make room there; nothing was migrated, and release {before} goes on serving." in run.said
    run = refused(run_site, source)
    assert f"failed; release {before} goes on serving" in run.said and "The database from before is in /var/backups/throat/" in run.said
    assert f"Migration 912_{name}b failed; applied before it: 911_{name}a." in run.said
    # What the first has done stays, what the second has begun is undone.
    assert (rows(host, f"{name}a"), rows(host, name)) == (1, 0)
    assert serving() == before and visitors.failed() == []

    # Two operators come with a release that is mended, each with another one.
    mended = {f"migrations/911_{name}a.py": SLOW % f"{name}a", f"migrations/912_{name}b.py": SLOW % name}
    sources = [release(mended | {"app/views.py": f"\n# {which} {name}\n"}, which) for which in ("one", "other")]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda source: run_site({"throat_gunicorn_source": source}, playbook=DEPLOY, check=False), sources))
    failed = [run for run in runs if run.returncode != 0]
    # Both controllers have one name, and one user.
    whose = f"{getpass.getuser()}@{socket.gethostname()} with {DEPLOY}"
    assert len(failed) == 1 and f"Another run changes this site, {whose} " in failed[0].said and "nothing was changed" in failed[0].said
    assert failed[0].changed == 0 and visitors.failed() == []
    assert serving() != before and (rows(host, f"{name}a"), rows(host, name)) == (1, 1)
    wait_for_the_lock(host)
    # The one that was refused goes through now, and finds the database as it wants it.
    gone_through = serving()
    run_site({"throat_gunicorn_source": sources[runs.index(failed[0])]}, playbook=DEPLOY)
    assert serving() not in (before, gone_through) and (rows(host, f"{name}a"), rows(host, name)) == (1, 1)
    assert visitors.failed() == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"database": {"no_such_option": "1"}}, "no_such_option"),
        ({"cache": "redis"}, "Value found where dict expected at cache"),
    ],
    ids=["an option that the driver does not know", "a value in place of a section"],
)
def test_configuration_that_does_not_work_leaves_the_old_one(run_site, visitors, host, serving, config, said):
    before = host.check_output("sha256sum /etc/throat/config.yaml")
    run = run_site({"throat_gunicorn_config": config}, playbook=DEPLOY, check=False)
    assert run.returncode != 0 and "goes on serving" in run.said and said in run.said
    assert host.check_output("sha256sum /etc/throat/config.yaml; ls /etc/throat") == before + "\nconfig.yaml\negress.nft\nfollow_redis.py\ngunicorn.conf.py\nsession_keys.json"
    assert serving() and visitors.failed() == []


def test_lock_of_a_dead_controller_is_waited_for_and_a_run_that_loses_its_own_is_interrupted(run_site, host):
    # As a controller leaves it that has lost its power.
    host.check_output(f"systemd-run --collect --unit={LOCK} --property=RuntimeDirectory={LOCK} sleep infinity")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        run = pool.submit(run_site, {}, playbook="playbooks/site.yml", check=False)
        # (It ends by itself after a minute.)
        host.check_output(f"sleep 8; systemctl stop {LOCK}; until systemctl show --value --property=Description {LOCK} | grep playbooks/site.yml; do sleep 0.2; done; systemctl stop {LOCK}")
    assert run.result().returncode == 99 and f"{LOCK}, the lock of this run, has ended" in run.result().said


def test_second_that_comes_to_the_database_waits_for_the_first(host, on_host):
    """The lock in the database itself, which also holds between two controllers and two inventories."""
    hold = "runuser -u postgres -- psql -d throat -Atqc \"SELECT pg_advisory_lock(hashtext('throat.stack migrations')), pg_sleep(4)\""
    script = (ROOT / "roles/throat_gunicorn/files/site_state.py").read_text()
    host.check_output(f"systemd-run --unit=test-lock-holder {hold}; sleep 1")
    start = time.monotonic()
    desired = json.dumps({"database": {"host": "/run/postgresql", "dbname": "throat", "user": "throat"}})
    # A release has nothing but its migrations for this; without those of other tests.
    on_host("rm -rf /run/waits && mkdir /run/waits && cp -r /opt/throat/current/migrations /run/waits && rm -f /run/waits/migrations/9*")
    said = on_host(f"cd /run/waits && runuser -u throat -- /opt/throat/current/.venv/bin/python -c {shlex.quote(script)} migrate", stdin=desired)
    assert said == '{"applied": []}' and time.monotonic() - start > 2


def test_reason_why_the_database_cannot_be_as_declared_is_said(run_site, host, serving):
    before = serving()
    sql = "cd / && runuser -u postgres -- psql -d throat -Atqc 'ALTER TABLE sub "
    host.check_output(f"{sql} ADD CONSTRAINT test_refuses CHECK (name <> $$refused$$)'")
    run = run_site({"throat_gunicorn_default_subs": ["welcome", "refused"]}, playbook=DEPLOY, check=False)
    host.check_output(f"{sql} DROP CONSTRAINT test_refuses'")
    assert run.returncode != 0
    assert f"sub refused is missing, sub refused is no default); release {before} goes on serving" in run.said
    # Not the row itself, which might be the administrator's.
    assert "PostgreSQL refused: new row" in run.said and "test_refuses" in run.said and "Failing row" not in run.said
    assert serving() == before
