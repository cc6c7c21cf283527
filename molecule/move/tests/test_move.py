"""A site moves from a Debian 12 host to a new Debian 13 host, with all that it keeps; what cannot work is refused, and what fails leaves the old one open."""

import base64
import json
import os
import pathlib
import subprocess

import pytest
import requests
from conftest import MIGRATION, form

pytestmark = pytest.mark.campaign
OLD, NEW = "throat-stack-old", "throat-stack-new"
# The name that both answer to leads to the old host; the new one is asked at its own port.
PORTS = {OLD: 8456, NEW: 8457}
MOVE = "playbooks/move.yml"
OWN_MIGRATION = "901_moved"
PICTURE = (
    "/opt/throat/current/.venv/bin/python -c \"import base64, io; from PIL import Image; made = io.BytesIO(); "
    "Image.new('RGB', (300, 200), 'red').save(made, 'PNG'); print(base64.b64encode(made.getvalue()).decode())\""
)


def on(host: str, command: str) -> str:
    """Standard output of a shell command, run as root on a host."""
    done = subprocess.run(["docker", "exec", host, "bash", "-c", f"cd / && {command}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def ask(host: str, sql: str, database: str = "throat") -> str:
    return on(host, f'runuser -u postgres -- psql -d {database} -Atqc "{sql}"')


def url(host: str, path: str = "/") -> str:
    return f"https://localhost:{PORTS[host]}{path}"


def status(host: str) -> int:
    return requests.get(url(host, "/all/new"), verify=False, timeout=30).status_code


def write(visitor: requests.Session, host: str, title: str) -> None:
    fields = form(visitor.get(url(host, "/submit/text/welcome")).text)
    data = {**fields, "sub": "welcome", "title": title, "content": "hello"}
    # Browsers say where they come from, and the application looks at that.
    answer = visitor.post(url(host, "/submit/text/welcome"), data=data, headers={"Referer": url(OLD)}, allow_redirects=False)
    assert answer.status_code == 302, answer.text


def send(visitor: requests.Session, host: str, name: str, content: bytes) -> str:
    """Upload a file: the path at which everybody sees it."""
    fields = form(visitor.get(url(host, "/submit/text/welcome")).text)
    answer = visitor.post(url(host, "/do/upload/welcome"), data=fields, files={"files": (name, content)}, headers={"Referer": url(OLD)})
    return f"/media/uploads/{answer.json()['name']}"


@pytest.fixture(scope="module")
def old_site(run_site, scenario) -> pathlib.Path:
    """The old site, converged: its inventory."""
    run_site(inventory=scenario / "old")
    return scenario / "old"


@pytest.fixture(scope="module")
def member(old_site, secrets) -> requests.Session:
    """Somebody who has logged in on the old site and stays so, with posts, an upload and a thumbnail (files: path to content)."""
    session = requests.Session()
    session.verify, session.trust_env = False, False
    fields = form(session.get(url(OLD, "/login")).text)
    session.post(url(OLD, "/login"), data={**fields, "username": "admin", "password": secrets["admin_password"]}, headers={"Referer": url(OLD)})
    assert "/u/admin" in session.get(url(OLD)).text
    for number in range(3):
        write(session, OLD, f"Zwölf {number} – Ž")
    contents = [os.urandom(50_000 * number) for number in range(4)]
    session.files = {send(session, OLD, f"picture {number}.png", content): content for number, content in enumerate(contents)}
    pixel = on(OLD, PICTURE)
    thumbnail = session.post(url(OLD, "/_ref/thumbnail"), files={"files": ("a.png", base64.b64decode(pixel))}).json()["name"]
    session.files[f"/media/thumbs/{thumbnail}"] = session.get(url(OLD, f"/media/thumbs/{thumbnail}")).content
    return session


def refused(run_site, said: str, variables=None) -> None:
    run = run_site(variables, playbook=MOVE, check=False)
    assert run.returncode != 0 and run.changed == 0 and said in run.said, run.output[-3000:]
    assert (status(OLD), status(NEW)) == (200, 200)


def test_site_with_another_secret_key_is_refused(member, run_site):
    on(NEW, "sed -i.kept 's/secret_key: ./secret_key: X/' /etc/throat/config.yaml")
    refused(run_site, "throat_secret_key: not the one of throat-stack-old, so that everybody would be logged out")
    on(NEW, "mv /etc/throat/config.yaml.kept /etc/throat/config.yaml")


def test_database_that_a_newer_release_has_migrated_is_refused(member, run_site):
    ask(OLD, "INSERT INTO migratehistory (name, migrated_at) VALUES ('999_later', now())")
    refused(run_site, "the release of the new site does not know 999_later, which the database of throat-stack-old has seen")
    ask(OLD, "DELETE FROM migratehistory WHERE name = '999_later'")


def test_new_site_that_is_used_is_refused(member, run_site):
    ask(NEW, "INSERT INTO sub_post (title, posted) VALUES ('mine', now())")
    refused(run_site, "throat-stack-new: the site there has posts of its own (1); if it may be replaced, say -e overwrite=true")
    ask(NEW, "DELETE FROM sub_post")


def test_old_host_that_is_not_there_is_refused(member, run_site):
    subprocess.run(["docker", "pause", OLD], check=True, capture_output=True)
    try:
        run = run_site({"ansible_docker_timeout": 5}, playbook=MOVE, check=False)
    finally:
        subprocess.run(["docker", "unpause", OLD], check=True, capture_output=True)
    assert run.returncode != 0 and "throat_old: throat-stack-old cannot be reached, or not be looked at as root" in run.said
    on(OLD, "systemctl stop postgresql")
    run = run_site(playbook=MOVE, check=False)
    on(OLD, "systemctl start postgresql")
    assert run.returncode != 0 and "throat_old: throat-stack-old has no PostgreSQL that runs and has the database throat" in run.said


def test_check_mode_says_that_it_could_and_changes_nothing(member, run_site):
    run = run_site(None, "--check", playbook=MOVE)
    assert run.changed == 0 and "throat-stack-old, PostgreSQL 15, has" in run.said
    assert (status(OLD), status(NEW)) == (200, 200)


def test_failure_opens_the_old_site_again(member, run_site):
    run = run_site({"throat_gunicorn_site_settings": {"nonsense": 1}}, playbook=MOVE, check=False)
    assert run.returncode != 0
    assert "The site has not moved: throat-stack-old serves it again, and the new site is closed." in run.said
    assert "nonsense: Throat has no such setting" in run.said
    assert (status(OLD), status(NEW)) == (200, 503)
    write(member, OLD, "after the failure")


def test_site_moves_with_all_that_it_keeps(member, run_site, release, scenario):
    # A user has taken one file away since, and the new release has a migration of its own.
    gone = next(iter(member.files))
    del member.files[gone]
    on(OLD, f"rm /var/lib/throat{gone.removeprefix('/media')}")
    app = release({f"migrations/{OWN_MIGRATION}.py": f'{MIGRATION}    migrator.sql("ALTER TABLE sub_post ADD COLUMN moved int")\n'})
    source = {"throat_gunicorn_source": app}
    run_site(source)
    rows = "SELECT json_build_object('post', (SELECT json_agg(title ORDER BY pid) FROM sub_post), 'user', (SELECT json_agg(uid ORDER BY uid) FROM public.user))"
    before = json.loads(ask(OLD, rows))
    assert len(before["post"]) == 4

    run = run_site(playbook=MOVE)
    print(run.output[run.output.index("The site has moved") :].split("PLAY RECAP")[0])

    assert json.loads(ask(NEW, rows)) == before
    assert ask(NEW, "SELECT count(*) FROM migratehistory WHERE name LIKE '901%'") == "1"
    assert ask(NEW, "SELECT datcollate, datctype, pg_encoding_to_char(encoding), pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'throat'") == "C.UTF-8|C.UTF-8|UTF8|throat"
    assert ask(NEW, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == "throat"
    assert ask(NEW, "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'throat%'") == "throat throat_before_move"
    # Who was logged in still is, and writes on.
    page = member.get(url(NEW)).text
    assert "/u/admin" in page and all(title in page for title in before["post"])
    write(member, NEW, "on the new host")
    for path, content in member.files.items():
        assert requests.get(url(NEW, path), verify=False, timeout=30).content == content, path
    assert requests.get(url(NEW, gone), verify=False, timeout=30).status_code == 404
    assert on(NEW, "find /var/lib/throat/uploads /var/lib/throat/thumbs ! -user throat") == ""
    assert send(member, NEW, "later.png", b"later")
    # Visitors whose DNS is late are asked to come again; so it stays after a boot.
    late = requests.get(url(OLD, "/all/new"), verify=False, timeout=30)
    assert (late.status_code, late.headers["Retry-After"]) == (503, "300")
    assert on(OLD, "ls /var/tmp | grep throat-move || true") == on(NEW, "ls /var/tmp | grep throat-move || true") == ""
    assert run_site(source).changed == 0

    refused_again = run_site(playbook=MOVE, check=False)
    assert refused_again.returncode != 0 and "posts of its own (5)" in refused_again.said
