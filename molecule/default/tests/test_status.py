"""The operator's screen: one thing of a real host is broken after the other, and exactly its line turns."""

import json
import time

import pytest

# What a busy test machine may be: the load of other scenarios, and what their tests have left in the log and the journal.
LIMITS = {"load": 1000, "memory_percent": 99, "disk_percent": 96, "page_seconds": 30, "wait_seconds": 20, "clock_seconds": 20}
LIMITS |= {"restarts": 10**4, "errors": 10**6, "failed_logins": 10**6, "security_updates": 10**4, "transaction_seconds": 10**6}
CLUSTER = 'cluster=$(systemctl list-units --plain --no-legend "postgresql@*" | cut -d" " -f1)'
# The async workers are restarted after it (follow_redis.py).
REDIS = """id() { systemctl show --value --property=InvocationID throat-socketio; }; before=$(id); systemctl start redis-server
for try in $(seq 100); do [ "$(id)" = "$before" ] || break; sleep 0.2; done; systemctl start throat-gevent throat-socketio"""
LOGGED = "wc -l < /var/log/nginx/throat.access.log"
DROP_IN = "/run/systemd/system/throat-gevent.service.d"
MAINTENANCE = "/etc/nginx/throat-maintenance"
# (what is broken, the commands that break and mend it, its level, the subject of its line, part of what is seen, part of the command that helps)
TROUBLE = [
    ("a worker is stopped", "systemctl stop throat-sync", "systemctl start throat-sync",
     "broken", "worker sync", "throat-sync.service is inactive", "systemctl start throat-sync"),
    ("a worker hangs", "systemctl kill --signal=STOP throat-gevent", "systemctl kill --signal=CONT throat-gevent",
     "broken", "worker gevent", "runs, and does not answer within 5 s", "journalctl -u throat-gevent"),
    ("a worker answers 500",
     f"mkdir -p {DROP_IN} && printf '[Service]\\nEnvironment=DATABASE_NAME=nobody\\n' > {DROP_IN}/test.conf && systemctl daemon-reload && systemctl restart throat-gevent",
     f"rm -r {DROP_IN} && systemctl daemon-reload && systemctl restart throat-gevent",
     "broken", "worker gevent", "runs, and answers 500", "journalctl -u throat-gevent"),
    ("PgBouncer is stopped", "systemctl stop pgbouncer", "systemctl start pgbouncer", "broken", "PgBouncer", "pgbouncer.service is inactive", "systemctl start pgbouncer"),
    ("PostgreSQL is stopped", f"{CLUSTER}; echo $cluster > /run/cluster; systemctl stop $cluster", "systemctl start $(cat /run/cluster); rm /run/cluster",
     "broken", "PostgreSQL", "no response", "systemctl restart postgresql@"),
    ("Redis is stopped", "systemctl stop redis-server", REDIS, "broken", "Redis", "redis-server.service is inactive", "systemctl start redis-server"),
    ("a disk is full", "mount -t tmpfs -o size=1m none /var/tmp && (head -c 2M /dev/zero > /var/tmp/full || true)", "umount /var/tmp",
     "broken", "disk /var/tmp", "100 % used", "du -xh /var/tmp"),
    ("the site is closed", f"touch {MAINTENANCE}", f"rm {MAINTENANCE}", "warning", "maintenance", "the site is closed", "maintenance=off"),
]  # fmt: skip


@pytest.fixture
def status(run_site, tmp_path, secrets):
    """Run the operator's command: (what is not well, the run, the report); nothing is changed, and no secret is shown."""

    def ask(**variables):
        file, page = tmp_path / "status.json", tmp_path / "status.html"
        run = run_site({"throat_status_limits": LIMITS, "status_file": str(file), "status_page": str(page), **variables}, check=False, playbook="playbooks/status.yml")
        report = json.loads(file.read_text())
        assert run.changed == 0
        assert not [name for name, value in secrets.items() if value in run.output + file.read_text() + page.read_text()]
        return [finding for finding in report["findings"] if finding["level"] != "ok"], run, report

    return ask


def test_each_thing_that_breaks_turns_its_own_line(status, on_host):
    # What other tests have left behind is not the subject.
    on_host("systemctl reset-failed")
    took = []
    wrong, run, report = status()
    assert (wrong, run.returncode, report["exit"]) == ([], 0, 0) and "all is well" in run.output
    logged = on_host(LOGGED)
    for trouble, break_it, mend_it, level, subject, seen, command in TROUBLE:
        on_host(break_it)
        try:
            start = time.monotonic()
            wrong, run, report = status()
            took.append(time.monotonic() - start)
            # Whoever asks at its socket would start it.
            assert subject != "worker sync" or on_host("systemctl is-active throat-sync || true") == "inactive"
        finally:
            on_host(mend_it)
        assert [(finding["level"], finding["subject"]) for finding in wrong] == [(level, subject)], trouble
        assert seen in wrong[0]["seen"] and command in wrong[0]["command"], trouble
        assert (run.returncode, report["exit"]) == {"broken": (2, 2), "warning": (0, 1)}[level], trouble
    wrong, run, report = status()
    assert (wrong, run.returncode) == ([], 0) and on_host(LOGGED) == logged
    print(f"seconds of a run: {', '.join(f'{seconds:.1f}' for seconds in took)}")


def test_host_that_is_down_is_one_line_of_an_answer_that_comes_all_the_same(status):
    ((found,), run, report) = status(ansible_host="throat-stack-of-nobody")
    assert (found["subject"], found["level"], run.returncode) == ("host", "broken", 2) and "cannot be" in found["seen"]
    assert f"{found['host']}  no answer" in run.output and not report["hosts"][found["host"]]["answers"]
