"""Debian's Chromium without a screen, driven by Selenium.

`python tests/browser.py PAGE.html PICTURE.png` takes the picture in the README, of a report, and says after how many
seconds it was drawn.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--disable-dev-shm-usage",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU, for the parallel coordinates
    # No connections of the browser's own, which are nobody's wish here.
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
)  # fmt: skip


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own, which is gone afterwards."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield driver
        finally:
            driver.quit()


def look_at(
    driver: webdriver.Chrome, page: Path, *, width: int = 1280, height: int = 1000, theme: str = "light"
) -> None:
    """Open a report in a window of that size, and wait until it is drawn."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(page.resolve().as_uri())
    WebDriverWait(driver, 240, poll_frequency=0.05).until(
        lambda d: d.execute_script("return document.querySelector('main').ariaBusy") == "false"
    )


def console(driver: webdriver.Chrome) -> list[dict[str, Any]]:
    """What the page said in the console, other than the software renderer's remarks on its own speed."""
    return [entry for entry in driver.get_log("browser") if "GPU stall due to ReadPixels" not in entry["message"]]


def picture(driver: webdriver.Chrome) -> Image.Image:
    """What the window shows."""
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return Image.open(io.BytesIO(base64.b64decode(shot)))


if __name__ == "__main__":
    with browser() as driver:
        look_at(driver, Path(sys.argv[1]), height=1416)
        print(f"drawn {driver.execute_script('return performance.now()') / 1000:.1f} s after it was opened")
        picture(driver).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
