"""What the tests of all scenarios share: the operator's command, and a visitor of the site."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import time

import pytest
import requests
import urllib3
import yaml

ROOT = pathlib.Path(__file__).parent.parent
# The first reads the database (500 without it); asked less than 60 times a minute, or the rate limit would answer.
PROBES = ("/all/new", "/api/v3/grabtitle", "/socket.io/?EIO=4&transport=polling")
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
    assert len(found) == 4 and all(len(value) >= 20 for value in found.values())
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
