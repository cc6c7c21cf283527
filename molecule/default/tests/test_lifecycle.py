"""What an operator does to a running site: change a line of the inventory and run the playbook again."""

import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest
import requests

from conftest import PROBES, ROOT

WORKERS = ["throat-sync", "throat-gevent", "throat-socketio"]
UNITS = [*WORKERS, "nginx", "pgbouncer", "redis-server", "postgresql@15-main"]
APP = ROOT / "molecule/shared/app"


@pytest.fixture
def restarted(host):
    """Call it for the units that systemd has started anew since the last call."""

    def starts() -> dict[str, str]:
        return {unit: host.check_output("systemctl show -p InvocationID -p ActiveState %s", unit) for unit in UNITS}

    seen = starts()

    def ask() -> set[str]:
        nonlocal seen
        before, seen = seen, starts()
        assert all("ActiveState=active" in state for unit, state in seen.items())
        return {unit for unit in UNITS if before[unit] != seen[unit]}

    return ask


def query(host, password: str, port: int) -> bool:
    """Whether the application's database role is admitted with this password."""
    done = host.run(f"PGPASSWORD={password} psql -h 127.0.0.1 -p {port} -U throat throat -Atc 'SELECT 1'")
    return done.stdout.strip() == "1"


def test_check_mode_and_a_second_run_change_and_restart_nothing(run_site, restarted):
    assert run_site({}, "--check", "--diff").changed == 0
    assert run_site().changed == 0
    assert restarted() == set()


def test_changed_connections_restart_that_worker_alone(host, run_site, restarted, workers):
    altered = [{**worker, "connections": 41} if worker["name"] == "gevent" else worker for worker in workers]
    run_site({"throat_gunicorn_workers": altered})
    assert restarted() == {"throat-gevent"}
    assert "--worker-connections 41" in host.check_output("tr '\\0' ' ' < /proc/$(systemctl show -p MainPID --value throat-gevent)/cmdline")
    run_site()
    assert restarted() == {"throat-gevent"}


def test_change_that_an_interrupted_run_did_not_apply_is_applied_by_the_next(host, run_site, restarted):
    # As if the run had died right after it wrote the file.
    host.check_output("sleep 1; touch /etc/throat/config.yaml")
    assert run_site({}, "--tags", "throat_gunicorn").changed == 1
    assert restarted() == set()  # reloaded, which is enough for config.yaml
    host.check_output("sleep 1; touch /etc/systemd/system/throat-gevent.service")
    run_site({}, "--tags", "throat_gunicorn")
    assert restarted() == {"throat-gevent"}
    assert run_site().changed == 0


def test_worker_moves_to_another_socket(host, run_site, restarted, workers, answers_again):
    moved = [{**worker, "listen": "127.0.0.1:5055"} if worker["name"] == "sync" else worker for worker in workers]
    run_site({"throat_gunicorn_workers": moved})
    assert restarted() == {"throat-sync"}
    assert host.socket("tcp://127.0.0.1:5055").is_listening and not host.file("/run/throat/sync.sock").exists
    answers_again(5)
    run_site()
    assert host.file("/run/throat/sync.sock").exists and not host.socket("tcp://127.0.0.1:5055").is_listening
    answers_again(5)


def test_check_mode_tells_what_would_be_done_to_the_sites_database(run_site):
    run = run_site({"throat_gunicorn_site_settings": {"name": "Another name"}}, "--check", "--tags", "throat_gunicorn")
    assert run.changed == 1 and "site.name" in run.said
    assert run_site().changed == 0


def test_removed_worker_loses_its_unit_and_its_upstream(host, run_site, workers, browser, url):
    # A unit of the operator's own stays, whatever its name.
    host.check_output("printf '[Service]\\nExecStart=/bin/true\\n' > /etc/systemd/system/throat-backup.service")
    run_site({"throat_gunicorn_workers": [worker for worker in workers if worker["name"] != "gevent"]})
    assert host.run("systemctl list-units --all --no-legend 'throat-gevent*'; systemctl list-unit-files --no-legend 'throat-gevent*'").stdout == ""
    assert not host.file("/run/throat/gevent.sock").exists
    host.check_output("rm /etc/systemd/system/throat-backup.service")
    assert "throat_gevent" not in host.check_output("nginx -T 2>/dev/null")
    answer = browser.get(f"{url}/register")
    assert (answer.status_code, answer.headers["X-Ref-Worker"]) == (200, "socketio")

    run_site()
    answer = browser.get(f"{url}/register")
    assert (answer.status_code, answer.headers["X-Ref-Worker"]) == (200, "gevent")


