"""A converged host, seen from outside: through nginx, and by what systemd and the servers say."""

import json
import pathlib
import re
import subprocess
import time

import pytest
import requests
import socketio
import urllib3

HOST = "throat-stack-test"
URL = "https://localhost:8444"
urllib3.disable_warnings()


def on_host(command: str) -> str:
    """Standard output of a shell command on the test host; raises when it fails."""
    return subprocess.run(["docker", "exec", HOST, "bash", "-c", command], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def browser():
    session = requests.Session()
    session.verify, session.trust_env = False, False
    return session


def form(page: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


@pytest.fixture
def admin(browser):
    password = (pathlib.Path(__file__).parent / "inventory/.secrets/admin_password").read_text().strip()
    fields = form(browser.get(f"{URL}/login").text)
    assert browser.post(f"{URL}/login", data={**fields, "username": "admin", "password": password}).ok
    assert "/u/admin" in browser.get(f"{URL}/").text
    return browser


@pytest.mark.parametrize(("path", "kind"), [("/", "sync"), ("/login", "gevent"), ("/api/v3/grabtitle", "gevent"), ("/_ref/whoami", "sync")])
def test_each_route_is_served_by_its_worker_class(browser, path, kind):
    answer = browser.get(URL + path)
    assert (answer.status_code, answer.headers["X-Ref-Worker"]) == (200, kind)


def test_static_files_come_from_nginx(browser):
    answer = browser.get(f"{URL}/static/robots.txt")
    assert answer.status_code == 200 and "X-Ref-Worker" not in answer.headers
    assert answer.headers["Access-Control-Allow-Origin"] == "*" and answer.headers["Server"].startswith("nginx")


def test_post_is_written_announced_over_a_websocket_and_read_back(admin):
    heard = []
    client = socketio.Client(ssl_verify=False)
    client.on("thread", heard.append, namespace="/snt")
    client.connect(URL, namespaces=["/snt"], transports=["websocket"])
    assert client.transport() == "websocket"
    client.emit("subscribe", {"target": "/all/new"}, namespace="/snt")
    time.sleep(1)
    title = f"A post of {time.time()}"
    fields = form(admin.get(f"{URL}/submit/text/welcome").text)
    answer = admin.post(f"{URL}/submit/text/welcome", data={**fields, "sub": "welcome", "title": title, "content": "hello"}, allow_redirects=False)
    assert answer.status_code == 302
    deadline = time.time() + 10
    while not heard and time.time() < deadline:
        time.sleep(0.1)
    client.disconnect()
    assert [event["title"] for event in heard] == [title]
    assert title in admin.get(f"{URL}/all/new").text


def test_forged_address_neither_reaches_the_app_nor_escapes_the_rate_limit(browser):
    honest = browser.get(f"{URL}/_ref/whoami").json()["remote_addr"]
    codes = []
    for number in range(70):
        answer = browser.get(f"{URL}/_ref/whoami", headers={"X-Forwarded-For": f"203.0.113.{number}"})
        codes.append(answer.status_code)
        if answer.ok:
            assert answer.json()["remote_addr"] == honest
    assert 429 in codes


def test_unknown_host_names_are_refused(browser):
    with pytest.raises(requests.ConnectionError):
        browser.get(f"{URL}/", headers={"Host": "other.example.com"})


# The first reads the database (500 without it); asked less than 60 times a minute, or the rate limit would answer.
PROBES = ("/all/new", "/api/v3/grabtitle", "/socket.io/?EIO=4&transport=polling")


def answers_again(within: float) -> float:
    """Seconds until every worker class answers 200."""
    start = time.time()
    while time.time() - start < within:
        try:
            codes = [requests.get(URL + path, verify=False, timeout=10).status_code for path in PROBES]
            if codes == [200, 200, 200]:
                return time.time() - start
        except requests.RequestException:
            pass
        time.sleep(1.2)
    raise AssertionError(f"no answer within {within} s")


@pytest.mark.parametrize("unit", ["throat-sync", "throat-gevent", "throat-socketio", "pgbouncer", "redis-server", "postgresql@15-main"])
def test_site_recovers_by_itself_when_a_process_is_killed(unit):
    on_host(f"kill -KILL $(systemctl show -p MainPID --value {unit})")
    print(f"{unit}: {answers_again(45):.1f} s")


def test_everything_comes_back_after_a_reboot():
    subprocess.run(["docker", "restart", HOST], check=True, capture_output=True)
    print(f"reboot: {answers_again(90):.1f} s")
    assert on_host("systemctl is-system-running --wait") == "running"


def test_only_the_application_may_read_its_secrets():
    assert on_host("stat -c '%U:%G %a' /etc/throat/config.yaml") == "root:throat 640"
    # The needle stays in a file on the host, or the search would find its own command line.
    on_host("awk '/secret_key:/ {print $2}' /etc/throat/config.yaml > /run/needle && test -s /run/needle")
    assert on_host("grep -rlFf /run/needle /etc/throat/config.yaml") == "/etc/throat/config.yaml"
    assert on_host("grep -rlFf /run/needle /etc/systemd /proc/[0-9]*/cmdline 2>/dev/null || true") == ""


def test_postgres_admits_the_application_only_by_scram():
    rules = json.loads(on_host("""su postgres -c "psql -Atc \\"SELECT json_agg(auth_method) FROM pg_hba_file_rules WHERE 'throat' = ANY(database)\\"" """))
    assert set(rules) == {"scram-sha-256", "reject"}
