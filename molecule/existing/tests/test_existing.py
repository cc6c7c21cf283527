"""A host that served others before, reached over ssh by a user with sudo: the new site stands beside them, and they are untouched."""

OTHER = {"Host": "other.example.com"}


def test_user_that_logs_in_may_not_read_the_secrets(host):
    assert host.run("runuser -u deploy -- cat /etc/throat/config.yaml").rc != 0
    assert host.run("runuser -u deploy -- sudo cat /etc/throat/config.yaml").rc == 0


def test_site_answers_from_every_worker_class(answers_again):
    answers_again(10)


def test_other_site_answers_as_before(host, browser, url):
    answer = browser.get(f"{url}/", headers=OTHER)
    assert (answer.status_code, answer.text) == (200, "the other site\n")
    assert host.check_output("curl -s -H 'Host: other.example.com' http://localhost/") == "the other site"


def test_other_site_still_answers_to_unknown_names(browser, url):
    assert browser.get(f"{url}/", headers={"Host": "unknown.example.com"}).text == "the other site\n"


def test_other_database_is_as_it_was(host):
    query = "PGPASSWORD=other-password psql -h 127.0.0.1 -U other other -Atc 'SELECT line FROM kept'"
    assert host.check_output(query) == "mine"


def test_neither_role_may_enter_the_others_database(host, secrets):
    into_ours = host.run("PGPASSWORD=other-password psql -h 127.0.0.1 -U other throat -Atc 'SELECT 1'")
    assert into_ours.rc != 0 and "pg_hba.conf rejects" in into_ours.stderr
    into_theirs = host.run(f"PGPASSWORD={secrets['database_password']} psql -h 127.0.0.1 -U throat other -Atc 'SELECT * FROM kept'")
    assert into_theirs.rc != 0 and "permission denied" in into_theirs.stderr


def test_files_of_the_others_are_unchanged(host):
    assert host.check_output("sha256sum --check --quiet /root/before.sha256") == ""


def test_password_of_any_kind_opens_redis_and_no_means_no(host):
    redis = "redis-cli --no-auth-warning --user throat --pass Zm9vYmFy/aGVsbG8+d29ybGQ="
    assert host.check_output(f"{redis} set proof there && {redis} get proof && {redis} del proof").split() == ["OK", "there", "1"]
    assert "rdb_saves:0" in host.check_output(f"{redis} info persistence") and "aof_enabled:0" in host.check_output(f"{redis} info persistence")


def test_site_in_a_cluster_of_another_encoding_has_its_own(host):
    said = host.check_output("su postgres -c \"psql -Atc 'SELECT datname, pg_encoding_to_char(encoding) FROM pg_database ORDER BY 1'\"").splitlines()
    assert "throat|UTF8" in said and "template1|LATIN1" in said
