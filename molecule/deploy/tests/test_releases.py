"""Releases: where they come from, what a new one brings, and the way back."""

import pathlib
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


def test_new_route_of_a_release_is_known_to_nginx_in_the_same_run(release, run_site, browser, url):
    route = '\n\n@site.get("/_ref/new/<int:number>")\n@gevent_required\ndef new_route(number):\n    return str(number)\n'
    assert browser.get(f"{url}/_ref/new/7").headers["X-Ref-Worker"] == "sync"
    run_site({"throat_gunicorn_source": release({"app/views.py": route, "app/static/robots.txt": "# more\n" * 200, "app/static/new.txt": "new"})}, playbook=DEPLOY)
    answer = browser.get(f"{url}/_ref/new/7")
    assert (answer.status_code, answer.text, answer.headers["X-Ref-Worker"]) == (200, "7", "gevent")
    # And its other files are those of one release, with their compressed twins.
    files = {name: browser.get(f"{url}/static/{name}") for name in ("robots.txt", "new.txt")}
    assert files["robots.txt"].headers["Content-Encoding"] == "gzip" and files["new.txt"].text == "new"
    run_site(playbook=DEPLOY)
    assert browser.get(f"{url}/_ref/new/7").status_code == 404 == browser.get(f"{url}/static/new.txt").status_code
    answer = browser.get(f"{url}/static/robots.txt", headers={"If-None-Match": files["robots.txt"].headers["ETag"]})
    assert answer.status_code == 200 and "# more" not in answer.text


def test_change_of_code_alone_installs_and_bundles_nothing(release, host, run_site):
    run = run_site({"throat_gunicorn_source": release({"app/views.py": "\n# another version\n"})}, playbook=DEPLOY)
    assert "Environment |" not in run.output and "Frontend |" not in run.output
    environments = host.check_output("readlink /opt/throat/releases/*/.venv").split()
    assert len(environments) > 1 and len(set(environments)) == 1
    run = run_site({"throat_gunicorn_source": release({"live.js": "\n// another front end\n"}, "bundled")}, playbook=DEPLOY)
    assert "Environment |" not in run.output and "Frontend | Build the bundles" in run.output
    run_site(playbook=DEPLOY)
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

    refused = run_site(playbook="playbooks/rollback.yml", check=False)
    assert refused.returncode != 0 and refused.changed == 0
    # (And by those of other tests.)
    assert f"Release {bad} has changed the database by " in refused.said and f"{migration}.py" in refused.said and f"which release {good} does not know" in refused.said
    start = time.monotonic()
    run_site({"across_migrations": True}, playbook="playbooks/rollback.yml")
    end = time.monotonic()
    time.sleep(3)
    print(visitors.table(f"rollback on one host in {end - start:.0f} s", quiet, visitors.since(start)))
    assert serving(url, flush_limits) == {good} == {visit.release for visit in visitors.since(end) if visit.release}
    assert visitors.failed() == [] and visitors.tabs_are_open() and len(visitors.visits) > 1000
    # Nobody has been logged out.
    assert "/u/admin" in admin.get(f"{url}/").text

    again = run_site({"throat_gunicorn_source": source}, playbook=DEPLOY, check=False)
    assert again.returncode != 0 and again.changed == 0
    assert f"Release {bad} was rolled back and is marked as bad; stay on the live one (-e throat_gunicorn_release={good}, or its version" in again.said
    unknown = run_site({"throat_gunicorn_release": "0123456789ab"}, playbook=DEPLOY, check=False)
    assert unknown.returncode != 0 and "throat_gunicorn_release: 0123456789ab is not kept on throat-stack-deploy" in unknown.said
    assert serving(url, flush_limits) == {good} and run_site().changed == 0


def test_way_back_is_kept_however_many_releases_have_failed(release, host, run_site, url, flush_limits):
    (first,) = serving(url, flush_limits)
    run_site({"throat_gunicorn_source": release({"app/views.py": "\n# the second that serves\n"}, "second")}, playbook=DEPLOY)
    (second,) = serving(url, flush_limits)
    for number in range(2):
        run = run_site({"throat_gunicorn_source": release({"throat_prod.py": f'raise RuntimeError("broken {number}")\n'}, f"broken{number}")}, playbook=DEPLOY, check=False)
        assert run.returncode != 0 and f"RuntimeError: broken {number}" in run.said
        kept = host.check_output("ls /opt/throat/releases").split()
        assert {first, second} < set(kept) and len(kept) == 3
    # The second has seen the migrations of other tests.
    run_site({"across_migrations": True}, playbook="playbooks/rollback.yml")
    assert serving(url, flush_limits) == {first}


def test_operator_who_is_limited_may_check_the_site(run_site, browser, url, flush_limits):
    answer = next(answer for answer in (browser.get(f"{url}/all/new") for _ in range(100)) if answer.status_code == 429)
    assert "X-Throat-Release" in answer.headers
    run_site(playbook="playbooks/check.yml")
    assert browser.get(f"{url}/all/new").status_code == 429
    flush_limits()
