"""Take the README's picture of a report page again: ``python docs/picture.py`` (needs Chromium).

The picture holds the text of the sections that it shows, so that a test notices when the page has become another one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, PngImagePlugin

HERE = Path(__file__).parent
PICTURE = HERE / "report.png"
SHOWN = 3  # sections: the headline, the baselines, few labels
SIZE = (900, 975)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class _Text(HTMLParser):
    """What a reader sees, section by section."""

    def __init__(self) -> None:
        super().__init__()
        self.sections, self._hidden = [""], 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("style", "title", "head")
        if tag == "h2":
            self.sections.append("")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "title", "head")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.sections[-1] += f"{data} "


def shown(page: str) -> str:
    """The text of the sections that the picture shows."""
    reader = _Text()
    reader.feed(page)
    return " ".join(" ".join(reader.sections[:SHOWN]).split())


def masked(text: str) -> str:
    """The same without its figures, which differ a little from machine to machine."""
    return re.sub(r"\d+(?:[.,]\d+)*", "#", text)


def main() -> None:
    """Run the README's first command, and photograph its page."""
    from featurepipe import run

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found (looked for {', '.join(BROWSERS)}); on Debian: apt-get install chromium")
    with TemporaryDirectory() as folder:
        page = Path(run(HERE.parent / "data" / "digits", folder, shots=[10])["report"])
        taken = Path(folder) / "page.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = f"--window-size={SIZE[0]},{SIZE[1]}"
        subprocess.run([browser, *flags, size, f"--screenshot={taken}", page.as_uri()], check=True, capture_output=True)
        told = PngImagePlugin.PngInfo()
        told.add_itxt("page", shown(page.read_text("utf-8")))
        Image.open(taken).convert("RGB").quantize(64).save(PICTURE, pnginfo=told, optimize=True)


if __name__ == "__main__":
    main()
