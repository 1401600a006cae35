"""The page in a real browser: silent, offline, and inside the window on a laptop and a phone, in light and in dark."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.report.page import render
from tests.support import report_data as support

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS, SCHEMES = (390, 1280), ("light", "dark")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is in [dev]")
    path = os.environ.get("TRIPLETAIL_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no browser here: install chromium, or set TRIPLETAIL_BROWSER to one")
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A page with every part that there is."""
    report = support.report_data()
    third = {"a-third-model": support.scores(0.45, 0.5), "bm25": {"ndcg@10": 0.3, "ci95": {"ndcg@10": [0.28, 0.32]}}}
    all_pairs = [
        support.comparison(0.05, 0.02, "a-third-model"),
        support.comparison(-0.06, 0.2, "a-third-model", "tuned"),
    ]
    full = replace(
        report,
        scores={**report.scores, **third},
        comparisons=[*report.comparisons, *all_pairs],
        guards=[support.retention(0.4, 0.3, 0.5)],
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(full), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_in_a_browser(browser, page_file, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, messages, requests = context.new_page(), [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert messages == []
    assert requests == [page_file.as_uri()], "the page asks for nothing but itself"
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing is wider than the window"
    beyond = "[...document.querySelectorAll('h1, h2, p, figure, li, dd, summary')].filter(one => {"
    beyond += "const at = one.getBoundingClientRect(); return at.right > innerWidth + 1 || at.left < -1})"
    assert page.evaluate(f"{beyond}.map(one => one.textContent.slice(0, 60))") == []
    assert page.evaluate("document.querySelectorAll('script, img[src]').length") == 0
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")) / 3
    assert (brightness > 200) == (scheme == "light")
    assert contrast(page) >= 4.5, "soft text on the page's ground is readable (WCAG AA)"
    if folder := os.environ.get("TRIPLETAIL_SHOTS"):
        page.screenshot(path=str(Path(folder) / f"report-{scheme}-{width}.png"), full_page=True)
    context.close()


def contrast(page):
    """Contrast of the softest text with the ground behind it, as WCAG 2.1 defines it."""
    read = "one => getComputedStyle(one).color"
    soft = page.eval_on_selector(".note", read)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = sorted(luminance(colour) for colour in (soft, ground))
    return (bright[1] + 0.05) / (bright[0] + 0.05)


def luminance(colour):
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
