"""The site closed for maintenance and opened again, while visitors go on asking."""

import collections
import signal
import subprocess
import threading
import time

import pytest
import requests

from conftest import ROOT


@pytest.fixture
def visitor(url, flush_limits):
    """Asks on until told to stop: a list of (seconds, status, has Retry-After) so far."""
    seen, stop = [], threading.Event()

    def loop():
        session = requests.Session()
        session.verify, session.trust_env = False, False
        while not stop.is_set():
            # A page that reads the database and that the application does not limit.
            answer = session.get(f"{url}/_ref/sleep?s=0")
            seen.append((time.monotonic(), answer.status_code, "Retry-After" in answer.headers))
            time.sleep(0.05)

    thread = threading.Thread(target=loop)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def test_closed_site_answers_503_and_nothing_else(run_site, visitor, browser, url, on_host):
    run_site(None, "-e", "maintenance=on", playbook="playbooks/maintenance.yml")
    closed = time.monotonic()
    assert browser.get(f"{url}/static/robots.txt").status_code == 200
    answer = browser.get(f"{url}/login")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "300") and "Back soon" in answer.text
    time.sleep(1)
    opened = time.monotonic()
    run_site(None, "-e", "maintenance=off", playbook="playbooks/maintenance.yml")
    open_again = time.monotonic()
    time.sleep(1)
    assert all(code == 503 and retry for when, code, retry in visitor if closed < when < opened)
    assert all(code == 200 for when, code, _ in visitor if when > open_again)
    counts = collections.Counter(code for _, code, _ in visitor)
    print(f"maintenance: {dict(counts)}")
    assert set(counts) == {200, 503} and all(retry for _, code, retry in visitor if code == 503)


def test_operators_address_sees_the_closed_site(run_site, browser, url, on_host):
    addresses = {"nginx_maintenance_addresses": ["127.0.0.1/32", "::1/128"]}
    run_site(addresses, "--tags", "nginx")
    run_site(addresses, "-e", "maintenance=on", playbook="playbooks/maintenance.yml")
    assert browser.get(f"{url}/").status_code == 503
    assert on_host(f"curl -sk -o /dev/null -w '%{{http_code}}' {url}/") == "200"
    run_site(addresses, "-e", "maintenance=off", playbook="playbooks/maintenance.yml")
    run_site({}, "--tags", "nginx")


def test_word_that_is_neither_on_nor_off_is_refused(run_site):
    run = run_site(None, "-e", "maintenance=maybe", playbook="playbooks/maintenance.yml", check=False)
    assert run.returncode != 0 and run.changed == 0 and "maintenance: maybe, but must be on or off" in run.said


def test_site_that_cannot_be_proven_closed_is_opened_again(run_site, browser, url):
    unreachable = {"throat_check_url": "https://localhost:1"}
    run = run_site(unreachable, "-e", "maintenance=on", playbook="playbooks/maintenance.yml", check=False)
    assert run.returncode != 0 and "The site is open; it could not be closed" in run.said
    assert browser.get(f"{url}/").status_code == 200


@pytest.mark.parametrize("seconds", [pytest.param(0.6, marks=pytest.mark.campaign), 1.0, pytest.param(1.6, marks=pytest.mark.campaign)])
def test_play_that_is_killed_leaves_the_site_open_or_closed_and_whole(scenario, run_site, browser, url, seconds):
    command = ["ansible-playbook", "-i", scenario / "inventory", "playbooks/maintenance.yml", "-e", "maintenance=on"]
    play = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(seconds)
    subprocess.run(["pkill", "-KILL", "--session", str(play.pid)], check=False)
    play.wait()
    assert play.returncode in (0, -signal.SIGKILL)
    # A task under way is a process with a session of its own, and ends by itself; what is tested here is what it leaves.
    subprocess.run(["pidwait", "--full", f"{scenario}/inventory playbooks/maintenance.yml"], check=False, timeout=60)
    answer = browser.get(f"{url}/")
    assert answer.status_code in (200, 503)
    print(f"killed after {seconds} s: {answer.status_code}")
    run_site(None, "-e", "maintenance=off", playbook="playbooks/maintenance.yml")
    assert browser.get(f"{url}/").status_code == 200
