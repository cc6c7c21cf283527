"""What each role does by itself, without the others and without the playbook."""

import base64
import json
import re
import shlex
import time

import pytest
import requests
from conftest import ROOT

URL = "https://localhost:8446"

def ask(host, query: str, port: int, password: str = "password-of-the-shop"):
    return host.run(f"PGPASSWORD={password} psql -h 127.0.0.1 -p {port} -U shop shop -Atc '{query}'")

@pytest.mark.parametrize("port", [5432, 6432], ids=["postgres", "pgbouncer"])
def test_database_admits_its_role_by_password(host, port):
    assert ask(host, "SELECT current_user", port).stdout.strip() == "shop"
    assert ask(host, "SELECT 1", port, "wrong").rc != 0

def test_postgres_has_the_settings_of_the_operator(host):
    show = "SELECT setting FROM pg_settings WHERE name IN ($$max_connections$$, $$statement_timeout$$) ORDER BY name"
    assert ask(host, show, 5432).stdout.split() == ["50", "20000"]

@pytest.mark.parametrize("port", [5432, 6432, 6379])
def test_listens_on_loopback_only(host, port):
    assert host.socket(f"tcp://127.0.0.1:{port}").is_listening
    assert not host.socket(f"tcp://0.0.0.0:{port}").is_listening

def test_redis_knows_its_one_user(host):
    cli = "redis-cli --no-auth-warning"
    assert host.check_output(f"{cli} --user shop --pass password-of-the-cache SET a 1") == "OK"
    assert "NOAUTH" in host.check_output(f"{cli} GET a")
    assert "NOPERM" in host.check_output(f"{cli} --user shop --pass password-of-the-cache FLUSHALL")

def test_nginx_serves_static_files_and_its_own_name_only(browser):
    answer = browser.get(f"{URL}/static/index.html")
    assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == "*"
    # No worker is there: nginx says so, and does not pretend.
    assert browser.get(f"{URL}/").status_code == 502
    with pytest.raises(requests.ConnectionError):
        browser.get(f"{URL}/static/index.html", headers={"Host": "other.example.com"})

# Port of each exporter, and what it says when it has asked.
EXPORTERS = {
    "node": (9100, "node_load1"),
    "postgres": (9187, "pg_up 1"),
    "redis": (9121, "redis_up 1"),
    "nginx": (9113, "nginx_up 1"),
    "mtail": (3903, "mtail_build_info"),
}


def metrics(host, name: str) -> str:
    return host.check_output(f"curl -sS --retry 10 --retry-all-errors --retry-delay 1 http://127.0.0.1:{EXPORTERS[name][0]}/metrics")


@pytest.mark.parametrize("name", EXPORTERS)
def test_exporter_has_asked_and_answers_at_loopback_alone(host, name):
    port, said = EXPORTERS[name]
    assert said in metrics(host, name)
    # Whoever else is on the network: the host's own address is one that others reach.
    assert host.run(f"curl -sS --max-time 3 http://$(hostname -I | cut -d' ' -f1):{port}/metrics").rc == 7


def test_exporter_may_see_how_the_servers_are_and_nothing_else(host):
    as_exporter = "cd / && runuser -u prometheus -- psql -h /run/postgresql -X"
    assert host.run(f"{as_exporter} -d postgres -Atc 'SELECT count(*) > 0 FROM pg_stat_activity'").stdout.strip() == "t"
    assert "permission denied" in host.run(f"{as_exporter} -d postgres -c 'SELECT * FROM pg_authid'").stderr
    # The shop's database lets in its own role only.
    assert host.run(f"{as_exporter} -d shop -c 'SELECT 1'").rc != 0
    cli = "REDISCLI_AUTH=password-of-the-exporter redis-cli --user shop-metrics"
    assert "redis_version" in host.check_output(f"{cli} INFO server")
    for command in ("GET a", "KEYS '*'", "CONFIG GET '*'", "ACL LIST", "MONITOR"):
        assert "NOPERM" in host.run(f"{cli} {command}").stdout, command


def test_mtail_counts_answers_by_class_and_status(host, browser):
    for _ in range(3):
        browser.get(f"{URL}/")
    host.run("sleep 2")
    said = metrics(host, "mtail")
    counts = dict(re.findall(r'^throat_requests_total\{class="(\w*)",.*status="502"\} (\d+)', said, re.MULTILINE))
    assert int(counts["sync"]) >= 3
    assert re.search(r'^throat_request_seconds_count\{.*class="sync"', said, re.MULTILINE)


def test_prometheus_reaches_each_exporter_and_knows_the_alerts(host):
    def asked(path: str) -> dict:
        return json.loads(host.check_output(f"curl -sS http://127.0.0.1:9090/api/v1/{path}"))["data"]

    deadline = time.time() + 40
    while (found := {target["labels"]["job"]: target["health"] for target in asked("targets")["activeTargets"]}) != dict.fromkeys(EXPORTERS, "up"):
        assert time.time() < deadline, found
        time.sleep(1)
    rules = [rule["name"] for group in asked("rules")["groups"] for rule in group["rules"]]
    assert "ThroatBroken" in rules
    assert host.run("curl -sS http://127.0.0.1:9093/-/healthy").rc == 0
    assert host.run("curl -sS --max-time 3 http://$(hostname -I | cut -d' ' -f1):9090/").rc == 7


def test_alerts_come_and_go_as_they_should(host):
    # promtool is in Debian's package of Prometheus.
    for path in ("roles/monitoring/files/rules.yml", "tests/data/alerts.yml"):
        text = (ROOT / path).read_text().replace("../../roles/monitoring/files/", "/tmp/")
        host.check_output("printf %s " + shlex.quote(base64.b64encode(text.encode()).decode()) + f" | base64 -d > /tmp/{path.rpartition('/')[2]}")
    tried = host.run("promtool test rules /tmp/alerts.yml")
    assert tried.rc == 0, tried.stdout + tried.stderr
