"""What each figure shows, for which studies it is drawn, and its files."""

import math
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from bench.record import MemoryUse, Seconds
from bench.reporting.analysis import Analysis
from bench.reporting.document import Picture
from bench.reporting.figures import FIGURES, write_figures
from bench.reporting.figures.frame import Drawn
from bench.reporting.figures.labels import Point, label_points
from bench.reporting.figures.looks import DIVERGING, NEUTRALS, Look, safe, style
from bench.store import Store
from bench.study import Study, load_study

from .conftest import PROTOCOL, make_curve, make_record, metrics, store_run

Runs = Mapping[str, Mapping[int, float | None]]
Write = Callable[..., Study]
STEMS = ["ranks", "final", "pairs_matrix", "critical_difference", "loss", "retrieval", "rank_course", "targets",
         "profile", "pairs", "pareto"]  # fmt: skip
SMALL = 150_000  # bytes of a figure of eight optimizers
# Two that are alike, five in clear steps below, one that diverges.
EIGHT: Runs = {
    "adam": {s: 60.0 + s for s in range(5)},
    "very_much_like_adam_under_a_long_name": {s: 60.0 + s + 0.3 * (-1) ** s for s in range(5)},
    **{f"other {i}": {s: 50.0 - 8 * i + s + 0.2 * (-1) ** (s + i) for s in range(5)} for i in range(5)},
    "broken": dict.fromkeys(range(5)),
}


def draw(stem: str, study: Study) -> Drawn | None:
    analysis = Analysis(study)
    with style():
        return FIGURES[stem](analysis, Look(row.optimizer for row in analysis.rows))


def drawn(stem: str, study: Study) -> Drawn:
    found = draw(stem, study)
    assert found is not None, stem
    return found


def in_memory(path: Path, runs: Runs, **changes: Any) -> Study:
    """A study without curves."""
    made = (make_record(name, seed, r1, **changes) for name, scores in runs.items() for seed, r1 in scores.items())
    return Study(path, PROTOCOL, tuple(made))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def boxes(figure: Figure, texts: Sequence[Text]) -> list[Bbox]:
    """Where texts stand, without the lines that lead to them."""
    with style():
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()
        return [Text.get_window_extent(text, renderer) for text in texts]


@dataclass(frozen=True)
class Written:
    """A study's figures on disk."""

    study: Study
    folder: Path
    pictures: tuple[Picture, ...]

    def svg(self) -> Iterator[tuple[str, str]]:
        for picture in self.pictures:
            yield picture.stem, (self.folder / f"{picture.stem}.svg").read_text()


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("eight")
    store = Store(folder / "hand")
    store.write_protocol(PROTOCOL)
    for i, (name, scores) in enumerate(EIGHT.items()):
        for seed, r1 in scores.items():
            record = make_record(name, seed, r1, seconds=Seconds(training=6.0 + i, total=9.0 + i),
                                 memory=MemoryUse(peak_bytes=10**9, state_bytes=i * 10**6))  # fmt: skip
            store_run(store, record, make_curve(r1))
    study, _ = load_study(store.path)
    return Written(study, folder / "figures", write_figures(Analysis(study), folder / "figures"))


def test_a_whole_study_has_every_figure_in_its_order_as_valid_files(eight: Written):
    assert [picture.stem for picture in eight.pictures] == STEMS == [stem for stem in FIGURES if stem in STEMS]
    assert sorted(files(eight.folder)) == sorted(f"{stem}.{kind}" for stem in STEMS for kind in ("png", "svg"))
    for picture in eight.pictures:
        png = (eight.folder / f"{picture.stem}.png").read_bytes()
        assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")
        assert min(struct.unpack(">II", png[16:24])) > 300
        assert picture.title and len(picture.alternative) > 40
    for stem, svg in eight.svg():
        assert ElementTree.fromstring(svg).tag.endswith("svg") and len(svg) < SMALL, stem


def test_png_has_white_paper_and_svg_none(eight: Written):
    for stem, svg in eight.svg():
        assert (imread(eight.folder / f"{stem}.png")[0, 0] == 1).all(), stem
        for patch in ("patch_1", "patch_2"):  # of the figure, of the first axes
            assert re.search(rf'id="{patch}">\s*<path d="[^"]*" style="fill: none"/>', svg), (stem, patch)


