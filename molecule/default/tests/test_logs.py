"""What an operator asks of the logs: each command of docs/logs.md answers, and no log grows without an end."""

import re

import requests
from conftest import ROOT

LOG = "/var/log/nginx/throat.access.log"
QUESTIONS = re.findall(r"([^\n]+):\n\n```\n(.*?)\n```", (ROOT / "docs/logs.md").read_text(), re.DOTALL)
# Of a question, by words of it, what its answer has in it; {id} is the name of a request that failed.
ANSWERS = {
    "those of the days before": r"^\d+$",
    "last requests that failed": r"\t500\tGET\t/_ref/sleep\?s=nothing\t{id}$",
    "nginx knows of one of them": r'"uri": "/_ref/sleep\?s=nothing"',
    "worker wrote while it answered": r"(?s)ERROR app \[{id} \S+ GET /_ref/sleep\] Exception on /_ref/sleep.*\nValueError: could not convert",
    "Answers of each status": r" 500$",
    "slowest answers": r"^1\.\d+\t200\tGET\t/_ref/sleep\?s=1\t",
    "mean time of each worker": r"^ *\d+ +\d\.\d{3} s  unix:/run/throat/sync.sock$",
    "Who asks most": r"^ *\d+ [0-9a-f.:]+$",
    "asking too often": r"/login$",
    "Why nginx has turned": r"limiting requests",
    "What went wrong": r"Exception on /_ref/sleep",
    "Which errors": r"^ *\d+ [\w.]+(Error|Exception|Timeout)\b",
    "started and stopped": r"Started throat-sync.service",
    "Errors of the database": r'ERROR:  column "nothing" does not exist',
    "What the pooler": r"throat/throat@127.0.0.1:\d+ password authentication failed",
    "Starts of Redis": r"Ready to accept connections",
    "Which runs have changed": r"Started ansible-throat.service - \S+ with .*playbooks/site.yml",
    "want of memory": r"killed for want of memory",
    "Backups": r"throat-backup",
    "since when": r"(?s)rchived and active journals take up .*\d{4}-\d\d-\d\dT.*/var/log/nginx",
}


def test_each_command_of_the_page_answers_and_a_request_is_found_by_its_name(url, on_host):
    # What other tests have asked is not the subject.
    on_host(f": > {LOG}")
    answer = requests.get(f"{url}/_ref/sleep?s=nothing", headers={"X-Request-ID": "forged"}, verify=False, timeout=30)
    name = answer.headers["X-Request-ID"]
    assert answer.status_code == 500 and re.fullmatch("[0-9a-f]{32}", name)
    assert requests.get(f"{url}/_ref/sleep?s=1", verify=False, timeout=30).ok
    # The application turns them away long before nginx does.
    with requests.Session() as bot:
        while "One moment" not in bot.post(f"{url}/login", verify=False, timeout=30).text:
            pass
    on_host("""runuser -u postgres -- psql -c 'SELECT nothing' || true; PGPASSWORD=wrong psql -h 127.0.0.1 -p 6432 -U throat throat || true
        logger 'A worker was killed for want of memory (oom-kill)'; sleep 1""")
    assert len(ANSWERS) == len(QUESTIONS)
    for question, command in QUESTIONS:
        (expected,) = [answer for words, answer in ANSWERS.items() if words in question]
        said = on_host(command)
        assert re.search(expected.replace("{id}", name), said, re.MULTILINE), f"{question}:\n{command}\n{said}"


def test_log_that_is_large_is_rotated_within_the_hour_and_the_journal_is_bounded(url, on_host):
    assert int(on_host("echo $(( ($(date -d \"$(systemctl show --value --property=NextElapseUSecRealtime logrotate.timer)\" +%s) - $(date +%s)) / 60 ))")) <= 65
    # With room for it that is taken by nothing.
    on_host(f"rm -f {LOG}.[0-9]*; truncate --size=501M {LOG}; systemctl start logrotate.service")
    try:
        assert requests.get(f"{url}/_ref/whoami", verify=False, timeout=30).ok
        assert on_host(f"stat --format=%s {LOG}.1; jq -r .uri {LOG} | tail -n 1").splitlines() == [str(501 << 20), "/_ref/whoami"]
    finally:
        on_host(f"rm -f {LOG}.1")
    assert re.search(r"max 2(\.0)?G", on_host("systemctl restart systemd-journald; journalctl --unit=systemd-journald --lines=5 --output=cat | grep 'System Journal' | tail -n 1"))
