"""The status of eight hosts: what it costs beside one, what a dead one costs, and its page in Chromium, on a desk and on a phone, healthy and with half of them down."""

import json
import subprocess
import time

import pytest
import yaml
from conftest import ROOT, STATUS_LIMITS
from selenium import webdriver

SCREENS = {"desktop": (1280, 800, False), "phone": (390, 844, True)}
HALF = ["throat-stack-web2", "throat-stack-app2", "throat-stack-app3", "throat-stack-postgres"]
# Seconds after which ssh gives up a host (Ansible's own default).
GIVES_UP = 10


@pytest.fixture
def status(run_site, tmp_path, secrets):
    """Run the operator's command: (seconds, the run, the report, its page); no secret is shown by any of them."""

    def ask(*arguments: str):
        file, page = tmp_path / "status.json", tmp_path / "status.html"
        file.unlink(missing_ok=True)
        start = time.monotonic()
        run = run_site({"throat_status_limits": STATUS_LIMITS, "status_file": str(file), "status_page": str(page)}, *arguments, check=False, playbook="playbooks/status.yml")
        seconds = time.monotonic() - start
        assert run.changed == 0
        assert not [name for name, value in secrets.items() if value in run.output + file.read_text() + page.read_text()]
        return seconds, run, json.loads(file.read_text()), page

    return ask


@pytest.fixture
def dead(tmp_path):
    """Arguments by which hosts seem to be switched off: nothing answers, and nothing says so."""

    def make(*names: str) -> list[str]:
        file = tmp_path / "dead.yml"
        silent = '-o ProxyCommand="sleep 300" -o ControlPath=none'
        file.write_text(yaml.safe_dump({"throat": {"hosts": {name: {"ansible_ssh_common_args": silent} for name in names}}}))
        return ["-i", str(file)]

    return make


@pytest.mark.campaign
def test_eight_hosts_take_little_longer_than_one_and_a_dead_one_its_timeout_once(status, dead):
    # What runs is told apart by the hosts that are dead; one host alone is asked by --limit.
    runs = {"one host": (), "eight hosts": (), "one of eight is dead": ("throat-stack-web2",), "four of eight are dead": HALF}
    took = {name: [] for name in runs}
    for _each in range(3):
        for name, gone in runs.items():
            seconds, _run, report, _page = status(*(["--limit", "throat-stack-app1"] if name == "one host" else dead(*gone)))
            took[name].append(seconds)
            assert [host for host, known in report["hosts"].items() if not known["answers"]] == sorted(gone, key=list(report["hosts"]).index)
    best = {name: min(seconds) for name, seconds in took.items()}
    print("\n".join(f"{name:24} {min(seconds):5.1f} s ({', '.join(f'{one:.1f}' for one in seconds)})" for name, seconds in took.items()))
    assert best["eight hosts"] <= 1.5 * best["one host"]
    for name in ("one of eight is dead", "four of eight are dead"):
        assert best[name] <= best["eight hosts"] + GIVES_UP + 2


def look(page, name: str) -> list[str]:
    """Show a page on each screen, and keep what is seen: what is amiss."""
    amiss = []
    for screen, (width, height, is_phone) in SCREENS.items():
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", f"window-size={width},{height}"):
            options.add_argument(f"--{flag}")
        if is_phone:
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0, "touch": True}})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            driver.get(page.as_uri())
            wide, tall, asked = driver.execute_script(
                "return [document.documentElement.scrollWidth, document.documentElement.scrollHeight, performance.getEntriesByType('resource').map(one => one.name)]"
            )
            # Text that leaves its box, in the drawing that is shown.
            outside = driver.execute_script("""return [...document.querySelectorAll('svg g')].filter(box => box.getClientRects().length).flatMap(box => {
                const frame = box.querySelector('rect').getBoundingClientRect();
                return [...box.querySelectorAll('text')].filter(text => text.getBoundingClientRect().right > frame.right).map(text => text.textContent)})""")
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": tall, "deviceScaleFactor": 1, "mobile": is_phone})
            (ROOT / "artifacts").mkdir(exist_ok=True)
            assert driver.save_screenshot(str(ROOT / f"artifacts/status-{name}-{screen}.png"))
            amiss += [f"{name} {screen}: {what}" for what in (*asked, *outside, *driver.get_log("browser"), *([f"{wide} pixels wide"] if wide > width else []))]
        finally:
            driver.quit()
    return amiss


def test_page_of_eight_hosts_is_read_on_a_desk_and_on_a_phone_healthy_and_half_down(status):
    try:
        for host in HALF:
            subprocess.run(["docker", "pause", host], check=True, capture_output=True)
        _seconds, run, report, page = status()
    finally:
        for host in HALF:
            subprocess.run(["docker", "unpause", host], check=False, capture_output=True)
    wrong = {(one["host"], one["subject"]): one for one in report["findings"] if one["level"] != "ok"}
    assert set(wrong) == {(host, "host") for host in HALF}, wrong
    # What the others suffer of is told with its cause.
    assert "worker sync on throat-stack-app1" in " ".join(wrong["throat-stack-postgres", "host"]["so"])
    assert look(page, "eight-half-down") == []
    # All is well again by itself.
    deadline = time.monotonic() + 120
    while (asked := status())[2]["level"] != "ok":
        assert time.monotonic() < deadline, [one for one in asked[2]["findings"] if one["level"] != "ok"]
    _seconds, run, _report, page = asked
    assert run.returncode == 0
    assert look(page, "eight-healthy") == []
