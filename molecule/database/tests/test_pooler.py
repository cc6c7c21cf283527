"""PgBouncer in front of a slow database: it holds the queue through a reload and a restart, shares connections, and leaks nothing."""

import time

POOLED = 25


def psql(query: str) -> str:
    """Command that asks through the pooler, as the application does: by its system user, over the unix socket."""
    return f"""cd / && runuser -u throat -- psql -h /run/postgresql -p 6432 -d throat -Atq -v ON_ERROR_STOP=1 -c "{query}" """


def server(query: str) -> str:
    return f"""cd / && runuser -u postgres -- psql -d throat -Atq -c "{query}" """


def test_no_request_fails_while_pgbouncer_reloads(send_load, on_host):
    def reload() -> None:
        for _ in range(5):
            on_host("systemctl reload pgbouncer")
            time.sleep(0.5)

    load = send_load(reload)
    print(f"5 reloads of PgBouncer: {load}")
    assert load.failed == 0


def test_requests_wait_while_postgres_restarts(send_load, on_host):
    seconds = []

    def restart() -> None:
        start = time.monotonic()
        on_host("systemctl restart postgresql@17-main")
        seconds.append(time.monotonic() - start)

    began = on_host(server("SELECT pg_postmaster_start_time()"))
    load = send_load(restart)
    print(f"restart of PostgreSQL ({seconds[0]:.1f} s): {load}")
    assert on_host(server("SELECT pg_postmaster_start_time()")) != began
    assert load.failed == 0
    assert on_host("systemctl is-active pgbouncer-pause@17-main") == "active"


def test_server_connections_are_used_again_although_the_application_closes_its_own(send_load, on_host):
    sessions = server("SELECT sessions FROM pg_stat_database WHERE datname = 'throat'")
    send_load()
    time.sleep(2)
    before = int(on_host(sessions))
    load = send_load()
    time.sleep(2)
    opened = int(on_host(sessions)) - before
    print(f"{len(load.seconds)} requests, each with a connection of its own, opened {opened} connections to PostgreSQL")
    # Two of them are this test's questions.
    assert load.failed == 0 and opened <= POOLED + 2


def test_nothing_of_a_session_reaches_the_next_client(on_host):
    left = (
        "SET work_mem = '99MB'; PREPARE leak AS SELECT 1; CREATE TEMP TABLE leak (x int); LISTEN leak; SELECT pg_advisory_lock(4711); "
        "SET search_path = pg_catalog; SET statement_timeout = 12345"
    )
    pid = "SELECT pg_backend_pid();"
    found = (
        "SELECT current_setting('work_mem') = '99MB', current_setting('statement_timeout'), current_setting('search_path'), (SELECT count(*) FROM pg_prepared_statements), "
        "(SELECT count(*) FROM pg_class WHERE relpersistence = 't'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), "
        "(SELECT count(*) FROM pg_listening_channels())"
    )
    first = on_host(psql(pid))
    on_host(psql(left))
    pids = on_host(psql(pid)), on_host(psql(pid))
    assert first in pids, "another server connection answered, which proves nothing"
    assert on_host(psql(found)).split("|") == ["f", "30s", '"$user", public', "0", "0", "0", "0"]


def test_operating_system_vouches_for_the_application_and_for_nobody_else(on_host, host):
    assert on_host(psql("SELECT session_user, inet_client_addr() IS NULL")) == "throat|t"
    other = host.run("cd / && runuser -u www-data -- psql -h /run/postgresql -p 6432 -U throat -d throat -Atc 'SELECT 1'")
    assert other.rc != 0 and "unix socket login rejected" in other.stderr
    straight = host.run("cd / && runuser -u www-data -- psql -h /run/postgresql -p 5432 -U throat -d throat -Atc 'SELECT 1'")
    assert straight.rc != 0 and "Peer authentication failed" in straight.stderr


def test_no_password_of_the_database_is_kept_on_the_host(on_host, secrets):
    assert on_host(f"grep -rlF {secrets['database_password']} /etc || true") == ""
