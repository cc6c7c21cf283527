"""What the tests of all scenarios share: the operator's command, and a visitor of the site."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
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
# throat_status_limits of a busy test machine: the load of other scenarios, and what their tests have left in the log and the journal.
STATUS_LIMITS = {"load": 1000, "memory_percent": 99, "disk_percent": 96, "page_seconds": 30, "wait_seconds": 20, "clock_seconds": 20}
STATUS_LIMITS |= {"restarts": 10**4, "errors": 10**6, "failed_logins": 10**6, "security_updates": 10**4, "transaction_seconds": 10**6}
# The async workers are restarted after it (follow_redis.py).
START_REDIS = """id() { systemctl show --value --property=InvocationID throat-socketio; }; before=$(id); systemctl start redis-server
for try in $(seq 100); do [ "$(id)" = "$before" ] || break; sleep 0.2; done; systemctl start throat-gevent throat-socketio"""
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


# Run on a host with target to [address, ports] on its standard input; says which of them take a connection.
SCAN = """
import concurrent.futures, json, socket, sys
def is_open(door):
    try:
        socket.create_connection(door[1:], 1.5).close()
        return True
    except OSError:
        return False
doors = [(name, address, port) for name, (address, ports) in json.load(sys.stdin).items() for port in ports]
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps([(name, port) for (name, _address, port), found in zip(doors, pool.map(is_open, doors)) if found]))
"""


@pytest.fixture
def open_ports(run_site, tmp_path):
    """Call it for two sets of (from, to, port): what each host, and this machine, which is another one of their network, reaches on each; and what the plan says."""

    def ask(command: list[str], text: str = "") -> str:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

    def scan() -> tuple[set[tuple[str, str, int]], set[tuple[str, str, int]]]:
        run_site({"plan_file": str(tmp_path / "plan.json")}, playbook="playbooks/plan.yml")
        hosts = json.loads((tmp_path / "plan.json").read_text())["hosts"]
        addresses = {host: ask(["docker", "exec", host, "hostname", "-I"]).split()[0] for host in hosts}
        doors, planned = {}, set()
        for host, roles in hosts.items():
            # What nobody listens at nobody reaches.
            listening = [line.split()[3].rpartition(":") for line in ask(["docker", "exec", host, "ss", "-Hltn"]).splitlines()]
            doors[host] = [addresses[host], sorted({int(port) for address, _, port in listening if not address.startswith(("127.", "[::1]"))})]
            guarded = {service["port"]: service["addresses"] for service in roles["firewall"]["services"]}
            for source, address in {**addresses, "controller": None}.items():
                allowed = {port for port, clients in guarded.items() if address in clients} | set(roles["firewall"]["public_ports"])
                planned |= {(source, host, port) for port in allowed if source != host}
        with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
            said = {source: pool.submit(ask, ["docker", "exec", "--interactive", source, "python3", "-c", SCAN], json.dumps(doors)) for source in hosts}
            said["controller"] = pool.submit(ask, [sys.executable, "-c", SCAN], json.dumps(doors))
            return {(source, host, port) for source, found in said.items() for host, port in json.loads(found.result()) if source != host}, planned

    return scan


@pytest.fixture(scope="session")
def kill_run(run_site, scenario):
    """Call it to run a playbook and kill the run, as the kernel would, so many seconds after a task has begun."""
    plugins = f"{ROOT / 'molecule/deploy/tests'}:{os.environ.get('ANSIBLE_CALLBACK_PLUGINS', '')}"
    enabled = f"kill_at,{os.environ.get('ANSIBLE_CALLBACKS_ENABLED', '')}"
    environment = {**os.environ, "ANSIBLE_CALLBACK_PLUGINS": plugins.rstrip(":"), "ANSIBLE_CALLBACKS_ENABLED": enabled.rstrip(",")}

    def kill(variables, playbook: str, task: str, after: float) -> None:
        at = {"KILL_AT": task, "KILL_AFTER": str(after)}
        run = run_site(variables, playbook=playbook, check=False, env={**environment, **at}, start_new_session=True)
        assert run.returncode == -signal.SIGKILL, run.output[-3000:]
        # What it was at on the hosts it ends, in processes of sessions of their own, and no other run is let in meanwhile.
        while subprocess.run(["pgrep", "--full", f"{scenario}/inventory {playbook}"], capture_output=True, check=False).returncode == 0:
            time.sleep(1)

    return kill


def read_secrets(scenario) -> dict[str, str]:
    """The secrets that the controller keeps, by name."""
    return {path.name: path.read_text().strip() for path in (scenario / "inventory/.secrets").iterdir() if not path.suffix}


@pytest.fixture(scope="session")
def secrets(scenario) -> dict[str, str]:
    """The secrets that the first run made, by name."""
    found = read_secrets(scenario)
    # One more, where several hosts have the database.
    assert len(found) in (5, 6) and all(len(value) >= 20 for value in found.values())
    return found


@pytest.fixture(scope="session")
def workers(scenario) -> list[dict]:
    """The worker entries of the inventory, to send them back altered."""
    return yaml.safe_load((scenario / "inventory/group_vars/throat/site.yml").read_text())["throat_gunicorn_workers"]


@pytest.fixture(scope="session")
def url(scenario) -> str:
    return next(iter(yaml.safe_load((scenario / "inventory/hosts.yml").read_text())["throat"]["hosts"].values()))["throat_public_url"]


def new_browser() -> requests.Session:
    session = requests.Session()
    session.verify, session.trust_env = False, False
    return session


@pytest.fixture
def browser():
    return new_browser()


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


# A web server behind a network of its own, at a public address, a private one and a cloud's; and one at loopback.
ELSEWHERE = {"public": "198.51.100.80", "private": "10.99.0.80", "metadata of a cloud": "169.254.169.254"}
ANSWERING = {name: f"http://{address}:8099/" for name, address in ELSEWHERE.items()} | {"loopback": "http://127.0.0.1:8098/"}


@pytest.fixture(scope="module")
def fetched(on_host):
    """Call it for what workers of the first host get of an address or a file: {"sync": {"got": text} or {"refused": why}}; root of that host gets all of ANSWERING."""
    on_host(
        "mkdir -p /srv/elsewhere && echo '<title>elsewhere</title>' > /srv/elsewhere/index.html; ip netns add elsewhere; "
        "ip link add elsewhere type veth peer name inside netns elsewhere; ip addr add 198.51.100.1/24 dev elsewhere; ip addr add 10.99.0.1/24 dev elsewhere; "
        "ip link set elsewhere up; ip route add 169.254.169.254 dev elsewhere; ip -n elsewhere link set inside up; "
        + "".join(f"ip -n elsewhere addr add {address}/24 dev inside; " for address in ELSEWHERE.values())
        + "ip -n elsewhere route add default via 198.51.100.1; "
        "systemd-run --quiet --unit=elsewhere ip netns exec elsewhere python3 -m http.server 8099 --directory /srv/elsewhere; "
        "systemd-run --quiet --unit=elsewhere-loopback python3 -m http.server 8098 --bind 127.0.0.1 --directory /srv/elsewhere; "
        f"for url in {' '.join(ANSWERING.values())}; do curl --silent --fail --retry 20 --retry-connrefused --retry-delay 1 --output /dev/null $url; done"
    )

    def fetch(url: str, site: str = "throat") -> dict[str, dict[str, str]]:
        asked = "curl --silent --max-time 20 --get --header 'X-Forwarded-For: 127.0.0.1'"
        return {
            name: json.loads(on_host(f"{asked} --unix-socket /run/{site}/{name}.sock --data-urlencode url={url} http://localhost/_ref/fetch"))
            for name in ("sync", "gevent", "socketio")
        }

    yield fetch
    on_host("systemctl stop elsewhere elsewhere-loopback; ip netns del elsewhere; rm -r /srv/elsewhere")


@pytest.fixture(scope="session")
def exposures(on_host):
    """What "systemd-analyze security" gives to each service of the stack on the first host, from 0 (nothing exposed) to 10."""
    # (By itself it leaves out what does not run for long.)
    units = "systemctl list-units --all --plain --no-legend throat\\*.service pgbouncer\\*.service redis-server\\*.service nginx.service 'postgresql@*.service'"
    said = on_host(f"systemd-analyze security --no-pager $({units} | cut -d ' ' -f 1)")
    return {unit: float(score) for unit, score in re.findall(r"Overall exposure level for (\S+)\.service: ([0-9.]+)", said)}


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


@pytest.fixture(scope="session")
def people(urls, on_host):
    """Call it for people who use the site while a block lasts; at its end every post that was answered is in the database, once, and one that was not at most once."""

    @contextlib.contextmanager
    def come(pause: float):
        there = Visitors(urls, pause)
        try:
            yield there
        finally:
            there.stop()
        query = f"SELECT value FROM user_metadata WHERE value LIKE '{there.name}-%'"
        rows = on_host(f'runuser -u postgres -- psql -d throat -Atqc "{query}"', group="postgres").split()
        assert len(rows) == len(set(rows)) and there.written <= set(rows) <= there.written | there.lost

    return come


@pytest.fixture
def visitors(people, pause, flush_limits):
    """People who use the site during the test."""
    with people(pause) as there:
        yield there


def changed_app(directory: pathlib.Path, changes: dict[str, str]) -> pathlib.Path:
    """Make a copy of the reference app with lines added to its files, {path: text}; a migration is a file of its own."""
    shutil.copytree(APP, directory)
    for path, text in changes.items():
        with (directory / path).open("w" if path.startswith("migrations/") else "a") as file:
            file.write(text)
    return directory


def forget_migrations(on_host) -> None:
    """Make the database forget the migrations (9...) of releases that tests have made."""
    on_host("runuser -u postgres -- psql -d throat -Atqc \"DELETE FROM migratehistory WHERE name LIKE '9%'\"", group="postgres")


@pytest.fixture
def release(tmp_path, on_host):
    """Make a release of the reference app with lines added to its files: {path: text}; when the test ends, the database forgets the migrations of all."""
    yield lambda changes, name="release": str(changed_app(tmp_path / name, changes))
    forget_migrations(on_host)


def form(page: str) -> dict[str, str]:
    """The hidden fields of a page, name to value."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


@pytest.fixture(scope="session")
def log_in(url, secrets):
    """Make a visitor the first administrator."""

    def enter(browser: requests.Session) -> requests.Session:
        fields = form(browser.get(f"{url}/login").text)
        assert browser.post(f"{url}/login", data={**fields, "username": "admin", "password": secrets["admin_password"]}).ok
        assert "/u/admin" in browser.get(f"{url}/").text
        return browser

    return enter


@pytest.fixture
def admin(browser, log_in):
    """A visitor who has logged in as the first administrator."""
    return log_in(browser)


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
