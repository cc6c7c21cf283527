"""What hosts tell Prometheus: the same as the screen of the status, from the answer that it is made of; and who may ask them."""

import importlib.util
import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml
from ansible_collections.throat.stack.plugins.plugin_utils import status, status_page
from test_status import BROKEN, EIGHT, ONE, RECORDED, SECRETS, WEBS, answer, planned, report, stopped, wrong

ROOT = pathlib.Path(__file__).parents[2]
ROLE = ROOT / "roles/monitoring/files"
ALERTS = [rule for group in yaml.safe_load((ROLE / "rules.yml").read_text())["groups"] for rule in group["rules"] if "alert" in rule]
PROGRAM = ROOT / "roles/throat_metrics/files/metrics.py"
SPEC = importlib.util.spec_from_file_location("metrics", PROGRAM)
metrics = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(metrics)
WATCHED = {**EIGHT, "throat": [*EIGHT["throat"], "watch"], "monitoring": ["watch"]}


def told(change=None):
    made = planned(ONE)
    known = answer(made["hosts"]["host1"], "host1")
    if change:
        change(known)
    # By what the host itself knows of the plan.
    roles = status.status_plan(made["hosts"]["host1"])
    assert status.status_questions(roles, "host1") == status.status_questions(made["hosts"]["host1"], "host1")
    here = status.status_report({"hosts": {"host1": roles}}, {"host1": {"probe": known}}, RECORDED["time"])
    return report(made, {"host1": {"probe": known}}), metrics.text(metrics.metrics(roles, known, here["findings"]))


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case[0])
def test_a_host_tells_what_the_screen_shows_and_what_to_type(case):
    shown, text = told(case[1])
    found = [re.sub(r"\\(.)", r"\1", line) for line in text.splitlines() if line.startswith("throat_finding{")]
    assert found == [
        f'throat_finding{{level="{one["level"]}",subject="{one["subject"]}",tier="{one["tier"]}",should="{one["should"]}",command="{command}"}} 1'
        for one in wrong(shown)
        # The host does not know what its operator calls the inventory.
        for command in [one["command"].replace("inventories/mysite", "<inventory>")]
    ]
    assert found


def test_a_host_that_is_well_tells_of_nothing_wrong():
    _shown, text = told()
    assert "throat_finding" not in text
    assert 'throat_worker_up{worker="gevent"} 1' in text
    assert 'throat_limit{limit="errors"} 20' in text


def test_web_servers_tell_which_of_them_holds_the_address_that_they_have_together():
    made = planned(WEBS, throat_virtual_addresses=["10.0.0.9/24"], throat_shared_files=False, throat_backup=False)
    roles = status.status_plan(made["hosts"]["web2"])
    known = answer(made["hosts"]["web2"], "web2")
    for held, value in ((["10.0.0.9"], 1), ([], 0)):
        said = metrics.text(metrics.metrics(roles, {**known, "addresses": held}, []))
        assert f'throat_virtual_address_held{{address="10.0.0.9/24"}} {value}' in said


