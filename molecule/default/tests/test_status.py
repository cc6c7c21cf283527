"""The operator's screen: things of a real host are broken, and exactly their lines turn."""

import json
import time

import pytest
from conftest import START_REDIS, STATUS_LIMITS

CLUSTER = 'cluster=$(systemctl list-units --plain --no-legend "postgresql@*" | cut -d" " -f1)'
LOGGED = "wc -l < /var/log/nginx/throat.access.log"
DROP_IN = "/run/systemd/system/throat-gevent.service.d"
MAINTENANCE = "/etc/nginx/throat-maintenance"
# What is broken at once: of each the commands that break and mend it, its level, the subject of its line, part of what is seen, part of the command that helps.
# Not at once are those of which one would hide what follows from the other.
TROUBLE = [
    [
        ("systemctl stop throat-sync", "systemctl start throat-sync", "broken", "worker sync", "throat-sync.service is inactive", "systemctl start throat-sync"),
        ("systemctl kill --signal=STOP throat-socketio", "systemctl kill --signal=CONT throat-socketio",
         "broken", "worker socketio", "runs, and does not answer within 5 s", "journalctl -u throat-socketio"),
        (f"mkdir -p {DROP_IN} && printf '[Service]\\nEnvironment=DATABASE_NAME=nobody\\n' > {DROP_IN}/test.conf && systemctl daemon-reload && systemctl restart throat-gevent",
         f"rm -r {DROP_IN} && systemctl daemon-reload && systemctl restart throat-gevent",
         "broken", "worker gevent", "runs, and answers 500", "journalctl -u throat-gevent"),
    ],
    [
        ("systemctl stop pgbouncer", "systemctl start pgbouncer", "broken", "PgBouncer", "pgbouncer.service is inactive", "systemctl start pgbouncer"),
        ("mount -t tmpfs -o size=1m none /var/tmp && (head -c 2M /dev/zero > /var/tmp/full || true)", "umount /var/tmp",
         "broken", "disk /var/tmp", "100 % used", "du -axh /var/tmp"),
    ],
    [(f"{CLUSTER}; echo $cluster > /run/cluster; systemctl stop $cluster", "systemctl start $(cat /run/cluster); rm /run/cluster",
      "broken", "PostgreSQL", "no response", "systemctl restart postgresql@")],
    [("systemctl stop redis-server", START_REDIS, "broken", "Redis", "redis-server.service is inactive", "systemctl start redis-server")],
    [(f"touch {MAINTENANCE}", f"rm {MAINTENANCE}", "warning", "maintenance", "the site is closed", "maintenance=off")],
]  # fmt: skip


@pytest.fixture
def status(run_site, tmp_path, secrets):
    """Run the operator's command: (what is not well, the run, the report); nothing is changed, and no secret is shown."""

    def ask(**variables):
        file, page = tmp_path / "status.json", tmp_path / "status.html"
        run = run_site({"throat_status_limits": STATUS_LIMITS, "status_file": str(file), "status_page": str(page), **variables}, check=False, playbook="playbooks/status.yml")
        report = json.loads(file.read_text())
        assert run.changed == 0
        assert not [name for name, value in secrets.items() if value in run.output + file.read_text() + page.read_text()]
        return [finding for finding in report["findings"] if finding["level"] != "ok"], run, report

    return ask


def test_each_thing_that_breaks_turns_its_own_line(status, on_host):
    # What other tests have left behind is not the subject.
    on_host("systemctl reset-failed")
    took = []
    logged = on_host(LOGGED)
    for troubles in TROUBLE:
        subjects = {subject for _, _, _, subject, *_ in troubles}
        try:
            for break_it, *_ in troubles:
                on_host(break_it)
            start = time.monotonic()
            wrong, run, report = status()
            took.append(time.monotonic() - start)
            # Whoever asks at its socket would start it.
            assert "worker sync" not in subjects or on_host("systemctl is-active throat-sync || true") == "inactive"
        finally:
            # A service that is started on what is mended after it would keep that.
            for _, mend_it, *_ in reversed(troubles):
                on_host(mend_it)
        assert {(finding["level"], finding["subject"]) for finding in wrong} == {(level, subject) for _, _, level, subject, *_ in troubles}
        assert len(wrong) == len(troubles)
        for _, _, _, subject, seen, command in troubles:
            (finding,) = [finding for finding in wrong if finding["subject"] == subject]
            assert seen in finding["seen"] and command in finding["command"]
        assert (run.returncode, report["exit"]) == {"broken": (2, 2), "warning": (0, 1)}[report["level"]], subjects
    wrong, run, report = status()
    assert (wrong, run.returncode, report["exit"]) == ([], 0, 0) and "all is well" in run.output
    assert on_host(LOGGED) == logged
    print(f"seconds of a run: {', '.join(f'{seconds:.1f}' for seconds in took)}")


def test_host_that_is_down_is_one_line_of_an_answer_that_comes_all_the_same(status):
    ((found,), run, report) = status(ansible_host="throat-stack-of-nobody")
    assert (found["subject"], found["level"], run.returncode) == ("host", "broken", 2) and "cannot be" in found["seen"]
    assert f"{found['host']}  no answer" in run.output and not report["hosts"][found["host"]]["answers"]
