"""What cannot be upgraded is refused; the campaign of the scenario move goes from 15 to 17 and back."""


def test_a_version_that_apt_does_not_know_is_refused_and_nothing_is_changed(run_site):
    run = run_site({"to": 99}, playbook="playbooks/postgres_upgrade.yml", check=False)
    assert run.returncode != 0 and run.changed == 0 and "apt knows no postgresql-99 here" in run.said


def test_a_host_on_its_way_to_another_version_and_a_key_of_another_site_are_refused_before_anything_is_changed(run_site, on_host):
    on_host("echo 17 18 copy > /var/lib/postgresql/throat-upgrade")
    try:
        run = run_site({"throat_backup_key": "the-key-of-another-site"}, check=False)
    finally:
        on_host("rm /var/lib/postgresql/throat-upgrade")
    assert run.returncode != 0 and run.changed == 0
    assert "from PostgreSQL 17 to 18 has not come to its end; run playbooks/postgres_upgrade.yml again" in run.said
    assert "throat_backup_key: /var/lib/throat-backup/repository of" in run.said and "the-key-of-another-site" not in run.output
