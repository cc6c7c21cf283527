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

WORKERS = ["throat-sync", "throat-gevent", "throat-socketio"]
UNITS = [*WORKERS, "nginx", "pgbouncer", "redis-server", "postgresql@17-main"]


@pytest.fixture
def pause() -> float:
    """Longer than elsewhere: that nobody is turned away need not be seen by thousands."""
    return 0.4


@pytest.fixture
def restarted(host):
    """Call it for the units that systemd has started anew since the last call."""

    def starts() -> dict[str, str]:
        return {unit: host.check_output("systemctl show -p InvocationID -p ActiveState %s", unit) for unit in UNITS}

    seen = starts()

    def ask() -> set[str]:
        nonlocal seen
        before, seen = seen, starts()
        assert all("ActiveState=active" in state for unit, state in seen.items())
        return {unit for unit in UNITS if before[unit] != seen[unit]}

    return ask


def query(host, password: str, port: int) -> bool:
    """Whether the application's database role is admitted with this password."""
    done = host.run(f"PGPASSWORD={password} psql -h 127.0.0.1 -p {port} -U throat throat -Atc 'SELECT 1'")
    return done.stdout.strip() == "1"


def test_check_mode_and_a_second_run_change_and_restart_nothing(run_site, restarted):
    assert run_site({}, "--check", "--diff").changed == 0
    assert run_site().changed == 0
    assert restarted() == set()


def test_changed_workers_restart_alone_and_one_moves_to_another_socket(host, run_site, restarted, workers, answers_again, visitors):
    altered = {"gevent": {"connections": 41}, "sync": {"listen": "127.0.0.1:5055"}}
    moved = {"throat_gunicorn_workers": [{**worker, **altered.get(worker["name"], {})} for worker in workers]}
    # As far as a run comes that stops before nginx: it asks at the old address, which is open as well.
    run_site(moved, "--tags", "throat_gunicorn")
    assert restarted() == {"throat-gevent", "throat-sync"}
    assert host.socket("tcp://127.0.0.1:5055").is_listening and host.file("/run/throat/sync.sock").exists
    run_site(moved)
    assert restarted() == {"throat-sync"}
    assert "--worker-connections 41" in host.check_output("tr '\\0' ' ' < /proc/$(systemctl show -p MainPID --value throat-gevent)/cmdline")
    assert host.socket("tcp://127.0.0.1:5055").is_listening and not host.file("/run/throat/sync.sock").exists
    answers_again(5)
    run_site({}, "--tags", "throat_gunicorn,nginx")
    assert restarted() == {"throat-gevent", "throat-sync"}
    assert host.file("/run/throat/sync.sock").exists and not host.socket("tcp://127.0.0.1:5055").is_listening
    assert visitors.failed() == []
    answers_again(5)


def test_worker_that_cannot_serve_where_it_has_moved_goes_back(host, run_site, workers, visitors):
    broken = {"sync": {"listen": "127.0.0.1:5055"}, "socketio": {"listen": "127.0.0.1:5056", "environment": {"PYTHONHOME": "/none"}}}
    units = "systemctl list-units --all --no-legend 'throat-*'; ls /etc/systemd/system/throat-*; ss -Hltn sport = :5055 or sport = :5056"
    before = host.check_output(units)
    run = run_site({"throat_gunicorn_workers": [{**worker, **broken.get(worker["name"], {})} for worker in workers]}, "--tags", "throat_gunicorn", check=False)
    assert run.returncode != 0 and "does not serve" in run.said
    assert host.check_output(units) == before and visitors.failed() == []


def test_change_that_an_interrupted_run_did_not_apply_is_applied_by_the_next(host, run_site, restarted):
    # As if the run had died right after it wrote the file.
    host.check_output("sleep 1; touch /etc/throat/config.yaml /etc/ssl/certs/ssl-cert-snakeoil.pem")
    assert run_site({}, "--tags", "postgres,throat_gunicorn").changed == len(WORKERS) + 1
    assert restarted() == set()  # reloaded, which is enough for config.yaml and for a certificate
    host.check_output("sleep 1; touch /etc/systemd/system/throat-gevent.service")
    run_site({}, "--tags", "throat_gunicorn")
    assert restarted() == {"throat-gevent"}
    assert run_site({}, "--tags", "throat_gunicorn").changed == 0


def test_certificate_of_the_operator_is_served_once_it_is_renewed_and_only_with_its_key(host, run_site, restarted):
    def serve(number: int, *names: str) -> None:
        """Put files where the inventory has them, with the date that they were made at, as rsync does."""
        host.check_output(f"cd /run/test-pairs; for name in {' '.join(names)}; do cp -p ${{name}}{number} /etc/ssl/private/mine.$name; done")

    def served() -> str:
        return host.check_output("openssl s_client -connect localhost:8444 -servername localhost </dev/null 2>/dev/null | openssl x509 -noout -serial")

    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -set_serial 0x2$n -keyout key$n -out pem$n"
    host.check_output(f"mkdir -p /run/test-pairs; cd /run/test-pairs; for n in 1 2; do {make}; done 2>/dev/null; touch -d 2020-01-01 *")
    files = {"nginx_tls_mode": "files", "nginx_tls_certificate": "/etc/ssl/private/mine.pem", "nginx_tls_key": "/etc/ssl/private/mine.key", "throat_check_certificate": False}
    serve(1, "pem", "key")
    run_site(files, "--tags", "nginx")
    assert served() == "serial=21"
    serve(2, "pem")
    refused = run_site(files, "--tags", "nginx", check=False)
    assert refused.returncode != 0 and refused.changed == 0
    assert "nginx_tls_certificate: /etc/ssl/private/mine.pem of throat-stack-default does not belong to the key /etc/ssl/private/mine.key" in refused.said
    serve(2, "key")
    assert run_site(files, "--tags", "nginx").changed == 1
    assert served() == "serial=22"
    run_site({}, "--tags", "nginx")
    assert restarted() == set() and served() not in ("serial=21", "serial=22")
    host.check_output("rm -r /run/test-pairs /etc/ssl/private/mine.*")


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
def run_until(scenario):
    """Run the site and kill the run, as the kernel would, right after a changed task that is wanted: a function of its role and its number. Returns whether it came to that."""

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
        return run.returncode == -signal.SIGKILL

    return run


