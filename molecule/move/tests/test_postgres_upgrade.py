"""The host that the site has moved away from goes from Debian 12 to 13, and its PostgreSQL from 15 to 17 and back, with all rows."""

import re

import pytest
from test_move import OLD, ask, on, status

pytestmark = pytest.mark.campaign
UPGRADE = "playbooks/postgres_upgrade.yml"
FULL_UPGRADE = """sed -i s/bookworm/trixie/g /etc/apt/sources.list && apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Options::=--force-confold full-upgrade >/root/upgrade.log 2>&1"""
WRITE = """INSERT INTO sub_post (title, content, posted) SELECT 'Zwölf – ' || number, repeat(md5(number::text), 8), now() FROM generate_series(1, %d) number"""
# Rows and checksum of each table.
SUMS = """SELECT string_agg(format('SELECT %L, count(*), md5(string_agg(md5(t::text), '''' ORDER BY md5(t::text))) FROM %I t', relname, relname), ' UNION ' ORDER BY relname)
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"""


def sums() -> list[str]:
    return sorted(ask(OLD, ask(OLD, SUMS).replace('"', '\\"')).splitlines())


def version() -> str:
    return ask(OLD, "SHOW server_version").partition(".")[0]


@pytest.fixture(scope="module")
def site(run_site, scenario):
    """Run a playbook for the site of the old host."""

    def run(variables=None, *arguments: str, playbook: str = "playbooks/site.yml", check: bool = True):
        return run_site(variables, *arguments, playbook=playbook, inventory=scenario / "old", check=check)

    return run


def test_a_host_of_the_next_debian_goes_on_with_the_cluster_that_has_the_data(site):
    # Since the move it is closed.
    on(OLD, "rm -f /etc/nginx/throat-maintenance")
    ask(OLD, WRITE % 10_000)
    before = sums()
    on(OLD, FULL_UPGRADE)
    # As Debian makes it beside where the package postgresql was installed.
    on(OLD, "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql-17 >/dev/null 2>&1; test -d /etc/postgresql/17/main || pg_createcluster --start 17 main")
    run = site()
    assert (version(), sums(), status(OLD)) == ("15", before, 200)
    assert "PostgreSQL 15 is older than the 17 of this Debian" in run.said
    assert site().changed == 0


def test_a_rehearsal_says_what_would_be_done_and_changes_nothing(site):
    before = on(OLD, "pg_lsclusters; ls -l /var/lib/postgresql")
    run = site(None, "--check", playbook=UPGRADE)
    assert run.changed == 0 and "goes over to 17, by copy" in run.said and "To be closed, for about" in run.said
    assert on(OLD, "pg_lsclusters; ls -l /var/lib/postgresql") == before
    ask(OLD, "CREATE TABLE bad (it regproc)")
    run = site(None, "--check", playbook=UPGRADE, check=False)
    assert run.returncode != 0 and "public.bad.it" in run.said and status(OLD) == 200
    ask(OLD, "DROP TABLE bad")


@pytest.mark.parametrize("posts", [10_000, 1_000_000])
@pytest.mark.parametrize("by", ["copy", "link"])
def test_it_goes_over_and_back_with_all_rows(site, by, posts):
    ask(OLD, "DELETE FROM sub_post")
    ask(OLD, WRITE % posts)
    before = sums()
    run = site({"by": by}, playbook=UPGRADE)
    print(f"{posts} posts, by {by}:", re.search(r"Closed for \d+ seconds", run.said)[0])
    assert (version(), sums(), status(OLD)) == ("17", before, 200)
    assert site().changed == 0
    assert site(playbook=UPGRADE).changed == 0
    # What was written before it and after it is in its backups.
    ask(OLD, "INSERT INTO sub_post (title, posted) VALUES ('on 17', now())")
    after = sums()
    site({"restore_to": "newest"}, playbook="playbooks/restore.yml")
    assert sums() == after

    run = site({"undo": True}, playbook=UPGRADE)
    print("back:", re.search(r"Closed for \d+ seconds", run.said)[0])
    assert (version(), sums(), status(OLD)) == ("15", before, 200)
    assert site().changed == 0
    assert "17 is kept here from an upgrade that was undone" in site(playbook=UPGRADE, check=False).said
    site({"finish": True}, playbook=UPGRADE)
    assert on(OLD, "pg_lsclusters --no-header | cut -d ' ' -f 1") == "15"


def test_a_host_that_dies_on_the_way_goes_on_where_it_was(site):
    before = sums()
    on(OLD, "systemd-run --quiet sh -c 'until [ -e /var/lib/postgresql/17/main/global/pg_control ]; do sleep 0.1; done; sleep 2; pkill -9 -u postgres'")
    run = site(playbook=UPGRADE, check=False)
    if run.returncode:
        assert sums() == before and version() == "15"
        site(playbook=UPGRADE)
    assert (version(), sums(), status(OLD)) == ("17", before, 200)
    site({"finish": True}, playbook=UPGRADE)
    assert on(OLD, "pg_lsclusters --no-header | cut -d ' ' -f 1") == "17" and site().changed == 0