def test_each_metric_has_its_help_once():
    _shown, text = told(BROKEN[0][1])
    names = re.findall(r"^# HELP (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) and set(names) == set(re.findall(r"^(\w+)\{", text, re.MULTILINE)) <= set(metrics.HELP)


@pytest.mark.parametrize("inventory", [ONE, EIGHT], ids=["one", "eight"])
def test_program_needs_nothing_of_ansible_on_the_host(tmp_path, inventory):
    plugins = ROOT / "plugins"
    for path in (PROGRAM, plugins / "modules/probe.py", plugins / "module_utils/clusters.py", *(plugins / f"plugin_utils/{name}.py" for name in ("status", "backup", "tables", "workers"))):
        shutil.copy(path, tmp_path)
    # -I: neither this environment nor the directory.
    code = f"""import sys; sys.path.insert(0, {str(tmp_path)!r}); import metrics
probe, status = metrics.import_collection(); print(probe.__file__, status.__file__)
metrics.PLAN, metrics.TEXT = {str(tmp_path / "plan")!r}, {str(tmp_path / "text")!r}
probe.run = lambda *command, **options: (1, ""); metrics.once(probe, status)"""
    for host, roles in planned(inventory)["hosts"].items():
        (tmp_path / "plan").write_text(json.dumps({"host": host, "roles": status.status_plan(roles)}))
        said = subprocess.run(["/usr/bin/python3", "-I", "-c", code], capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
        assert said.stdout.split() == [f"{tmp_path}/probe.py", f"{tmp_path}/status.py"]
        # No program answers.
        assert "throat_finding" in (tmp_path / "text").read_text()


def test_alerts_say_what_to_type_and_name_a_page():
    assert ALERTS
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "warning")
        assert rule["annotations"]["command"] and rule["annotations"]["summary"]
        assert (ROOT / rule["annotations"]["page"]).is_file(), rule["alert"]
        assert rule["alert"] in (ROOT / "docs/metrics.md").read_text()


def test_each_alert_is_tried():
    tried = {case["alertname"] for test in yaml.safe_load((ROOT / "tests/data/alerts.yml").read_text())["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert tried == {rule["alert"] for rule in ALERTS}


def test_nobody_is_asked_where_nobody_wants_it():
    made = planned(ONE)["hosts"]["host1"]
    assert not {"throat_metrics", "monitoring"} & set(made)
    assert made["redis"]["metrics_password"] == ""
    assert [access["user"] for access in made["postgres"]["access"]] == ["throat"]


def test_exporters_of_one_host_listen_at_loopback():
    made = planned(ONE, throat_metrics=True)["hosts"]["host1"]
    assert made["throat_metrics"]["listen_address"] == "127.0.0.1"
    assert made["throat_metrics"]["exporters"] == ["node", "postgres", "redis", "nginx", "mtail"]
    assert made["throat_metrics"]["redis_password"] == made["redis"]["metrics_password"] != made["redis"]["password"]


def test_exporters_let_in_the_hosts_that_watch_and_each_is_asked():
    made = planned(WATCHED, throat_metrics=True)["hosts"]
    targets = {(target["host"], target["exporter"]): target["address"] for target in made["watch"]["monitoring"]["targets"]}
    watch = "10.0.0.9"
    for host, roles in made.items():
        for name in roles["throat_metrics"]["exporters"]:
            address, port = roles["throat_metrics"]["listen_address"], roles["throat_metrics"]["ports"][name]
            assert targets.pop((host, name)) == f"{address}:{port}"
            opened = [service["addresses"] for service in roles["firewall"]["services"] if service["port"] == port]
            assert opened == ([[watch]] if host != "watch" else []), (host, name)
    assert not targets
    assert {name for name in made["db"]["throat_metrics"]["exporters"]} == {"node", "postgres"}


def test_a_host_that_only_watches_takes_no_memory_from_postgres():
    watched = {**ONE, "throat": ["host1", "watch"], "monitoring": ["watch"]}
    assert planned(watched, throat_metrics=True)["hosts"]["host1"]["postgres"]["memory_percent"] == 50


def test_what_a_host_keeps_of_the_plan_has_no_secret():
    store = {"type": "s3", "host": "store.example.com", "bucket": "throat-backup", "access_key": "an-access-key", "secret_key": "a-key-of-the-store"}
    variables = {"monitoring_webhook_url": "https://example.com/a-token", "throat_backup_repositories": [{"type": "local", "path": "/mnt/backup"}, store]}
    made = planned(WATCHED, throat_metrics=True, **variables)["hosts"]
    text = json.dumps([status.status_plan(roles) for roles in made.values()])
    assert "/mnt/backup" in text
    assert not [secret for secret in (*SECRETS.values(), "a-token", "an-access-key", "a-key-of-the-store") if secret in text]


def test_screen_tells_when_prometheus_is_down_and_shows_a_host_that_only_watches():
    made = planned(WATCHED, throat_metrics=True)
    results = {host: {"probe": answer(roles, host)} for host, roles in made["hosts"].items()}
    assert wrong(report(made, results)) == []
    stopped("prometheus.service")(results["watch"]["probe"])
    shown = report(made, results)
    (found,) = wrong(shown)
    assert (found["level"], found["host"], found["command"]) == ("warning", "watch", "systemctl start prometheus.service")
    assert "watch" in status_page.status_page(shown) and "watch" in status.status_text(shown)
