"""Releases: where they come from, what a new one brings, and the way back."""

import pathlib
import re
import subprocess
import time

import pytest
import requests
from conftest import APP, MIGRATION, PROBES

DEPLOY = "playbooks/deploy.yml"


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


def test_change_of_code_alone_installs_and_bundles_nothing_and_its_new_route_is_known_to_nginx(release, host, run_site, browser, url):
    route = '\n\n@site.get("/_ref/new/<int:number>")\n@gevent_required\ndef new_route(number):\n    return str(number)\n'
    assert browser.get(f"{url}/_ref/new/7").headers["X-Ref-Worker"] == "sync"
    run = run_site({"throat_gunicorn_source": release({"app/views.py": route})}, playbook=DEPLOY)
    assert "Environment |" not in run.output and "Frontend |" not in run.output
    environments = host.check_output("readlink /opt/throat/releases/*/.venv").split()
    assert len(environments) > 1 and len(set(environments)) == 1
    # In the same run.
    answer = browser.get(f"{url}/_ref/new/7")
    assert (answer.status_code, answer.text, answer.headers["X-Ref-Worker"]) == (200, "7", "gevent")

    bundled = {"live.js": "\n// another front end\n", "app/static/robots.txt": "# more\n" * 200, "app/static/new.txt": "new"}
    run = run_site({"throat_gunicorn_source": release(bundled, "bundled")}, playbook=DEPLOY)
    assert "Environment |" not in run.output and "Frontend | Build the bundles" in run.output
    assert browser.get(f"{url}/_ref/new/7").status_code == 404
    run_site(playbook=DEPLOY)
    # The same source with something else in it is another release.
    name = pathlib.Path(host.check_output("readlink /opt/throat/current")).name
    run = run_site({"throat_gunicorn_npm_overrides": []}, "--check", playbook=DEPLOY)
    assert re.search(rf"Release {name} is built again as {name}-[0-9a-f]{{6}}: throat_gunicorn_npm_overrides changed", run.said)
    # The bundle of the page that is gone is still there for whoever has it open.
    bundles = host.check_output("ls /opt/throat/releases/*/app/static/gen/main.*.js | xargs -n1 basename | sort -u").split()
    assert len(bundles) == 2 and set(bundles) <= set(host.check_output("ls /var/www/throat/static/gen").split())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('raise RuntimeError("broken")', "cannot boot with the configuration of throat-stack-deploy; release {before} goes on serving"),
        ('if monkey.is_module_patched("os"): raise RuntimeError("broken")', "does not serve; release {before} goes on serving"),
    ],
    ids=["in every worker", "in the async workers only"],
)
def test_release_that_cannot_boot_is_named_and_the_one_before_serves(release, host, run_site, answers_again, fault, said):
    before = host.check_output("readlink /opt/throat/current")
    run = run_site({"throat_gunicorn_source": release({"throat_prod.py": f"{fault}\n"})}, playbook=DEPLOY, check=False)
    assert run.returncode != 0
    assert "RuntimeError: broken" in run.said and said.format(before=pathlib.Path(before).name) in run.said
    assert host.check_output("readlink /opt/throat/current") == before
    answers_again(10)
    # And systemd does not hold the failed starts against the next ones.
    assert run_site(playbook=DEPLOY).changed == 0


def serving(url, flush_limits) -> set[str]:
    """The releases that the worker classes answer from."""
    flush_limits()
    return {requests.get(url + path, verify=False, timeout=30).headers["X-Throat-Release"] for path in PROBES}


