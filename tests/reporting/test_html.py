"""The report as a page: escaping, its policy, its figures and its colours. The browser's part is in test_browser."""

import base64
import hashlib
import io
import re
import time
import tomllib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from bench.reporting.colours import DARK_DIVERGING, colours
from bench.reporting.document import Block, Bullets, Cell, Code, Document, Paragraph, Picture, Section, number, table
from bench.reporting.figures.looks import DIVERGING
from bench.reporting.html import html
from bench.reporting.printable import printable

VOID = {"meta", "link", "wbr"}
REPOSITORY = Path(__file__).parents[2]
HOSTILE = (
    "<script>alert(1)</script>", "</title><script>", "</style><b>", "\"'><img src=x onerror=alert(1)>", "&amp;&lt;",
    "{{ 7 * 7 }}{% raw %}", "|$#&", "\0\x1b[31m", "\ud800", "\u202eabc", "]]>", "<!--", "a\r\nb", "javascript:a()",
)  # fmt: skip
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=()), min_size=1, max_size=30))


class Page(HTMLParser):
    """Elements with their attributes in the page's order, and the text inside each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open, [self.elements[i] for i in self._open]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self._open.append(len(self.elements))
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag, tag

    def handle_data(self, data: str) -> None:
        for i in self._open:
            self.texts[i] += data

    def all(self, *tags: str) -> list[tuple[dict, str]]:
        """Attributes and text of every element with one of the tags."""
        return [(attrs, text) for (tag, attrs), text in zip(self.elements, self.texts, strict=True) if tag in tags]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two figures as matplotlib writes them: lines, markers, text, a hatch, an image."""
    folder = tmp_path_factory.mktemp("figures")
    ink, series = "#1f2328", mpl.color_sequences["petroff10"]
    with mpl.rc_context({"svg.hashsalt": "a", "text.color": ink, "axes.edgecolor": "#8c959f"}):
        figure = Figure(figsize=(6, 3))
        left, right = figure.subplots(1, 2)
        left.plot([1, 2, 3], color=series[0], marker="o", linestyle="--")
        left.plot([3, 2, 1], color=series[2], marker="s")
        left.set_title("A title")
        right.imshow([[1, 2], [3, 4]])
        right.bar([0], [1], hatch="/", facecolor=series[4], edgecolor=ink)
        for stem in ("one", "two"):
            figure.savefig(folder / f"{stem}.svg", metadata={"Date": None})
    return folder


def document(*blocks: Block, opening: tuple[Block, ...] = ()) -> Document:
    return Document("Title", opening, (Section("Section", blocks),))


def picture(stem: str, text: str = "It falls.") -> Picture:
    return Picture(stem=stem, title=f"Figure {stem}", alternative=text)


def everything(text: str) -> Document:
    """One of every block, `text` wherever text can be."""
    rows = [[text, text], ["b", Cell(text, 1.0)]]
    grid = table("stem", text, ["first column", text], rows, text=["first column"], note=text)
    shown = Picture(stem="one", title=text, alternative=text)
    blocks = (Paragraph(text), Bullets((text, text)), Code((text, text)), grid, shown)
    return Document(text, (Paragraph(text), Bullets((text,))), (Section(text, blocks),))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts)
