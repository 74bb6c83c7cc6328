"""The report in a real browser: it opens, switches, stays inside its window, prints, and says nothing on the console.

Needs Chromium (Debian: apt-get install chromium); where it is absent these tests say so and are left out.
"""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from ditask_jax.reports import find_runs
from ditask_jax.reports.report_html import report_page
from tests.reports.pages import write_shown_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here: apt-get install chromium"),
]
# What a reader would do, and what is then seen.
PLAY = """
const seen = {};
const section = document.querySelector("[data-images]");
const shown = (selector) => [...section.querySelectorAll(selector)].filter((e) => e.getClientRects().length > 0).length;
const slider = section.querySelector("input[type=range]");
seen.first = [shown(".example"), shown("img"), section.querySelector("output").value];
seen.loaded = [...section.querySelectorAll("img")].every((image) => image.complete && image.naturalWidth > 0);
const before = [...section.querySelectorAll("img")].find((e) => e.getClientRects().length > 0).src;
slider.value = 2;
slider.dispatchEvent(new Event("input"));
const after = [...section.querySelectorAll("img")].find((e) => e.getClientRects().length > 0).src;
seen.second = [shown(".example"), before !== after, section.querySelector("output").value];
section.querySelector("input[data-task=depth]").click();
seen.without_depth = [shown("img"), shown(".task[data-task=depth]"), shown(".task[data-task=semseg]")];
slider.value = 3;
slider.dispatchEvent(new Event("input"));
seen.still_without = shown(".task[data-task=depth]");
section.querySelector("input[data-task=depth]").click();
seen.with_depth = shown("img");
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
seen.dark = getComputedStyle(document.body).backgroundColor;
dispatchEvent(new Event("beforeprint"));
seen.opened = document.querySelectorAll("details:not([open])").length;
dispatchEvent(new Event("afterprint"));
seen.closed = document.querySelectorAll("details[open]").length;
document.title = JSON.stringify(seen);
"""


def _chromium(*options, page, folder):
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
    noisy = ("--enable-logging=stderr", "--v=0")
    command = [CHROMIUM, *quiet, f"--user-data-dir={folder / 'profile'}", *noisy, *options, page.as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_shown_run(folder / "runs" / "thetas", 1.5)
    write_shown_run(folder / "runs" / "decoders_alone", -3.0, ("method.name=frozen",))
    text = report_page(find_runs([folder / "runs"]))
    file, played = folder / "report.html", folder / "played.html"
    file.write_text(text, encoding="utf-8")
    played.write_text(text.replace("</body>", f"<script>addEventListener('load', () => {{{PLAY}}})</script></body>"),
                      encoding="utf-8")  # fmt: skip
    return file, played


@pytest.mark.parametrize("width", [1400, 500])
def test_opens_switches_and_fits(page, width, tmp_path):
    found = _chromium("--dump-dom", f"--window-size={width},900", page=page[1], folder=tmp_path)
    seen = json.loads(html.unescape(re.search(r"<title>(\{.*?\})</title>", found)[1]))
    assert seen["first"] == [1, 7, "1 of 3"]
    assert seen["loaded"]
    assert seen["second"] == [1, True, "2 of 3"]
    assert seen["without_depth"] == [4, 0, 1]
    assert seen["still_without"] == 0
    assert seen["with_depth"] == 7
    assert seen["overflow"] == 0
    assert (seen["opened"], seen["closed"]) == (0, 0)


def test_prints(page, tmp_path):
    pdf = tmp_path / "report.pdf"
    _chromium("--no-pdf-header-footer", f"--print-to-pdf={pdf}", page=page[0], folder=tmp_path)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 2 <= pages <= 15
    assert len(re.findall(rb"/Subtype\s*/Image", content)) >= 3
