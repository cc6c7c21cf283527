"""A page of the site as a person sees it: in Chromium, over https, with its websocket."""

import time

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from conftest import ROOT

SCREENSHOT = ROOT / "artifacts/site.png"
QUIET = ("disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")


@pytest.fixture
def chromium():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    # The test runs as root, and the certificate is self-signed.
    for flag in ("headless=new", "no-sandbox", "ignore-certificate-errors", "window-size=1000,700", *QUIET):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def test_page_loads_without_errors_and_hears_of_a_new_post(chromium, url, admin, write_post, flush_limits):
    chromium.get(f"{url}/all/new")
    wait = WebDriverWait(chromium, 15)
    wait.until(lambda page: page.find_element(By.TAG_NAME, "html").get_dom_attribute("data-live") == "yes")
    title = f"Written at {time.time()}"
    write_post(admin, title)
    wait.until(lambda page: title in page.find_element(By.CSS_SELECTOR, "main ul li.live").text)
    SCREENSHOT.parent.mkdir(exist_ok=True)
    assert chromium.save_screenshot(str(SCREENSHOT))
    sockets = chromium.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert not any("transport=polling" in name for name in sockets)
    assert chromium.current_url.startswith("https://")
    assert chromium.get_log("browser") == []
    print(f"screenshot: {SCREENSHOT}")
