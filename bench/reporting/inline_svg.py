"""Figures inside a page: an SVG file as an element of HTML.

Only what draws is kept. Styles become classes, because the page's Content-Security-Policy refuses style attributes
and because the figures' colours follow the page's scheme; ids carry the figure's name, because a page holds several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

# What matplotlib draws with. No script, no style sheet, no link, no foreign content.
TAGS = frozenset(
    ("svg", "g", "defs", "path", "use", "clipPath", "rect", "circle", "image", "pattern", "text", "tspan")
)  # fmt: skip
ATTRIBUTES = frozenset((
    "id", "d", "x", "y", "r", "cx", "cy", "width", "height", "transform", "viewBox", "clip-path", "href",
    "patternUnits", "preserveAspectRatio",
))  # fmt: skip
PROPERTIES = re.compile(r"(fill|stroke|opacity|clip-rule|font|text-anchor|image-rendering)(-[a-z]+)*")
VALUE = re.compile(r"""[-+#\w.,%()'" ]+""")
_OWN_URL = re.compile(r"url\(#([^()]+)\)")
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"^#(.+)$|url\(#([^()]+)\)")


class Styles:
    """Declarations and the classes that stand for them, for all figures of a page."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """`variables` is hex colour → name of a CSS variable; other colours stay as they are."""
        self._variables = variables
        self._classes: dict[str, str] = {}
        self._kept: dict[str, str] = {}  # by a style attribute's text, what of it is allowed

    def class_of(self, style: str, rename: Callable[[str], str]) -> str | None:
        """The class for a style attribute's text; None where nothing in it is allowed. `rename` is for ids."""
        own = _OWN_URL.sub(lambda match: f"url(#{rename(match[1])})", style)
        if own not in self._kept:
            self._kept[own] = ";".join(filter(None, map(self._declaration, own.split(";"))))
        kept = self._kept[own]
        return self._classes.setdefault(kept, f"f{len(self._classes)}") if kept else None

    def _declaration(self, text: str) -> str | None:
        name, _, value = (part.strip() for part in text.partition(":"))
        inside = _OWN_URL.sub("", value)
        allowed = PROPERTIES.fullmatch(name) and "url" not in inside and (not inside or VALUE.fullmatch(inside))
        return f"{name}:{self._coloured(value)}" if value and allowed else None

    def _coloured(self, value: str) -> str:
        def variable(match: re.Match[str]) -> str:
            name = self._variables.get(match[0])
            return f"var(--{name})" if name else match[0]

        return _HEX.sub(variable, value.lower() if value.startswith("#") else value)

    def sheet(self) -> str:
        """The rules of all classes so far."""
        return "\n".join(f".{name}{{{declarations}}}" for declarations, name in self._classes.items())


def inline_svg(path: Path, styles: Styles, label: str) -> tuple[str, float]:
    """The figure as an <svg> element named `label` for those who do not see it, and its width in CSS pixels."""
    root = ElementTree.parse(path).getroot()
    prefix = f"{path.stem}-"
    _clean(root, _references(root), lambda name: prefix + re.sub(r"[^\w.-]", "_", name), styles)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    pixels = 4 / 3  # in a point, the unit of matplotlib's files
    root.attrib = {
        "viewBox": root.attrib["viewBox"], "width": f"{width * pixels:.0f}", "height": f"{height * pixels:.0f}",
        "role": "img", "aria-label": label,
    }  # fmt: skip
    return ElementTree.tostring(root, encoding="unicode"), width * pixels


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _references(root: Element) -> frozenset[str]:
    """The ids that anything in the figure refers to."""
    values = (value for element in root.iter() for value in element.attrib.values() if "#" in value)
    return frozenset(found[1] or found[2] for value in values for found in _REFERENCE.finditer(value))


def _clean(element: Element, used: frozenset[str], rename: Callable[[str], str], styles: Styles) -> None:
    """Drop in place what is not allowed or not used, below `element` and of itself."""
    element.tag = _local(element.tag)
    element.text = element.text if element.tag in ("text", "tspan") else None
    attributes = {_local(name): " ".join(value.split()) for name, value in element.attrib.items()}
    presentation = [f"{name}:{value}" for name, value in attributes.items() if PROPERTIES.fullmatch(name)]
    style = styles.class_of(";".join((*presentation, attributes.get("style", ""))), rename)
    element.attrib = {name: new for name, value in attributes.items()
                      if (new := _attribute(element.tag, name, value, used, rename)) is not None}  # fmt: skip
    if style:
        element.attrib["class"] = style
    for child in list(element):
        if isinstance(child.tag, str) and _local(child.tag) in TAGS:
            child.tail = child.tail if element.tag in ("text", "tspan") else None
            _clean(child, used, rename, styles)
        else:
            element.remove(child)


def _attribute(tag: str, name: str, value: str, used: frozenset[str], rename: Callable[[str], str]) -> str | None:
    """The attribute's value in the page; None where it is dropped. References lead nowhere but into the figure."""
    if name not in ATTRIBUTES:
        return None
    if name == "id":
        return rename(value) if value in used else None
    if name == "href":
        image = tag == "image" and value.startswith("data:image/png;base64,")
        return value if image else f"#{rename(value[1:])}" if value.startswith("#") else None
    if "url" in value:
        own = _OWN_URL.fullmatch(value)
        return f"url(#{rename(own[1])})" if own else None
    return value