def test_deploy_and_rollback_are_noticed_by_nobody(release, run_site, host, url, visitors, browser, admin, flush_limits):
    start = time.monotonic()
    assert run_site(playbook=DEPLOY).changed == 0
    quiet = visitors.since(start)
    (good,) = serving(url, flush_limits)

    migration = f"900_{time.time():.0f}"
    source = release({f"migrations/{migration}.py": f"{MIGRATION}    pass\n"})
    start = time.monotonic()
    run_site({"throat_gunicorn_source": source}, playbook=DEPLOY)
    end = time.monotonic()
    time.sleep(3)
    (bad,) = serving(url, flush_limits)
    assert bad != good and f"release {bad}" in host.check_output("systemctl show -p StatusText throat-sync throat-gevent throat-socketio")
    assert {visit.release for visit in visitors.since(end) if visit.release} == {bad}
    print(visitors.table(f"deploy on one host in {end - start:.0f} s", quiet, visitors.since(start)))
    assert "before-" + bad in host.check_output("ls /var/backups/throat")

    for variables, playbook in (({}, "playbooks/rollback.yml"), ({"throat_gunicorn_release": good}, DEPLOY)):
        refused = run_site(variables, playbook=playbook, check=False)
        said = f"Release {good} does not know {migration}, which the database has seen and nothing can undo; release {bad} goes on serving."
        assert refused.returncode != 0 and said in refused.said and "say -e across_migrations=true" in refused.said
    assert serving(url, flush_limits) == {bad} and not host.file("/opt/throat/rollback").exists and not host.file(f"/opt/throat/bad/{bad}").exists
    start = time.monotonic()
    run_site({"across_migrations": True}, playbook="playbooks/rollback.yml")
    end = time.monotonic()
    time.sleep(3)
    print(visitors.table(f"rollback on one host in {end - start:.0f} s", quiet, visitors.since(start)))
    assert serving(url, flush_limits) == {good} == {visit.release for visit in visitors.since(end) if visit.release}
    assert visitors.failed() == [] and visitors.tabs_are_open() and len(visitors.visits) > 400
    # Nobody has been logged out.
    assert "/u/admin" in admin.get(f"{url}/").text

    again = run_site({"throat_gunicorn_source": source}, playbook=DEPLOY, check=False)
    assert again.returncode != 0 and again.changed == 0
    assert f"Release {bad} was rolled back and is marked as bad; stay on the live one (-e throat_gunicorn_release={good}, or its version" in again.said
    unknown = run_site({"throat_gunicorn_release": "0123456789ab"}, playbook=DEPLOY, check=False)
    assert unknown.returncode != 0 and "throat_gunicorn_release: 0123456789ab is not kept on throat-stack-deploy" in unknown.said
    assert serving(url, flush_limits) == {good} and run_site().changed == 0

    # A worker that has gone over to another release ends what it has begun, as one does that was started.
    ask = "curl --silent --output /dev/null --write-out '%{http_code}' --header 'X-Forwarded-For: 127.0.0.1' --unix-socket /run/throat/gevent.sock"
    asked = subprocess.Popen(["docker", "exec", "throat-stack-deploy", "bash", "-c", f"{ask} 'http://localhost/_ref/gevent/sleep?s=3'"], stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    host.check_output("systemctl restart throat-gevent")
    assert asked.communicate()[0] == "200"


def test_way_back_is_kept_however_many_releases_have_failed(release, host, run_site, url, flush_limits):
    (first,) = serving(url, flush_limits)
    run_site({"throat_gunicorn_source": release({"app/views.py": "\n# the second that serves\n"}, "second")}, playbook=DEPLOY)
    (second,) = serving(url, flush_limits)
    for number in range(2):
        run = run_site({"throat_gunicorn_source": release({"throat_prod.py": f'raise RuntimeError("broken {number}")\n'}, f"broken{number}")}, playbook=DEPLOY, check=False)
        assert run.returncode != 0 and f"RuntimeError: broken {number}" in run.said
        kept = host.check_output("ls /opt/throat/releases").split()
        assert {first, second} < set(kept) and len(kept) == 3
    # A rollback that does not come to its end has decided all the same.
    red = run_site({"throat_check_url": f"{url}/nothing"}, playbook="playbooks/rollback.yml", check=False)
    assert red.returncode != 0 and serving(url, flush_limits) == {first} and f"bad/{second}" not in host.check_output("find /opt/throat -maxdepth 2")
    undone = run_site({"throat_gunicorn_release": second}, playbook=DEPLOY, check=False)
    assert undone.returncode != 0 and undone.changed == 0 and f"Release {second} is left by a rollback to {first} that was not finished; run rollback.yml again" in undone.said
    run_site(playbook="playbooks/rollback.yml")
    assert serving(url, flush_limits) == {first} and host.check_output("ls /opt/throat/bad").split().count(second) == 1 and not host.file("/opt/throat/rollback").exists


def test_operator_who_is_limited_may_check_the_site(run_site, browser, url, flush_limits):
    answer = next(answer for answer in (browser.get(f"{url}/all/new") for _ in range(100)) if answer.status_code == 429)
    assert "X-Throat-Release" in answer.headers
    run_site(playbook="playbooks/check.yml")
    assert browser.get(f"{url}/all/new").status_code == 429
    flush_limits()
