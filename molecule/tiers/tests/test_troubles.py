"""What breaks is seen: one thing after the other is broken on two hosts, exactly its line of the status turns, and its alert comes and goes.

Writes the table of docs/detected.md. Rules that wait for minutes before their alert fires wait for seconds here; what they wait for is tested by promtool.
"""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import time

import pytest
from conftest import ROOT, START_REDIS, STATUS_LIMITS
from test_metrics import prometheus
from test_tiers import APP, DB, on

PAGE = ROOT / "docs/detected.md"
HEAD = "| what is broken | on | `status.yml` says | and advises | after | alert | after | gone after |\n|---|---|---|---|---|---|---|---|\n"
LIMITS = STATUS_LIMITS | {"certificate_days": 21}
KNOWN = "/etc/throat-metrics.json"
RULES = "/etc/prometheus/throat-rules.yml"
CLUSTER = "$(systemctl list-units --plain --no-legend --all 'postgresql@*-main*' | cut -d' ' -f1)"
PSQL = "runuser -u postgres -- psql -Xqc"
# A server that sleeps does not notice that its client has gone.
LEAVE = f"""{PSQL} "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(900)%'" > /dev/null"""
POOLER = "runuser -u postgres -- psql -h /run/postgresql -p 6432 -U pgbouncer -d pgbouncer -Xqc"
DROP_IN = "/run/systemd/system/throat-gevent.service.d"
CERTIFICATE, KEY = "/etc/ssl/certs/throat.pem", "/etc/ssl/private/throat.key"
MAKE = "openssl req -x509 -key {key} -subj /CN=localhost -addext subjectAltName=DNS:localhost -days {days} -out {path} 2>/dev/null"
SERVER = f"$({PSQL} 'SHOW ssl_cert_file' -At)"
SERVER_KEY = f"$({PSQL} 'SHOW ssl_key_file' -At)"
REPOSITORY = "/var/lib/throat-backup/repository"
RECORD = "/var/lib/throat-backup/status.json"
# Its operator may give himself what he lacks.
REDIS = "REDISCLI_AUTH=$(cat /etc/redis/throat.operator) redis-cli --no-auth-warning --user throat-operator"
ALLOW = f"{REDIS} acl setuser throat-operator +config +setrange +del '~test' > /dev/null"
FORBID = f"{REDIS} acl setuser throat-operator -config -setrange -del resetkeys > /dev/null"


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What is broken on which host and how it is mended; level, subject and command (part of it) of its line of the status; and its alert."""

    name: str
    host: str
    begin: str
    end: str
    # Empty where the status says nothing.
    level: str
    subject: str = ""
    command: str = ""
    # By default that of its level; empty where there is none.
    alert: str | None = None
    limits: tuple[tuple[str, int], ...] = ()
    # Alerts beside its own that Alertmanager holds back, since they follow from it.
    follows: frozenset[tuple[str, str, str]] = frozenset()
    # Seconds within which its alert fires.
    within: int = 90

    @property
    def alerts(self) -> set[tuple[str, str, str]]:
        name = {"broken": "ThroatBroken", "warning": "ThroatWarning", "": ""}[self.level] if self.alert is None else self.alert
        return {(name, self.host, self.subject if name in ("ThroatBroken", "ThroatWarning") else "")} if name else set()


SUFFERING = frozenset(("ThroatBroken", APP, subject) for subject in ("worker sync", "worker gevent", "worker socketio", "way to the workers", "way to PostgreSQL", "pool throat"))
TROUBLES = [
    # -- workers
    Trouble("a worker is stopped", APP, "systemctl stop throat-sync", "systemctl start throat-sync", "broken", "worker sync", "systemctl start throat-sync"),
    Trouble("a worker hangs (SIGSTOP)", APP, "systemctl kill --signal=STOP throat-gevent", "systemctl kill --signal=CONT throat-gevent",
            "broken", "worker gevent", "systemctl restart throat-gevent"),
    Trouble("a worker answers 500", APP, f"mkdir -p {DROP_IN} && printf '[Service]\\nEnvironment=DATABASE_NAME=nobody\\n' > {DROP_IN}/test.conf && systemctl daemon-reload && systemctl restart throat-gevent",
            f"rm -r {DROP_IN} && systemctl daemon-reload && systemctl restart throat-gevent", "broken", "worker gevent", "journalctl -u throat-gevent"),
    Trouble("a worker does not start at boot", APP, "systemctl disable -q throat-gevent", "systemctl enable -q throat-gevent", "warning", "worker gevent", "systemctl enable throat-gevent"),
    Trouble("the follower of Redis is stopped", APP, "systemctl stop throat-follow-redis", "systemctl start throat-follow-redis",
            "broken", "follower of Redis", "systemctl start throat-follow-redis"),
    Trouble("a run has left a stand-in of a worker", APP, "systemd-run --quiet --unit=throat-sync_next sleep 1000", "systemctl stop throat-sync_next", "warning", "workers", "site.yml"),
    Trouble("no release is live (its link is gone)", APP, "mv /opt/throat/current /opt/throat/away", "mv /opt/throat/away /opt/throat/current", "broken", "release", "site.yml"),
    Trouble("the database lacks a migration", DB, "runuser -u postgres -- psql -d throat -Xqc \"UPDATE migratehistory SET name = 'x' || name WHERE id = (SELECT max(id) FROM migratehistory)\"",
            "runuser -u postgres -- psql -d throat -Xqc \"UPDATE migratehistory SET name = substr(name, 2) WHERE id = (SELECT max(id) FROM migratehistory)\"",
            "broken", "migrations", "site.yml", alert=""),
    # -- nginx
    Trouble("nginx is stopped", APP, "systemctl stop nginx", "systemctl start nginx", "broken", "nginx", "systemctl start nginx"),
    Trouble("nginx hangs (SIGSTOP)", APP, "systemctl kill --signal=STOP nginx", "systemctl kill --signal=CONT nginx", "broken", "nginx", "nginx -t; journalctl -u nginx",
            follows=frozenset({("ThroatExporterDown", APP, "")})),
    Trouble("nginx does not start at boot", APP, "systemctl disable -q nginx", "systemctl enable -q nginx", "warning", "nginx", "systemctl enable nginx"),
    Trouble("the site is closed", APP, "touch /etc/nginx/throat-maintenance", "rm /etc/nginx/throat-maintenance", "warning", "maintenance", "maintenance=off"),
    Trouble("the certificate runs out in 10 days", APP, f"cp -p {CERTIFICATE} /run/kept.pem; {MAKE.format(key=KEY, days=10, path=CERTIFICATE)} && systemctl reload nginx",
            f"cp -p /run/kept.pem {CERTIFICATE} && systemctl reload nginx", "warning", "certificate", "site.yml"),
    Trouble("the certificate runs out in a day", APP, f"cp -p {CERTIFICATE} /run/kept.pem; {MAKE.format(key=KEY, days=1, path=CERTIFICATE)} && systemctl reload nginx",
            f"cp -p /run/kept.pem {CERTIFICATE} && systemctl reload nginx", "broken", "certificate", "site.yml"),
    Trouble("nginx was not told of a new certificate", APP, f"cp -p {CERTIFICATE} /run/kept.pem; {MAKE.format(key=KEY, days=90, path=CERTIFICATE)}",
            f"cp -p /run/kept.pem {CERTIFICATE}", "warning", "certificate", "systemctl reload nginx"),
    Trouble("log-ins fail more often than `failed_logins`", APP, "for n in 1 2 3 4 5 6; do curl -ksS -o /dev/null -X POST https://localhost:8449/login; sleep 2; done", "true",
            "warning", "log-ins", "uniq -c", alert="ThroatFailedLogins", limits=(("failed_logins", 3),)),
    # -- PgBouncer
    Trouble("PgBouncer is stopped", APP, "systemctl stop pgbouncer", "systemctl start pgbouncer", "broken", "PgBouncer", "systemctl start pgbouncer"),
    Trouble("PgBouncer hangs (SIGSTOP)", APP, "systemctl kill --signal=STOP pgbouncer", "systemctl kill --signal=CONT pgbouncer", "broken", "PgBouncer", "systemctl restart pgbouncer"),
    Trouble("PgBouncer is paused", APP, f"{POOLER} 'PAUSE throat'", f"{POOLER} 'RESUME throat'", "broken", "pool throat", "RESUME"),
    # -- PostgreSQL
    Trouble("PostgreSQL is stopped", DB, f"systemctl stop {CLUSTER}", f"systemctl start {CLUSTER}", "broken", "PostgreSQL", "systemctl restart postgresql@", follows=SUFFERING),
    Trouble("PostgreSQL is nearly out of connections", DB,
            f"""n=$((89 - $({PSQL} "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'" -At))); systemd-run --quiet --unit=crowd -p User=postgres """
            "sh -c \"for i in $(seq $n | tr '\\n' ' '); do psql -Xqc 'SELECT pg_sleep(900)' > /dev/null & done; wait\"; sleep 3",
            f"systemctl stop crowd; {LEAVE}", "warning", "connections", "pg_stat_activity"),
    Trouble("`max_connections` is not what was planned", DB, f"{PSQL} 'ALTER SYSTEM SET max_connections = 110' && systemctl restart {CLUSTER}; sleep 3",
            f"{PSQL} 'ALTER SYSTEM RESET max_connections' && systemctl restart {CLUSTER}", "warning", "connections", "site.yml", follows=SUFFERING),
    Trouble("a transaction stays open", DB, "systemd-run --quiet --unit=crowd -p User=postgres psql -Xqc 'SELECT pg_sleep(900)'; sleep 6", f"systemctl stop crowd; {LEAVE}",
            "warning", "transaction", "xact_start", limits=(("transaction_seconds", 5),)),
    Trouble("PostgreSQL's certificate runs out in 10 days", DB, f"cp -p {SERVER} /run/kept.pem; {MAKE.format(key=SERVER_KEY, days=10, path='/run/new.pem')} && cat /run/new.pem > {SERVER}",
            f"cp -p /run/kept.pem {SERVER}", "warning", "certificate of PostgreSQL", "site.yml"),
    Trouble("WAL is not archived (the repository is gone)", DB, f"mv {REPOSITORY} {REPOSITORY}.away; {PSQL} 'CREATE TABLE troubles ()'; {PSQL} 'SELECT pg_switch_wal()' > /dev/null; sleep 3",
            f"mv {REPOSITORY}.away {REPOSITORY}; {PSQL} 'DROP TABLE troubles'; {PSQL} 'SELECT pg_switch_wal()' > /dev/null; sleep 5", "warning", "archive", "throat-backup list"),
    # -- Redis
    Trouble("Redis is stopped", APP, "systemctl stop redis-server", START_REDIS, "broken", "Redis", "systemctl start redis-server"),
    Trouble("Redis hangs (SIGSTOP)", APP, "systemctl kill --signal=STOP redis-server", "systemctl kill --signal=CONT redis-server", "broken", "Redis", "systemctl restart redis-server",
            follows=frozenset({("ThroatExporterDown", APP, "")})),
    Trouble("Redis is nearly full, and evicts nothing", APP,
            f"{ALLOW}; {REDIS} config get maxmemory | tail -1 > /run/maxmemory; {REDIS} setrange test 41943040 x > /dev/null; {REDIS} config set maxmemory-policy noeviction > /dev/null; "
            f"used=$({REDIS} info memory | sed -n 's/^used_memory:\\([0-9]*\\).*/\\1/p'); {REDIS} config set maxmemory $((used * 100 / 95)) > /dev/null",
            f"{REDIS} del test > /dev/null; {REDIS} config set maxmemory $(cat /run/maxmemory) > /dev/null; {REDIS} config set maxmemory-policy volatile-lru > /dev/null; {FORBID}",
            "warning", "Redis", "redis_maxmemory_mb", limits=(("memory_percent", 90),)),
    Trouble("Redis has nearly as many clients as it admits", APP,
            f"{ALLOW}; {REDIS} config get maxclients | tail -1 > /run/maxclients; systemd-run --quiet --unit=crowd python3 -c 'import socket, time; "
            f"all = [socket.create_connection((\"127.0.0.1\", 6379)) for _ in range(300)]; time.sleep(900)'; sleep 2; {REDIS} config set maxclients 335 > /dev/null",
            f"systemctl stop crowd; {REDIS} config set maxclients $(cat /run/maxclients) > /dev/null; {FORBID}", "warning", "Redis", "ss -tnp"),
    # -- the machine
    Trouble("a disk is full", DB, "mount -t tmpfs -o size=1m none /var/tmp && (head -c 2M /dev/zero > /var/tmp/full || true)",
            "umount /var/tmp", "broken", "disk /var/tmp", "du -axh /var/tmp"),
    Trouble("a disk has no inodes left", DB, "mount -t tmpfs -o size=20m,nr_inodes=50 none /var/tmp && (touch /var/tmp/{1..60} 2>/dev/null || true)", "umount /var/tmp",
            "broken", "inodes of /var/tmp", "--inodes"),
    Trouble("a disk is fuller than `disk_percent`", APP, "mount -t tmpfs -o size=20m none /var/tmp && head -c 19500K /dev/zero > /var/tmp/full", "umount /var/tmp",
            "warning", "disk /var/tmp", "du -axh /var/tmp", limits=(("disk_percent", 94),)),
    Trouble("a service of somebody else has failed", DB, "systemd-run --quiet --unit=other false; sleep 1", "systemctl reset-failed other", "warning", "unit other", "systemctl status other"),
    Trouble("a reboot is due", DB, "touch /run/reboot-required", "rm /run/reboot-required", "warning", "reboot", "reboot"),
    Trouble("the firewall is stopped", APP, "systemctl stop throat-firewall", "systemctl start throat-firewall", "broken", "firewall", "systemctl start throat-firewall"),
    Trouble("the rules of the firewall were flushed", APP, "nft delete table inet throat", "systemctl reload throat-firewall", "broken", "firewall", "systemctl reload throat-firewall"),
    Trouble("the rules for what workers may reach were flushed", APP, "nft delete table inet throat_egress", "nft -f /etc/throat/egress.nft",
            "broken", "egress of the workers", "nft -f /etc/throat/egress.nft"),
    # -- backups
    Trouble("a timer of the backups is stopped", DB, "systemctl stop throat-backup@drill.timer", "systemctl start throat-backup@drill.timer", "broken", "backup", "systemctl start throat-backup@drill.timer"),
    Trouble("the last backup is too old (its record is set back)", DB, f"cp -p {RECORD} /run/record; python3 -c 'import json; known = json.load(open(\"/run/record\")); known[\"backup\"][\"at\"] = \"2026-01-01T00:00:00+00:00\"; json.dump(known, open(\"{RECORD}\", \"w\"))'", f"cp -p /run/record {RECORD}",
            "warning", "backup", "list-timers"),
    Trouble("a drill fails (the repository is gone)", DB, f"cp -p {RECORD} /run/record; mv {REPOSITORY} {REPOSITORY}.away; systemctl start throat-backup@drill || true; mv {REPOSITORY}.away {REPOSITORY}",
            f"cp -p /run/record {RECORD}; systemctl reset-failed 'throat-backup@drill.service'", "broken", "drill", "journalctl -u 'throat-backup@*'"),
    # -- what watches
    Trouble("an exporter is stopped", APP, "systemctl stop prometheus-redis-exporter", "systemctl start prometheus-redis-exporter",
            "warning", "unit prometheus-redis-exporter", "systemctl start prometheus-redis-exporter", alert="ThroatExporterDown",
            follows=frozenset({("ThroatWarning", APP, "unit prometheus-redis-exporter")})),
    Trouble("the node exporter of a host is stopped", APP, "systemctl stop prometheus-node-exporter", "systemctl start prometheus-node-exporter",
            "warning", "unit prometheus-node-exporter", "systemctl start prometheus-node-exporter", alert="ThroatHostDown"),
    Trouble("Alertmanager is stopped", DB, "systemctl stop prometheus-alertmanager", "systemctl start prometheus-alertmanager", "warning", "unit prometheus-alertmanager", "systemctl start prometheus-alertmanager"),
    Trouble("Prometheus is stopped", DB, "systemctl stop prometheus", "systemctl start prometheus", "warning", "unit prometheus", "systemctl start prometheus", alert=""),
    Trouble("a host does not answer (frozen)", APP, f"docker pause {APP}", f"docker unpause {APP}", "broken", "host", "-m ping", alert="ThroatHostDown",
            follows=frozenset({("ThroatExporterDown", APP, "")})),
    Trouble("a host says no more how it is", APP, "systemctl stop throat-metrics", "systemctl start throat-metrics", "warning", "unit throat-metrics", "systemctl start throat-metrics",
            alert="ThroatSilent", within=420),
]  # fmt: skip


def do(host: str, command: str) -> None:
    if command.startswith("docker "):
        subprocess.run(command.split(), check=True, capture_output=True)
    else:
        on(host, command)


def look_now(limits: dict[str, int]) -> None:
    """Let both hosts look at themselves by these limits before the minute is over."""
    program = f"import json; known = json.load(open('/run/known.json')); known['roles']['site']['status_limits'].update({limits}); json.dump(known, open('{KNOWN}', 'w'))"
    for host in (APP, DB):
        # A host that is frozen, or whose metrics are the subject, does not.
        on(host, f'test -e /run/known.json || cp -p {KNOWN} /run/known.json; python3 -c "{program}"; ! systemctl is-active --quiet throat-metrics || systemctl restart throat-metrics', check=False)


def alerts(state: str = "pending|firing") -> set[tuple[str, str, str]]:
    found = [alert["labels"] for alert in prometheus("alerts")["alerts"] if alert["state"] in state.split("|")]
    return {(one["alertname"], one.get("host", ""), one.get("subject", "")) for one in found}


def until(holds, within: float, what) -> float:
    """Seconds until something holds."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() < start + within, what()
        time.sleep(1)
    return time.monotonic() - start


