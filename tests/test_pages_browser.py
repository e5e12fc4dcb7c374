"""Pages as people meet them: in Chromium, with a pointer, with a keyboard alone, on a phone, in the dark."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurepipe import compare, extract, finetune, probe, report, run

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'featurepipe[browser-test]'")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
QUIET = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
)
NASTY = "<img src=x onerror=alert(1)>"
CLASSES = (NASTY, "say \"cheese\" & 'x'", "שלום", "🌻 sun")
DIGITS = Path(__file__).parents[1] / "data" / "digits"
FIRST = [
    "Look at these first",
    "Confusion matrix",
    "Per class",
    "Map of the embeddings",
    "Can the confidence be trusted?",
]
COLUMN = """return [...arguments[0].tBodies[0].rows].filter((row) => !row.hidden)
  .map((row) => row.cells[arguments[1]].textContent)"""
CHOOSE = """const select = document.querySelector("#map select");
  select.value = arguments[0];
  select.dispatchEvent(new Event("change"))"""
LAST = ["Figures", "Make it again", "How it was made"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*QUIET.split(), "disable-sync", f"user-data-dir={folder / 'profile'}", "window-size=1280,900"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.downloads = folder
    yield driver
    driver.quit()


def photos(root, classes, per_class=12, noise=150):
    """Class folders in train and test: tints that the noise nearly hides."""
    rng = np.random.default_rng(0)
    tints = rng.integers(0, 60, (len(classes), 3))
    for split in ("train", "test"):
        for tint, label in zip(tints, classes, strict=True):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(per_class):
                pixels = tint + rng.integers(0, noise, (24, 24, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    """A page of classes with names that nobody should have."""
    folder = tmp_path_factory.mktemp("nasty")
    extract(photos(folder / "data", CLASSES), folder / "store", backbone="pixels")
    probe(folder / "store", folder / "m" / "model.safetensors", kind="ridge", baselines="none")
    return Path(report(folder / "m" / "model.safetensors")["report"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Path(run(DIGITS, tmp_path_factory.mktemp("digits") / "out", shots=(5,), repeats=3)["report"])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    extract(photos(folder / "data", ("ant", "bee"), 30, 60), folder / "store")
    probe(folder / "store", folder / "m" / "model.safetensors", baselines="none")
    finetune(
        folder / "m" / "model.safetensors",
        folder / "store",
        folder / "m" / "tuned.safetensors",
        tune="last-1",
        epochs=2,
    )
    return Path(report(folder / "m" / "tuned.safetensors")["report"])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    for backbone in ("color-histogram", "bundled"):
        extract(photos(folder / backbone, ("ant", "bee")), folder / f"{backbone}.store", backbone=backbone)
    shutil.rmtree(folder / "color-histogram")
    stores = [folder / "bundled.store"]
    extract(folder / "bundled", stores[0], backbone="color-histogram")
    return Path(compare(stores, folder / "compare.html", kinds=["ridge"])["output"])


def opened(browser, page, width=1280, dark=False):
    """Open a page; nothing may be logged, such as what the page's policy forbids."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    return browser


def titles(browser):
    return [one.text for one in browser.find_elements(By.TAG_NAME, "h2")]


def script(browser, code, *arguments):
    return browser.execute_script(code, *arguments)


def quiet(browser):
    assert browser.get_log("browser") == []
    assert script(browser, "return document.documentElement.scrollWidth <= innerWidth")


def test_digits_has_every_section_and_starts_with_the_answer(browser, digits):
    opened(browser, digits)
    found = titles(browser)
    assert found[: len(FIRST)] == FIRST
    assert found[-len(LAST) - 1 :] == ["Figures", "How C was chosen", *LAST[1:]]
    assert {"Compared with baselines", "With few labels"} <= set(found)
    asked = [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".answer dt")]
    assert asked == ["Is this good?", "What goes wrong?", "What now?"]
    pictures = browser.find_elements(By.CSS_SELECTOR, ".card.wrong img")
    assert pictures
    assert script(browser, "return arguments[0].naturalWidth", pictures[0]) == 96
    top = script(browser, "return document.querySelector('.card').getBoundingClientRect().top")
    assert top < 900  # the first mistake is on the first screen
    quiet(browser)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_a_desk_and_a_phone_by_day_and_night(browser, nasty, tuned, compared, width, dark):
    for page in (nasty, tuned, compared):
        opened(browser, page, width, dark)
        quiet(browser)
        paper = script(browser, "return getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")


