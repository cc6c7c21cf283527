"""What an operator does to a running site: change a line of the inventory and run the playbook again."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys

import pytest

from conftest import APP, ROOT
from restarts import WORKERS, restarted_since


@pytest.fixture
def pause() -> float:
    """Longer than elsewhere: that nobody is turned away need not be seen by thousands."""
    return 0.4


@pytest.fixture
def restarted(host):
    return restarted_since(host)


def query(host, password: str, port: int) -> bool:
    """Whether the application's database role is admitted with this password."""
    done = host.run(f"PGPASSWORD={password} psql -h 127.0.0.1 -p {port} -U throat throat -Atc 'SELECT 1'")
    return done.stdout.strip() == "1"


def test_check_mode_tells_what_would_be_done_to_the_sites_database_and_does_nothing(run_site, restarted):
    run = run_site({"throat_gunicorn_site_settings": {"name": "Another name"}}, "--check", "--diff")
    assert run.changed == 1 and "site.name" in run.said
    # Nor has it done that, or the next run would change it back.
    assert run_site({}, "--tags", "throat_gunicorn").changed == 0 and restarted() == set()


def test_worker_that_cannot_serve_where_it_has_moved_goes_back(host, run_site, workers, visitors):
    broken = {"sync": {"listen": "127.0.0.1:5055"}, "socketio": {"listen": "127.0.0.1:5056", "environment": {"PYTHONHOME": "/none"}}}
    units = "systemctl list-units --all --no-legend 'throat-*'; ls /etc/systemd/system/throat-*; ss -Hltn sport = :5055 or sport = :5056; sha256sum /etc/throat/config.yaml"
    before = host.check_output(units)
    # And with them a configuration that is as good as the one before.
    changes = {"throat_gunicorn_workers": [{**worker, **broken.get(worker["name"], {})} for worker in workers], "throat_gunicorn_config": {"site": {"title": "another"}}}
    run = run_site(changes, "--tags", "throat_gunicorn", check=False)
    assert run.returncode != 0 and "does not serve" in run.said
    assert host.check_output(units) == before and visitors.failed() == []


def test_change_that_an_interrupted_run_did_not_apply_is_applied_by_the_next(host, run_site, restarted):
    # As if the run had died right after it wrote the files.
    host.check_output("sleep 1; touch /etc/throat/config.yaml /etc/ssl/certs/ssl-cert-snakeoil.pem /etc/systemd/system/throat-gevent.service")
    run = run_site({}, "--tags", "postgres,throat_gunicorn")
    # One is restarted while another serves, which is four tasks; a reload of the others is enough for config.yaml and for a certificate.
    assert restarted() == {"throat-gevent"}
    assert run.changed == 4 + len({*WORKERS, "postgresql"} - {"throat-gevent"}), run.output


KILLED = {
    # Role to what is changed, how its service is asked, what it says, and which units may start anew.
    "postgres": (
        {"postgres_settings": {"work_mem": "7MB", "max_worker_processes": "9"}},
        "su postgres -c 'psql -Atc \"SHOW max_worker_processes\" -c \"SHOW work_mem\"'",
        "9\n7MB",
        {"postgresql@17-main"},
    ),
    "pgbouncer": (
        {"pgbouncer_default_pool_size": 13},
        "su postgres -c \"psql -At -p 6432 -U pgbouncer pgbouncer -c 'SHOW CONFIG'\" | grep ^default_pool_size | cut -d'|' -f2",
        "13",
        set(),
    ),
    "redis": ({"redis_maxmemory_mb": 200}, "redis-cli --no-auth-warning --user throat --pass {redis_password} info memory | tr -d '\\r' | grep ^maxmemory:", "maxmemory:209715200",
              {"redis-server", "throat-gevent", "throat-socketio"}),
    "nginx": ({"nginx_client_max_body_size": "2m"}, "head -c 3000000 /dev/zero | curl -sko /dev/null -w '%{{http_code}}' --data-binary @- https://localhost:8444/all/new", "413", set()),
}  # fmt: skip


