"""The database on another host: who is let in, and that nothing passes between them in the clear."""

import subprocess

import pytest

APP, DB = "throat-stack-app", "throat-stack-db"


def on(host: str, command: str, check: bool = True) -> subprocess.CompletedProcess:
    """A shell command, run as root on a host."""
    done = subprocess.run(["docker", "exec", host, "bash", "-c", f"cd / && {command}"], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def ask_server(query: str) -> list[str]:
    return on(DB, f'runuser -u postgres -- psql -d throat -Atqc "{query}"').stdout.split()


@pytest.fixture(scope="module", params=["beside the application", "beside the database"])
def pooler(request, run_site, scenario, answers_again):
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
    found = on(APP, f"grep -rlF {secrets['database_password']} /etc || true").stdout.split()
    assert found == (["/etc/pgbouncer/pgbouncer.ini"] if pooler == APP else ["/etc/throat/config.yaml"])
    assert on(DB, f"grep -rlF {secrets['database_password']} /etc || true").stdout == ""


@pytest.mark.parametrize("port", [5432, 6432])
def test_nobody_comes_in_the_clear(pooler, secrets, port):
    if port == 6432 and pooler == APP:
        assert on(APP, "ss -Hltn sport = :6432").stdout.split()[3] == "127.0.0.1:6432"
        return
    plain = on(APP, f"PGPASSWORD={secrets['database_password']} psql 'host=10.213.0.12 port={port} user=throat dbname=throat sslmode=disable' -c 'SELECT 1'", check=False)
    assert plain.returncode != 0
    private = f"PGPASSWORD={secrets['database_password']} psql 'host=10.213.0.12 port={port} user=throat dbname=throat sslmode=verify-ca sslrootcert=%s' -Atc 'SELECT 1'"
    on(APP, "install -m 644 /etc/ssl/certs/ssl-cert-snakeoil.pem /tmp/other.pem")
    certificate = on(DB, "cat /etc/ssl/certs/ssl-cert-snakeoil.pem").stdout
    on(APP, f"echo '{certificate}' > /tmp/right.pem")
    assert on(APP, private % "/tmp/right.pem").stdout == "1\n"
    impostor = on(APP, private % "/tmp/other.pem", check=False)
    assert impostor.returncode != 0 and "certificate verify failed" in impostor.stderr


def test_budget_counts_both_hosts(run_site):
    run = run_site(playbook="playbooks/budget.yml")
    assert run.changed == 0 and "38 of 100" in run.output


def test_hosts_without_an_address_are_refused(run_site):
    run = run_site({"throat_address": "10.213.0.11"}, check=False)
    assert run.returncode != 0 and run.changed == 0
    assert "throat_address of throat-stack-db: 10.213.0.11 is that of throat-stack-app as well; give each host its own" in run.said