@pytest.fixture
def status(run_site, tmp_path, secrets):
    """Run the operator's command: what is not well."""

    def ask(limits: dict[str, int]) -> list[dict]:
        file = tmp_path / "status.json"
        file.unlink(missing_ok=True)
        run = run_site({"throat_status_limits": limits, "status_file": str(file)}, check=False, playbook="playbooks/status.yml")
        assert run.changed == 0 and not [name for name, value in secrets.items() if value in run.output + file.read_text()]
        return [finding for finding in json.loads(file.read_text())["findings"] if finding["level"] != "ok"]

    return ask


@contextlib.contextmanager
def altered(limits: dict[str, int], file: str, change: str):
    """Both hosts look at themselves by other limits, and a file of Prometheus is another one (change: for sed); afterwards both are as they were."""
    for host in (APP, DB):
        on(host, "rm -f /run/known.json; systemctl reset-failed")
    look_now(limits)
    on(DB, f"cp -p {file} /run/prometheus.kept; sed -i -E '{change}' {file}; systemctl reload prometheus")
    yield
    on(DB, f"cp -p /run/prometheus.kept {file}; systemctl reload prometheus")
    for host in (APP, DB):
        on(host, f"cp -p /run/known.json {KNOWN}; rm /run/known.json; systemctl restart throat-metrics")


