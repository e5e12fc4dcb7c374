"""Take the pictures of pages again: ``python docs/picture.py`` (needs Chromium).

They show a report for a desk and for a phone, a comparison of backbones, and a fine-tuned model. The first picture
holds the text that it shows, so that a test notices when the page has become another one. What is said of single images
is left out of that: which are shown differs from machine to machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, PngImagePlugin

HERE = Path(__file__).parent
DIGITS = HERE.parent / "data" / "digits"
SHOWN = 2  # sections: the answer, the images to look at first
REPORT = "report.png"  # the picture that holds its text
SIZES = {
    "run": {REPORT: (1280, 760), "report-phone.png": (390, 1000)},
    "compare": {"comparison.png": (1280, 900), "comparison-phone.png": (390, 1000)},
    "finetune": {"tuned.png": (1280, 900), "tuned-phone.png": (390, 1000)},
}
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


def run_report(folder: Path) -> Path:
    """The page of the README's first command."""
    from featurepipe import run

    return Path(run(DIGITS, folder / "run", shots=[10])["report"])


def compare_backbones(folder: Path) -> Path:
    """A comparison of the bundled network with what no one has trained."""
    from featurepipe import compare, extract

    for backbone in ("bundled", "hog", "pixels"):
        extract(DIGITS, folder / "compared.store", backbone=backbone)
    return Path(compare([folder / "compared.store"], folder / "comparison.html")["output"])


def tune(folder: Path) -> Path:
    """A fine-tuned model: its last stage, for a few epochs."""
    from featurepipe import extract, finetune, probe, report

    store, model, tuned = folder / "tuned.store", folder / "tuned" / "a.safetensors", folder / "tuned" / "b.safetensors"
    extract(DIGITS, store, backbone="bundled")
    probe(store, model, baselines="none")
    finetune(model, store, tuned, tune="last-1", epochs=8)
    return Path(report(tuned, store=store)["report"])


MAKERS: dict[str, Callable[[Path], Path]] = {"run": run_report, "compare": compare_backbones, "finetune": tune}


def main() -> None:
    """Make the pages that are named, or all of them, and photograph them."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found (looked for {', '.join(BROWSERS)}); on Debian: apt-get install chromium")
    with TemporaryDirectory() as folder:
        for name in sys.argv[1:] or MAKERS:
            page = MAKERS[name](Path(folder))
            for picture, size in SIZES[name].items():
                taken = Path(folder) / picture
                _photograph(browser, page, size, taken)
                image = Image.open(taken).convert("RGB").crop((0, 0, *size)).quantize(96)
                image.save(HERE / picture, pnginfo=_told(page) if picture == REPORT else None, optimize=True)


def _told(page: Path) -> PngImagePlugin.PngInfo:
    told = PngImagePlugin.PngInfo()
    told.add_itxt("page", shown(page.read_text("utf-8")))
    return told


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