def test_text_of_any_kind_is_shown_and_adds_no_element(figures: Path, text: str):
    page = html(everything(text), figures)
    page.encode()
    found, expected = Page(page), Page(html(everything("x"), figures))
    assert Counter(tag for tag, _ in found.elements if tag != "wbr") == Counter(tag for tag, _ in expected.elements)
    shown = printable(text)
    for tag in ("h1", "h2", "h3", "p", "li", "caption", "th", "td"):
        assert [t for _, t in found.all(tag)] == [shown if t == "x" else t for _, t in expected.all(tag)]
    assert [t for _, t in found.all("code")] == [f"{shown}\n{shown}"]
    assert found.all("svg")[0][0]["aria-label"] == f"{shown}: {shown}"
    assert not [name for _, attrs in found.elements for name in attrs if name.startswith("on")]


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(figures: Path):
    text = html(document(picture("one"), picture("two")), figures)
    (policy,) = [a["content"] for a, _ in Page(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for name in ("style", "script"):
        (content,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    # Style attributes would be refused.
    assert not [attrs for _, attrs in Page(text).elements if "style" in attrs]


def test_the_page_refers_to_nothing_outside_itself(figures: Path):
    text = html(document(picture("one"), picture("two"), table("t", "c", ["a"], [["b"], ["c"]])), figures)
    for _, attrs in Page(text).elements:
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert name not in attrs or attrs[name].startswith(("#", "data:image/")), attrs
    assert set(re.findall(r"https?://[^'\" )]*", text)) == {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"url\(.", text)) == {"url(#"} and "@import" not in text


def test_ids_are_unique_and_every_reference_leads_to_one(figures: Path):
    text = html(document(picture("one"), picture("two"), table("one", "c", ["a"], [["b"]])), figures)
    page = Page(text)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    used = {attrs["href"][1:] for _, attrs in page.elements if attrs.get("href", "").startswith("#")}
    used |= {attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs}
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used <= set(ids) and len([name for name in used if name.startswith("one-")]) > 5


def test_headings_do_not_skip_a_level_and_landmarks_are_there(figures: Path):
    text = html(document(picture("one"), opening=(Paragraph("Answer"), picture("two"))), figures)
    page = Page(text)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels == [1, 2, 2, 3]
    assert [len(page.all(tag)) for tag in ("main", "nav", "title", "h1")] == [1, 1, 1, 1]
    assert page.all("html")[0][0]["lang"] == "en"
    assert page.all("a")[0][0] == {"class": "skip", "href": "#main"}
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs, _ in page.all("svg"))


def test_tables_say_what_heads_what_and_what_sorts_them(figures: Path):
    rows = [["a", number(1.25, ".1f"), "x"], ["b", number(None), "y"], ["c", Cell("missed", float("inf")), ""],
            ["d", Cell("?", float("nan")), ""]]  # fmt: skip
    page = Page(html(document(table("t", "Caption", ["n", "v", "w"], rows, text=["n", "w"], note="Note")), figures))
    assert page.all("caption")[0][1] == "Caption"
    assert [attrs["scope"] for attrs, _ in page.all("th")] == ["col"] * 3 + ["row"] * 4
    numbers = [(text, attrs.get("data-value")) for attrs, text in page.all("td") if attrs.get("class") != "text"]
    assert numbers == [("1.2", "1.25"), ("–", None), ("missed", "Infinity"), ("?", None)]
    (region,) = [attrs for attrs, _ in page.all("div") if attrs.get("role") == "region"]
    assert region["tabindex"] == "0" and region["aria-label"] == "Table: Caption"


def test_a_figure_keeps_what_draws_and_loses_what_acts(tmp_path: Path):
    (tmp_path / "one.svg").write_text("""<?xml version="1.0"?><!DOCTYPE svg>
      <svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 72 36"
           onload="alert(1)"><metadata>who</metadata><style>*{color:red}</style><script>alert(2)</script>
      <foreignObject><b>text</b></foreignObject><a href="http://a.b"><path d="M 9 9"/></a>
      <image xlink:href="http://a.b/c.png"/><use xlink:href="http://a.b#c"/><g onclick="alert(3)" id="unused">
      <path id="p" d="M 0 0
        L 1 1" style="fill: #1F2328; stroke: #123456; background: url(http://a.b); cursor: url(#p)"/></g>
      <use xlink:href="#p" style="fill: url(http://a.b/#p); stroke-width: 2" clip-path="url(#p)"/></svg>""")
    text = html(document(picture("one")), tmp_path)
    page = Page(text)
    (svg,) = re.findall("<svg.*</svg>", text, re.DOTALL)
    for part in ("alert", "a.b", "who", "red", "text", "M 9 9", "unused", "<?xml", "DOCTYPE", "foreign", "style"):
        assert part not in svg, part
    assert page.all("path")[0][0] == {"id": "one-p", "d": "M 0 0 L 1 1", "class": "f0"}
    uses = [attrs for attrs, _ in page.all("use")]
    assert uses == [{}, {"href": "#one-p", "clip-path": "url(#one-p)", "class": "f1"}]
    assert ".f0{fill:var(--ink);stroke:#123456}\n.f1{stroke-width:2}" in text
    # 72 points are 96 pixels.
    assert (page.all("svg")[0][0]["width"], page.all("svg")[0][0]["height"]) == ("96", "48")


def test_a_figure_of_matplotlib_keeps_all_that_it_draws(figures: Path):
    source = (figures / "one.svg").read_text()
    (svg,) = re.findall("<svg.*</svg>", html(document(picture("one")), figures), re.DOTALL)
    for tag in ("path", "use", "g", "clipPath", "image", "rect", "pattern"):
        count = len(re.findall(f"<{tag}[ >/]", source))
        assert len(re.findall(f"<{tag}[ >/]", svg)) == count > 0, tag


def test_colours_of_figures_follow_the_scheme(figures: Path):
    text = html(document(picture("one")), figures)
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    rules = "\n".join(re.findall(r"^\.f\d+\{.*\}$", style, re.MULTILINE))
    for variable in ("ink", "line", "series-0", "series-2", "series-4"):
        assert f"var(--{variable})" in rules
    assert not [c for c in colours() if c.of_figures and c.light in rules]


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_from_what_is_behind_them():
    assert contrast("#000000", "#ffffff") == 21
    light, dark = ({c.variable: c[place] for c in colours()} for place in (1, 2))
    for scheme in (light, dark):
        for text in ("ink", "muted", "accent"):
            for ground in ("paper", "page", "card"):
                assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
    for name in ("line", *(name for name in dark if name.startswith("series"))):
        assert contrast(dark[name], dark["paper"]) >= 3, name
    assert all(contrast(dark["ink"], ground) >= 4.5 for ground in DARK_DIVERGING)
    assert all(contrast(light["ink"], ground) >= 4.5 for ground in DIVERGING)


def test_no_two_colours_of_a_scheme_are_the_same():
    for place in (1, 2):
        drawn = [colour[place] for colour in colours() if colour.of_figures]
        assert len(set(drawn)) == len(drawn)


def test_the_same_document_gives_the_same_bytes(figures: Path):
    assert html(everything("a"), figures) == html(everything("a"), figures)


def test_a_missing_figure_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"one\.svg"):
        html(document(picture("one")), tmp_path)


def test_a_long_report_is_written_within_two_seconds(tmp_path: Path):
    figure = Figure()
    axes = figure.subplots()
    for i in range(8):
        axes.plot([(i * j) % 7 for j in range(420)], marker="o", markevery=3)
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    assert len(stream.getvalue()) > 150_000
    for i in range(12):
        (tmp_path / f"f{i}.svg").write_text(stream.getvalue())
    rows = [[f"name_{i}", *(number(i * j / 3) for j in range(9))] for i in range(2000)]
    grid = table("t", "Long", ["name", *map(str, range(9))], rows, text=["name"])
    started = time.perf_counter()
    html(document(grid, *(picture(f"f{i}") for i in range(12))), tmp_path)
    assert time.perf_counter() - started < 2


def test_the_package_holds_the_pages_files():
    data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "page/*" in data["bench.reporting"]
    names = {path.name for path in (REPOSITORY / "bench/reporting/page").iterdir()}
    assert names == {"report.html.j2", "blocks.html.j2", "style.css", "script.js"}
