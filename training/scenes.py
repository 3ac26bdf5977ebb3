"""The world with known truth: pictogram scenes, questions about them, and the checkers."""

from training.scene_drawing import (
    PAINTS,
    Background,
    Scene,
    SceneThing,
    draw_scene,
    plan_scene,
)
from training.scene_questions import SceneQuestion, ask_about, is_right

__all__ = [
    "PAINTS",
    "Background",
    "Scene",
    "SceneQuestion",
    "SceneThing",
    "ask_about",
    "draw_scene",
    "is_right",
    "plan_scene",
]
