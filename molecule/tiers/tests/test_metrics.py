"""Metrics and alerts on real hosts: who reaches what, and what comes when something is broken."""

import json
import re
import shlex
import time
import urllib.parse

import pytest
import yaml
from conftest import ROOT
from test_tiers import APP, DB, on

EXPORTERS = {APP: {"node": 9100, "redis": 9121, "nginx": 9113, "mtail": 3903}, DB: {"node": 9100, "postgres": 9187}}
# Of what the test machine itself may be short of.
NOISE = r"load|memory.*|restarts.*|disk.*|updates"
CLUSTER = "$(systemctl list-units --plain --no-legend --all 'postgresql@*-main*' | cut -d' ' -f1)"
# (host, the commands that break and mend it, what is told and nothing else)
TROUBLE = {
    "a worker is stopped": (APP, "systemctl stop throat-sync", "systemctl start throat-sync", {("ThroatBroken", APP, "worker sync")}),
    "PgBouncer is stopped": (APP, "systemctl stop pgbouncer", "systemctl start pgbouncer", {("ThroatBroken", APP, "PgBouncer")}),
    "Redis is stopped": (APP, "systemctl stop redis-server", "systemctl start redis-server", {("ThroatBroken", APP, "Redis")}),
    "PostgreSQL is stopped": (DB, f"systemctl stop {CLUSTER}", f"systemctl start {CLUSTER}", {("ThroatBroken", DB, "PostgreSQL")}),
    "nginx is stopped": (APP, "systemctl stop nginx", "systemctl start nginx", {("ThroatBroken", APP, "nginx")}),
    "an exporter is stopped": (APP, "systemctl stop prometheus-redis-exporter", "systemctl start prometheus-redis-exporter", {("ThroatExporterDown", APP, "")}),
    "a host does not answer": (APP, "nft insert rule inet throat input tcp dport 9100 drop", "systemctl reload throat-firewall", {("ThroatHostDown", APP, "")}),
}


def prometheus(path: str) -> dict:
    program = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
    return json.loads(on(DB, f"python3 -c {shlex.quote(program)} {shlex.quote(f'http://127.0.0.1:9090/api/v1/{path}')}").stdout)["data"]


def alerts() -> set[tuple[str, str, str]]:
    """What is wrong by the rules, whether it has been for long enough or not."""
    found = [alert["labels"] for alert in prometheus("alerts")["alerts"]]
    return {(one["alertname"], one.get("host", ""), one.get("subject", "")) for one in found if not re.fullmatch(NOISE, one.get("subject", ""))}


def told() -> list[dict]:
    """Alerts that Alertmanager tells of now, each with its labels and annotations."""
    shown = json.loads(on(DB, "amtool --alertmanager.url=http://127.0.0.1:9093 alert query --output=json").stdout)
    return [one for one in shown if not re.fullmatch(NOISE, one["labels"].get("subject", ""))]


def wait_for(what, wanted, within: float):
    deadline = time.time() + within
    while (found := what()) != wanted:
        assert time.time() < deadline, f"{found} instead of {wanted}"
        time.sleep(1)


def look_now() -> None:
    """Let both hosts look at themselves before the minute is over."""
    for host in (APP, DB):
        on(host, "systemctl restart throat-metrics")


def workers() -> set[tuple[str, str]]:
    return {(one["metric"]["worker"], one["value"][1]) for one in prometheus("query?query=throat_worker_up")["result"]}


@pytest.fixture(scope="module", autouse=True)
def known_to_be_well():
    """What earlier tests broke is mended, and Prometheus knows it: hosts look at themselves once a minute."""
    look_now()
    wait_for(workers, {("sync", "1"), ("gevent", "1"), ("socketio", "1")}, 60)
    wait_for(lambda: {one for one in alerts() if one[1] == APP}, set(), 60)


def test_prometheus_reaches_each_exporter_and_is_told_by_each_host():
    targets = {(host, name): "up" for host, names in EXPORTERS.items() for name in names}
    wait_for(lambda: {(one["labels"]["host"], one["labels"]["job"]): one["health"] for one in prometheus("targets")["activeTargets"]}, targets, 60)
    assert workers() == {("sync", "1"), ("gevent", "1"), ("socketio", "1")}


def test_nobody_else_reaches_any_of_them(open_ports):
    reached, planned = open_ports()
    assert reached == planned
    # This machine is another host of their network: what is open to it is the site.
    watching = {9090, 9093, 9094, 9114}
    assert (APP, 8449) in {(host, port) for source, host, port in reached if source == "controller"}
    assert not {port for source, _host, port in reached if source == "controller"} & {*watching, *(port for names in EXPORTERS.values() for port in names.values())}