@pytest.fixture
def by_these_limits():
    # Of a backup that there never was nothing can be old.
    on(DB, f"test -e {RECORD} || {{ systemctl start throat-backup@full && systemctl start throat-backup@drill; }}")
    with altered(LIMITS, RULES, "s/for: [0-9]+m/for: 20s/"):
        yield


def cell(text: str) -> str:
    return text.replace("|", "\\|") or "–"


def row(trouble: Trouble, status) -> tuple[str, list[str]]:
    """Break it and mend it; the table's line, and what was not as it should be."""
    limits, wrong = LIMITS | dict(trouble.limits), []
    is_watched = trouble.subject != "unit prometheus"
    do(trouble.host, trouble.begin)
    began = time.monotonic()
    came = said = None
    try:
        if trouble.subject != "unit throat-metrics":
            look_now(limits)
        found = status(limits)
        said = time.monotonic() - began
        if [(one["level"], one["host"], one["subject"]) for one in found] != ([(trouble.level, trouble.host, trouble.subject)] if trouble.level else []):
            wrong.append(f"status: {[(one['level'], one['host'], one['subject'], one['seen']) for one in found]}")
        if found and trouble.command not in found[0]["command"]:
            wrong.append(f"status advises {found[0]['command']}")
        if trouble.alerts:
            try:
                until(lambda: trouble.alerts <= alerts("firing"), trouble.within, alerts)
                came = time.monotonic() - began
            except AssertionError as error:
                wrong.append(f"alert: {error}")
        if is_watched:
            # What comes with the next look at the hosts.
            time.sleep(8)
            if beside := alerts() - trouble.alerts - trouble.follows:
                wrong.append(f"alerts beside: {beside}")
    finally:
        do(trouble.host, trouble.end)
    ended = time.monotonic()
    time.sleep(1)
    look_now(LIMITS)
    try:
        until(is_quiet, 150, alerts)
    except AssertionError as error:
        wrong.append(f"stays: {error}")
    gone = time.monotonic() - ended
    advice = found[0]["command"].replace("../", "") if found else ""
    name = next(iter(trouble.alerts), ("",))[0]
    cells = [
        trouble.name, trouble.host.removeprefix("throat-stack-"), f"{trouble.level}: {trouble.subject}" if trouble.level else "", f"`{advice}`" if advice else "",
        f"{said:.0f} s", name, f"{came:.0f} s" if came else "", f"{gone:.0f} s" if name else "",
    ]  # fmt: skip
    return f"| {' | '.join(map(cell, cells))} |", wrong


