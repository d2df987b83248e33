"""The report: one file, valid markup, everything escaped, nothing fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import tastemaker as tm
from tastemaker.experiment.charts import interval_bar, line_chart

VOID = {"meta"}


class Strict(HTMLParser):
    """Checks that tags nest and collects the text."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(markup):
    parser = Strict()
    parser.feed(markup)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def page(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("runs") / "sasrec"
    settings = {"epochs": 3, "hidden_size": 8, "max_length": 8, "num_layers": 1}
    run = tm.fit(dataset, "sasrec", out=folder, **settings)
    return run, run.report().read_text(encoding="utf-8")


def test_it_is_one_well_formed_page_that_fetches_nothing(page):
    _, markup = page
    tags = set(parsed(markup).tags)
    assert {"html", "main", "svg", "table"} <= tags
    assert tags.isdisjoint({"script", "link", "img", "iframe"})
    assert not re.search(r"https?:|url\(|@import", markup)
    assert 'name="viewport"' in markup
    assert "prefers-color-scheme: dark" in markup


def test_it_says_what_a_reader_looks_for(page):
    run, markup = page
    text = " ".join(" ".join(parsed(markup).text).split())
    values = run.evaluation("test").values["ndcg@10"]
    assert "sasrec on ring" in text
    assert f"{values.value:.4f}" in text
    assert f"{values.low:.4f} to {values.high:.4f}" in text
    for heading in ("Curves", "Metrics", "Slices", "Example recommendations", "Made with"):
        assert heading in text
    assert "hidden_size 8" in re.sub(r"\s+", " ", text)
    assert "recommended" in text


def test_titles_are_escaped(page):
    _, markup = page
    assert "Stop &lt;" in markup
    assert "Stop <" not in markup


def test_the_recommendations_shown_are_the_models(page):
    run, markup = page
    part = run.part("test")
    user = str(run.dataset.user_ids.raw(int(part.users[0])))
    found = run.model.recommend(
        part.queries.take(slice(0, 1)), 10, exclude=part.queries.histories.items.take(slice(0, 1))
    )
    listed = re.search(rf"User {user}</h3>.*?<ol>(.*?)</ol>", markup, re.DOTALL)[1]
    titles = [text.strip() for text in parsed(listed).text[::2]]
    assert titles == run.dataset.titles(found.items[0].numpy())


def test_a_closed_form_method_has_no_curves(dataset, tmp_path):
    run = tm.fit(dataset, "ease", out=tmp_path / "run")
    path = run.report(tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    assert "Curves" not in path.read_text()


def test_a_line_goes_where_its_numbers_are():
    chart = line_chart(
        {"loss": [(1, 0.0), (2, 1.0), (3, 0.5)]}, title="loss", x_label="epoch", mark=(2, 1.0)
    )
    (points,) = re.findall(r'points="([^"]*)"', chart)
    (x1, y1), (x2, y2), (x3, y3) = (map(float, p.split(",")) for p in points.split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y3 - y2 == pytest.approx((y1 - y2) / 2, abs=0.2)
    assert f'cx="{x2}" cy="{y2}" r="5"' in chart


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-7, 1e6])
def test_a_flat_line_is_drawn(value):
    parsed(line_chart({"x": [(1, value), (2, value)]}, title="x", x_label="n", mark=None))


def test_long_lines_are_thinned_and_keep_their_end():
    chart = line_chart(
        {"x": [(float(i), float(i)) for i in range(5000)]}, title="x", x_label="n", mark=None
    )
    (points,) = re.findall(r'points="([^"]*)"', chart)
    assert len(points.split()) <= 502
    assert points.split()[-1].startswith("388")


def test_an_interval_bar_is_a_share_of_the_most():
    bar = interval_bar(0.1, 0.2, 0.4, most=0.4)
    assert 'x="25.00" y="1" width="75.00"' in bar
    assert 'x1="50.00"' in bar