def test_names_of_strangers_stay_text(browser, nasty):
    opened(browser, nasty)
    assert {one.text.split()[0] for one in browser.find_elements(By.CSS_SELECTOR, ".said")} >= {"שלום", "🌻"}
    said = browser.find_element(By.TAG_NAME, "main").text
    assert all(name in said for name in CLASSES)
    browser.find_element(By.CSS_SELECTOR, "svg [data-cell]").click()  # of the first class
    assert NASTY in browser.find_element(By.ID, "cell").text
    assert script(browser, "return document.querySelectorAll('img[src=x]').length") == 0
    assert str(nasty.parents[1]) not in nasty.read_text("utf-8")
    quiet(browser)


def test_a_table_sorts_by_pointer_and_keyboard_and_filters(browser, digits):
    opened(browser, digits)
    table = browser.find_element(By.CSS_SELECTOR, "table.sortable")

    def column(number):
        return script(browser, COLUMN, table, number)

    buttons = table.find_elements(By.CSS_SELECTOR, "th button")
    buttons[0].click()
    assert column(0) == sorted(column(0))
    buttons[0].send_keys(Keys.ENTER)
    assert column(0) == sorted(column(0), reverse=True)
    buttons[3].click()  # precision
    shares = [float(share.rstrip("\xa0%")) for share in column(3)]
    assert shares == sorted(shares)
    assert table.find_elements(By.TAG_NAME, "th")[3].get_attribute("aria-sort") == "ascending"
    field = browser.find_element(By.CSS_SELECTOR, "input[type=search]")
    field.send_keys("7")  # which figures of other classes hold, too
    assert "7" in column(0)
    assert len(column(0)) < 10
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(f"{shares[4]}%")
    assert f"{shares[4]}\xa0%" in column(3)
    assert len(column(0)) < 10
    quiet(browser)


def test_more_like_this_opens_by_keyboard_and_shows_training_pictures(browser, digits):
    opened(browser, digits)
    line = browser.find_element(By.CSS_SELECTOR, ".sheet .alike summary")
    script(browser, "arguments[0].focus()", line)
    line.send_keys(Keys.ENTER)
    shown = WebDriverWait(browser, 20).until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".alike[open] li img"))
    assert len(shown) == 3
    assert all(picture.get_attribute("alt").startswith("train/") for picture in shown)
    browser.find_element(By.CSS_SELECTOR, "rect.wrong[data-cell]").click()
    behind = browser.find_element(By.CSS_SELECTOR, "#cell .alike summary")
    behind.click()
    assert WebDriverWait(browser, 20).until(
        lambda _: browser.find_elements(By.CSS_SELECTOR, "#cell .alike[open] li img")
    )
    quiet(browser)


def test_a_cell_of_the_matrix_opens_its_pictures_by_pointer_and_by_keyboard(browser, digits):
    opened(browser, digits)
    cells = browser.find_elements(By.CSS_SELECTOR, "svg [data-cell]")
    cells[0].click()
    right = browser.find_element(By.ID, "cell")
    assert "classified correctly" in right.text
    assert right.find_elements(By.CSS_SELECTOR, ".card.right img")
    wrong = browser.find_element(By.CSS_SELECTOR, "rect.wrong[data-cell]")
    script(browser, "arguments[0].setAttribute('tabindex', 0); arguments[0].focus()", wrong)
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert "taken for" in right.text
    assert right.find_elements(By.CSS_SELECTOR, ".card.wrong img")
    script(browser, "arguments[0].focus()", cells[0])
    ActionChains(browser).send_keys(Keys.ARROW_DOWN).perform()
    assert script(browser, "return document.activeElement.hasAttribute('data-cell')")
    assert script(browser, "return document.activeElement !== arguments[0]", cells[0])
    shown = browser.find_element(By.CSS_SELECTOR, "table button[data-cell]")
    count = int(shown.text)
    shown.click()
    assert len(right.find_elements(By.CSS_SELECTOR, ".card")) == count
    quiet(browser)


def lassoed(browser):
    """Draw around the whole map."""
    canvas = browser.find_element(By.CSS_SELECTOR, "#map canvas[tabindex]")
    script(browser, "arguments[0].scrollIntoView({block: 'center'})", canvas)
    half = canvas.size["width"] // 2 - 4, canvas.size["height"] // 2 - 4
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]
    actions = ActionChains(browser).move_to_element_with_offset(canvas, -half[0], -half[1]).click_and_hold()
    for x, y in corners:
        actions = actions.move_to_element_with_offset(canvas, x * half[0], y * half[1])
    actions.release().perform()
    return browser.find_element(By.CSS_SELECTOR, "#map [aria-label='Selected samples']")


