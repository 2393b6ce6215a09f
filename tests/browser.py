"""Chromium for the tests of the page; `python -m tests.browser` makes docs/page.png anew."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.serving import serving

ROOT = Path(__file__).parent.parent
LANDSCAPE = ROOT / "examples" / "landscape.jpg"
AXE = ROOT / "tests" / "axe" / "axe.min.js"
SECONDS = 20  # what any wait for the page is bounded by
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-device-scale-factor=1",
)  # fmt: skip
# Counts the object URLs that are held, before the page's own scripts run.
COUNTER = """
  window.held = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (blob) => { const url = createObjectURL(blob); held.add(url); return url; };
  URL.revokeObjectURL = (url) => { held.delete(url); revokeObjectURL(url); };
"""
FILES = """
  const transfer = new DataTransfer();
  for (const [name, data] of arguments[0])
    transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name));
  const event = arguments[1] === 'paste' ? new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true})
    : new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true});
  document.body.dispatchEvent(event);
"""
# In one call: to ask each element for each of its properties takes seconds.
BUTTON = """
  return [...document.querySelectorAll(arguments[0])].find((button) => button.checkVisibility()
    && [button.innerText.trim(), button.getAttribute('aria-label')].includes(arguments[1]));
"""
FIELD = """
  return [...document.querySelectorAll(arguments[0])]
    .filter((label) => label.checkVisibility() && label.innerText.trim() === arguments[1])
    .map((label) => label.control).find((control) => control.type !== 'radio');
"""


class Page:
    """The page in a browser of its own."""

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads
        self.requests: list[dict[str, Any]] = []

    def open(self, address: str) -> Page:
        self.driver.get(address)
        self.wait(lambda: "ready" in self.js("return Object.keys(document.documentElement.dataset)"))
        return self

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, what: Callable[[], Any]) -> Any:
        end = time.monotonic() + SECONDS
        while not (found := what()):
            assert time.monotonic() < end, f"waited in vain; the page says {self.js('return document.body.innerText')}"
            time.sleep(0.02)
        return found

    def there(self, selector: str, count: int = 1) -> None:
        """Wait until so many elements are there."""
        self.wait(lambda: len(self.all(selector)) >= count)

    def settle(self) -> None:
        """Wait until nothing is being made."""
        self.wait(lambda: not self.all("[aria-busy]"))

    def give(self, *files: tuple[str, bytes], how: str = "drop") -> None:
        self.js(FILES, [[name, base64.b64encode(data).decode()] for name, data in files], how)
        self.settle()

    def add(self, *titles: str) -> None:
        """Add steps by their buttons."""
        for title in titles:
            count = len(self.all("#steps > li"))
            self.button(title, "#operations").click()
            self.there("#steps > li", count + 1)
            self.settle()

    def button(self, text: str, within: str = "body") -> WebElement:
        """The first visible button of that text or label."""
        return self._found(BUTTON, f"{within} button", text)

    def field(self, label: str, within: str = "body") -> WebElement:
        """The control of a visible label."""
        return self._found(FIELD, f"{within} label", label)

    def _found(self, script: str, selector: str, text: str) -> WebElement:
        found = self.js(script, selector, text)
        assert isinstance(found, WebElement), f"no {selector} is {text}"
        return found

    def set(self, label: str, value: str, within: str = "body") -> None:
        """Type into a field and leave it."""
        self.field(label, within).send_keys(Keys.CONTROL + "a" + Keys.NULL + value + Keys.TAB)
        self.settle()

    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of each result that is shown, by what the browser decoded."""
        loaded = "return [...document.querySelectorAll('.shot img')].every((i) => i.complete && i.naturalWidth)"
        self.wait(lambda: self.js(loaded))
        return [
            tuple(size)
            for size in self.js(
                "return [...document.querySelectorAll('.shot img')].map((i) => [i.naturalWidth, i.naturalHeight])"
            )
        ]

    def steps(self) -> list[str]:
        return [step.get_attribute("data-op") or "" for step in self.all("#steps > li")]

    def status(self) -> str:
        return self.one("#status").text

    def downloaded(self, name: str) -> bytes:
        """A file that was downloaded, once it is whole."""
        path = self.downloads / name
        self.wait(lambda: path.exists() and not list(self.downloads.glob("*.crdownload")))
        return path.read_bytes()

    def media(self, scheme: str, width: int, height: int = 900) -> None:
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def network(self) -> list[dict[str, Any]]:
        """What the browser said of its requests so far: Network.* events."""
        messages = (json.loads(entry["message"])["message"] for entry in self._log("performance"))
        self.requests += [message for message in messages if message["method"].startswith("Network.")]
        return self.requests

    def addresses(self) -> list[str]:
        """Every address that was asked for."""
        sent = [event["params"] for event in self.network() if event["method"] == "Network.requestWillBeSent"]
        # the browser's own first page is not ours
        return [event["request"]["url"] for event in sent if not event["documentURL"].startswith("chrome:")]

    def faults(self) -> list[str]:
        """What the console has of errors, violations of the policy among them."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] in ("SEVERE", "ERROR")]

    def axe(self) -> list[str]:
        """What axe-core finds wrong."""
        self.js(AXE.read_text())
        found = self.driver.execute_async_script("axe.run().then(({violations}) => arguments[0](violations))")
        return [f"{fault['id']}: {node['html'][:200]}" for fault in found for node in fault["nodes"]]


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A headless Chromium with a new profile."""
    profile = tempfile.mkdtemp()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver") or "chromedriver"))
    try:
        driver.set_page_load_timeout(SECONDS)
        driver.set_script_timeout(SECONDS)
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def tab(driver: webdriver.Chrome, downloads: Path) -> Page:
    """A new tab instead of the one before, with nothing of its settings."""
    before = driver.current_window_handle
    driver.switch_to.new_window("tab")
    now = driver.current_window_handle
    driver.switch_to.window(before)
    driver.close()
    driver.switch_to.window(now)
    page = Page(driver, downloads)
    page.network(), page.faults()
    page.requests.clear()
    page.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    page.cdp("Page.addScriptToEvaluateOnNewDocument", source=COUNTER)
    page.media("light", 1280)
    return page


def screenshot(path: Path) -> None:
    """README's picture of the page: the example, cut into quadrants and resized."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server, chromium() as driver:
        page = tab(driver, Path(folder)).open(f"http://127.0.0.1:{server.port}/")
        page.media("light", 1200, 800)
        page.give((LANDSCAPE.name, LANDSCAPE.read_bytes()))
        page.add("Split", "Resize")
        page.set("Factor", "0.6", "#steps")
        page.js("document.activeElement.blur(); scrollTo(0, 0)")
        page.js("document.documentElement.style.scrollbarWidth = 'none'")
        path.write_bytes(base64.b64decode(page.cdp("Page.captureScreenshot", format="png")["data"]))


if __name__ == "__main__":
    screenshot(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "page.png")
