"""Many changes of the inventory by one run, each told by an effect of its own, while people use the site; and all of them back by one."""

import collections
import dataclasses
import threading
import time

import pytest
from conftest import new_browser
from restarts import restarted_since
from test_proxies import behind, chain, knows_the_client

SYNC = "127.0.0.1:5055"
CERTIFICATE = {"nginx_tls_mode": "files", "nginx_tls_certificate": "/etc/ssl/private/mine.pem", "nginx_tls_key": "/etc/ssl/private/mine.key", "throat_check_certificate": False}
ADDRESSES = {"nginx_maintenance_addresses": ["127.0.0.1/32", "::1/128"]}


def is_listening(host) -> tuple[bool, bool]:
    """Whether the worker sync is asked at its new address, and whether at the old one."""
    return host.socket(f"tcp://{SYNC}").is_listening, host.file("/run/throat/sync.sock").exists


def put_pair(on_host, number: int, *names: str) -> None:
    """Put files where the inventory has them, with the date that they were made at, as rsync does."""
    on_host(f"cd /run/test-pairs; for name in {' '.join(names)}; do cp -p ${{name}}{number} /etc/ssl/private/mine.$name; done")


def served(on_host) -> str:
    """The serial number of the certificate that visitors are shown."""
    return on_host("openssl s_client -connect localhost:8444 -servername localhost </dev/null 2>/dev/null | openssl x509 -noout -serial")


@dataclasses.dataclass
class Altered:
    """What was seen after the first run, which ended before nginx, and what after the second, the whole one."""

    variables: dict
    restarted_first: set[str]
    listening_first: tuple[bool, bool]
    gevent: str
    restarted: set[str]


@pytest.fixture(scope="module")
def altered(host, on_host, run_site, workers, people):
    """gevent is removed and sync moves to another socket, two proxies come in front, the certificate is the operator's own, whose address sees the closed site."""
    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -set_serial 0x2$n -keyout key$n -out pem$n"
    on_host(f"mkdir -p /run/test-pairs; cd /run/test-pairs; for n in 1 2; do {make}; done 2>/dev/null; touch -d 2020-01-01 *")
    put_pair(on_host, 1, "pem", "key")
    # A unit of the operator's own stays, whatever its name.
    on_host("printf '[Service]\\nExecStart=/bin/true\\n' > /etc/systemd/system/throat-backup.service")
    changed = {"gevent": {"connections": 41}, "sync": {"listen": SYNC}}
    moved = [{**worker, **changed.get(worker["name"], {})} for worker in workers]
    with people(0.6) as visitors:
        restarted = restarted_since(host)
        run_site({"throat_gunicorn_workers": moved}, "--tags", "throat_gunicorn")
        first = restarted(), is_listening(host), on_host("tr '\\0' ' ' < /proc/$(systemctl show -p MainPID --value throat-gevent)/cmdline")
        variables = {**CERTIFICATE, **ADDRESSES, **behind(2), "throat_gunicorn_workers": [worker for worker in moved if worker["name"] != "gevent"]}
        run_site(variables)
        altered = Altered(variables, *first, restarted("throat-gevent"))
        assert visitors.failed() == []
    yield altered
    # Where the last test of this file has not.
    if not host.file("/run/throat/gevent.sock").exists:
        run_site({}, "--tags", "throat_gunicorn,nginx")
    on_host("rm -rf /run/test-pairs /etc/ssl/private/mine.*")


def test_changed_workers_restart_alone_and_one_moves_to_another_socket(altered, host, answers_again):
    # As far as a run comes that stops before nginx: it asks at the old address, which is open as well.
    assert altered.restarted_first == {"throat-gevent", "throat-sync"} and altered.listening_first == (True, True)
    assert "--worker-connections 41" in altered.gevent
    # The other one is told of the proxies.
    assert altered.restarted == {"throat-sync", "throat-socketio"} and is_listening(host) == (True, False)
    answers_again(5)


