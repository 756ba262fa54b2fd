"""The loss of a training as a drawing, in a page and as a file of its own."""

from xml.etree import ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uflow_cli.charts import LossPoint, loss_chart, loss_picture


def svg_of(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


LOSSES = st.floats(-100, 100)


@given(st.lists(st.tuples(LOSSES, LOSSES), min_size=1, max_size=8), st.integers(0, 9))
def test_the_loss_chart_shows_every_epoch_and_marks_the_one_kept(pairs: list[tuple[float, float]], best: int) -> None:
    losses = [LossPoint(epoch, *pair) for epoch, pair in enumerate(pairs, start=1)]
    svg = svg_of(loss_chart(losses, best_epoch=best))
    lines = [line.attrib["points"].split() for line in svg.iter("polyline")]
    assert [len(line) for line in lines] == [len(losses)] * 2
    assert len(list(svg.iter("circle"))) == (1 <= best <= len(losses))


def test_the_first_epochs_do_not_flatten_the_loss_chart() -> None:
    losses = [LossPoint(e, 1000.0 if e == 1 else 2 - e / 100, 2.0 - e / 100) for e in range(1, 41)]
    svg = svg_of(loss_chart(losses, best_epoch=40))
    ys = [float(point.split(",")[1]) for point in next(iter(svg.iter("polyline"))).attrib["points"].split()]
    assert ys[-1] - ys[10] > 30


def test_losses_that_are_no_numbers_are_left_out() -> None:
    assert loss_chart([], best_epoch=None) == ""
    assert loss_chart([LossPoint(1, np.nan, np.inf)], best_epoch=1) == ""
    assert "nan" not in loss_chart([LossPoint(1, np.nan, 1.0), LossPoint(2, 1.0, 1.0)], best_epoch=1)


def test_without_held_out_images_the_training_loss_is_drawn_alone() -> None:
    svg = svg_of(loss_chart([LossPoint(e, 3.0 - e, np.nan) for e in (1, 2, 3)], best_epoch=3))
    assert [line.attrib["class"] for line in svg.iter("polyline")] == ["line training"]
    assert [text.text for text in svg.iter("text") if text.get("class") == "label training"] == ["training"]
    assert len(list(svg.iter("circle"))) == 1


def test_the_picture_stands_alone_and_says_what_it_shows() -> None:
    losses = [LossPoint(e, 3.0 / e, 4.0 / e) for e in range(1, 9)]
    text = loss_picture(losses, best_epoch=8, title='mvtec/"<screw>"')
    assert 'xmlns="http://www.w3.org/2000/svg"' in text  # else no browser shows it as a file
    svg = svg_of(text)
    name = "{http://www.w3.org/2000/svg}"
    assert 'mvtec/"<screw>"' in [element.text for element in svg.iter(f"{name}text")]
    used = {word for element in svg.iter() for word in (element.get("class") or "").split()}
    style = next(iter(svg.iter(f"{name}style"))).text or ""
    assert used
    assert all(f".{word}" in style for word in used)
    assert loss_picture([], best_epoch=None, title="nothing") == ""
