"""From empty hosts to certificates of an authority, which asks either of two web servers, or the address that they have together: renewal, and loss of either."""

import re
import subprocess
import threading
import time

import pytest
import requests
import testinfra

from conftest import ROOT

HOSTS = ["throat-stack-acme", "throat-stack-acme2"]
VIRTUAL = "10.213.0.70"
ADDRESSES = {"throat-stack-acme2": "10.213.0.72", "virtual": VIRTUAL}


@pytest.fixture(scope="module")
def webs():
    return [testinfra.get_host(f"docker://{name}") for name in HOSTS]


@pytest.fixture(scope="module")
def acme(webs):
    return webs[0]


def lead_to(name: str, webs) -> None:
    """Let the site's name lead to one of the web servers, to the address that they have together, or to none."""
    line = f"echo {ADDRESSES[name]} site.example.com" if name else "true"
    for web in webs:
        web.check_output(f"(grep -v site.example.com /etc/hosts; {line}) > /run/hosts; cat /run/hosts > /etc/hosts")


@pytest.fixture(scope="module")
def run_acme(run_site):
    def run(**options):
        return run_site(playbook=str(ROOT / "molecule/edge/acme.yml"), **options)

    return run


def issuer(host) -> str:
    return host.check_output("echo | openssl s_client -connect 127.0.0.1:443 -servername site.example.com 2>/dev/null | openssl x509 -noout -issuer -serial")


def renewed(host, before: str) -> str:
    """The issuer of another certificate than before, once nginx shows it: it reloads by itself."""
    deadline = time.monotonic() + 20
    while (now := issuer(host)) == before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return now


def holders() -> list[str]:
    """The web servers that have the virtual address now."""
    shown = ["ip", "-oneline", "address", "show", "to", VIRTUAL]
    return [name for name in HOSTS if subprocess.run(["docker", "exec", name, *shown], capture_output=True, check=False).stdout]


class Visitor(threading.Thread):
    """Asks for a page at the virtual address again and again; gaps: seconds between two answers, where that is long."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gaps: list[float] = []
        self.over = threading.Event()

    def run(self) -> None:
        last = time.monotonic()
        while not self.over.is_set():
            try:
                requests.get(f"http://{VIRTUAL}/", headers={"Host": "site.example.com"}, allow_redirects=False, timeout=1)
            except requests.RequestException:
                continue
            now = time.monotonic()
            self.gaps += [now - last] * (now - last > 0.5)
            last = now
            time.sleep(0.05)


def test_challenge_that_cannot_be_reached_is_explained(webs, acme, run_acme):
    lead_to("", webs)
    run = run_acme(check=False)
    assert run.returncode != 0
    assert re.search(r"No certificate was asked for: http://site.example.com/.well-known/acme-challenge/throat-check-\w+ does not lead to this host", run.said)
    assert "Let the name site.example.com resolve to throat-stack-acme, over IPv6" in run.said and "Another web server of this inventory will do" in run.said
    # The site is up meanwhile, and the authority was not asked.
    assert "CN=site.example.com" in issuer(acme).replace(" ", "")
    assert not acme.file("/etc/letsencrypt/live").exists


def test_each_gets_its_first_certificate_whichever_is_asked_and_there_is_nothing_to_do_afterwards(webs, run_acme):
    lead_to("throat-stack-acme2", webs)
    run_acme()
    first = [issuer(web) for web in webs]
    assert all("Pebble" in one for one in first) and first[0] != first[1]
    assert run_acme().changed == 0
    # The other way round, by the address that one of them holds, for the other one.
    (holder,) = holders()
    other = 1 - HOSTS.index(holder)
    lead_to("virtual", webs)
    webs[other].check_output("certbot renew --force-renewal --no-random-sleep-on-renew")
    assert "Pebble" in renewed(webs[other], first[other])
    # What neither has ends there.
    code = "curl --silent --output /dev/null --write-out '%{http_code}' http://site.example.com/.well-known/acme-challenge/none"
    assert [web.check_output(code) for web in webs] == ["404", "404"]


def test_renewal_is_served_and_drops_no_connection(acme):
    before = issuer(acme)
    assert acme.check_output("systemctl is-enabled certbot.timer") == "enabled"
    # A client asks on, each time over a new connection, while the certificate is renewed and nginx reloads. Over HTTP/1.1: by HTTP/2 curl fails
    # now and then (16, framing layer) as nginx reloads: 2 requests in 40 reloads of a bare nginx 1.22.
    loop = subprocess.Popen(
        ["docker", "exec", "throat-stack-acme", "sh", "-c",
         "while [ ! -e /run/stop ]; do curl -sk --http1.1 -o /dev/null -w '%{http_code}\\n' --resolve site.example.com:443:127.0.0.1 https://site.example.com/static/index.html; done"],
        stdout=subprocess.PIPE, text=True,
    )
    acme.check_output("certbot renew --force-renewal --no-random-sleep-on-renew")
    renewed(acme, before)
    acme.check_output("touch /run/stop")
    codes = loop.communicate(timeout=30)[0].split()
    acme.check_output("rm /run/stop")
    print(f"renewal: {len(codes)} requests, {sum(code != '200' for code in codes)} failed")
    assert len(codes) > 20 and set(codes) == {"200"}


def test_address_that_they_have_together_goes_to_the_other_when_nginx_or_the_host_is_gone_and_stays_there(webs, run_acme):
    # Whoever came first; the second one is that which has nothing to lose here.
    if holders() == HOSTS[1:]:
        webs[1].check_output("systemctl stop keepalived")
        wait_for(lambda: holders() == HOSTS[:1])
        webs[1].check_output("systemctl start keepalived")
        time.sleep(5)
    assert holders() == HOSTS[:1]
    visitor = Visitor()
    visitor.start()
    webs[0].check_output("systemctl stop nginx")
    wait_for(lambda: holders() == HOSTS[1:])
    # Who comes back does not take it back.
    webs[0].check_output("systemctl start nginx")
    time.sleep(5)
    assert holders() == HOSTS[1:]
    subprocess.run(["docker", "kill", HOSTS[1]], check=True, capture_output=True)
    wait_for(lambda: holders() == HOSTS[:1])
    subprocess.run(["docker", "start", HOSTS[1]], check=True, capture_output=True)
    wait_for(lambda: webs[1].run("systemctl is-active keepalived nginx").rc == 0, 60)
    time.sleep(3)
    assert holders() == HOSTS[:1]
    visitor.over.set()
    visitor.join()
    print(f"seconds without an answer: {', '.join(f'{gap:.1f}' for gap in visitor.gaps) or 'none'}")
    assert max(visitor.gaps, default=0) < 15
    # Where all must restart it, one has it all the while.
    for web in webs:
        web.check_output("sleep 1; touch /etc/systemd/system/keepalived.service.d/throat.conf")
    visitor = Visitor()
    visitor.start()
    assert run_acme().changed == len(webs)
    visitor.over.set()
    visitor.join()
    print(f"seconds without an answer while both are restarted: {', '.join(f'{gap:.1f}' for gap in visitor.gaps) or 'none'}")
    assert max(visitor.gaps, default=0) < 4 and len(holders()) == 1
    # A run moves nothing.
    before = holders()
    assert run_acme().changed == 0 and holders() == before


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