def test_service_learns_of_its_file_although_the_run_died_right_after_writing_it(host, run_site, run_until, restarted, secrets, answers_again):
    changed = {}
    for role, (variables, ask, said, units) in KILLED.items():
        changed |= variables
        assert run_until(changed, lambda at, number, role=role: at == role), f"nothing of {role} was changed"
        question = ask.format(**secrets)
        assert host.run(question).stdout.strip() != said
        again = run_site(changed)
        assert host.run(question).stdout.strip() == said, again.output
        answers_again(10)
        assert restarted() == units
    assert run_site(changed).changed == 0
    run_site()
    assert run_site().changed == 0


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


def test_check_mode_tells_what_would_be_done_to_the_sites_database(run_site):
    run = run_site({"throat_gunicorn_site_settings": {"name": "Another name"}}, "--check", "--tags", "throat_gunicorn")
    assert run.changed == 1 and "site.name" in run.said
    assert run_site({}, "--tags", "throat_gunicorn").changed == 0


def test_removed_worker_loses_its_unit_and_its_upstream(host, run_site, workers, browser, url, visitors):
    # A unit of the operator's own stays, whatever its name.
    host.check_output("printf '[Service]\\nExecStart=/bin/true\\n' > /etc/systemd/system/throat-backup.service")
    run_site({"throat_gunicorn_workers": [worker for worker in workers if worker["name"] != "gevent"]})
    assert host.run("systemctl list-units --all --no-legend 'throat-gevent*'; systemctl list-unit-files --no-legend 'throat-gevent*'").stdout == ""
    assert not host.file("/run/throat/gevent.sock").exists
    host.check_output("rm /etc/systemd/system/throat-backup.service")
    assert "throat_gevent" not in host.check_output("nginx -T 2>/dev/null")
    answer = browser.get(f"{url}/register")
    assert (answer.status_code, answer.headers["X-Ref-Worker"]) == (200, "socketio")

    run_site({}, "--tags", "throat_gunicorn,nginx")
    answer = browser.get(f"{url}/register")
    assert (answer.status_code, answer.headers["X-Ref-Worker"]) == (200, "gevent")
    assert visitors.failed() == []


def test_changed_database_password_replaces_the_old_one(host, run_site, restarted, secrets, answers_again):
    old, new = secrets["database_password"], "another-Password-of-the-database"
    run_site({"throat_database_password": new})
    assert {"pgbouncer", "postgresql@17-main", "redis-server"} & restarted() == set()
    assert [query(host, password, port) for password in (old, new) for port in (5432, 6432)] == [False, False, True, True]
    answers_again(5)
    run_site()
    assert [query(host, password, port) for password in (old, new) for port in (5432, 6432)] == [True, True, False, False]
    answers_again(5)


def test_installed_artifact_works_outside_the_checkout(tmp_path, scenario, run_site):
    (tmp_path / "ansible.cfg").touch()
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    tool = str(pathlib.Path(sys.executable).with_name("ansible-galaxy"))
    subprocess.run([tool, "collection", "build", "--output-path", tmp_path, ROOT], check=True, capture_output=True)
    artifact = next(tmp_path.glob("throat-stack-*.tar.gz"))
    subprocess.run([tool, "collection", "install", "--no-deps", "--offline", "-p", tmp_path / "collections", artifact], check=True, env=environment, capture_output=True)
    run = run_site({"throat_gunicorn_source": str(APP)}, playbook="throat.stack.site", cwd=tmp_path, env=environment)
    assert run.changed == 0


def test_no_secret_is_said_even_when_each_changes_and_with_vvv(run_site, secrets, answers_again):
    new = {f"throat_{name}": f"another-Value-of-{name}" for name in secrets}
    # What is in the repository already is not encrypted anew.
    key = {"throat_backup_key": new.pop("throat_backup_key")}
    refused = run_site(key, "-vvv", "--diff", check=False)
    assert refused.returncode != 0 and refused.changed == 0 and "was encrypted with another key" in refused.said
    said = [run_site(new, "-vvv", "--diff"), run_site({}, "-vvv", "--diff")]
    answers_again(10)
    assert all(run.changed > 3 and "invocation" in run.output for run in said)
    for run in [*said, refused]:
        assert [secret for secret in [*secrets.values(), *new.values(), *key.values()] if secret in run.output] == []


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
