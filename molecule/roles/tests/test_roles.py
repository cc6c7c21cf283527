"""What each role does by itself, without the others and without the playbook."""

import pytest
import requests

URL = "https://localhost:8446"

def ask(host, query: str, port: int, password: str = "password-of-the-shop"):
    return host.run(f"PGPASSWORD={password} psql -h 127.0.0.1 -p {port} -U shop shop -Atc '{query}'")

@pytest.mark.parametrize("port", [5432, 6432], ids=["postgres", "pgbouncer"])
def test_database_admits_its_role_by_password(host, port):
    assert ask(host, "SELECT current_user", port).stdout.strip() == "shop"
    assert ask(host, "SELECT 1", port, "wrong").rc != 0

def test_postgres_has_the_settings_of_the_operator(host):
    show = "SELECT setting FROM pg_settings WHERE name IN ($$max_connections$$, $$statement_timeout$$) ORDER BY name"
    assert ask(host, show, 5432).stdout.split() == ["50", "20000"]

@pytest.mark.parametrize("port", [5432, 6432, 6379])
def test_listens_on_loopback_only(host, port):
    assert host.socket(f"tcp://127.0.0.1:{port}").is_listening
    assert not host.socket(f"tcp://0.0.0.0:{port}").is_listening

def test_redis_knows_its_one_user(host):
    cli = "redis-cli --no-auth-warning"
    assert host.check_output(f"{cli} --user shop --pass password-of-the-cache SET a 1") == "OK"
    assert "NOAUTH" in host.check_output(f"{cli} GET a")
    assert "NOPERM" in host.check_output(f"{cli} --user shop --pass password-of-the-cache FLUSHALL")

def test_nginx_serves_static_files_and_its_own_name_only(browser):
    answer = browser.get(f"{URL}/static/index.html")
    assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == "*"
    # No worker is there: nginx says so, and does not pretend.
    assert browser.get(f"{URL}/").status_code == 502
    with pytest.raises(requests.ConnectionError):
        browser.get(f"{URL}/static/index.html", headers={"Host": "other.example.com"})
