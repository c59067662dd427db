"""`fastfcgi demo` in a real browser: headless Chromium, driven by selenium."""

import hashlib
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wire

if sys.platform != "linux":
    pytest.skip("Debian's chromium and chromium-driver", allow_module_level=True)

from processes import missing, require, wait_until
from test_cli import Running

from fastfcgi import demo

try:
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
except ImportError:
    webdriver = None

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    # Nothing but the loopback is to be reached, whatever the browser would like to.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fastfcgi-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """The URL of the demonstration, as it is printed, without the last slash."""
    with Running(["demo", "--http", "127.0.0.1:0"], folder) as running:
        host, port = running.url()
        yield f"http://{host}:{port}"
        assert running.stop() == 0


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Any]:
    if webdriver is None:
        missing("selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = require("chromium")
    # get() returns at once, so that a page can be seen growing.
    options.page_load_strategy = "none"
    for argument in (*ARGUMENTS, f"--user-data-dir={folder}/profile"):
        options.add_argument(argument)
    service = Service(require("chromedriver"), log_output=str(folder / "chromedriver.log"))
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_script_timeout(wire.DEADLINE)
        yield driver
    finally:
        driver.quit()


def seen(look: Callable[[], Any], what: str) -> Any:
    """What look() finds in the page, as soon as it finds it; the page may be still on its way."""

    def attempt() -> Any:
        try:
            return look()
        except WebDriverException:
            return None

    return wait_until(attempt, what)


def texts(browser: Any, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, selector)]


def opened(browser: Any, url: str) -> None:
    browser.get("about:blank")
    seen(lambda: browser.current_url == "about:blank", "an empty page")
    browser.get(url)


def test_index(browser: Any, site: str) -> None:
    opened(browser, site + "/")
    assert seen(lambda: texts(browser, "h1"), "the headline") == ["It works"]
    seen(lambda: browser.execute_script("return document.readyState") == "complete", "the end")
    assert browser.title == "Environ - fastfcgi demo"
    assert texts(browser, "#PATH_INFO") == ["/"]
    assert texts(browser, "#SCRIPT_NAME") == [""]
    assert any(row.startswith("HTTP_USER_AGENT") for row in texts(browser, "tr"))
    style = "return getComputedStyle(document.querySelector('nav')).display"
    assert browser.execute_script(style) == "flex"  # the Content-Security-Policy lets it be


def test_a_path_with_spaces_and_letters(browser: Any, site: str) -> None:
    opened(browser, site + "/some path/grün €?näme=wert 1&b")
    shown = seen(lambda: texts(browser, "#PATH_INFO"), "PATH_INFO")
    assert shown == ["/some path/grün €"]
    assert texts(browser, "#QUERY_STRING") == ["n%C3%A4me=wert%201&b"]
    assert texts(browser, "#REQUEST_URI")[0].startswith("/some%20path/gr%C3%BCn%20%E2%82%AC?")


def test_links(browser: Any, site: str) -> None:
    opened(browser, site + "/")
    for name, path in (("Upload", "/upload"), ("Environ", "/")):
        seen(lambda name=name: browser.find_element(By.LINK_TEXT, name), name).click()
        seen(lambda path=path: browser.current_url == site + path, f"the page {path}")


def test_upload(browser: Any, site: str, folder: Path) -> None:
    content = random.Random(4).randbytes(5_000_000)
    (folder / "größe 1.bin").write_bytes(content)
    opened(browser, site + "/upload")
    seen(lambda: browser.find_element(By.NAME, "file"), "the form").send_keys(
        str(folder / "größe 1.bin")
    )
    browser.find_element(By.NAME, "note").send_keys("ein Gruß")
    browser.find_element(By.CSS_SELECTOR, "button").click()
    seen(lambda: texts(browser, "h1") == ["Received"], "the answer")
    cells = seen(lambda: len(found := texts(browser, "td")) == 8 and found, "both parts")
    assert cells[:2] == ["note", "ein Gruß"]
    assert cells[3:] == [
        "file",
        "größe 1.bin",
        "application/octet-stream",
        "5000000",
        hashlib.sha256(content).hexdigest(),
    ]


def test_stream(browser: Any, site: str) -> None:
    opened(browser, site + "/stream")
    counts = set()

    def finished() -> bool:
        lines = browser.execute_script("return document.querySelectorAll('.line').length")
        counts.add(lines)
        return bool(texts(browser, "#end"))

    seen(finished, "the last line")
    assert len(texts(browser, ".line")) == demo.STREAM_LINES
    # The page was there before it was complete, and grew.
    assert len([count for count in counts if 0 < count < demo.STREAM_LINES]) >= 2


def test_error(browser: Any, site: str) -> None:
    opened(browser, site + "/error")
    shown = seen(lambda: "failed" in (text := browser.page_source) and text, "the error page")
    status = "return performance.getEntriesByType('navigation')[0].responseStatus"
    assert browser.execute_script(status) == 500
    assert "RuntimeError" not in shown