def test_no_colour_but_of_the_tables(eight: Written):
    optimizers = {to_hex(colour) for colour in mpl.color_sequences["petroff10"]}
    allowed = {*NEUTRALS.values(), *DIVERGING, *optimizers}
    for stem, svg in eight.svg():
        assert set(re.findall(r"#[0-9a-fA-F]{6}\b|\brgba?\(", svg)) <= allowed, stem
        # Black is written as no colour at all: every text must name its own.
        texts = re.findall(r'<g id="text_\d+">\s*(?:<!--.*?-->\s*)?(<g [^>]*>)', svg, flags=re.DOTALL)
        assert texts and all("fill: #" in text for text in texts), stem
        assert "<image" not in svg, stem


def test_nothing_but_numbers_is_drawn(eight: Written, tmp_path: Path):
    metric = {name: math.nan if name == "i2t_r1" else value for name, value in metrics(9.0).items()}
    records = [make_record("odd", 0, 1.0, metrics=metric), make_record("odder", 0, 1.0, best_loss=math.inf)]
    odd = replace(eight.study, records=(*eight.study.records, *records))
    curves = {**eight.study.curves, **{r.run_id: [
        point.model_copy(update={"loss": loss, "metrics": dict.fromkeys(point.metrics, loss)})
        for point, loss in zip(make_curve(1.0), (math.inf, 9.0, math.nan), strict=True)] for r in records}}  # fmt: skip
    odd.__dict__["_curves"] = (curves, ())
    pictures = write_figures(Analysis(odd), tmp_path)
    assert {"final", "loss", "retrieval", "targets", "pairs", "pareto"} <= {picture.stem for picture in pictures}
    for picture in pictures:
        assert not re.search(r"\b(nan|inf)\b", (tmp_path / f"{picture.stem}.svg").read_text()), picture.stem
        assert not re.search(r"\b(nan|inf)\b", picture.alternative), picture.stem


def test_files_are_the_same_whatever_the_order_of_records_and_settings(eight: Written, tmp_path: Path):
    turned = replace(eight.study, records=eight.study.records[::-1])
    with mpl.rc_context({"font.size": 30, "axes.edgecolor": "red", "svg.fonttype": "none"}):
        write_figures(Analysis(turned), tmp_path)
    assert files(tmp_path) == files(eight.folder)


def test_a_legend_covers_no_axes(eight: Written):
    for stem in STEMS:
        figure = drawn(stem, eight.study).figure
        for legend in figure.legends:
            with style():
                figure.draw_without_rendering()
            assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes), stem


ONE_SEED = ["final", "loss", "retrieval", "rank_course", "targets", "pairs", "pareto"]


