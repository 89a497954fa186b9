"""A study's figures: `write` draws them all, the other modules hold them by kind."""

from bench.reporting.figures.write import FIGURES, write_figures

__all__ = ["FIGURES", "write_figures"]
