"""The firewall of a host that is reached over real ssh: what it closes, and that it never locks its operator out."""

import socket
import subprocess
import time

import pytest

HOST = "throat-stack-existing"
RULES = "nft list table inet throat"


def ssh(scenario) -> bool:
    """Whether a new connection is let in."""
    key = scenario.parents[1] / ".cache/ssh/id_ed25519"
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=3", "-o", "BatchMode=yes"]
    return subprocess.run(["ssh", "-p", "2222", "-i", key, *options, "deploy@127.0.0.1", "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def address(host) -> str:
    """The host's own address, where this machine reaches all of its ports."""
    host.check_output("systemd-run --unit=test-listener python3 -m http.server 8080; until curl -s -o /dev/null http://localhost:8080; do sleep 0.2; done")
    yield host.check_output("hostname -I").split()[0]
    host.check_output("systemctl stop test-listener; systemctl disable --now throat-firewall; rm /etc/throat-firewall.nft")


def is_open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


def test_host_is_closed_but_for_ssh_and_the_web_server(run_site, scenario, host, address, browser, url):
    assert is_open(address, 8080)
    run_site({"throat_firewall": "host"}, "--tags", "firewall")
    assert not is_open(address, 8080) and is_open(address, 8445) and is_open(address, 80) and ssh(scenario)
    assert browser.get(f"{url}/", headers={"Host": "other.example.com"}).text == "the other site\n"
    assert host.check_output("curl -s http://localhost:8080 -o /dev/null -w '%{http_code}'") == "200"
    assert run_site({"throat_firewall": "host"}, "--tags", "firewall").changed == 0


def test_rules_that_would_lock_the_operator_out_are_undone_by_the_host(run_site, scenario, host, address):
    before = host.check_output(RULES)
    run = run_site({"throat_firewall": "host", "firewall_ssh_ports": [2]}, "--tags", "firewall", check=False)
    assert run.returncode != 0 and "did not answer a new connection in time under its new firewall rules" in run.said
    start = time.time()
    while not ssh(scenario) and time.time() - start < 90:
        time.sleep(1)
    print(f"ssh answers again {time.time() - start:.0f} s after the run")
    assert ssh(scenario) and host.check_output(RULES) == before and not is_open(address, 8080)
    assert run_site({"throat_firewall": "host"}, "--tags", "firewall").changed == 0


def test_port_of_ssh_cannot_be_guarded(run_site):
    run = run_site({"throat_firewall": "services", "firewall_services": [{"name": "mine", "port": 22}]}, "--tags", "firewall", check=False)
    assert run.returncode != 0 and run.changed == 0
    assert "port 22 is where ssh listens on throat-stack-existing and stays open; take it out of the list" in run.said
