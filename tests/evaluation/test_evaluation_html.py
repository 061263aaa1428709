"""Pages: whole, offline, well-formed, and no text gets in unescaped."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.errors import StorageError
from robopolicy.evaluation import html, svg
from robopolicy.evaluation.html import Section
from robopolicy.evaluation.page import MAX_VIDEOS, report_sections
from robopolicy.evaluation.report import build_report, write_report
from robopolicy.evaluation.sweep import latency_sweep

WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8X" + bytes(24)
VOID = {"meta", "img", "br", "link", "input"}


class Outline(HTMLParser):
    """Collects tags and attributes, and complains about tags that do not close in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outside(page):
    """Everything in a page that would be fetched from somewhere else."""
    outline = Outline(page)
    found = [value for name, value in outline.attributes if name in ("src", "href", "srcset", "data", "action")]
    found = [value for value in found if not value.startswith(("data:", "#"))]
    return found + re.findall(r"url\([^)]*\)|@import", page) + [t for t in outline.tags if t in ("script", "link")]


@pytest.fixture
def page(tmp_path, header, outcomes):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.webp").write_bytes(WEBP)
    results = [*outcomes("110111"), *outcomes("10", start=6, video="videos/a.webp")]
    sweep = latency_sweep({0: outcomes("1111"), 100: outcomes("1100"), 200: outcomes("1000")})
    write_report(tmp_path, results, header, sweep=sweep)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_page_is_whole_and_offline(page):
    outline = Outline(page)
    assert outside(page) == []
    assert outside(page.replace("<main>", '<main><img src="https://x.invalid/a.png">')) != []  # control
    text = " ".join(outline.text)
    for part in ("Success against latency", "75.0 %", "6 of 8", "panda", "numpy", "robopolicy eval runs/pick"):
        assert part in text
    assert outline.tags.count("svg") == 4
    assert ("name", "viewport") in outline.attributes
    assert "prefers-color-scheme:dark" in page


def test_videos_are_inside_with_their_verdict(page):
    assert page.count("data:image/webp;base64," + base64.b64encode(WEBP).decode()) == 2
    captions = re.findall(r"<figcaption><b class=\"(\w+)\">([^<]+)</b>", page)
    assert captions == [("bad", "✗ failure"), ("good", "✓ success")]


def test_svg_is_well_formed(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawings) == 4
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).tag == "svg"


def test_broken_videos_do_not_cost_the_report(tmp_path, header, episode):
    (tmp_path / "bad.webp").write_bytes(b"<script>alert(1)</script>")
    (tmp_path.parent / "secret.webp").write_bytes(WEBP)
    videos = ["gone.webp", "bad.webp", "../secret.webp", str(tmp_path.parent / "secret.webp")]
    results = [episode(i, True, video=video) for i, video in enumerate(videos)]
    page = html.render("t", report_sections(build_report(results, header), tmp_path))
    assert page.count("no video: file missing") == 3
    assert page.count("no video: not a WebP") == 1
    assert "base64," not in page


def test_number_of_videos_is_limited_and_failures_are_among_them(tmp_path, header, episode):
    (tmp_path / "v.webp").write_bytes(WEBP)
    results = [episode(i, i < 20, video="v.webp") for i in range(40)]
    page = html.render("t", report_sections(build_report(results, header), tmp_path))
    assert page.count("base64,") == MAX_VIDEOS
    assert page.count('<b class="bad">') == MAX_VIDEOS // 2
    assert "28 more videos" in page
    few = [episode(i, i < 2, video="v.webp") for i in range(40)]
    page = html.render("t", report_sections(build_report(few, header), tmp_path))
    assert page.count('<b class="bad">') == MAX_VIDEOS - 2


NASTY = "<script>alert('x')</script><img src=x onerror=y>\"'&\x00\ud800"


