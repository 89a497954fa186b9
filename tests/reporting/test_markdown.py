"""The report as markdown, read back by a parser of markdown."""

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from bench.reporting.document import Bullets, Code, Document, Paragraph, Picture, Section, table
from bench.reporting.markdown import markdown, markdown_line
from bench.reporting.printable import printable

NASTY = (
    "- a", "1. a", "1) a", "+ a", "# a", "===", "---", "    a", "> a", "<script>alert(1)</script>", "&amp;", "[a](b)",
    "![a](b)", "`a`", "```", "~~~", "*a*", "_a_", "a|b", "\\", "a\\", "|", "$x$", "a\n\nb", "a\r\n# b", "\ud800", "\0",
    "http://a.b", "| a |\n| - |\n| b |", "a_b_c", "___", "\u202eabc", "a\u2028b",
)  # fmt: skip
texts = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=()), max_size=30)).filter(
    lambda text: bool(text.split())
)


def document(text: str) -> Document:
    """One of everything, `text` everywhere."""
    grid = table("stem", text, ["a", text], [["b", text], [text, "c"]], note=text)
    picture = Picture(stem="stem", title=text, alternative=text)
    blocks = (Bullets((text, text)), Code((text,)), Paragraph(text), grid, picture)
    return Document(text, (Paragraph(text), Bullets((text,))), (Section(text, blocks), Section("b", (Paragraph("c"),))))


def parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def shape(tokens: list[Token]) -> list[str]:
    """All tokens but text, those inside lines too."""
    found = []
    for token in tokens:
        found += [token.type] if token.type != "text" else []
        found += shape(token.children or [])
    return found


def words(token: Token) -> str:
    """The text of a line as it is read."""
    return "".join(words(child) for child in token.children) if token.children else token.content


@given(texts)
def test_text_of_any_kind_is_shown_and_obeyed_nowhere(text: str):
    tokens, expected = parsed(markdown(document(text))), parsed(markdown(document("x")))
    assert shape(tokens) == shape(expected)
    once = " ".join(printable(text).split())
    for found, plain in zip(tokens, expected, strict=True):
        if found.type == "inline":
            assert words(found) == words(plain).replace("x", once)
    markdown(document(text)).encode()


@given(texts)
def test_code_is_shown_as_it_is(text: str):
    lines = printable(text).split("\n")
    (fence,) = [token for token in parsed(markdown(document(text))) if token.type == "fence"]
    assert fence.content == "\n".join(lines) + "\n"


def test_the_forms_of_all_blocks():
    grid = table("stem", "A caption", ["name", "value"], [["a|b", "1"]], text=["name"], note="A note.")
    picture = Picture(stem="loss", title="Loss", alternative="It falls.")
    made = Document("Title", (Paragraph("Answer."),), (Section("One", (Bullets(("a", "b")), grid, picture)),))
    assert markdown(made) == (
        "# Title\n\nAnswer.\n\n## One\n\n* a\n* b\n\n**A caption**\n\n| name | value |\n| :-- | --: |\n"
        "| a\\|b | 1 |\n\nA note.\n\n### Loss\n\n![It falls.](figures/loss.png)\n"
    )


def test_a_line_is_no_list_because_of_its_first_sign():
    assert [markdown_line(line) for line in ("- a", "12. a", "1) b", "-5 %", "a - b")] == [
        "\\- a", "12\\. a", "1\\) b", "\\-5 %", "a - b",
    ]  # fmt: skip
