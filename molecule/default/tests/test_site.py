"""A converged host, seen from outside: through nginx, and by what systemd and the servers say."""

import base64
import contextlib
import json
import subprocess
import time

import pytest
import requests
from visitors import Tab


@pytest.mark.parametrize(("path", "kind"), [("/", "sync"), ("/register", "gevent"), ("/api/v3/grabtitle", "gevent"), ("/_ref/whoami", "sync")])
def test_each_route_is_served_by_its_worker_class(browser, url, path, kind):
    answer = browser.get(url + path)
    assert (answer.status_code, answer.headers["X-Ref-Worker"]) == (200, kind)


def test_static_files_come_from_nginx(browser, url):
    answer = browser.get(f"{url}/static/robots.txt")
    assert answer.status_code == 200 and "X-Ref-Worker" not in answer.headers
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    for answer in (answer, browser.get(f"{url}/")):
        headers = {name: answer.headers.get(name) for name in ("Server", "X-Content-Type-Options", "X-Frame-Options")}
        assert headers == {"Server": "nginx", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN"}


def test_post_is_written_announced_over_a_websocket_and_read_back(admin, write_post, url):
    title = f"A post of {time.time()}"
    with contextlib.closing(Tab(url)) as tab:
        tab.say("subscribe", {"target": "/all/new"})
        write_post(admin, title)
        assert [post["title"] for post in tab.hears("thread")] == [title]
    assert title in admin.get(f"{url}/all/new").text


def test_picture_becomes_a_thumbnail_whatever_the_python(browser, url, on_host):
    """Pillow and Python have dropped names that Throat's code of 2023 uses for it."""
    picture = on_host("/opt/throat/current/.venv/bin/python -c \"import base64, io; from PIL import Image; made = io.BytesIO(); "
                      "Image.new('RGB', (300, 200), 'red').save(made, 'PNG'); print(base64.b64encode(made.getvalue()).decode())\"")  # fmt: skip
    answer = browser.post(f"{url}/_ref/thumbnail", files={"files": ("red.png", base64.b64decode(picture))})
    assert answer.status_code == 200 and answer.json()["said"] == "red.png"
    shown = browser.get(f"{url}/media/thumbs/{answer.json()['name']}")
    assert shown.status_code == 200 and shown.content.startswith(b"\xff\xd8") and len(shown.content) < 2000


def test_forged_address_neither_reaches_the_app_nor_escapes_the_rate_limit(browser, url):
    honest = browser.get(f"{url}/_ref/whoami").json()["remote_addr"]
    codes = []
    for number in range(70):
        answer = browser.get(f"{url}/_ref/whoami", headers={"X-Forwarded-For": f"203.0.113.{number}"})
        codes.append(answer.status_code)
        if answer.ok:
            assert answer.json()["remote_addr"] == honest
    assert 429 in codes


def test_load_balancer_learns_by_any_name_whether_each_worker_class_answers(browser, url, on_host):
    asked = [(browser, f"{scheme}/throat-health", name) for scheme in (url, url.replace("localhost", "127.0.0.1")) for name in ("localhost", "other.example.com", "127.0.0.1")]
    in_the_clear = "curl --silent --output /dev/null --output /dev/null --write-out '%{http_code} ' --header 'Host: x' http://127.0.0.1/throat-health http://localhost/throat-health"

    def answers() -> set[int]:
        return {session.get(address, headers={"Host": name}).status_code for session, address, name in asked} | set(map(int, on_host(in_the_clear).split()))

    # More often than any rate limit lets a client ask.
    assert [answers() for _ in range(12)] == [{200}] * 12
    for name in ("sync", "gevent", "socketio"):
        on_host(f"systemctl stop throat-{name}.socket throat-{name}")
        said = answers()
        on_host(f"systemctl start throat-{name}.socket throat-{name}")
        assert said == {503}, name
    assert on_host("grep -c throat-health /var/log/nginx/throat.access.log || true") == "0"


def test_unknown_host_names_are_refused(browser, url):
    with pytest.raises(requests.ConnectionError):
        browser.get(f"{url}/", headers={"Host": "other.example.com"})


@pytest.mark.parametrize("unit", ["nginx", "throat-sync", "throat-gevent", "throat-socketio", "pgbouncer", "redis-server", "postgresql@17-main"])
def test_site_recovers_by_itself_when_a_process_is_killed(host, answers_again, unit):
    host.check_output("systemctl kill --kill-whom=main --signal=KILL %s", unit)
    print(f"{unit}: {answers_again(45):.1f} s")


def test_everything_comes_back_after_a_reboot(host, answers_again):
    subprocess.run(["docker", "restart", host.check_output("hostname")], check=True, capture_output=True)
    print(f"reboot: {answers_again(90):.1f} s")
    assert host.check_output("systemctl is-system-running --wait") == "running"


def test_only_the_application_may_read_its_secrets(host):
    assert host.check_output("stat -c '%U:%G %a' /etc/throat/config.yaml") == "root:throat 640"
    # The needle stays in a file on the host, or the search would find its own command line.
    host.check_output("awk '/secret_key:/ {print $2}' /etc/throat/config.yaml > /run/needle && test -s /run/needle")
    assert host.check_output("grep -rlFf /run/needle /etc/throat/config.yaml") == "/etc/throat/config.yaml"
    assert host.check_output("grep -rlFf /run/needle /etc/systemd /proc/[0-9]*/cmdline 2>/dev/null || true") == ""


def test_postgres_admits_the_application_only_by_scram_or_its_system_user(host):
    rules = json.loads(host.check_output("""su postgres -c "psql -Atc \\"SELECT json_agg(auth_method) FROM pg_hba_file_rules WHERE 'throat' = ANY(database)\\"" """))
    assert set(rules) == {"scram-sha-256", "peer", "reject"}
