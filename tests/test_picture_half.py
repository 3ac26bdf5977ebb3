"""The picture half of Illustrate: there only where something can draw."""

from pathlib import Path

import gradio as gr
import pytest

from core.settings import Limits
from tests.small_rooms import SmallSight
from ui.illustrate_tab import IllustrateActions, build_illustrate_tab
from ui.picture_half import _Handlers


@pytest.fixture
def sight(tmp_path: Path) -> SmallSight:
    return SmallSight(tmp_path, limits=Limits())


def button_ids(sight: SmallSight, *, draws: bool) -> set[str | None]:
    actions = IllustrateActions(
        explain=lambda _: iter(()),
        plan=sight.plan_storyboard,
        recaption=sight.replan_storyboard,
        draw=sight.draw_storyboard,
        max_text_chars=100,
        draw_picture=sight.draw_picture if draws else None,
    )
    with gr.Blocks() as page:
        build_illustrate_tab(actions)
    return {getattr(block, "elem_id", None) for block in page.blocks.values()}


def test_the_half_is_absent_where_nothing_can_draw(sight: SmallSight) -> None:
    assert "draw-picture-button" not in button_ids(sight, draws=False)
    assert "draw-picture-button" in button_ids(sight, draws=True)


def test_a_drawing_shows_its_picture_and_the_seed_that_draws_it_again(sight: SmallSight) -> None:
    *_, (markup, seed, _, _) = _Handlers(sight.draw_picture).on_draw("<b>apple</b>", 7.0)
    assert seed == 7 and "data:image/png;base64," in markup
    assert "<b>" not in markup and "&lt;b&gt;apple" in markup


def test_an_empty_text_is_told_and_nothing_is_drawn(sight: SmallSight) -> None:
    *_, (markup, *_) = _Handlers(sight.draw_picture).on_draw("  ", None)
    assert 'role="alert"' in markup and "Describe the picture" in markup
