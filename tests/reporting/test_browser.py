"""The page in a browser, from a file and without a network: nothing is asked for, figures show, sorting and schemes.

The browser is the machine's own, found on the path; none is downloaded.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from bench.reporting.document import Bullets, Cell, Code, Document, Paragraph, Picture, Section, number, table
from bench.reporting.html import html
from bench.reporting.report import write_report
from bench.study import Study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser on the path: {', '.join(NAMES)}")

LONG = "a_file_with_a_very_long_name.py:AnOptimizerWithALongNameThatHasNoPlaceToBreak"
# The contrast of two computed colours, rgb(...), by WCAG 2.
CONTRAST = """([text, ground]) => {
  const luminance = (colour) => {
    const part = colour.match(/[0-9.]+/g).slice(0, 3).map((x) => x / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const [low, high] = [luminance(text), luminance(ground)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """One browser for the module; not for the session, because its event loop would surround all other tests."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every block, a table to sort, one with many columns and two figures."""
    folder = tmp_path_factory.mktemp("page")
    draw_figures(folder)
    rows = [["b", number(2.0), "two"], ["a10", number(10.0), "ten"], ["a9", number(None), ""],
            [LONG, number(-1.5), "minus"], ["c", Cell("missed", float("inf")), "–"]]  # fmt: skip
    small = table("small", "Small", ["name", "value", "word"], rows, text=["name", "word"])
    many = [f"column {i}" for i in range(30)]
    wide = table("wide", "Wide " * 30, ["name", *many], [[LONG, *(number(float(i)) for i in range(30))]], text=["name"])
    code = Code(("bench run " * 40, "bench report"))
    first = Section("Result", (small, wide, Picture(stem="one", title="First", alternative="One rises.")))
    second = Section(f"Section {LONG}", (Bullets((LONG, "b")), code, Picture(stem="two", title="Second",
                     alternative="Two falls.")))  # fmt: skip
    opening = (Paragraph("What these runs support:"), Bullets((f"{LONG} is the best.", "Nothing diverged.")))
    path = folder / "report.html"
    path.write_text(html(Document(LONG, opening, (first, second)), folder), encoding="utf-8")
    return path


def draw_figures(folder: Path) -> None:
    ink = "#1f2328"
    with mpl.rc_context({"text.color": ink, "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink}):
        for stem, series in (("one", 0), ("two", 4)):
            figure = Figure(figsize=(9, 4))
            axes = figure.subplots()
            axes.plot([1, 2, 3], [1, 3, 2], color=mpl.color_sequences["petroff10"][series], marker="o")
            axes.set_title("A title")
            figure.savefig(folder / f"{stem}.svg")


class Visit:
    """A page opened without a network; what it asked for and complained of is kept."""

    def __init__(self, browser, path: Path, *, width: int = 1280, scheme: str = "light", script: bool = True) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script, offline=True
        )
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.route(
            "**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort()
        )
        self.page.goto(path.as_uri())

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def column(self, place: int) -> list[str]:
        """The first table's cells in one column."""
        return self.page.locator("#table-small tbody tr").evaluate_all(
            "(rows, i) => rows.map((row) => row.cells[i].textContent)", place
        )

    def style(self, selector: str, name: str) -> str:
        return self.page.eval_on_selector(selector, "(e, name) => getComputedStyle(e)[name]", name)

    def contrast(self, selector: str, name: str = "color", behind: str = "body") -> float:
        return self.page.evaluate(CONTRAST, [self.style(selector, name), self.style(behind, "backgroundColor")])


def asks_and_complains_of_nothing(visit: Visit) -> None:
    assert visit.complaints == []
    assert [url for url in visit.requests if not url.startswith("data:image/")] == [visit.page.url]


def figures_are_drawn(visit: Visit) -> None:
    """Every figure has a place on the page and strokes or areas in colours."""
    drawings = visit.page.locator("figure svg").all()
    assert drawings
    for drawing in drawings:
        box = drawing.bounding_box()
        assert box["width"] > 200 and box["height"] > 50
        painted = drawing.evaluate("""(svg) => Array.from(svg.querySelectorAll("path")).filter((path) => {
          const style = getComputedStyle(path), box = path.getBoundingClientRect();
          return box.width + box.height > 0 && (style.fill !== "none" || style.stroke !== "none");
        }).length""")
        assert painted > 5


def test_the_report_of_a_study_is_complete_in_the_browser(browser, write_study: Callable[..., Study], tmp_path: Path):
    study = write_study({f"optimizer_{i}": {s: 20.0 + 3 * i + s for s in range(5)} for i in range(4)} | {
        "<b>broken": dict.fromkeys(range(5)),
    })  # fmt: skip
    path = write_report(study, tmp_path / "report").html
    drawn = len(list((tmp_path / "report" / "figures").glob("*.svg")))
    for width, scheme in ((1280, "light"), (390, "dark")):
        with Visit(browser, path, width=width, scheme=scheme) as visit:
            assert visit.page.locator("figure svg").count() == drawn > 5
            figures_are_drawn(visit)
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
            assert visit.page.locator("b").count() == 0
            asks_and_complains_of_nothing(visit)
    # Every colour of every figure follows the scheme.
    (style,) = re.findall("<style>(.*?)</style>", path.read_text(), re.DOTALL)
    assert not re.findall(r"^\.f\d+\{.*#[0-9a-f]{3}.*\}$", style, re.MULTILINE)


def test_the_page_asks_for_nothing_and_shows_every_figure(browser, report: Path):
    with Visit(browser, report) as visit:
        figures_are_drawn(visit)
        visit.page.get_by_text("In words").first.click()
        assert visit.page.get_by_text("One rises.").is_visible()
        assert visit.page.get_by_role("img", name="First: One rises.").count() == 1
        asks_and_complains_of_nothing(visit)


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_the_page_is_no_wider_than_the_window(browser, report: Path, width: int):
    with Visit(browser, report, width=width) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        # The wide table scrolls in its own place, which has the keyboard's focus.
        region = visit.page.locator("#table-wide .scroll")
        assert region.evaluate("(e) => e.scrollWidth > e.clientWidth && e.tabIndex === 0")
        region.focus()
        visit.page.keyboard.press("ArrowRight")
        visit.page.wait_for_function("() => document.querySelector('#table-wide .scroll').scrollLeft > 0")


def test_a_click_sorts_by_number_and_the_third_restores_the_order(browser, report: Path):
    with Visit(browser, report) as visit:
        original = visit.column(1)
        heading = visit.page.locator("#table-small thead th").nth(1)
        seen = []
        for _ in range(3):
            heading.get_by_role("button").click()
            seen.append((heading.get_attribute("aria-sort"), visit.column(1)))
        assert seen == [
            ("ascending", ["-1.5", "2", "10", "missed", "–"]),
            ("descending", ["missed", "10", "2", "-1.5", "–"]),
            (None, original),
        ]


def test_the_keyboard_sorts_and_text_is_sorted_as_read(browser, report: Path):
    with Visit(browser, report) as visit:
        buttons = visit.page.locator("#table-small thead button")
        buttons.nth(2).press("Space")
        assert visit.column(2) == ["minus", "ten", "two", "", "–"]
        buttons.nth(0).press("Enter")
        # Digits by their number; only one column is named as sorted.
        assert visit.column(0) == [LONG, "a9", "a10", "b", "c"]
        assert visit.page.locator("#table-small th[aria-sort]").count() == 1
        visit.page.keyboard.press("Tab")
        assert buttons.nth(1).evaluate("(button) => button === document.activeElement")


def test_dark_and_light_are_both_readable(browser, report: Path):
    grounds = []
    for scheme in ("light", "dark"):
        with Visit(browser, report, scheme=scheme) as visit:
            grounds.append(visit.style("body", "backgroundColor"))
            assert visit.page.locator("#scheme").get_attribute("aria-pressed") == str(scheme == "dark").lower()
            for text, behind in (("h1", "body"), ("nav a", "body"), (".answer li", ".answer"), ("td", ".table"),
                                 ("thead th", ".table"), ("summary", "figure"), ("pre", "pre")):  # fmt: skip
                assert visit.contrast(text, behind=behind) >= 4.5, (scheme, text)
            # What a figure writes and draws: the ink of its text, the colour of its line.
            assert visit.contrast("#figure-one svg g[transform]", "fill", "figure") >= 4.5
            lines = visit.page.locator("#figure-two path[clip-path]")
            strokes = lines.evaluate_all("(paths) => paths.map((path) => getComputedStyle(path).stroke)")
            ground = visit.style("figure", "backgroundColor")
            assert strokes
            assert max(visit.page.evaluate(CONTRAST, [stroke, ground]) for stroke in strokes) >= 3
    assert grounds[0] != grounds[1]


def test_the_switch_turns_the_scheme_and_is_remembered(browser, report: Path):
    with Visit(browser, report) as visit:
        switch, light = visit.page.get_by_role("button", name="Dark"), visit.style("body", "backgroundColor")
        switch.click()
        dark = visit.style("body", "backgroundColor")
        assert dark != light and switch.get_attribute("aria-pressed") == "true"
        for _ in range(20):  # the browser writes what a page keeps a moment later, to a file
            visit.page.reload()
            if visit.style("body", "backgroundColor") == dark:
                break
        assert visit.style("body", "backgroundColor") == dark
        visit.page.emulate_media(media="print")
        assert visit.style("body", "color") == "rgb(31, 35, 40)"
        visit.page.emulate_media(media="screen")
        switch.click()
        assert visit.style("body", "backgroundColor") == light and switch.get_attribute("aria-pressed") == "false"
        assert visit.complaints == []


def test_without_script_all_is_there_and_nothing_pretends_to_work(browser, report: Path):
    with Visit(browser, report, script=False) as visit:
        assert visit.page.locator("#table-small tbody tr").count() == 5
        assert visit.page.get_by_role("button").count() == 0
        assert visit.page.get_by_role("navigation").get_by_role("link").count() == 2
        assert visit.page.locator("figure svg").count() == 2


def test_the_first_stop_of_the_keyboard_skips_the_contents(browser, report: Path):
    with Visit(browser, report) as visit:
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.textContent") == "Skip to the report"
        visit.page.keyboard.press("Enter")
        assert visit.page.evaluate("document.activeElement.id") == "main"


def test_the_contents_lead_to_sections_and_mark_the_current_one(browser, report: Path):
    with Visit(browser, report) as visit:
        links = visit.page.get_by_role("navigation").get_by_role("link")
        assert links.nth(0).get_attribute("aria-current") is None
        links.nth(1).click()
        sync_api.expect(links.nth(1)).to_have_attribute("aria-current", "true")
        assert visit.page.url.endswith("#section-2")


def test_the_page_prints(browser, report: Path):
    with Visit(browser, report, scheme="dark") as visit:
        assert visit.page.pdf(format="A4").startswith(b"%PDF")
