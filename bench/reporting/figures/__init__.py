"""A study's figures."""

from bench.reporting.figures.all import FIGURES, write_figures

__all__ = ["FIGURES", "write_figures"]