@pytest.fixture
def run_until(scenario, on_host):
    """Run the site and kill the run, as the kernel would, right after a changed task that is wanted: a function of its role and its number. Returns whether it came to that.

    And waits until all has ended that the run had begun on the host, or the next one is refused.
    """

    def run(variables: dict, wanted) -> bool:
        command = ["ansible-playbook", "-i", str(scenario / "inventory"), "playbooks/site.yml", "-e", json.dumps(variables)]
        environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
            role, number = "", 0
            for line in run.stdout:
                if line.startswith("TASK ["):
                    role = line.partition("throat.stack.")[2].partition(" ")[0]
                elif line.startswith("changed: ["):
                    number += 1
                    if wanted(role, number):
                        os.killpg(run.pid, signal.SIGKILL)
        on_host("timeout 60 sh -c 'while systemctl --quiet is-active ansible-throat; do sleep 0.2; done'")
        return run.returncode == -signal.SIGKILL

    return run


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """The collection as it is published, installed outside the checkout: how to run its playbooks."""
    directory = tmp_path_factory.mktemp("artifact")
    (directory / "ansible.cfg").touch()
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(directory / "collections"), "ANSIBLE_CONFIG": str(directory / "ansible.cfg")}
    tool = str(pathlib.Path(sys.executable).with_name("ansible-galaxy"))
    subprocess.run([tool, "collection", "build", "--output-path", directory, ROOT], check=True, capture_output=True)
    built = next(directory.glob("throat-stack-*.tar.gz"))
    subprocess.run([tool, "collection", "install", "--no-deps", "--offline", "-p", directory / "collections", built], check=True, env=environment, capture_output=True)
    return {"playbook": "throat.stack.site", "cwd": directory, "env": environment}


def test_service_learns_of_its_file_although_the_run_died_right_after_writing_it(host, run_site, run_until, restarted, secrets, answers_again, artifact):
    changed = {name: value for variables, *_ in KILLED.values() for name, value in variables.items()}
    questions = {role: ask.format(**secrets) for role, (_, ask, _, _) in KILLED.items()}
    roles = list(KILLED)
    for role, ahead in zip(roles, [*roles[1:], ""]):
        _, _, said, units = KILLED[role]
        if role == roles[0]:
            assert run_until(changed, lambda at, number: at == roles[0]), f"nothing of {role} was changed"
        assert host.run(questions[role]).stdout.strip() != said
        # The run that makes it good dies in its turn, right after it has written the next file.
        output = ""
        if ahead:
            assert run_until(changed, lambda at, number, ahead=ahead: at == ahead), f"nothing of {ahead} was changed"
        else:
            output = run_site(changed).output
        assert host.run(questions[role]).stdout.strip() == said, output
        answers_again(10)
        assert restarted() == units
    assert run_site({**changed, "throat_gunicorn_source": str(APP)}, **artifact).changed == 0
    # What restarts with another password, which is the next test, is not what restarts with these.
    run_site({}, "--tags", ",".join(roles))