def test_what_dashboard_and_alerts_ask_for_is_there(flush_limits, browser, url):
    # Counters are born with the first that they count.
    for path in ("/", "/_ref/gevent/sleep?s=0", "/no/such/page"):
        browser.get(url + path)
    rules = [rule["expr"] for group in yaml.safe_load((ROOT / "roles/monitoring/files/rules.yml").read_text())["groups"] for rule in group["rules"]]
    dashboard = json.loads((ROOT / "roles/monitoring/files/dashboard.json").read_text())
    asked = rules + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for text in asked for name in re.findall(r"\b((?:throat|node|pg|redis|nginx)_\w+|up)\b(?=[{\[)]| ==| - )", text)}
    assert len(names) > 25
    # Where all is well there are no findings, and no backup before the first; nor an address of several web servers where there is one.
    sometimes = {"throat_finding", "throat_backup_time_seconds", "throat_virtual_address_held", "throat_virtual_address_servers"}
    wait_for(lambda: names - sometimes - set(prometheus("label/__name__/values")), set(), 30)
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            # Refused where it is no query.
            prometheus(f"query?query={urllib.parse.quote(target['expr'].replace('$site', 'throat'))}")


def test_look_leaves_nothing_in_the_log_of_the_server():
    def refusals() -> str:
        return on(DB, "cat /var/log/postgresql/*.log | grep -c FATAL || true").stdout

    before, told = refusals(), "stat --format=%Y /var/lib/prometheus/node-exporter/throat.prom"
    at = {host: on(host, told).stdout for host in (APP, DB)}
    time.sleep(1)
    look_now()
    wait_for(lambda: [host for host in (APP, DB) if on(host, told).stdout == at[host]], [], 30)
    assert refusals() == before


def test_what_breaks_is_known_in_the_words_of_the_screen():
    before = alerts()
    on(APP, "systemctl stop throat-sync")
    on(DB, "systemctl stop throat-backup@drill.timer")
    try:
        look_now()
        wait_for(lambda: alerts() - before, {("ThroatBroken", APP, "worker sync"), ("ThroatBroken", DB, "backup")}, 40)
        (found,) = [one for one in prometheus("alerts")["alerts"] if one["labels"].get("subject") == "worker sync"]
        assert found["annotations"]["command"] == "systemctl start throat-sync.service"
    finally:
        on(APP, "systemctl start throat-sync")
        on(DB, "systemctl start throat-backup@drill.timer")
    look_now()
    wait_for(lambda: alerts() - before, set(), 40)


@pytest.fixture
def receiver():
    """What is sent to the webhook, as Alertmanager sends it."""
    program = """
import http.server, json
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open("/run/told.jsonl", "ab") as file:
            file.write(self.rfile.read(int(self.headers["Content-Length"])) + b"\\n")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 9999), Receiver).serve_forever()
"""
    on(DB, f"rm -f /run/told.jsonl; systemd-run --quiet --unit=told --collect python3 -c {shlex.quote(program)}")
    yield lambda: [json.loads(line) for line in on(DB, "cat /run/told.jsonl 2>/dev/null", check=False).stdout.splitlines() if line]
    on(DB, "systemctl stop told")


@pytest.mark.campaign
@pytest.mark.parametrize("name", TROUBLE)
def test_somebody_is_told_of_what_breaks_and_of_nothing_else_and_when_it_is_mended(receiver, name, answers_again):
    host, breaks, mends, expected = TROUBLE[name]
    wait_for(alerts, set(), 120)
    wait_for(told, [], 400)
    on(host, breaks)
    start = time.time()
    try:
        # Once it is firing (2 or 5 minutes), and what follows from it has had its time as well.
        wait_for(lambda: {_named(one["labels"]) for one in told() if one["status"]["state"] == "active"} & expected, expected, 480)
        came = time.time() - start
        time.sleep(60)
        assert {_named(one["labels"]) for one in told() if one["status"]["state"] == "active"} == expected
    finally:
        on(host, mends)
    start = time.time()
    wait_for(alerts, set(), 240)
    print(f"{name}: told after {came:.0f} s, over after {time.time() - start:.0f} s")
    sent = [(_named(one["labels"]), one["status"]) for message in receiver() for one in message["alerts"]]
    assert {(labels, "firing") for labels in expected} <= set(sent)
    answers_again(120)


def _named(labels: dict[str, str]) -> tuple[str, str, str]:
    return labels["alertname"], labels.get("host", ""), labels.get("subject", "")
