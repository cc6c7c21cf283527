"""Secrets that are kept on the controller, and those that are changed while people use the site."""

import pytest
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret
from ansible_collections.throat.stack.plugins.plugin_utils import secrets_dir
from test_plan import make


def kept(directory, password=b""):
    loader = DataLoader()
    loader.set_vault_secrets([(DEFAULT_VAULT_ID_MATCH, VaultSecret(password))] if password else [])
    return secrets_dir.SecretsDir(str(directory), loader)


def files(directory) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in directory.iterdir()}


def test_secret_is_made_once_for_its_owner_alone(tmp_path):
    directory = tmp_path / "mysite" / ".secrets"
    made = kept(directory).make("redis_password", 40)
    assert len(made) == 40 and made.isalnum() and kept(directory).in_force("redis_password", 40) == made
    assert files(directory) == {"redis_password": made}
    assert (directory / "redis_password").stat().st_mode & 0o777 == 0o600 and directory.stat().st_mode & 0o777 == 0o700


def test_files_are_encrypted_as_soon_as_there_is_a_password_of_a_vault(tmp_path):
    made = kept(tmp_path).make("redis_password", 40)
    assert kept(tmp_path, b"pass").in_force("redis_password", 40) == made
    assert files(tmp_path)["redis_password"].startswith("$ANSIBLE_VAULT;1.1;AES256\n") and made not in files(tmp_path)["redis_password"]
    assert kept(tmp_path, b"pass").make("secret_key.next", 50) and files(tmp_path)["secret_key.next"].startswith("$ANSIBLE_VAULT;")
    assert kept(tmp_path, b"pass").in_force("redis_password", 40) == made
    with pytest.raises(Exception, match="no vault secrets found"):
        kept(tmp_path).read("redis_password")


# What is there where a change is cut short, in the order in which it is made, and what the site has then: (password of Redis, session key, the one before).
STAGES = [
    ({}, ("r", "s", "")),
    ({"redis_password.next": "R"}, ("R", "s", "")),
    ({"redis_password.next": "R", "secret_key.next": "S"}, ("R", "S", "s")),
    ({"redis_password.next": "R", "secret_key.next": "S", "secret_key.previous": "s"}, ("R", "S", "s")),
    ({"redis_password": "R", "secret_key.next": "S", "secret_key.previous": "s"}, ("R", "S", "s")),
    ({"redis_password": "R", "secret_key": "S", "secret_key.previous": "s"}, ("R", "S", "s")),
]


@pytest.mark.parametrize("number", range(len(STAGES)))
def test_change_that_was_cut_short_has_the_same_end(tmp_path, number):
    there, expected = STAGES[number]
    for name, value in {"redis_password": "r", "secret_key": "s", **there}.items():
        (tmp_path / name).write_text(f"{value}\n")
    ours = kept(tmp_path)
    assert (ours.in_force("redis_password", 40), ours.in_force("secret_key", 50), ours.previous_key) == expected
    ours.put_in_force(False)
    end = {"redis_password": expected[0], "secret_key": expected[1]}
    assert files(tmp_path) == end | ({"secret_key.previous": expected[2]} if expected[2] else {})
    ours.put_in_force(True)
    assert files(tmp_path) == end


def test_what_is_cut_short_in_the_middle_of_a_file_leaves_the_one_before(tmp_path, monkeypatch):
    kept(tmp_path).write("redis_password", "old")

    def killed(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(secrets_dir.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path).write("redis_password", "new")
    assert kept(tmp_path).begun == [] and kept(tmp_path).read("redis_password") == "old"


ALL = ["database_password", "redis_password", "secret_key"]



@pytest.mark.parametrize(
    ("wanted", "given", "said"),
    [
        ([], [], []),
        (["redis_password", "secret_key"], ["throat_database_password"], []),
        ([], ["throat_database_password"], []),
        (["redis"], [], ["rotate: redis, but must be some of database_password, redis_password, secret_key, with commas between"]),
        (["backup_key"], [], ["rotate: backup_key is not changed by this; what is in a repository stays encrypted with its key; give a further repository another key"]),
        (["admin_password"], [], ["rotate: admin_password is not changed by this; it is of the new account only"]),
        (["redis_password"], ["throat_redis_password"], ["rotate: redis_password is yours (throat_redis_password of the inventory); write another one there and run"]),
        (["secret_key"], ["throat_secret_key"], ["rotate: secret_key is yours (throat_secret_key of the inventory); write another one there, give the old one as throat_previous"]),
        ([], [f"throat_{name}" for name in ALL], ["rotate: the inventory gives all secrets, so change them there"]),
    ],
)
def test_what_cannot_be_changed_is_refused(wanted, given, said):
    lines = secrets_dir.rotation_errors(wanted, given, "/secrets", make()["hosts"])
    assert len(lines) == len(said) and all(line.startswith(start) for line, start in zip(lines, said)), lines


def test_there_must_be_a_directory_of_secrets():
    assert len(secrets_dir.rotation_errors([], [], "", make()["hosts"])) == 1


def test_workers_are_told_the_key_of_before():
    made = make({"throat_previous_secret_key": "the-one-before"})["hosts"]["host1"]["throat_gunicorn"]
    assert made["previous_secret_key"] == "the-one-before" and make()["hosts"]["host1"]["throat_gunicorn"]["previous_secret_key"] == ""


def test_password_that_another_host_asks_for_is_not_changed_while_people_use_the_site():
    hosts = {"host1": {"throat_address": "10.0.0.1"}, "host2": {"throat_address": "10.0.0.2"}}
    alone = make(hosts=hosts, groups={"throat": ["host1", "host2"], "postgres": ["host2"]})["hosts"]
    shared = make(hosts=hosts, groups={"throat": ["host1", "host2"], "postgres": ["host2"], "pgbouncer": ["host2"]})["hosts"]
    for made in (alone, shared):
        (line,) = secrets_dir.rotation_errors([], [], "/secrets", made)
        assert line.startswith("rotate: database_password, but host1 proves it to another host")
        assert secrets_dir.rotation_errors(["redis_password", "secret_key"], [], "/secrets", made) == []