def test_text_cannot_become_markup():
    page = html.render(
        NASTY,
        [
            Section(
                NASTY,
                [
                    NASTY,
                    html.tiles([(NASTY, NASTY, NASTY, NASTY)]),
                    html.table([NASTY], [[NASTY]], tones=[NASTY]),
                    html.facts({NASTY: NASTY}),
                    html.code(NASTY),
                    html.details(NASTY, NASTY),
                    html.columns(NASTY),
                    html.video(NASTY, NASTY, success=True),
                    html.figure(svg.proportion_bars([(NASTY, 1, 2, (0.1, 0.9))]), NASTY),
                    html.figure(svg.histogram({NASTY: [1.0], "b": [2.0]}, xlabel=NASTY), NASTY),
                    html.figure(svg.difference_bar(0.1, 0.0, 0.2, label_a=NASTY, label_b=NASTY), NASTY),
                    html.figure(
                        svg.curve([{"x": 0, "y": 0.5, "interval": (0.2, 0.8)}], xlabel=NASTY, ylabel=NASTY), ""
                    ),
                ],
            )
        ],
        subtitle=NASTY,
    )
    page.encode("utf-8", "replace")
    outline = Outline(page)
    assert "script" not in outline.tags
    assert "img" not in outline.tags
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    raw = html.render("t", [Section("s", [html.Markup(NASTY)])])
    assert "<script>" in raw  # control: marked text is taken as it is, so the test can see a leak


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back_from_the_page(text):
    outline = Outline(html.render("t", [Section("s", [html.paragraph("|" + text + "|")])]))
    shown = "".join(outline.text)
    expected = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
    assert "|" + expected + "|" in shown


def test_markdown_like_table_of_mixed_cells():
    text = html.table(["a", "b"], [[1, None], [0.123456, True], ["x", False]], tones=["", "bad"])
    assert '<th scope="col" class=num>a</th>' in text
    assert "0.1235" in text
    assert "✓ success" in text
    assert "✗ failure" in text
    assert '<tr class="bad">' in text


def test_write_html(tmp_path):
    path = html.write_html(tmp_path / "x" / "page.html", "Démo", [Section("One", ["a"]), Section("Two", ["b"])])
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert '<a href="#s1">Two</a>' in page
    assert outside(page) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        html.write_html(tmp_path / "file" / "page.html", "t", [])


def bar_heights(drawing, kind):
    root = ElementTree.fromstring(drawing)
    return [
        float(rect.get("height"))
        for rect in root.iter("rect")
        if rect.get("class") == kind and rect.find("title") is not None
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), max_size=50), st.lists(st.integers(-100, 10**6), max_size=50))
def test_histogram_loses_no_value(reals, whole):
    for values in (reals, whole):
        drawing = svg.histogram({"v": values}, xlabel="x")
        titles = [node.text for node in ElementTree.fromstring(drawing).iter("title")]
        assert sum(int(title.split(": ")[1].split(" in ")[0]) for title in titles) == len(values)
        assert all(height > 0 for height in bar_heights(drawing, "s1"))


def test_histogram_stacks_and_bins_whole_numbers_whole():
    drawing = svg.histogram({"ok": [1, 1, 2], "no": [2, 2, 2]}, xlabel="steps")
    first, second = bar_heights(drawing, "s1"), bar_heights(drawing, "s2")
    assert len(first) == 2
    assert len(second) == 1
    assert first[0] == pytest.approx(2 * first[1], abs=0.2)
    assert second[0] == pytest.approx(3 * first[1], abs=0.3)
    bars = [rect for rect in ElementTree.fromstring(drawing).iter("rect") if rect.find("title") is not None]
    under, over = (next(b for b in reversed(bars) if b.get("class") == kind) for kind in ("s1", "s2"))
    assert float(over.get("y")) + float(over.get("height")) == pytest.approx(float(under.get("y")), abs=0.2)
    assert "nothing measured" in svg.histogram({"v": []}, xlabel="x")


def test_proportion_bar_is_as_long_as_its_rate():
    root = ElementTree.fromstring(svg.proportion_bars([("a", 3, 4, (0.3, 0.95)), ("b", 0, 4, (0, 0.6))], target=0.9))
    widths = {rect.get("class"): [] for rect in root.iter("rect")}
    for rect in root.iter("rect"):
        widths[rect.get("class")].append(float(rect.get("width")))
    assert widths["s1"] == pytest.approx([0.75 * widths["track"][0], 0.0], abs=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1)), min_size=1, max_size=12))
def test_curve_stays_inside_its_frame(points):
    drawing = svg.curve([{"x": x, "y": y, "interval": (0.0, 1.0)} for x, y in points], xlabel="x", ylabel="y")
    for circle in ElementTree.fromstring(drawing).iter("circle"):
        assert 0 <= float(circle.get("cx")) <= svg.WIDTH
        assert 0 <= float(circle.get("cy")) <= 240
