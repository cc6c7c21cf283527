"""What the tests of all scenarios share: the operator's command, and a visitor of the site."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest
import requests
import urllib3
import yaml
from visitors import Visitors

ROOT = pathlib.Path(__file__).parent.parent
APP = ROOT / "molecule/shared/app"
# The first reads the database (500 without it); asked less than 60 times a minute, or the rate limit would answer.
PROBES = ("/all/new", "/api/v3/grabtitle", "/socket.io/?EIO=4&transport=polling")
# How a migration begins.
MIGRATION = "def migrate(migrator, database, fake=False, **kwargs):\n"
urllib3.disable_warnings()


@dataclasses.dataclass
class Run:
    """What one ansible-playbook run printed, and its recap: {host: {"ok": 1, "changed": 0, ...}}."""

    returncode: int
    output: str
    recap: dict[str, dict[str, int]]

    @property
    def changed(self) -> int:
        return sum(counts["changed"] for counts in self.recap.values())

    @property
    def said(self) -> str:
        """The output with line breaks of the terminal's width taken out."""
        return " ".join(self.output.split())


@pytest.fixture(scope="session")
def scenario(request) -> pathlib.Path:
    """Directory of the scenario under test."""
    return pathlib.Path(request.config.getoption("ansible_inventory")).resolve().parent


@pytest.fixture(scope="session")
def run_site(scenario):
    """Run the operator's command with extra variables; `check=False` lets it fail."""

    def run(variables=None, *arguments: str, check=True, program="ansible-playbook", inventory=scenario / "inventory", playbook="playbooks/site.yml", **options):
        command = [str(program), "-i", str(inventory), playbook, *arguments]
        if variables:
            command += ["-e", json.dumps(variables)]
        environment = {**options.pop("env", os.environ), "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
        done = subprocess.run(command, cwd=options.pop("cwd", ROOT), env=environment, capture_output=True, text=True, check=False, **options)
        output = done.stdout + done.stderr
        recap = {
            host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)}
            for host, counts in re.findall(r"^(\S+)\s+: (ok=.*)$", done.stdout, re.MULTILINE)
        }
        if check:
            assert done.returncode == 0, output[-6000:]
        return Run(done.returncode, output, recap)

    return run


@pytest.fixture(scope="session")
def secrets(scenario) -> dict[str, str]:
    """The secrets that the first run made, by name."""
    found = {path.name: path.read_text().strip() for path in (scenario / "inventory/.secrets").iterdir()}
    assert len(found) == 5 and all(len(value) >= 20 for value in found.values())
    return found


@pytest.fixture(scope="session")
def workers(scenario) -> list[dict]:
    """The worker entries of the inventory, to send them back altered."""
    return yaml.safe_load((scenario / "inventory/group_vars/throat/site.yml").read_text())["throat_gunicorn_workers"]


@pytest.fixture(scope="session")
def url(scenario) -> str:
    return next(iter(yaml.safe_load((scenario / "inventory/hosts.yml").read_text())["throat"]["hosts"].values()))["throat_public_url"]


@pytest.fixture
def browser():
    session = requests.Session()
    session.verify, session.trust_env = False, False
    return session


@pytest.fixture(scope="session")
def hosts(scenario) -> dict[str, list[str]]:
    """Group of the inventory to its hosts; "throat" is all of them."""
    site = yaml.safe_load((scenario / "inventory/hosts.yml").read_text())["throat"]
    return {"throat": list(site["hosts"])} | {name: list(group["hosts"]) for name, group in site["children"].items()}


@pytest.fixture(scope="session")
def on_host(hosts):
    """Standard output of a shell command, run as root on a group's first host; raises when it fails."""

    def run(command: str, stdin: str = "", group: str = "throat") -> str:
        name = hosts[group][0]
        done = subprocess.run(["docker", "exec", "-i", name, "bash", "-c", f"cd / && {command}"], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    return run


@pytest.fixture
def flush_limits(on_host, secrets):
    """Call it to make the application forget what it has counted, so that one test's requests do not limit the next one's."""

    def flush() -> None:
        redis = f"redis-cli --no-auth-warning --user throat --pass {secrets['redis_password']}"
        on_host(f"{redis} --scan --pattern 'LIMITER*' | xargs --no-run-if-empty {redis} del", group="redis")

    flush()
    return flush


@pytest.fixture(scope="session")
def urls(scenario, hosts) -> list[str]:
    """Addresses of all web servers, as this machine reaches them."""
    site = yaml.safe_load((scenario / "inventory/hosts.yml").read_text())["throat"]
    return [f"https://localhost:{site['hosts'][name]['test_host_ports'][0].split(':')[1]}" for name in hosts["nginx"]]


@pytest.fixture
def pause() -> float:
    """Seconds that visitors wait between two requests of a kind: often enough that a second of trouble hits somebody, and little beside the deploy."""
    return 0.25


@pytest.fixture
def visitors(urls, pause, flush_limits, on_host):
    """People who use the site during the test; at its end every post that was answered is in the database, once, and one that was not at most once."""
    there = Visitors(urls, pause)
    yield there
    there.stop()
    query = f"SELECT value FROM user_metadata WHERE value LIKE '{there.name}-%'"
    rows = on_host(f'runuser -u postgres -- psql -d throat -Atqc "{query}"', group="postgres").split()
    assert len(rows) == len(set(rows)) and there.written <= set(rows) <= there.written | there.lost


@pytest.fixture
def release(tmp_path, on_host):
    """Make a release of the reference app with lines added to its files: {path: text}; when the test ends, the database forgets the migrations (9...) of all."""

    def make(changes: dict[str, str], name: str = "release") -> str:
        directory = shutil.copytree(APP, tmp_path / name)
        for path, text in changes.items():
            with (directory / path).open("w" if path.startswith("migrations/") else "a") as file:
                file.write(text)
        return str(directory)

    yield make
    on_host("runuser -u postgres -- psql -d throat -Atqc \"DELETE FROM migratehistory WHERE name LIKE '9%'\"", group="postgres")


def form(page: str) -> dict[str, str]:
    """The hidden fields of a page, name to value."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


@pytest.fixture
def admin(browser, url, secrets):
    """A visitor who has logged in as the first administrator."""
    fields = form(browser.get(f"{url}/login").text)
    assert browser.post(f"{url}/login", data={**fields, "username": "admin", "password": secrets["admin_password"]}).ok
    assert "/u/admin" in browser.get(f"{url}/").text
    return browser


@pytest.fixture
def write_post(url):
    """Write a post in the sub "welcome"."""

    def write(visitor, title: str) -> None:
        fields = form(visitor.get(f"{url}/submit/text/welcome").text)
        data = {**fields, "sub": "welcome", "title": title, "content": "hello"}
        assert visitor.post(f"{url}/submit/text/welcome", data=data, allow_redirects=False).status_code == 302

    return write


@pytest.fixture
def answers_again(url):
    """Seconds until every worker class answers 200."""

    def wait(within: float) -> float:
        start = time.time()
        while time.time() - start < within:
            try:
                if all(requests.get(url + path, verify=False, timeout=10).status_code == 200 for path in PROBES):
                    return time.time() - start
            except requests.RequestException:
                pass
            time.sleep(1.2)
        raise AssertionError(f"no answer within {within} s")

    return wait
