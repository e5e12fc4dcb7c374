"""Take the pictures of a report page again, for a desk and for a phone: ``python docs/picture.py`` (needs Chromium).

The first holds the text that it shows, so that a test notices when the page has become another one. What is said of
single images is left out of that: which are shown differs from machine to machine.
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
PICTURE, PHONE = HERE / "report.png", HERE / "report-phone.png"
SHOWN = 2  # sections: the answer, the images to look at first
SIZES = {PICTURE: (1280, 760), PHONE: (390, 1000)}
QUIET = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking hide-scrollbars"
HIDDEN = ("style", "title", "head", "script", "figure")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class _Text(HTMLParser):
    """What a reader sees, section by section."""

    def __init__(self) -> None:
        super().__init__()
        self.sections, self._hidden = [""], 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in HIDDEN
        if tag == "h2":
            self.sections.append("")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in HIDDEN

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
        told = PngImagePlugin.PngInfo()
        told.add_itxt("page", shown(page.read_text("utf-8")))
        for picture, size in SIZES.items():
            taken = Path(folder) / picture.name
            _photograph(browser, page, size, taken)
            image = Image.open(taken).convert("RGB").crop((0, 0, *size)).quantize(96)
            image.save(picture, pnginfo=told if picture == PICTURE else None, optimize=True)


def _photograph(browser: str, page: Path, size: tuple[int, int], taken: Path) -> None:
    """The top of a page, in a frame of that size: windows cannot be as narrow as a phone."""
    width, height = size
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<body style="margin:0"><iframe src="{page.name}" width="{width}" height="{height}" style="border:0"></iframe>'
    )
    profile = taken.with_suffix(".profile")
    flags = [f"--{flag}" for flag in (*QUIET.split(), f"user-data-dir={profile}", f"screenshot={taken}")]
    window = f"--window-size={max(width, 600)},{height}"
    subprocess.run([browser, *flags, window, frame.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
