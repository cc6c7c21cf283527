"""Releases: where they come from, what a new one brings, and the way back.

Two are deployed for all tests, which run in this order; none of them may ask for testinfra's host, or pytest would run those together.
"""

import dataclasses
import pathlib
import re
import subprocess
import time

import pytest
import requests
from conftest import MIGRATION, PROBES, Run, changed_app, forget_migrations, new_browser
from visitors import Visit, Visitors

DEPLOY, ROLLBACK = "playbooks/deploy.yml", "playbooks/rollback.yml"
LOCK = "ansible-throat.service"
NEW_ROUTE = '\n\n@site.get("/_ref/new/<int:number>")\n@gevent_required\ndef new_route(number):\n    return str(number)\n'
BUNDLES = "ls /opt/throat/current/app/static/gen/main.*.js | xargs -n1 basename"


@dataclasses.dataclass
class Release:
    """A release that a fixture has deployed: its name, the variables that declare it, and the run."""

    name: str
    variables: dict
    run: Run


@dataclasses.dataclass
class Second(Release):
    """The one after the first, with the migration that it brings, a run that was refused before, and who was there: visits in that run, and when it was deployed."""

    migration: str
    unknown: Run
    visitors: Visitors
    quiet: list[Visit]
    began: float
    ended: float
    admin: requests.Session


def live(on_host) -> str:
    return on_host("basename $(readlink /opt/throat/current)")


@pytest.fixture
def serving(url, flush_limits):
    """The releases that the worker classes answer from."""

    def ask() -> set[str]:
        flush_limits()
        return {requests.get(url + path, verify=False, timeout=30).headers["X-Throat-Release"] for path in PROBES}

    return ask


@pytest.fixture(scope="module")
def bundles_before(on_host):
    """The bundles of the page before the first release."""
    return set(on_host(BUNDLES).split())


@pytest.fixture(scope="module")
def first(on_host, hosts, run_site, bundles_before, tmp_path_factory):
    """A release from a git repository, with a front end of its own, which no page has had before."""
    bundled = {"live.js": f"\n// another front end {time.time()}\n", "app/static/robots.txt": "# more\n" * 200, "app/static/new.txt": "new"}
    app = changed_app(tmp_path_factory.mktemp("git") / "app", bundled)
    subprocess.run(["docker", "cp", app, f"{hosts['throat'][0]}:/srv/app"], check=True, capture_output=True)
    on_host(
        "chown -R root:root /srv/app && cd /srv/app && git init -q -b main && git add . && git -c user.name=a -c user.email=a@example.com commit -qm app "
        "&& systemd-run --unit=test-git-daemon git daemon --base-path=/srv --export-all --listen=127.0.0.1"
    )
    variables = {"throat_gunicorn_source_type": "git", "throat_gunicorn_source": "git://127.0.0.1/app", "throat_gunicorn_version": "main"}
    run = run_site(variables, playbook=DEPLOY)
    yield Release(live(on_host), variables, run)
    on_host("systemctl stop test-git-daemon; rm -rf /srv/app")


@pytest.fixture(scope="module")
def second(on_host, run_site, first, people, log_in, tmp_path_factory):
    """A release from an archive as it is made from a tag, with a migration and a new route, deployed while people use the site; they go on until the last test."""
    name = f"v{time.time():.0f}"
    migration = f"900_{name}"
    app = changed_app(tmp_path_factory.mktemp("archive") / "app", {"app/views.py": NEW_ROUTE, f"migrations/{migration}.py": f"{MIGRATION}    pass\n"})
    subprocess.run(["tar", "-czf", app.parent / "app.tar.gz", "-C", app.parent, app.name], check=True)
    variables = {"throat_gunicorn_source_type": "archive", "throat_gunicorn_source": str(app.parent / "app.tar.gz"), "throat_gunicorn_version": name}
    with people(0.4) as visitors:
        admin = log_in(new_browser())
        start = time.monotonic()
        unknown = run_site({"throat_gunicorn_release": "0123456789ab"}, playbook=DEPLOY, check=False)
        quiet = visitors.since(start)
        start = time.monotonic()
        run = run_site(variables, playbook=DEPLOY)
        yield Second(live(on_host), variables, run, migration, unknown, visitors, quiet, start, time.monotonic(), admin)
    forget_migrations(on_host)