@pytest.mark.campaign
def test_run_that_is_killed_after_any_change_is_made_good_by_the_next(host, run_site, run_until, restarted, secrets, answers_again):
    """Two sets of values take turns; each run towards the other one dies one change later than the last did."""
    sets = [
        {"postgres_settings": {"work_mem": f"{value}MB"}, "pgbouncer_default_pool_size": value, "redis_maxmemory_mb": 200 + value, "nginx_client_max_body_size": f"{value}m",
         "throat_firewall": "host", "firewall_public_ports": [80, 8444, 9000 + value], "throat_redis_password": f"password-{value}",
         "throat_gunicorn_config": {"site": {"title": f"walk {value}"}}}
        for value in (2, 4)
    ]  # fmt: skip
    run_site(sets[0])
    for number in range(1, 40):
        value, variables = (4, sets[1]) if number % 2 else (2, sets[0])
        died = run_until(variables, lambda role, at, number=number: at == number)
        run_site(variables)
        answers_again(20)
        login = f"redis-cli --no-auth-warning --user throat --pass password-{value} info memory | tr -d '\\r' | grep ^maxmemory: | cut -d: -f2"
        found = {
            "work_mem": host.check_output("su postgres -c 'psql -Atc \"SHOW work_mem\"'"),
            "default_pool_size": host.check_output("su postgres -c \"psql -At -p 6432 -U pgbouncer pgbouncer -c 'SHOW CONFIG'\" | grep ^default_pool_size | cut -d'|' -f2"),
            "maxmemory": host.check_output(login),
            "body": host.check_output("head -c 3000000 /dev/zero | curl -sko /dev/null -w '%%{http_code}' --data-binary @- https://localhost:8444/all/new") == "413",
            "firewall": host.run(f"nft list table inet throat | grep -c 900{value}").stdout.strip(),
            "title": host.check_output("grep -c 'walk %s' /etc/throat/config.yaml", str(value)),
        }
        wanted = {"work_mem": f"{value}MB", "default_pool_size": str(value), "maxmemory": str((200 + value) << 20), "body": value == 2, "firewall": "1", "title": "1"}
        print(f"killed after change {number}: {died}; {found}")
        assert found == wanted and "postgresql@17-main" not in restarted()
        assert run_site(variables).changed == 0
        if not died:
            break
    assert not died and number > 8
    run_site()


def test_changed_secrets_replace_the_old_ones_and_none_is_said_even_with_vvv(host, run_site, restarted, secrets, answers_again):
    new = {f"throat_{name}": f"another-Value-of-{name}" for name in secrets if name != "backup_key"}
    passwords = secrets["database_password"], new["throat_database_password"]
    said = [run_site(new, "-vvv", "--diff")]
    assert {"pgbouncer", "postgresql@17-main", "redis-server"} & restarted() == set()
    assert [query(host, password, port) for password in passwords for port in (5432, 6432)] == [False, False, True, True]
    answers_again(10)
    said.append(run_site({}, "-vvv", "--diff"))
    assert [query(host, password, port) for password in passwords for port in (5432, 6432)] == [True, True, False, False]
    answers_again(10)
    assert all(run.changed > 3 and "invocation" in run.output for run in said)
    for run in said:
        assert [secret for secret in [*secrets.values(), *new.values()] if secret in run.output] == []


def test_second_run_changes_and_restarts_nothing(run_site, restarted):
    """After all that the tests above have changed."""
    assert run_site().changed == 0
    assert restarted() == set()


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(20))
def test_any_text_as_a_secret_or_as_the_name_of_the_site_works_or_is_refused(run_site, tmp_path, answers_again, seed):
    chance = random.Random(seed)
    letters = [*map(chr, range(32, 127)), *"äßéŁ中文🙂‮ \u00a0\u2028", *"'\"\\`$%{}#@:/?[]&;|<>=+ "]
    names = ["throat_database_password", "throat_redis_password", "throat_secret_key", "throat_admin_password", "throat_backup_key"]
    texts = {name: "".join(chance.choices(letters, k=chance.randint(1, 40))) for name in chance.sample(names, chance.randint(1, 4))}
    if chance.random() < 0.5:
        # What most people take; the other half is refused for its database password now and then.
        texts = {name: text.encode("ascii", "ignore").decode() or "x" for name, text in texts.items()}
    title = "".join(chance.choices(letters, k=chance.randint(1, 30))).strip() or "x"
    file = tmp_path / "vars.yml"
    # As in a vault: no template, whatever its braces.
    lines = [f"{name}: !unsafe {json.dumps(text)}" for name, text in texts.items()]
    file.write_text("\n".join([*lines, "throat_gunicorn_site_settings:", f"  name: !unsafe {json.dumps(title)}", "  require_captchas: false", "  sub_creation_min_level: 0"]))
    run = run_site({}, "-e", f"@{file}", check=False)
    print(f"{texts} and {title!r}: {'works' if run.returncode == 0 else 'refused'}")
    if run.returncode:
        assert run.changed == 0 and any(f"{name}: " in run.said for name in texts), run.output[-3000:]
    else:
        answers_again(10)
        assert run_site({}, "-e", f"@{file}").changed == 0