def test_changed_database_password_replaces_the_old_one(host, run_site, restarted, secrets, answers_again):
    old, new = secrets["database_password"], "another-Password-of-the-database"
    run_site({"throat_database_password": new})
    assert {"pgbouncer", "postgresql@15-main", "redis-server"} & restarted() == set()
    assert [query(host, password, port) for password in (old, new) for port in (5432, 6432)] == [False, False, True, True]
    answers_again(5)
    run_site()
    assert [query(host, password, port) for password in (old, new) for port in (5432, 6432)] == [True, True, False, False]
    answers_again(5)


def test_changed_pool_size_reloads_the_pooler(host, run_site, restarted):
    show = "su postgres -c \"psql -At -p 6432 -U pgbouncer pgbouncer -c 'SHOW CONFIG'\" | grep ^default_pool_size"
    run_site({"pgbouncer_default_pool_size": 13}, "--tags", "pgbouncer")
    assert "|13|" in host.check_output(show)
    assert restarted() == set()
    run_site({}, "--tags", "pgbouncer")
    assert "|13|" not in host.check_output(show)


@pytest.fixture
def archive(tmp_path):
    """The reference app as a tar file made from a tag: everything in one directory."""
    subprocess.run(["tar", "-czf", tmp_path / "app.tar.gz", "-C", APP.parent, APP.name], check=True)
    return tmp_path / "app.tar.gz"


@pytest.fixture
def repository(host, archive):
    """Address of a git repository with the reference app, as the host reaches it."""
    name = host.check_output("hostname")
    subprocess.run(["docker", "cp", archive, f"{name}:/srv/app.tar.gz"], check=True, capture_output=True)
    host.check_output(
        "cd /srv && tar -xzf app.tar.gz && cd app && git init -q -b main && git add . "
        "&& git -c user.name=a -c user.email=a@example.com commit -qm app "
        "&& systemd-run --unit=test-git-daemon git daemon --base-path=/srv --export-all --listen=127.0.0.1"
    )
    yield "git://127.0.0.1/app"
    host.check_output("systemctl stop test-git-daemon; rm -rf /srv/app /srv/app.tar.gz")


def test_release_comes_from_an_archive_or_from_git(host, run_site, archive, repository, answers_again):
    run_site({"throat_gunicorn_source_type": "archive", "throat_gunicorn_source": str(archive), "throat_gunicorn_version": "v1.2"})
    assert host.check_output("readlink /opt/throat/current") == "releases/v1.2"
    branch = {"throat_gunicorn_source_type": "git", "throat_gunicorn_source": repository, "throat_gunicorn_version": "main"}
    run_site(branch)
    commit = host.check_output("git -c safe.directory=* -C /srv/app rev-parse main")
    assert host.check_output("readlink /opt/throat/current") == f"releases/{commit[:12]}"
    answers_again(5)
    assert run_site(branch).changed == 0
    run_site()
    answers_again(5)


def test_new_route_of_a_release_is_known_to_nginx_in_the_same_run(tmp_path, run_site, browser, url):
    release = shutil.copytree(APP, tmp_path / "release")
    with (release / "app/views.py").open("a") as file:
        file.write('\n\n@site.get("/_ref/new/<int:number>")\n@gevent_required\ndef new_route(number):\n    return str(number)\n')
    assert browser.get(f"{url}/_ref/new/7").headers["X-Ref-Worker"] == "sync"
    run_site({"throat_gunicorn_source": str(release)})
    answer = browser.get(f"{url}/_ref/new/7")
    assert (answer.status_code, answer.text, answer.headers["X-Ref-Worker"]) == (200, "7", "gevent")
    run_site()
    assert browser.get(f"{url}/_ref/new/7").status_code == 404


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('raise RuntimeError("broken")', "cannot boot; nothing was switched, and release {before} goes on serving"),
        ('if monkey.is_module_patched("os"): raise RuntimeError("broken")', "does not serve; release {before} goes on serving"),
    ],
    ids=["in every worker", "in the async workers only"],
)
def test_release_that_cannot_boot_is_named_and_the_one_before_serves(tmp_path, host, run_site, answers_again, fault, said):
    before = host.check_output("readlink /opt/throat/current")
    broken = shutil.copytree(APP, tmp_path / "broken")
    with (broken / "throat_prod.py").open("a") as file:
        file.write(f"{fault}\n")
    run = run_site({"throat_gunicorn_source": str(broken)}, check=False)
    assert run.returncode != 0
    assert "RuntimeError: broken" in run.said and said.format(before=pathlib.Path(before).name) in run.said
    assert host.check_output("readlink /opt/throat/current") == before
    answers_again(10)
    # And systemd does not hold the failed starts against the next ones.
    assert run_site().changed == 0