def all_ask(visitors: Visitors, since: float) -> set[str]:
    """The releases that people were answered by since then, when each kind of them has asked."""
    deadline = time.monotonic() + 20
    while len({visit.kind for visit in visitors.since(since)}) < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    return {visit.release for visit in visitors.since(since) if visit.release}


def test_release_comes_from_git_and_its_front_end_is_built_beside_the_one_that_is_open(first, bundles_before, on_host, answers_again):
    commit = on_host("git -c safe.directory=* -C /srv/app rev-parse main")
    assert on_host("readlink /opt/throat/current") == f"releases/{commit[:12]}"
    assert "Environment |" not in first.run.output and "Frontend | Build the bundles" in first.run.output
    # The bundle of the page that is gone is still there for whoever has it open.
    bundles = set(on_host(BUNDLES).split())
    assert len(bundles | bundles_before) == 2 and bundles | bundles_before <= set(on_host("ls /var/www/throat/static/gen").split())
    answers_again(5)


def test_check_mode_says_why_a_release_is_built_again_and_asks_for_no_lock(first, run_site, on_host):
    on_host(f"systemd-run --collect --unit={LOCK} --property=RuntimeDirectory={LOCK} sleep infinity")
    try:
        # The same source with something else in it is another release.
        run = run_site({**first.variables, "throat_gunicorn_npm_overrides": []}, "--check", playbook=DEPLOY)
        assert on_host(f"systemctl is-active {LOCK}") == "active"
    finally:
        on_host(f"systemctl stop {LOCK}")
    assert re.search(rf"Release {first.name} is built again as {first.name}-[0-9a-f]{{6}}: throat_gunicorn_npm_overrides changed", run.said)


def test_release_that_is_not_kept_is_refused(second):
    assert second.unknown.returncode != 0 and "throat_gunicorn_release: 0123456789ab is not kept on throat-stack-deploy" in second.unknown.said


def test_change_of_code_alone_from_an_archive_installs_and_bundles_nothing_and_its_new_route_is_known_to_nginx(second, on_host, browser, url):
    assert on_host("readlink /opt/throat/current") == f"releases/{second.variables['throat_gunicorn_version']}"
    assert "Environment |" not in second.run.output and "Frontend |" not in second.run.output
    environments = on_host("readlink /opt/throat/releases/*/.venv").split()
    assert len(environments) > 1 and len(set(environments)) == 1
    # In the same run.
    answer = browser.get(f"{url}/_ref/new/7")
    assert (answer.status_code, answer.text, answer.headers["X-Ref-Worker"]) == (200, "7", "gevent")


def test_deploy_is_noticed_by_nobody(second, first, serving, on_host):
    assert second.name != first.name and serving() == {second.name} == all_ask(second.visitors, second.ended)
    assert on_host("systemctl show -p StatusText throat-sync throat-gevent throat-socketio").count(f"release {second.name}") == 3
    print(second.visitors.table(f"deploy on one host in {second.ended - second.began:.0f} s", second.quiet, second.visitors.since(second.began)))
    assert f"before-{second.name}" in on_host("ls /var/backups/throat") and second.visitors.failed() == []


