"""The one theme: light and dark, one accent, system fonts, 16 px, text at 4.5:1 or better."""

import gradio as gr
from gradio.themes.utils import colors, sizes

PAPER, PAPER_DARK = "#f8f8f6", "#131316"
SURFACE, SURFACE_DARK = "#ffffff", "#1c1c21"
INK, INK_DARK = "#1b1b1f", "#ececf0"
QUIET, QUIET_DARK = "#5a5a63", "#a9a9b4"  # 6.6:1 on paper, 7.6:1 on dark paper
LINE, LINE_DARK = "#e4e3df", "#303038"
ACCENT, ACCENT_DARK = "#3f3fb8", "#aab4ff"  # 8.0:1 and 9.2:1 on their surfaces
ACCENT_SOFT, ACCENT_SOFT_DARK = "#ededfb", "#26284a"
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")


def build_theme() -> gr.themes.Base:
    """Quiet neutrals with an indigo accent: the pictures are the colour."""
    theme = gr.themes.Base(
        primary_hue=colors.indigo,
        secondary_hue=colors.indigo,
        neutral_hue=colors.zinc,
        text_size=sizes.text_lg,
        radius_size=sizes.radius_lg,
        font=SANS,
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
    return theme.set(
        body_background_fill=PAPER,
        body_background_fill_dark=PAPER_DARK,
        body_text_color=INK,
        body_text_color_dark=INK_DARK,
        body_text_color_subdued=QUIET,
        body_text_color_subdued_dark=QUIET_DARK,
        background_fill_primary=SURFACE,
        background_fill_primary_dark=SURFACE_DARK,
        background_fill_secondary=PAPER,
        background_fill_secondary_dark=PAPER_DARK,
        border_color_primary=LINE,
        border_color_primary_dark=LINE_DARK,
        border_color_accent=ACCENT,
        border_color_accent_dark=ACCENT_DARK,
        color_accent=ACCENT,
        color_accent_soft=ACCENT_SOFT,
        color_accent_soft_dark=ACCENT_SOFT_DARK,
        link_text_color=ACCENT,
        link_text_color_dark=ACCENT_DARK,
        link_text_color_hover=ACCENT,
        link_text_color_hover_dark=ACCENT_DARK,
        link_text_color_visited=ACCENT,
        link_text_color_visited_dark=ACCENT_DARK,
        block_background_fill=SURFACE,
        block_background_fill_dark=SURFACE_DARK,
        block_border_color=LINE,
        block_border_color_dark=LINE_DARK,
        block_shadow="none",
        block_radius="14px",
        input_radius="12px",
        container_radius="14px",
        block_label_background_fill=SURFACE,
        block_label_background_fill_dark=SURFACE_DARK,
        block_label_text_color=QUIET,
        block_label_text_color_dark=QUIET_DARK,
        block_title_text_color=QUIET,
        block_title_text_color_dark=QUIET_DARK,
        block_title_text_weight="500",
        block_info_text_color=QUIET,
        block_info_text_color_dark=QUIET_DARK,
        input_background_fill=SURFACE,
        input_background_fill_dark=SURFACE_DARK,
        input_border_color="#c9c8c3",
        input_border_color_dark="#45454f",
        input_border_color_focus=ACCENT,
        input_border_color_focus_dark=ACCENT_DARK,
        input_placeholder_color="#6b6b74",
        input_placeholder_color_dark="#9797a3",
        input_shadow="none",
        input_shadow_focus="none",
        button_primary_background_fill=ACCENT,
        button_primary_background_fill_dark=ACCENT_DARK,
        button_primary_background_fill_hover="#33339c",
        button_primary_background_fill_hover_dark="#c3caff",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#15162e",
        button_secondary_background_fill=SURFACE,
        button_secondary_background_fill_dark=SURFACE_DARK,
        button_secondary_background_fill_hover=ACCENT_SOFT,
        button_secondary_background_fill_hover_dark=ACCENT_SOFT_DARK,
        button_secondary_border_color="#c9c8c3",
        button_secondary_border_color_dark="#45454f",
        button_secondary_text_color=INK,
        button_secondary_text_color_dark=INK_DARK,
        button_border_width="1px",
        button_medium_text_weight="550",
        button_large_text_weight="550",
        button_medium_radius="10px",
        button_large_radius="10px",
        button_small_radius="8px",
    )
