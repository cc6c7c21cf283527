"""The database on another host: who is let in, and that nothing passes between them in the clear."""

import json
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[3]
APP, DB = "throat-stack-app", "throat-stack-db"
TOO_FEW = "postgres_max_connections on throat-stack-db: 13 is less than the 14 connections that can reach the server"
# Those that meta/runtime.yml promises.
ANSIBLE_CORES = subprocess.run([ROOT / "bin/ensure-ansible"], check=True, capture_output=True, text=True).stdout.split()


def on(host: str, command: str, check: bool = True) -> subprocess.CompletedProcess:
    """A shell command, run as root on a host."""
    done = subprocess.run(["docker", "exec", host, "bash", "-c", f"cd / && {command}"], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def ask_server(query: str) -> list[str]:
    return on(DB, f'runuser -u postgres -- psql -d throat -Atqc "{query}"').stdout.split()


def test_address_that_comes_late_at_boot_is_listened_at():
    subprocess.run(["docker", "restart", "--time", "20", DB], check=True, capture_output=True)
    late = "until ip -4 address show dev lo | grep -q 10.99.0.1; do sleep 0.2; done"
    # Up before the address is.
    on(DB, "timeout 60 sh -c 'until pg_isready -q -h 127.0.0.1; do sleep 0.2; done'; ! ip -4 address show dev lo | grep -q 10.99.0.1")
    on(DB, f"timeout 60 sh -c '{late}' && pg_isready -h 10.99.0.1")


@pytest.mark.parametrize("version", ANSIBLE_CORES)
def test_every_ansible_core_finds_nothing_to_do(run_site, version):
    # Of several hosts, since a core may mix up what it knows of each.
    said = subprocess.run([ROOT / "bin/ensure-ansible", version], check=True, capture_output=True, text=True).stdout
    program = ROOT / f".cache/ansible-{version}/bin/ansible-playbook"
    if not program.exists():
        pytest.skip(said.strip())
    run = run_site(program=program)
    assert run.changed == 0 and "DEPRECATION WARNING" not in run.output and "38 of 100" in run.output


@pytest.fixture(scope="module", params=["beside the application", "beside the database"])
def pooler(request, run_site, scenario):
    """The host of PgBouncer; the second is reached by a change of the inventory alone."""
    if request.param == "beside the application":
        return APP
    run_site(inventory=scenario / "moved")
    assert run_site(inventory=scenario / "moved").changed == 0
    return DB


def test_site_answers_from_every_worker_class(pooler, answers_again, flush_limits):
    answers_again(10)


def test_every_connection_between_the_hosts_is_encrypted(pooler, answers_again, flush_limits):
    answers_again(10)
    seen = ask_server(
        "SELECT DISTINCT coalesce(host(client_addr), 'socket'), ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
        "WHERE usename = 'throat' AND application_name NOT LIKE 'psql%'"
    )
    if pooler == APP:
        assert seen == ["10.213.0.11|t"]
    else:
        assert "socket|f" in seen and "10.213.0.11|f" not in seen
        clients = on(DB, "runuser -u postgres -- psql -h /run/postgresql -p 6432 -U pgbouncer -d pgbouncer -Atc 'SHOW CLIENTS' | grep ^C.throat || true").stdout
        listening = on(APP, "grep -A9 ^database: /etc/throat/config.yaml").stdout
        assert "host: 10.213.0.12" in listening and "sslmode: verify-ca" in listening
        assert all("TLS" in line for line in clients.splitlines() if "10.213.0.11" in line)


def test_password_is_kept_only_where_it_is_needed(pooler, secrets):
    found = on(APP, f"grep -rlF {secrets['database_password']} /etc/throat /etc/systemd || true").stdout.split()
    assert found == ([] if pooler == APP else ["/etc/throat/config.yaml"])
    assert on(DB, f"grep -rlF {secrets['database_password']} /etc || true").stdout == ""


def connect(secrets, port: int, **options: str) -> subprocess.CompletedProcess:
    """The application's driver, from its host to the database's."""
    settings = {"host": "10.213.0.12", "port": port, "user": "throat", "dbname": "throat", "password": secrets["database_password"], **options}
    return on(APP, f"/opt/throat/current/.venv/bin/python -c 'import psycopg2; psycopg2.connect(**{json.dumps(settings)})'", check=False)


@pytest.mark.parametrize("port", [5432, 6432])
def test_nobody_comes_in_the_clear_or_believes_another_server(pooler, secrets, port):
    if port == 6432 and pooler == APP:
        assert on(APP, "ss -Hltn sport = :6432").stdout.split()[3] == "127.0.0.1:6432"
        return
    on(APP, "cp /etc/ssl/certs/ssl-cert-snakeoil.pem /tmp/other.pem")
    trusted = {"sslmode": "verify-ca", "sslrootcert": "/etc/throat/database.pem"}
    assert connect(secrets, port, **trusted).returncode == 0
    assert connect(secrets, port, **trusted, password="wrong").returncode != 0
    assert connect(secrets, port, sslmode="disable").returncode != 0
    assert "certificate verify failed" in connect(secrets, port, **trusted | {"sslrootcert": "/tmp/other.pem"}).stderr


def test_budget_counts_both_hosts_whatever_the_limit(run_site):
    # Without one, above and below.
    for limit in (APP, DB):
        run = run_site(None, "--limit", limit, playbook="playbooks/budget.yml")
        assert run.changed == 0 and "38 of 100" in run.output
        refused = run_site({"postgres_max_connections": 13}, "--limit", limit, check=False)
        assert refused.returncode != 0 and refused.changed == 0 and TOO_FEW in refused.said


def test_hosts_without_an_address_are_refused(run_site):
    run = run_site({"throat_address": "10.213.0.11", "postgres_max_connections": 13}, check=False)
    assert run.returncode != 0 and run.changed == 0 and TOO_FEW in run.said
    assert "throat_address of throat-stack-db: 10.213.0.11 is that of throat-stack-app as well; give each host its own" in run.said
