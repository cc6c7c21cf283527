"""Secrets that change while people use the site: nobody notices, and what was known before opens nothing any more."""

import threading

import pytest
import requests
from conftest import form, read_secrets

ROTATE = "playbooks/rotate_secrets.yml"
CHANGED = ("database_password", "redis_password", "secret_key")
# Where runs are killed, each run from where the one before has died, and how many seconds after the task has begun: in the campaign all, else IN_TURN.
KILLS = {
    "Make them": 0.3,
    "Databases | Create the login roles": 0.5,
    "Configure | Write the settings": 0.5,
    "Users | Write who is let in": 0.3,
    "Service | Tell it who is let in": 0.5,
    "Switch | Say by which keys sessions are known": 0.5,
    "Worker | Start it, now and at boot": 1.5,
    "Worker | Wait until it answers from the release": 0,
    "Refuse clients that have left the inventory": 0,
    "Put them in the place of those of before": 0,
}
IN_TURN = ["Service | Tell it who is let in", "Worker | Start it, now and at boot", "Refuse clients that have left the inventory"]
FORGE = """
import sys; from flask import Flask; from flask.sessions import SecureCookieSessionInterface; from flask_login import encode_cookie
app = Flask("forger"); app.secret_key = sys.argv[1]
print(SecureCookieSessionInterface().get_signing_serializer(app).dumps({"_user_id": sys.argv[2], "_fresh": True}), encode_cookie(sys.argv[2], sys.argv[1]))
"""


@pytest.fixture
def pause() -> float:
    """Longer than elsewhere: that nobody is turned away need not be seen by thousands."""
    return 0.4


@pytest.fixture(autouse=True)
def known_again(scenario, secrets):
    """Other tests go by the secrets that the site has afterwards."""
    yield
    secrets.update(read_secrets(scenario))


class Member:
    """Somebody who has logged in, reads pages of two worker classes and writes a post now and then; problems: whatever was not as it should be."""

    def __init__(self, session: requests.Session, url: str) -> None:
        self.session, self.url, self.problems, self.pages, self.posts = session, url, [], 0, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        filled: dict[str, str] = {}
        while not self.done.wait(1.3):
            try:
                for path in ("/", "/register"):
                    page = self.session.get(f"{self.url}{path}", timeout=60)
                    self.pages += 1
                    if page.status_code != 200 or "/u/admin" not in page.text:
                        self.problems.append(f"{path}: {page.status_code}, {'not ' * ('/u/admin' not in page.text)}logged in")
                # What is filled in now is sent eleven rounds later.
                if self.pages % 22 == 2:
                    filled = form(self.session.get(f"{self.url}/submit/text/welcome", timeout=60).text)
                elif self.pages % 22 == 0:
                    data = {**filled, "sub": "welcome", "title": f"post {self.posts}", "content": "hello"}
                    answer = self.session.post(f"{self.url}/submit/text/welcome", data=data, allow_redirects=False, timeout=60)
                    self.posts += 1
                    if answer.status_code != 302:
                        self.problems.append(f"post: {answer.status_code}")
            except requests.RequestException as error:
                self.problems.append(type(error).__name__)

    def stop(self) -> None:
        self.done.set()
        self.thread.join()


@pytest.fixture
def member(admin, url):
    reading = Member(admin, url)
    yield reading
    reading.stop()


@pytest.fixture
def opens(on_host):
    """Call it for what of the stack lets somebody in who knows these secrets."""

    def ask(secrets: dict[str, str]) -> set[str]:
        doors = {f"database at {port}": f"PGPASSWORD={secrets['database_password']} psql -h 127.0.0.1 -p {port} -U throat throat -Atc 'SELECT 1'" for port in (5432, 6432)}
        doors["redis"] = f"REDISCLI_AUTH={secrets['redis_password']} redis-cli --user throat GET x"
        return {name for name, command in doors.items() if on_host(f"{command} 2>&1 || true") in ("1", "")}

    return ask


@pytest.fixture
def is_admin(on_host, url):
    """Call it for whether both kinds of workers take somebody for the administrator who forges a session, or "remember me", with a key."""

    def ask(key: str) -> bool:
        uid = on_host("runuser -u postgres -- psql -d throat -Atqc \"SELECT uid FROM \\\"user\\\" WHERE name = 'admin'\"")
        cookies = dict(zip(("session", "remember_token"), on_host(f"/opt/throat/current/.venv/bin/python - {key} {uid}", FORGE).split()))
        asked = [(path, {name: cookie}) for path in ("/", "/register") for name, cookie in cookies.items()]
        pages = [requests.get(f"{url}{path}", cookies=cookie, verify=False, timeout=30) for path, cookie in asked]
        (known,) = {"/u/admin" in page.text for page in pages if page.status_code == 200}
        return known

    return ask


ALL_DOORS = {"database at 5432", "database at 6432", "redis"}


