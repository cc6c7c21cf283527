"""Closing the site for maintenance when that does not go well; how it goes well is in test_changes.py."""

import os
import signal
import subprocess

import pytest
from conftest import ROOT


def test_word_that_is_neither_on_nor_off_is_refused(run_site):
    run = run_site(None, "-e", "maintenance=maybe", playbook="playbooks/maintenance.yml", check=False)
    assert run.returncode != 0 and run.changed == 0 and "maintenance: maybe, but must be on or off" in run.said


@pytest.mark.parametrize(
    "task", [pytest.param("Make the plan", marks=pytest.mark.campaign), "Close the site", pytest.param("See what a visitor gets", marks=pytest.mark.campaign)]
)
def test_play_that_is_killed_leaves_the_site_whole_and_one_that_cannot_prove_it_closed_opens_it(scenario, run_site, browser, url, task):
    command = ["ansible-playbook", "-i", scenario / "inventory", "playbooks/maintenance.yml", "-e", "maintenance=on"]
    environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True) as play:
        assert any(f"TASK [{task}]" in line for line in play.stdout)
        os.killpg(play.pid, signal.SIGKILL)
    assert play.returncode == -signal.SIGKILL
    # A task under way is a process with a session of its own, and ends by itself; what is tested here is what it leaves.
    subprocess.run(["pidwait", "--full", f"{scenario}/inventory playbooks/maintenance.yml"], check=False, timeout=60)
    answer = browser.get(f"{url}/")
    assert answer.status_code in (200, 503)
    print(f"killed at '{task}': {answer.status_code}")
    run_site(None, "-e", "maintenance=off", playbook="playbooks/maintenance.yml")
    assert browser.get(f"{url}/").status_code == 200
    unreachable = {"throat_check_url": "https://localhost:1"}
    run = run_site(unreachable, "-e", "maintenance=on", playbook="playbooks/maintenance.yml", check=False)
    assert run.returncode != 0 and "The site is open; it could not be closed" in run.said
    assert browser.get(f"{url}/").status_code == 200
