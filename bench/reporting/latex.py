"""A table for a paper: LaTeX with booktabs, from signs that pdflatex sets without further packages."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.reporting.document import Table

# `[` and `*` are in braces because after `\\` they would be read as its argument.
SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}", "[": "{[}", "]": "{]}", "*": "{*}",
    "\u00a0": "~", "\u2009": r"\,", "\u202f": r"\,", "\u2010": "-", "\u2011": "-", "–": "--", "—": "---",
    "‘": "`", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}", "•": r"\textbullet{}", "§": r"\S{}", "°": r"$^\circ$",
    "¹": "$^1$", "²": "$^2$", "³": "$^3$", "½": r"$\frac12$",
    "±": r"$\pm$", "×": r"$\times$", "÷": r"$\div$", "·": r"$\cdot$", "−": "$-$", "≈": r"$\approx$", "≠": r"$\neq$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≪": r"$\ll$", "≫": r"$\gg$", "∞": r"$\infty$", "√": r"$\surd$", "∝": r"$\propto$",
    "∈": r"$\in$", "∑": r"$\sum$", "∂": r"$\partial$", "∇": r"$\nabla$", "†": r"\dag{}", "‡": r"\ddag{}",
    "←": r"$\leftarrow$", "→": r"$\rightarrow$", "↔": r"$\leftrightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "⇒": r"$\Rightarrow$", "✓": r"$\surd$", "✕": r"$\times$", "✗": r"$\times$", "●": r"$\bullet$", "○": r"$\circ$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\epsilon$", "η": r"$\eta$",
    "θ": r"$\theta$", "κ": r"$\kappa$", "λ": r"$\lambda$", "μ": r"$\mu$", "µ": r"$\mu$", "π": r"$\pi$", "ρ": r"$\rho$",
    "σ": r"$\sigma$", "τ": r"$\tau$", "φ": r"$\phi$", "χ": r"$\chi$", "ω": r"$\omega$", "Γ": r"$\Gamma$",
    "Δ": r"$\Delta$", "Σ": r"$\Sigma$", "Ω": r"$\Omega$",
}  # fmt: skip
# What every font encoding of pdflatex sets as it stands: ASCII, and the accented letters of Latin-1.
_AS_IS = re.compile("[ -~À-ÖÙ-Ýà-ïñ-öù-ýÿßøØ]")


def latex_table(table: Table) -> str:
    r"""A table environment with the label tab:STEM; the preamble needs \usepackage{booktabs}."""
    columns = "".join("l" if text else "r" for text in table.text)
    lines = [
        r"% \usepackage{booktabs}", r"\begin{table}", r"  \centering",
        rf"  \caption{{{latex_text(table.caption)}}}", rf"  \label{{tab:{table.stem}}}",
        rf"  \begin{{tabular}}{{{columns}}}", r"    \toprule", _row(table.headings), r"    \midrule",
        *(_row(cell.text for cell in row) for row in table.rows), r"    \bottomrule", r"  \end{tabular}",
    ]  # fmt: skip
    if table.note:
        lines += ["", rf"  \smallskip{{\footnotesize\raggedright {latex_text(table.note)}\par}}"]
    return "\n".join((*lines, r"\end{table}", ""))


def _row(texts: Iterable[str]) -> str:
    return f"    {' & '.join(map(latex_text, texts))} \\\\"


def latex_text(text: str) -> str:
    """`text` in one line, every sign as LaTeX sets it; a sign that pdflatex may lack stands as [U+1F4A5]."""
    return re.sub("--+|.", _signs, " ".join(text.split()), flags=re.DOTALL)


def _signs(match: re.Match[str]) -> str:
    """One sign, or several hyphens, which would become a dash if they touched."""
    found = match[0]
    if found.startswith("--"):
        return "{}".join(found)
    return SIGNS.get(found) or (found if _AS_IS.match(found) else f"{{[}}U+{ord(found):04X}{{]}}")