@pytest.mark.parametrize("tasks", [pytest.param(IN_TURN, id="three"), pytest.param(list(KILLS), marks=pytest.mark.campaign, id="ten")])
def test_secrets_change_although_runs_are_killed_and_nobody_notices(run_site, kill_run, scenario, visitors, member, opens, is_admin, tasks):
    before = read_secrets(scenario)
    for task in tasks:
        kill_run({}, ROTATE, task, KILLS[task])
        print(f"killed at '{task}' + {KILLS[task]} s: {len(visitors.visits)} requests, {len(visitors.failed())} failed")
    run_site({}, playbook=ROTATE)
    after = read_secrets(scenario)
    assert {name for name in before if before[name] != after[name]} == set(CHANGED)
    assert opens(before) == set() and opens(after) == ALL_DOORS
    # Who had a page open then is still logged in, and so is who comes back later.
    assert is_admin(before["secret_key"]) and is_admin(after["secret_key"]) and not is_admin("another-key")
    member.stop()
    print(f"changed: {len(visitors.visits)} requests, {len(visitors.failed())} failed; {member.pages} pages and {member.posts} posts of somebody logged in")
    assert visitors.failed() == [] and visitors.tabs_are_open()
    assert member.problems == [] and member.posts > 0
    assert run_site().changed == 0


def test_session_key_of_before_counts_for_a_month_or_not_at_all(run_site, scenario, visitors, admin, url, is_admin, on_host):
    before = read_secrets(scenario)["secret_key"]
    run = run_site({"rotate": "secret_key"}, "-vvv", "--diff", playbook=ROTATE)
    after = read_secrets(scenario)["secret_key"]
    assert before != after and before not in run.output and after not in run.output
    assert is_admin(before) and "/u/admin" in admin.get(url).text
    # No run and no restart is needed for that.
    on_host("touch --date='31 days ago' /etc/throat/session_keys.json")
    assert not is_admin(before) and is_admin(after) and "/u/admin" not in admin.get(url).text
    run_site({"rotate": "secret_key", "log_everybody_out": True}, playbook=ROTATE)
    assert not is_admin(before) and not is_admin(after) and is_admin(read_secrets(scenario)["secret_key"])
    assert not (scenario / "inventory/.secrets/secret_key.previous").exists()
    assert visitors.failed() == [] and run_site().changed == 0


def test_what_would_do_a_change_by_halves_is_refused(run_site, scenario, hosts):
    (host,) = hosts["throat"]
    kept = scenario / "inventory/.secrets"
    for arguments in (("--limit", host), ("--tags", "redis")):
        run = run_site({}, *arguments, playbook=ROTATE, check=False)
        assert run.returncode != 0 and "rotate: a secret is changed on all hosts or on none; run this without --limit" in run.said
    run = run_site({"rotate": "redis_password,backup_key", "throat_redis_password": "one-of-the-vault"}, playbook=ROTATE, check=False)
    assert "rotate: redis_password is yours (throat_redis_password of the inventory)" in run.said and "rotate: backup_key is not changed by this" in run.said
    assert run.changed == 0 and not list(kept.glob("*.next"))
    (kept / "redis_password.next").write_text("as if a run had been killed\n")
    run = run_site({}, playbook="playbooks/deploy.yml", check=False)
    assert run.returncode != 0 and run.changed == 0 and "has redis_password.next, of a change that has not come to its end" in run.said
    (kept / "redis_password.next").unlink()


def test_secrets_are_encrypted_once_there_is_a_password_of_a_vault(run_site, scenario, tmp_path, secrets):
    kept, password = scenario / "inventory/.secrets", tmp_path / "password"
    password.write_text("of the vault")
    plain = {path: path.read_text() for path in kept.iterdir()}
    try:
        assert run_site({}, "--vault-password-file", str(password)).changed == 0
        assert all(path.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n") for path in plain)
        assert run_site({}, "--vault-password-file", str(password)).changed == 0
        run = run_site(check=False)
        assert run.returncode != 0 and run.changed == 0 and f"throat_secrets_dir: {kept} cannot be read: " in run.said
    finally:
        for path, text in plain.items():
            path.write_text(text)


def test_backups_go_over_to_another_key_by_a_second_repository(run_site, on_host, secrets):
    first, second = {"type": "local"}, {"type": "local", "path": "/mnt/second", "key": "another-key-of-the-second-one"}
    on_host("mkdir --parents /mnt/second")

    def back_up(*repositories: dict) -> None:
        run_site({"throat_backup_repositories": repositories} if repositories else {}, "--tags", "throat_backup")

    def opens(path: str, key: str) -> bool:
        return on_host(f"RESTIC_PASSWORD={key} restic --repo {path}/restic --no-cache cat config > /dev/null 2>&1 && echo it does || true") == "it does"

    back_up(first, second)
    on_host("throat-backup full")
    places = ("/var/lib/throat-backup/repository", "/mnt/second")
    assert [opens(place, key) for place in places for key in (secrets["backup_key"], second["key"])] == [True, False, False, True]
    back_up(second)
    on_host(f"mv {places[0]} {places[0]}-away && throat-backup now && throat-backup drill")
    on_host(f"mv {places[0]}-away {places[0]}")
    back_up()
    on_host("rm -r /mnt/second")