@pytest.fixture
def asked(url):
    """(status, seconds) of requests that are made all the while, to the sync and the gevent worker in turn."""
    statuses: list[tuple[object, float]] = []
    done = threading.Event()

    def ask() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            start = time.monotonic()
            try:
                status = requests.get(f"{url}/_ref/{'gevent/' * (number % 2)}sleep?s=0", verify=False, timeout=30).status_code
            except requests.RequestException as error:
                status = error
            statuses.append((status, time.monotonic() - start))
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    yield statuses
    done.set()
    thread.join()


def test_rollback_serves_the_release_before_and_never_the_bad_one_again(tmp_path, run_site, host, url, asked, flush_limits):
    def serving() -> set[str]:
        flush_limits()
        return {requests.get(url + path, verify=False, timeout=30).headers["X-Throat-Release"] for path in PROBES}

    (good,) = serving()
    quiet = max(seconds for _, seconds in asked)
    release = shutil.copytree(APP, tmp_path / "release")
    (release / "migrations/900_later.py").write_text("def migrate(migrator, database, fake=False, **kwargs):\n    pass\n")
    run_site({"throat_gunicorn_source": str(release)})
    (bad,) = serving()
    assert bad != good and f"release {bad}" in host.check_output("systemctl show -p StatusText throat-sync throat-gevent throat-socketio")

    refused = run_site(playbook="playbooks/rollback.yml", check=False)
    assert refused.returncode != 0 and refused.changed == 0
    assert f"Release {bad} has changed the database by 900_later.py, which release {good} does not know" in refused.said
    begun, start = len(asked), time.monotonic()
    run_site({"across_migrations": True}, playbook="playbooks/rollback.yml")
    longest = max(seconds for _, seconds in asked)
    print(f"rollback in {time.monotonic() - start:.0f} s; {len(asked)} requests since the deploy began, the longest {longest:.2f} s (before it {quiet:.2f} s)")
    assert serving() == {good} and len(asked) - begun > 50
    assert [status for status, _ in asked if status != 200] == []

    again = run_site({"throat_gunicorn_source": str(release)}, check=False)
    assert again.returncode != 0 and again.changed == 0
    assert f"Release {bad} was rolled back and is marked as bad" in again.said
    unknown = run_site({"throat_gunicorn_release": "0123456789ab"}, check=False)
    assert unknown.returncode != 0 and "throat_gunicorn_release: 0123456789ab is not kept on throat-stack-default" in unknown.said
    assert serving() == {good} and run_site().changed == 0


def test_installed_artifact_works_outside_the_checkout(tmp_path, scenario, run_site):
    (tmp_path / "ansible.cfg").touch()
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    tool = str(pathlib.Path(sys.executable).with_name("ansible-galaxy"))
    subprocess.run([tool, "collection", "build", "--output-path", tmp_path, ROOT], check=True, capture_output=True)
    artifact = next(tmp_path.glob("throat-stack-*.tar.gz"))
    subprocess.run([tool, "collection", "install", "--no-deps", "--offline", "-p", tmp_path / "collections", artifact], check=True, env=environment, capture_output=True)
    run = run_site({"throat_gunicorn_source": str(APP)}, playbook="throat.stack.site", cwd=tmp_path, env=environment)
    assert run.changed == 0


def test_no_secret_is_said_even_when_each_changes_and_with_vvv(run_site, secrets, answers_again):
    new = {f"throat_{name}": f"another-Value-of-{name}" for name in secrets}
    said = [run_site(new, "-vvv", "--diff"), run_site({}, "-vvv", "--diff")]
    answers_again(10)
    for run in said:
        assert run.changed > 3 and "invocation" in run.output
        assert [secret for secret in [*secrets.values(), *new.values()] if secret in run.output] == []