def test_the_map_shows_what_is_under_the_pointer_and_lists_what_is_drawn_around(browser, digits):
    opened(browser, digits)
    picked = lassoed(browser)
    assert picked.text.startswith("1,797 selected")
    assert len(picked.find_elements(By.CSS_SELECTOR, ".card")) == 60
    picked.find_element(By.TAG_NAME, "button").click()
    table = browser.downloads / "selection.csv"
    for _ in range(100):
        if table.is_file():
            break
        ActionChains(browser).pause(0.1).perform()
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table.unlink()
    assert len(rows) == 1797
    assert all((DIGITS / row["path"]).is_file() for row in rows)
    assert {row["split"] for row in rows} == {"train", "test"}
    assert all(row["path"].split("/")[:2] == [row["split"], row["label"]] for row in rows)
    quiet(browser)


def test_the_map_is_of_use_with_the_keyboard_alone(browser, digits):
    opened(browser, digits)
    script(browser, "document.querySelector('#map canvas[tabindex]').focus()")
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    tip = browser.find_element(By.CSS_SELECTOR, "#map .tip")
    first = tip.text
    assert "/" in first  # its path
    assert script(browser, "return document.querySelector('#map .tip img').naturalWidth") == 96
    ActionChains(browser).send_keys(Keys.SPACE, Keys.ARROW_RIGHT, Keys.SPACE).perform()
    assert tip.text != first
    picked = browser.find_element(By.CSS_SELECTOR, "#map [aria-label='Selected samples']")
    assert picked.text.startswith("2 selected")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert picked.text == ""
    quiet(browser)


def test_the_pointer_finds_the_dot_below_it_and_colours_can_be_chosen(browser, digits):
    opened(browser, digits)
    canvas = browser.find_element(By.CSS_SELECTOR, "#map canvas[tabindex]")
    script(browser, "arguments[0].scrollIntoView({block: 'center'})", canvas)
    tip = browser.find_element(By.CSS_SELECTOR, "#map .tip")
    seen = set()
    for x in range(-300, 301, 60):
        ActionChains(browser, duration=0).move_to_element_with_offset(canvas, x, 0).perform()
        seen.add(tip.text)
    assert len(seen - {""}) > 3
    for mode, keys in (("prediction", 10), ("split", 2), ("right or wrong", 2)):
        script(browser, CHOOSE, mode)
        assert len(browser.find_elements(By.CSS_SELECTOR, ".legend button")) == keys
    quiet(browser)


def test_the_whole_page_can_be_reached_by_tab(browser, digits):
    opened(browser, digits)
    reached = []
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(
            script(browser, "const e = document.activeElement; return e.tagName + (e.dataset.cell ? ' cell' : '')")
        )
    assert "rect cell" in reached
    assert {"BUTTON", "INPUT", "SELECT", "CANVAS"} <= set(reached)


def test_a_tuned_model_shows_its_mistakes_and_its_course(browser, tuned):
    opened(browser, tuned)
    found = titles(browser)
    assert found[: len(FIRST)] == FIRST
    assert "Fine-tuning" in found
    assert browser.find_elements(By.CSS_SELECTOR, ".card img")
    quiet(browser)


def test_a_comparison_shows_cost_and_sorts(browser, compared):
    opened(browser, compared)
    assert {"Top-1", "Accuracy against cost", "Table"} <= set(titles(browser))
    browser.find_elements(By.CSS_SELECTOR, "table.sortable th button")[0].click()
    quiet(browser)


def test_without_scripts_the_answer_and_the_pictures_are_still_there(browser, digits):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(digits.as_uri())
        assert browser.find_elements(By.CSS_SELECTOR, ".card.wrong img")
        assert "drawn by a script" in browser.find_element(By.ID, "map").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.shared
@pytest.mark.parametrize("name", ["flowers12", "hymenoptera"])
def test_real_photos(browser, shared, tmp_path, name):
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    made = run(shared / "datasets" / name, tmp_path / "out", backbone="vit_tiny_patch16_224", weights=weights)
    opened(browser, Path(made["report"]))
    assert titles(browser)[: len(FIRST)] == FIRST
    assert browser.find_elements(By.CSS_SELECTOR, ".card.wrong img")
    assert lassoed(browser).text.split()[1] == "selected"
    quiet(browser)
