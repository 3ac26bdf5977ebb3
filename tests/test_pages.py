"""Small parts of the pages, each on its own: who is the owner, what is said and drawn."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.errors import PictureError, VoteError
from core.settings import Limits
from core.types import (
    Interval,
    Label,
    Recognition,
    RunReport,
    SearchHit,
    SideBalance,
    VersionResult,
)
from tests.small_rooms import SmallSight
from ui.ask_tab import PageTurn, conversation_value, suggested_questions
from ui.charts import Table, table_markup
from ui.frame import LoopState, strip_markup
from ui.insights_tab import adapters_figure, nights_figure, sides_figure, versions_figure
from ui.markup import label_group
from ui.page import _pairs_missing, add_upload
from ui.pair_card import read_ballot, read_reasons
from ui.search_tab import found
from ui.server import is_local, owner_check


def request(client: str, headers: Mapping[str, str]) -> SimpleNamespace:
    return SimpleNamespace(client=SimpleNamespace(host=client), headers=headers)


@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:7860"}, True),
        ("::1", {"host": "[::1]:7860"}, True),
        ("127.0.0.1", {"host": "localhost:7860", "origin": "http://localhost:7860"}, True),
        ("127.0.0.1", {"host": "127.0.0.1:7860", "origin": "https://evil.example"}, False),
        ("127.0.0.1", {"host": "evil.example"}, False),
        ("127.0.0.1", {"host": "localhost.evil.example:80"}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "8.8.8.8"}, False),
        ("192.168.1.7", {"host": "127.0.0.1:7860"}, False),
        ("127.0.0.1", {}, False),
    ],
)
def test_only_this_very_machine_is_local(
    client: str, headers: Mapping[str, str], expected: bool
) -> None:
    assert is_local(request(client, headers)) is expected


def test_through_a_tunnel_only_the_key_makes_an_owner() -> None:
    here = request("127.0.0.1", {"host": "127.0.0.1"})
    is_owner = owner_check(owner_key="secret", is_shared=True)
    assert not is_owner(here, "") and not is_owner(here, "guess") and is_owner(here, "secret")


def test_without_a_key_no_key_is_right() -> None:
    far = request("8.8.8.8", {"host": "example.org"})
    assert not owner_check(owner_key="", is_shared=False)(far, "")


def test_labels_of_a_stranger_stay_text() -> None:
    evil = '<img src=x onerror="alert(1)">${alert(2)}'
    shown = label_group("Tags", [Label(text=evil, confidence=0.5, kind="tag", source="zero_shot")])
    assert "<img" not in shown and "&lt;img" in shown


def test_cells_of_a_table_stay_text() -> None:
    assert "<b>" not in table_markup(Table(head=("<b>",), rows=[("<b>",)]))


def loop_state(**changes: object) -> LoopState:
    plain = {
        "votes_today": 37,
        "pairs_missing": 163,
        "night_at": "03:00",
        "night": None,
        "live": None,
        "results": (),
    }
    return LoopState(**(plain | changes))  # type: ignore[arg-type]


def version_result(wins: int, losses: int) -> VersionResult:
    rate = wins / (wins + losses)
    return VersionResult(
        version="v0002",
        opponent="v0001",
        wins=wins,
        losses=losses,
        ties=0,
        win_rate=Interval(estimate=rate, low=rate - 0.1, high=rate + 0.1, n=wins + losses),
    )


def test_the_strip_says_how_far_the_loop_is() -> None:
    state = loop_state(live="v0002", results=(version_result(60, 24),))
    shown = strip_markup(state)
    assert "<strong>37 votes</strong> today" in shown
    assert "<strong>163 more choices</strong> until tonight’s training" in shown
    # 60 of 84 are 71.4 %
    assert "(won 71 % of 84 battles against v0001)" in shown


def test_the_strip_does_not_boast_before_anything_was_compared() -> None:
    assert "not yet taught by votes" in strip_markup(loop_state())
    assert "not yet compared" in strip_markup(loop_state(live="v0001"))


@pytest.mark.parametrize(
    ("wins", "losses", "says"),
    [(70, 30, "prefer v0002 to v0001"), (30, 70, "prefer v0001 to v0002"), (50, 50, "not settled")],
)
def test_the_win_rate_plot_claims_what_its_interval_allows(
    wins: int, losses: int, says: str
) -> None:
    assert says in versions_figure([version_result(wins, losses)])


def test_side_balance_is_called_uneven_only_beyond_chance() -> None:
    share = Interval(estimate=0.6, low=0.5, high=0.7, n=100)
    uneven = SideBalance(left=60, right=40, share_left=share, p_value=0.03)
    even = SideBalance(left=60, right=40, share_left=share, p_value=0.06)
    assert "side A more often than chance" in sides_figure(uneven)
    assert "Neither side is favoured" in sides_figure(even)


def test_a_night_is_reported_in_plain_words_with_its_curve() -> None:
    report = RunReport(
        run_id="r",
        started_at="2026-11-20T03:00:00+00:00",
        ended_at="2026-11-20T03:20:00+00:00",
        decision="refused",
        summary="night refused: held-out voters do not prefer it",
        reasons=("held-out votes: 4 of 10 agreed",),
        curve=({"step": 1.0, "margin": 0.0}, {"step": 2.0, "margin": 0.4}),
    )
    shown = nights_figure([report])
    assert "The last night was not published" in shown
    assert "held-out votes: 4 of 10 agreed" in shown and "<polyline" in shown


def test_results_are_split_where_they_stop_fitting(tmp_path: Path) -> None:
    sight = SmallSight(tmp_path, limits=Limits())
    scores = (0.8, 0.6, 0.4, 0.1)  # 0.63 of the best is 0.504
    pictures = list(sight.gallery.values())
    hits = [
        SearchHit(picture=picture, score=score, matched="caption")
        for picture, score in zip(pictures, scores, strict=False)
    ]
    value = found(hits, query="red")
    assert (len(value["fits"]), len(value["more"])) == (2, 2)
    assert value["fits"][1]["score"] == 0.75


def test_nothing_fits_where_even_the_best_is_far(tmp_path: Path) -> None:
    sight = SmallSight(tmp_path, limits=Limits())
    hit = SearchHit(picture=next(iter(sight.gallery.values())), score=0.2, matched="picture")
    value = found([hit], query="algebra")
    assert value["fits"] == [] and "Nothing fits" in value["sentence"] and value["examples"]


def test_questions_are_suggested_only_about_what_is_probably_there() -> None:
    def seen(confidence: float) -> Recognition:
        cup = Label(text="cup", confidence=confidence, kind="object", source="imagenet")
        return Recognition(picture_id="p", objects=(cup,), scenes=(), tags=())

    assert "What colour is the cup?" in suggested_questions(seen(0.9))
    assert "What could happen next?" in suggested_questions(seen(0.1))


def test_a_turn_whose_answers_are_being_compared_is_hidden() -> None:
    (turn,) = conversation_value([PageTurn(question="Q", is_hidden=True)])["turns"]
    assert turn["hidden"] is True


def test_an_upload_is_deleted_once_its_clean_copy_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    sight = SmallSight(tmp_path, limits=Limits())
    upload = tmp_path / "uploads" / "holiday.webp"
    upload.parent.mkdir()
    upload.write_bytes(next(iter(sight.gallery.values())).path.read_bytes())
    assert add_upload(sight.add_picture, str(upload)).path.exists()
    assert not upload.exists()


def test_an_upload_that_is_refused_is_deleted_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    upload = tmp_path / "uploads" / "page.png"
    upload.parent.mkdir()
    upload.write_text("<html>")
    with pytest.raises(PictureError):
        add_upload(SmallSight(tmp_path, limits=Limits()).add_picture, str(upload))
    assert not upload.exists()


def test_reasons_that_the_page_does_not_offer_are_left_out() -> None:
    given = {"reasons": ["clearer", "<script>", 7], "comment": " fine "}
    assert read_reasons(given) == (("clearer",), "fine")


@pytest.mark.parametrize("payload", [None, [], "vote", {"id": 1}, {"id": "a", "ticket": None}])
def test_a_ballot_with_missing_parts_is_refused(payload: object) -> None:
    with pytest.raises(VoteError):
        read_ballot(payload)


def test_choices_that_a_night_has_learned_from_are_not_counted_again() -> None:
    asked: list[int | None] = []
    report = SimpleNamespace(decision="refused", manifest={"watermark": 41})
    skipped = SimpleNamespace(decision="skipped", manifest={})
    rooms = SimpleNamespace(
        nights=SimpleNamespace(reports=lambda: [skipped, report]),
        numbers=SimpleNamespace(pairs_missing=lambda min_pairs, since: asked.append(since)),
    )
    facts = SimpleNamespace(nightly=SimpleNamespace(min_pairs=50))
    _pairs_missing(rooms, facts)  # type: ignore[arg-type]
    assert asked == [41]


def test_a_version_is_shown_with_what_was_measured_of_it_and_no_more(tmp_path: Path) -> None:
    cards = SmallSight(tmp_path, limits=Limits()).adapters()
    shown = adapters_figure(cards, live="v0002", problems={"v0001": "its checksum is wrong"})
    assert "v0002 · live" in shown and "72 % of 40" in shown
    assert "v0001 is not served: its checksum is wrong" in shown
