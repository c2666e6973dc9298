"""The look of figures: colours that stay apart, text that can be read, pictures that are equal every time."""

from __future__ import annotations

import itertools
import warnings

import matplotlib
import numpy as np
import pytest

from kvlab.lesson import style, tables

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart(vision: str) -> None:
    seen = {c: lab(np.array(VISION[vision]) @ linear(c)) for c in (*style.COLOURS, style.INK)}
    near = min(np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2))
    assert near > 20, "two colours of the palette look alike"


def test_contrast_on_the_card() -> None:
    assert tables.contrast("#000000", "#FFFFFF") == pytest.approx(21)
    for colour in style.COLOURS:
        assert tables.contrast(colour, style.BACKGROUND) >= 3, "lines need 3:1"
        assert tables.contrast(style.dark_text(colour), style.BACKGROUND) >= 4.5, "text needs 4.5:1"
    for colour in (style.INK, style.QUIET):
        assert tables.contrast(colour, style.BACKGROUND) >= 4.5


@style.styled
def small(values: list[float]) -> style.Drawing:
    figure, (ax,) = style.drawing(3, 2, alt="a line")
    ax.plot(values)
    ax.set_ylabel("bits")
    return figure


def test_equal_data_give_equal_bytes_without_a_date() -> None:
    first, second = small([1, 2, 4]), small([1, 2, 4])
    assert first.png() == second.png() == first.png()
    assert first.png() != small([1, 2, 5]).png()
    assert b"matplotlib" not in first.png().lower() and b"date" not in first.png().lower()


def test_a_drawing_shows_one_png_and_its_words() -> None:
    data, metadata = small([1, 2])._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}
    assert data["text/plain"] == "[figure] a line"
    assert metadata["image/png"] == {"width": 288, "alt": "a line"}


def test_a_frame_follows_the_data_and_keeps_the_places() -> None:
    figure = small([1.0, 2.0, 4.0])
    first = figure.frame()
    place = figure.axes[0].get_position().bounds
    figure.axes[0].lines[0].set_ydata([4.0, 1.0, 2.0])
    assert figure.frame() != first
    assert figure.axes[0].get_position().bounds == place
    figure.axes[0].lines[0].set_ydata([1.0, 2.0, 4.0])
    assert figure.frame() == first


def test_nobody_elses_settings_are_touched() -> None:
    before = dict(matplotlib.rcParams)
    small([1, 2]).png()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (" cat", "␣cat"),
        (" ", "␣"),
        ("a b", "a b"),
        ("\n", "↵"),
        ("猫", "\\u732b"),
        ("🙂", "\\U0001f642"),
        ("$x$", r"\$x\$"),
        ("é", "é"),
    ],
)
def test_labels_only_have_letters_of_the_font(token: str, label: str) -> None:
    assert style.token_text(token) == label


def test_strange_tokens_draw_without_a_warning() -> None:
    tokens = ["猫", "🙂", "$", "$a$b", "\\frac", "\n\n", "", "\u200d", "�"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, (ax,) = style.drawing(3, 2, alt="")
        ax.set_xticks(range(len(tokens)), [style.token_text(t) for t in tokens])
        figure.png()


def test_labels_are_moved_apart_about_their_middle() -> None:
    spread = style._spread([0.1, 0.5, 0.51, 0.52, 0.9], 0.1)
    assert spread == pytest.approx([0.1, 0.41, 0.51, 0.61, 0.9])
    assert style._spread([0.0, 0.0, 0.05], 0.1) == pytest.approx([-1 / 12, 1 / 60, 7 / 60])


def test_direct_labels_name_each_line() -> None:
    figure = small([1, 2, 4])
    style.direct_labels(figure.axes[0], [(4.0, "naive", style.BLUE), (4.0, "cached", style.GREEN)])
    heights = {t.get_text(): t.get_position()[1] for t in figure.axes[0].texts}
    assert set(heights) == {"naive", "cached"}
    assert abs(heights["naive"] - heights["cached"]) > 0.05


def test_heat_table_is_readable_and_safe() -> None:
    html = tables.heat_table(
        [[0.0, 1.0], [float("nan"), 0.25]], ["<b>", " cat"], ["猫", "\n"], caption="`x` < 1"
    )
    assert "&lt;b&gt;" in html and "␣cat" in html and "猫" in html and "↵" in html
    assert ">x</code> &lt; 1" in html
    assert ">1.00<" in html and ">.25<" in html and ">.00<" in html
    assert html.count("<td") == 4 and html.count('scope="row"') == 2
    for background, ink in tables._shades(style.ATTENTION):
        assert tables.contrast(background, ink) >= 4.5


def test_heat_table_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        tables.heat_table([[1, 2]], ["a"], ["b"], caption="")


def test_ticks_are_plain_numbers_or_powers() -> None:
    places = [0, 0.001, 0.5, 2, 1024, 100_000, 1_000_000]
    assert [style.tick(v) for v in places] == ["0", "0.001", "0.5", "2", "1,024", "100,000", "1,000,000"]
    assert [style.tick(v) for v in (1e-4, 1e-8, 1e7)] == ["$10^{-4}$", "$10^{-8}$", "$10^{7}$"]
    assert style.tick(3e-5) == "3.0e-05"  # no power of ten: nothing shorter says it


def test_a_wide_heat_table_is_made_narrow() -> None:
    for count, dense in ((16, False), (17, True)):
        names = [f"t{i}" for i in range(count)]
        html = tables.heat_table(np.zeros((1, count)), ["q"], names, caption="")
        assert ("vertical-rl" in html) == dense and html.count(">.00<") == count