def is_quiet() -> bool:
    """Whether Prometheus answers, and has no alert."""
    answers = on(DB, "python3 -c 'import urllib.request; urllib.request.urlopen(\"http://127.0.0.1:9090/-/ready\")'", check=False)
    return answers.returncode == 0 and not alerts()


@pytest.mark.campaign
def test_troubles_are_each_seen_by_its_own_line_and_its_own_alert(status, by_these_limits):
    until(lambda: not alerts(), 120, alerts)
    assert status(LIMITS) == []
    assert len(TROUBLES) >= 25 and len({trouble.name for trouble in TROUBLES}) == len(TROUBLES)
    lines, wrong = [], {}
    # TROUBLES=<regular expression> tries those alone, and leaves the page.
    only = os.environ.get("TROUBLES", "")
    for trouble in (one for one in TROUBLES if re.search(only, one.name)):
        line, amiss = row(trouble, status)
        lines.append(line)
        print(line, *amiss, sep="\n    ", flush=True)
        if amiss:
            wrong[trouble.name] = amiss
    if not only:
        PAGE.write_text(PAGE.read_text().partition(HEAD)[0] + HEAD + "".join(f"{line}\n" for line in lines))
    assert status(LIMITS) == []
    assert not wrong, json.dumps(wrong, indent=1)