@pytest.mark.parametrize(
    ("runs", "stems"),
    [
        ({"a": {0: None}, "b": {0: None, 1: None}}, ["loss"]),
        ({"a": {0: 50.0}}, [stem for stem in ONE_SEED if stem != "rank_course"]),
        ({"a": {0: 50.0, 1: None}}, [stem for stem in ONE_SEED if stem != "rank_course"]),
        ({"a": {0: 50.0}, "b": {0: 40.0}}, ONE_SEED),
        ({"a": {0: 0.0, 1: 0.0}, "b": {0: 0.0, 1: 0.0}}, [s for s in STEMS if s not in ("targets", "profile")]),
        ({"_a|b[bold]$x$": {0: 50.0}, "$": {0: None}, "é漢\n💥\t" + "x" * 90: {0: 20.0}}, ONE_SEED),
        ({"a": {0: 50.0, 1: 51.0}, "b": {0: 40.0, 1: 42.0}, "c": {0: None, 1: 9.0}}, STEMS),
    ],
    ids=["all diverged", "one run", "some diverged", "one seed", "zero", "odd names", "two seeds"],
)
def test_odd_studies_have_the_figures_that_they_can_have(write_study: Write, tmp_path: Path, runs: Runs, stems: list):
    study, folder = write_study(runs), tmp_path / "figures"
    folder.mkdir()
    for stem in STEMS:
        (folder / f"{stem}.svg").write_text("of an earlier report")
    for kind in ("png", "svg"):
        (folder / f"time.{kind}").write_text("of an earlier version")
    (folder / "own.svg").write_text("a user's")
    pictures = write_figures(Analysis(study), folder)
    assert [picture.stem for picture in pictures] == [stem for stem in STEMS if stem in stems]
    left = {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert set(files(folder)) == left | {"own.svg"}
    assert all("earlier" not in (folder / f"{stem}.svg").read_text() for stem in stems)


def test_without_curves_and_bounds_the_results_remain(tmp_path: Path):
    study = in_memory(tmp_path, {"a": {0: 9.0, 1: 9.5}, "b": {0: 4.0, 1: 4.6}}, chance={}, ceiling={})
    found = [stem for stem in STEMS if draw(stem, study) is not None]
    assert found == ["ranks", "final", "pairs_matrix", "critical_difference", "pairs", "pareto"]


def test_too_many_entries_have_no_diagram_of_groups_and_then_no_matrix(tmp_path: Path):
    def of(k: int) -> Study:
        return in_memory(tmp_path, {f"o{i}": {s: float(i + s + (i * s) % 3) for s in range(2)} for i in range(k)})

    assert drawn("critical_difference", of(20)) and draw("critical_difference", of(21)) is None
    assert drawn("pairs_matrix", of(60)) and draw("pairs_matrix", of(61)) is None
    assert drawn("ranks", of(61))


CLEAR: Runs = {
    # Seeds' differences of a and b are 20 ± 1, of b and c 0 ± 1: a is told apart, b and c are not.
    "a": {0: 30.0, 1: 31.0, 2: 32.0, 3: 33.0},
    "b": {0: 11.0, 1: 10.0, 2: 13.0, 3: 12.0},
    "c": {0: 10.0, 1: 11.0, 2: 12.0, 3: 13.0},
}


def test_alternatives_say_the_verdict_with_numbers(tmp_path: Path):
    study = in_memory(tmp_path, CLEAR)
    ranks = drawn("ranks", study).alternative
    assert "a 1 (mean 1.0, a); b 2–3 (mean 2.5, b); c 2–3 (mean 2.5, b)." in ranks and "Best set: a." in ranks
    matrix = drawn("pairs_matrix", study).alternative
    # Both means of b and c are 11.5, that of a is 31.5.
    assert "2 of 3 pairs" in matrix and "a minus b +20.00 points; a minus c +20.00 points" in matrix
    groups = drawn("critical_difference", study).alternative
    assert "a 1.00; b 2.50; c 2.50" in groups and "Not told apart (paired tests, Holm's correction): b, c." in groups
    # sd of 30, 31, 32, 33 is 1.291, and t with 3 degrees of freedom 3.1824: 31.5 ± 3.1824 · 1.291 / 2.
    final = drawn("final", study).alternative
    assert "a 31.50 (29.45 to 33.55)" in final and "chance 0.2, ceiling 90.0" in final


def test_alternatives_say_times_and_curves_with_numbers(write_study: Write):
    # a crosses 56.325, 5/8 of the way from 0.2 to 90, in the third epoch: 30 steps an epoch would be 9.
    study = write_study({"a": {0: 60.0, 1: 60.0}, "b": {0: 30.0, 1: 30.0}})
    target = drawn("targets", study)
    assert target.title == "Time to average R@1 ≥ 56.3 %"
    # 40 in epoch 2 (step 6), 60 in epoch 3 (step 9): 6 + 3 · 16.325/20 = 8.4.
    assert "a 8 (2 of 2 reached); b missed (0 of 2 reached)" in target.alternative
    profile = drawn("profile", study)
    assert "≥ 56.3 %" in profile.title and "over 2 seeds" in profile.alternative
    assert "a 100 % and 100 %; b 0 % and 0 %" in profile.alternative
    assert "a 1.0 to 1.0; b 2.0 to 2.0" in drawn("rank_course", study).alternative
    assert "a 2.00; b 2.00" in drawn("loss", study).alternative
    retrieval = drawn("retrieval", study).alternative
    assert "95 % t-interval" in retrieval and "a 60.00; b 30.00" in retrieval
    assert "a I→T 60.0, T→I 60.0" in drawn("pairs", study).alternative
    # Both take 6 s and 2,000 bytes.
    assert "a 6.0 s, 60.00, 2.0 kB" in drawn("pareto", study).alternative
    assert "on means: a." in drawn("pareto", study).alternative


def test_bands_of_few_seeds_stay_within_the_axes(write_study: Write):
    # With two seeds t is 12.7: the interval of 10 and 50 leaves any axes.
    figure = drawn("retrieval", write_study({"a": {0: 10.0, 1: 50.0}})).figure
    for axes in figure.axes:
        low, high = axes.get_ylim()
        y = np.asarray(axes.collections[0].get_paths()[0].vertices, float)[:, 1]
        assert low == 0 and low <= y.min() <= y.max() <= high < 100


def test_a_run_that_explodes_does_not_set_the_axis(write_study: Write):
    study = write_study({"a": {0: 10.0, 1: 50.0}, "b": {0: None}})
    points = [p.model_copy(update={"loss": 10.0 ** (100 * p.epoch)}) for p in make_curve(None)]
    study.__dict__["_curves"] = ({**study.curves, "b-s0": points}, ())
    assert drawn("loss", study).figure.axes[0].get_ylim()[1] < 12
    alone = replace(study, records=tuple(r for r in study.records if r.optimizer == "b"))
    alone.__dict__["_curves"] = ({"b-s0": points}, ())
    with style():
        drawn("loss", alone).figure.draw_without_rendering()


def test_steps_of_the_profile_are_its_heights(write_study: Write):
    # Steps to the target are 8.45 and 9 on seed 0, equal on seed 1: b is at 1/2 until their ratio, then at 1.
    study = write_study({"a": {0: 60.0, 1: 57.0}, "b": {0: 56.4, 1: 57.0}})
    axes = drawn("profile", study).figure.axes[0]
    heights = {str(line.get_color()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    look = Look("ab")
    assert heights[look.colour("a")] == [1, 1] and heights[look.colour("b")] == [0.5, 1, 1]
    assert all(line.get_drawstyle() == "steps-post" for line in axes.lines)


def test_where_lower_is_better_up_and_blue_is_lower(tmp_path: Path):
    ranks = {"a": 5.0, "b": 50.0}
    records = [make_record(name, s, 1.0, metrics={"i2t_median_rank": rank + s % 2}, chance={"i2t_median_rank": 250.5})
               for name, rank in ranks.items() for s in range(4)]  # fmt: skip
    study = Study(tmp_path, PROTOCOL.model_copy(update={"primary_metric": "i2t_median_rank"}), tuple(records))
    matrix = drawn("pairs_matrix", study).figure.axes[0]
    colours = {tuple(np.asarray(patch.get_path().vertices, float)[:4].mean(axis=0)): to_hex(patch.get_facecolor())
               for patch in matrix.patches}  # fmt: skip
    # Row 0 is a, the better one: its difference is negative, and blue at column 1.
    assert colours[(1.0, 0.0)] in DIVERGING[4:] and colours[(0.0, 1.0)] in DIVERGING[:3]
    assert drawn("pairs_matrix", study).figure.axes[0].texts[0].get_text() == "−45.0"
    bottom, top = drawn("pareto", study).figure.axes[0].get_ylim()
    assert bottom > top
    # 5 to 250 is wide: a logarithmic axis.
    assert drawn("final", study).figure.axes[0].get_xscale() == "log"


def test_equivalence_is_marked_and_only_where_the_test_says_so(tmp_path: Path):
    alike = {"a": {s: 50.0 + s for s in range(6)}, "b": {s: 50.1 + s + 0.01 * (-1) ** s for s in range(6)}}
    texts = [text.get_text() for text in drawn("pairs_matrix", in_memory(tmp_path, alike)).figure.axes[0].texts]
    assert len(texts) == 2 and all(text.endswith("≈") for text in texts)
    apart = drawn("pairs_matrix", in_memory(tmp_path, CLEAR)).figure
    assert not any("≈" in text.get_text() for text in apart.axes[0].texts)


def test_names_of_twenty_groups_do_not_overlap(tmp_path: Path):
    runs = {f"an optimizer with a long name {i}": {s: 40 + 0.1 * i + (i * s) % 5 for s in range(5)} for i in range(20)}
    figure = drawn("critical_difference", in_memory(tmp_path, runs)).figure
    names = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    found = boxes(figure, names)
    assert len(found) == 20 and all(box.count_overlaps(found) == 1 for box in found)
    window = figure.get_window_extent()
    assert all(window.x0 <= box.x0 and box.x1 <= window.x1 for box in found)


@pytest.mark.parametrize("where", ["one place", "a line"])
def test_labels_of_twenty_points_do_not_overlap(where: str):
    with style():
        figure = Figure(figsize=(9, 5))
        axes = figure.subplots()
        axes.set_xlim(-10, 30)
        axes.set_ylim(-1, 1)
        label_points(axes, [Point(i if where == "a line" else 0, 0, f"optimizer_{i:02}") for i in range(20)])
    found = boxes(figure, axes.texts)
    assert len(found) == 20 and all(box.count_overlaps(found) == 1 for box in found)


def test_text_of_figures_is_no_formula_and_has_glyphs_in_both_weights():
    assert safe("a$b$") == r"a\$b\$"
    # The font's bold weight lacks some signs of its normal one; a title is bold.
    assert safe("漢\n\u202e") == "□□□" and safe("é→≥") == "é→≥"


def test_the_matrix_of_few_entries_has_room_for_its_title_beside_the_legend(tmp_path: Path):
    figure = drawn("pairs_matrix", in_memory(tmp_path, {"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 4.0}})).figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    (title,), (key,) = figure.texts, figure.legends
    assert not title.get_window_extent(renderer).overlaps(key.get_window_extent(renderer))