@pytest.mark.parametrize(("playbook", "is_rollback"), [(ROLLBACK, True), (DEPLOY, False)], ids=["rollback", "deploy"])
def test_way_back_over_a_migration_is_refused(second, first, run_site, serving, on_host, playbook, is_rollback):
    refused = run_site({} if is_rollback else {"throat_gunicorn_release": first.name}, playbook=playbook, check=False)
    said = f"Release {first.name} does not know {second.migration}, which the database has seen and nothing can undo; release {second.name} goes on serving."
    assert refused.returncode != 0 and said in refused.said and "say -e across_migrations=true" in refused.said
    assert serving() == {second.name}
    on_host(f"test ! -e /opt/throat/rollback && test ! -e /opt/throat/bad/{second.name}")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('raise RuntimeError("broken")', "cannot boot with the configuration of throat-stack-deploy; release {before} goes on serving"),
        ('@app.before_request\ndef broken():\n    raise RuntimeError("broken")', "makes no page with the configuration of throat-stack-deploy; release {before} goes on serving"),
        ('if monkey.is_module_patched("os"): raise RuntimeError("broken")', "does not serve; release {before} goes on serving"),
    ],
    ids=["in every worker", "in each page", "in the async workers only"],
)
def test_release_that_cannot_boot_is_named_and_the_ones_before_are_kept(second, first, release, on_host, run_site, answers_again, serving, fault, said):
    kept_files = "cd / && readlink /opt/throat/current; sha256sum /etc/throat/* /etc/systemd/system/throat-* /etc/nginx/sites-enabled/*; systemctl list-units --failed --no-legend"
    before = on_host(kept_files)
    broken = release({"throat_prod.py": f"{fault}\n", f"migrations/{second.migration}.py": f"{MIGRATION}    pass\n"})
    run = run_site({"throat_gunicorn_source": broken}, playbook=DEPLOY, check=False)
    assert run.returncode != 0
    assert "RuntimeError: broken" in run.said and said.format(before=second.name) in run.said
    assert on_host(kept_files) == before
    kept = on_host("ls /opt/throat/releases").split()
    assert {first.name, second.name} < set(kept) and len(kept) == 3
    answers_again(10)
    assert serving() == {second.name} and second.visitors.failed() == []


def test_rollback_is_noticed_by_nobody_and_goes_on_where_it_was_cut_short(second, first, run_site, serving, on_host, url, browser):
    # One that does not come to its end has decided all the same.
    start = time.monotonic()
    red = run_site({"across_migrations": True, "throat_check_url": f"{url}/nothing"}, playbook=ROLLBACK, check=False)
    end = time.monotonic()
    assert red.returncode != 0 and serving() == {first.name} == all_ask(second.visitors, end)
    print(second.visitors.table(f"rollback on one host in {end - start:.0f} s", second.quiet, second.visitors.since(start)))
    assert f"bad/{second.name}" not in on_host("find /opt/throat -maxdepth 2")
    undone = run_site(second.variables, playbook=DEPLOY, check=False)
    assert undone.returncode != 0 and undone.changed == 0
    assert f"Release {second.name} is left by a rollback to {first.name} that was not finished; run rollback.yml again" in undone.said
    # It was let over the migration before.
    run_site(playbook=ROLLBACK)
    assert serving() == {first.name} and on_host("ls /opt/throat/bad").split().count(second.name) == 1
    on_host("test ! -e /opt/throat/rollback")
    again = run_site(second.variables, playbook=DEPLOY, check=False)
    assert again.returncode != 0 and again.changed == 0
    assert f"Release {second.name} was rolled back and is marked as bad; stay on the live one (-e throat_gunicorn_release={first.name}, or its version" in again.said
    assert serving() == {first.name} and browser.get(f"{url}/_ref/new/7").status_code == 404
    assert second.visitors.failed() == [] and second.visitors.tabs_are_open() and len(second.visitors.visits) > 400
    # Nobody has been logged out.
    assert "/u/admin" in second.admin.get(f"{url}/").text


def test_worker_that_has_gone_over_to_another_release_ends_what_it_has_begun(first, on_host):
    ask = "curl --silent --output /dev/null --write-out '%{http_code}' --header 'X-Forwarded-For: 127.0.0.1' --unix-socket /run/throat/gevent.sock"
    asked = subprocess.Popen(["docker", "exec", "throat-stack-deploy", "bash", "-c", f"{ask} 'http://localhost/_ref/gevent/sleep?s=3'"], stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    on_host("systemctl restart throat-gevent")
    assert asked.communicate()[0] == "200"


def test_operator_who_is_limited_may_check_the_site(run_site, browser, url, flush_limits):
    answer = next(answer for answer in (browser.get(f"{url}/all/new") for _ in range(100)) if answer.status_code == 429)
    assert "X-Throat-Release" in answer.headers
    run_site(playbook="playbooks/check.yml")
    assert browser.get(f"{url}/all/new").status_code == 429
    flush_limits()


def test_everything_is_as_declared_in_the_end(first, run_site):
    """After all these deploys, the one that was taken back among them."""
    assert run_site(first.variables).changed == 0
