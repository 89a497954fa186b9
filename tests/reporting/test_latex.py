"""Tables for a paper."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reporting.document import Cell, Table, table
from bench.reporting.latex import SIGNS, latex_table, latex_text

ODD = (
    "_a%b$c", "[bold]", "*", "--lr -O ---", "a & b \\\\ c", "x^2 ~ {y} #1", "I↔T", "45.61 ± 1.44", "é漢💥", "<b>|\"`'",
    "\\input{/etc/passwd}", "a\nb\tc", "\ud800\0", "À la ÿ ß ø ð þ", "⁠", "?`!`,,<<>>", "",
)  # fmt: skip


def a_table() -> Table:
    rows = [[text, Cell(text, 1.0)] for text in (*ODD, *SIGNS, "".join(SIGNS))]
    return table("the_stem", "Caption of 5 % & _more_", ["name", "[value]"], rows, text=["name"], note="A note: ρ ≈ 1.")


def test_a_table_has_rules_caption_label_and_note():
    made = table("result", "R@1 in %", ["optimizer", "R@1 %"], [["a_b", Cell("1.0", 1.0)], ["c", "–"]],
                 text=["optimizer"], note="± sd.")  # fmt: skip
    assert latex_table(made) == (
        r"""% \usepackage{booktabs}
\begin{table}
  \centering
  \caption{R@1 in \%}
  \label{tab:result}
  \begin{tabular}{lr}
    \toprule
    optimizer & R@1 \% \\
    \midrule
    a\_b & 1.0 \\
    c & -- \\
    \bottomrule
  \end{tabular}

  \smallskip{\footnotesize\raggedright $\pm$ sd.\par}
\end{table}
"""
    )


def test_specials_are_escaped():
    assert latex_text(r"a\b{c}$&%#_~^") == (
        r"a\textbackslash{}b\{c\}\$\&\%\#\_\textasciitilde{}\textasciicircum{}"
    )  # fmt: skip
    assert latex_text("I↔T 1 ± 2 × 3 – 4 → 5 ≈ 6") == (
        r"I$\leftrightarrow$T 1 $\pm$ 2 $\times$ 3 -- 4 $\rightarrow$ 5 $\approx$ 6"
    )
    assert latex_text("--lr - ---") == "-{}-lr - -{}-{}-"
    assert latex_text("é漢") == "é{[}U+6F22{]}"


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_is_one_line_without_markup_of_its_own(text: str):
    found = latex_text(text)
    assert len(found.splitlines()) <= 1
    assert all(sign < "\u0100" for sign in found)
    rest = found
    for known in sorted({*SIGNS.values(), "{}"}, key=len, reverse=True):
        rest = rest.replace(known, "")
    assert not re.search(r"[\\{}$&%#_~^]", rest)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_pdflatex_sets_every_sign(tmp_path: Path):
    body = latex_table(a_table())
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\tiny\n" + body + "\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "a.log").read_text(errors="replace")