def test_removed_worker_loses_its_unit_and_its_upstream(altered, host, browser, url):
    assert host.run("systemctl list-units --all --no-legend 'throat-gevent*'; systemctl list-unit-files --no-legend 'throat-gevent*'").stdout == ""
    assert not host.file("/run/throat/gevent.sock").exists
    host.check_output("rm /etc/systemd/system/throat-backup.service")
    assert "throat_gevent" not in host.check_output("nginx -T 2>/dev/null")
    answer = browser.get(f"{url}/register")
    assert (answer.status_code, answer.headers["X-Ref-Worker"]) == (200, "socketio")


def test_application_behind_two_proxies_knows_the_client_whatever_it_claims(altered, on_host, flush_limits):
    with chain(on_host):
        knows_the_client(on_host, flush_limits, 2)


@pytest.fixture
def visitor(url, flush_limits):
    """Asks on until told to stop: a list of (seconds, status, has Retry-After) so far."""
    seen, stop = [], threading.Event()

    def loop():
        session = new_browser()
        while not stop.is_set():
            # A page that reads the database and that the application does not limit.
            answer = session.get(f"{url}/_ref/sleep?s=0")
            seen.append((time.monotonic(), answer.status_code, "Retry-After" in answer.headers))
            time.sleep(0.1)

    thread = threading.Thread(target=loop)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def asks_again(visitor) -> None:
    """Wait until the visitor has been answered five times more."""
    number, deadline = len(visitor) + 5, time.monotonic() + 30
    while len(visitor) < number and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(visitor) >= number


def test_closed_site_answers_503_and_nothing_else_but_to_the_operators_address(altered, run_site, visitor, browser, url, on_host):
    run_site(altered.variables, "-e", "maintenance=on", playbook="playbooks/maintenance.yml")
    closed = time.monotonic()
    assert browser.get(f"{url}/static/robots.txt").status_code == 200
    answer = browser.get(f"{url}/login")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "300") and "Back soon" in answer.text
    assert browser.get(f"{url}/").status_code == 503
    assert on_host(f"curl -sk -o /dev/null -w '%{{http_code}}' {url}/") == "200"
    asks_again(visitor)
    opened = time.monotonic()
    run_site(altered.variables, "-e", "maintenance=off", playbook="playbooks/maintenance.yml")
    open_again = time.monotonic()
    asks_again(visitor)
    assert all(code == 503 and retry for when, code, retry in visitor if closed < when < opened)
    assert all(code == 200 for when, code, _ in visitor if when > open_again)
    counts = collections.Counter(code for _, code, _ in visitor)
    print(f"maintenance: {dict(counts)}")
    assert set(counts) == {200, 503} and all(retry for _, code, retry in visitor if code == 503)


def test_certificate_of_the_operator_is_served_once_it_is_renewed_and_only_with_its_key(altered, host, on_host, run_site):
    restarted = restarted_since(host)
    assert served(on_host) == "serial=21"
    put_pair(on_host, 2, "pem")
    refused = run_site(altered.variables, "--tags", "nginx", check=False)
    assert refused.returncode != 0 and refused.changed == 0
    assert "nginx_tls_certificate: /etc/ssl/private/mine.pem of throat-stack-default does not belong to the key /etc/ssl/private/mine.key" in refused.said
    put_pair(on_host, 2, "key")
    assert run_site(altered.variables, "--tags", "nginx").changed == 1
    assert served(on_host) == "serial=22" and restarted("throat-gevent") == set()


def test_all_of_it_goes_back_by_one_run(altered, host, on_host, run_site, visitors, browser, url, answers_again):
    restarted = restarted_since(host)
    back = run_site({}, "--tags", "throat_gunicorn,nginx")
    assert back.changed > 0 and restarted() == {"throat-gevent", "throat-sync", "throat-socketio"} and is_listening(host) == (False, True)
    answer = browser.get(f"{url}/register")
    assert (answer.status_code, answer.headers["X-Ref-Worker"]) == (200, "gevent")
    assert served(on_host) not in ("serial=21", "serial=22")
    assert visitors.failed() == []
    answers_again(5)
