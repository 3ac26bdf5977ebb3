"""Debian's Chromium drives every tab end to end, on a desktop and on a phone."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from core.settings import Limits
from tests.pages import RunningPage, running_page
from tests.small_rooms import SmallSight

playwright_api = pytest.importorskip("playwright.sync_api")
axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")

from playwright.sync_api import Browser, Locator, Page, Route, expect  # noqa: E402

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
DESKTOP, PHONE = (1440, 900), (390, 844)
SERVER_CALLS = re.compile(r"/component_server")
WAIT_MS = 20_000  # the machine may be busy with other tests

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPage]:
    root = tmp_path_factory.mktemp("data")
    sight = SmallSight(root, limits=Limits(), pause_s=0.03)
    with running_page(root, sight=sight, owner_key="opensesame") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """An open page, and everything its console complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def reload(self) -> None:
        """Load the page anew. Gradio complains now and then of the streams that this aborts."""
        self.page.reload()
        expect(self.at(".sl-card").first).to_be_visible()
        aborted = ("AbortError", "errored out")
        self.complaints[:] = [
            complaint
            for complaint in self.complaints
            if not any(word in complaint for word in aborted)
        ]

    def at(self, selector: str) -> Locator:
        return self.page.locator(selector)


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def visit(request: pytest.FixtureRequest, served: RunningPage, browser: Browser) -> Iterator[Visit]:
    width, height = getattr(request, "param", DESKTOP)
    context = browser.new_context(
        viewport={"width": width, "height": height}, permissions=["clipboard-write"]
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    visit = Visit(page)
    page.on(
        "console",
        lambda message: visit.complaints.append(message.text) if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("dialog", lambda dialog: visit.complaints.append(f"dialog: {dialog.message}"))
    page.goto(served.address)
    expect(visit.at("#search-query textarea")).to_be_visible()
    expect(visit.at(".sl-card").first).to_be_visible()
    yield visit
    assert visit.complaints == []
    context.close()


on_desktop_only = pytest.mark.parametrize("visit", [DESKTOP], indirect=True, ids=["desktop"])


def search(visit: Visit, words: str) -> None:
    visit.at("#search-query textarea").fill(words)
    visit.at("#search-query textarea").press("Enter")


def find(visit: Visit, words: str) -> None:
    """Search, and wait until the page shows what this search found."""
    search(visit, words)
    expect(visit.at(".sl-result-line")).to_contain_text(f"“{words}”")


def pick_picture(visit: Visit) -> None:
    visit.tab("Ask")
    visit.at(".sl-pick button").first.click()
    expect(visit.at("#recognised .sl-labels").first).to_be_visible()


def compare(visit: Visit, question: str) -> None:
    visit.at("#ask-question textarea").fill(question)
    visit.at("#compare-button").click()
    expect(visit.at(".sl-pair[data-phase=ready]")).to_be_visible()


def test_words_find_pictures_and_a_picture_opens_large(visit: Visit) -> None:
    search(visit, "red ring")
    expect(visit.at(".sl-result-line")).to_have_text("1 that fits “red ring”")
    visit.at(".sl-card-open").first.click()
    expect(visit.at("dialog[open] h2")).to_have_text("a red ring")
    expect(visit.at("dialog[open] .sl-credit")).to_contain_text("CC0")
    visit.page.keyboard.press("Escape")
    expect(visit.at("dialog[open]")).to_have_count(0)


def test_similar_pictures_are_found_with_their_words(visit: Visit) -> None:
    find(visit, "blue square")
    visit.at(".sl-card-open").first.click()
    visit.at("[data-verb=similar]").click()
    expect(visit.at(".sl-in-words .sl-chip-label")).to_have_text("blue")
    expect(visit.at(".sl-card-open img").first).to_have_attribute("alt", re.compile("blue"))


def test_a_dropped_picture_is_searched_with(visit: Visit, served: RunningPage) -> None:
    picture = served.sight.gallery_picture("gold-square").path
    visit.at("#search-query input[type=file]").set_input_files(str(picture))
    expect(visit.at("#search-query img").first).to_be_visible()
    visit.at("#search-query .submit-button").click()
    expect(visit.at(".sl-result-line")).to_contain_text("this picture")
    expect(visit.at(".sl-in-words .sl-chip-label")).to_have_text("gold")


def test_a_thumb_is_kept_only_after_the_person_agreed(visit: Visit) -> None:
    find(visit, "green disc")
    visit.at(".sl-card-open").first.click()
    visit.at("[data-verb=thumb-up]").click()
    visit.at("[data-verb=agree]").click()
    expect(visit.at("dialog[open] [role=status]")).to_have_text("✓ Saved. Thank you.")


def test_a_gallery_picture_is_asked_about_and_followed_up(visit: Visit) -> None:
    find(visit, "red square")
    visit.at(".sl-card-open").first.click()
    visit.at("[data-verb=ask]").click()
    expect(visit.at("#recognised")).to_contain_text("a plain background")
    visit.at("#ask-question textarea").fill("What is this?")
    visit.at("#ask-button").click()
    expect(visit.at(".sl-answer").first).to_contain_text("After 0 earlier turns I say it again. (")
    visit.at(".sl-evidence summary").first.click()
    expect(visit.at(".sl-neighbours img")).to_have_count(3)
    visit.at("#ask-question textarea").fill("And why?")
    visit.at("#ask-question textarea").press("Enter")
    expect(visit.at(".sl-answer").nth(1)).to_contain_text("After 1 earlier turns I say it again")
    expect(visit.at(".sl-evidence").first).to_have_attribute("open", "")


def test_an_uploaded_picture_is_recognised_and_words_can_be_changed(
    visit: Visit, served: RunningPage
) -> None:
    visit.tab("Ask")
    picture = served.sight.gallery_picture("blue-disc").path
    visit.at("#ask-picture input[type=file]").set_input_files(str(picture))
    expect(visit.at("#recognised")).to_contain_text("blue")
    expect(visit.at("#ask-picture img").first).to_be_visible()
    visit.page.get_by_role("button", name="Look for other words").click()
    visit.at("#ask-words textarea").fill("teapot, button")
    expect(visit.at("#ask-words textarea")).to_have_value("teapot, button")
    visit.page.get_by_role("button", name="Look again").click()
    expect(visit.at("#recognised")).to_contain_text("teapot")
    expect(visit.at("#recognised")).not_to_contain_text("blue")


def test_a_file_that_is_no_picture_is_refused_in_words(visit: Visit, tmp_path: Path) -> None:
    disguised = tmp_path / "page.png"
    disguised.write_text("<html><script>alert(1)</script></html>")
    visit.tab("Ask")
    visit.at("#ask-picture input[type=file]").set_input_files(str(disguised))
    expect(visit.at("#recognised .sl-error")).to_be_visible()


def test_an_empty_question_says_what_to_do(visit: Visit) -> None:
    visit.tab("Ask")
    visit.at("#ask-button").click()
    expect(visit.at("#ask-message .sl-error")).to_contain_text("Type one, or choose one")


def test_an_answer_can_be_stopped(visit: Visit) -> None:
    visit.tab("Ask")
    visit.at("#ask-question textarea").fill("word " * 60)
    visit.at("#ask-button").click()
    expect(visit.at(".sl-caret")).to_be_visible()
    visit.at("#stop-button").click()
    expect(visit.at(".sl-answer")).to_contain_text("Stopped.")
    expect(visit.at("#ask-button")).to_be_enabled()


def test_a_pair_is_blind_until_the_vote_is_saved(visit: Visit, served: RunningPage) -> None:
    before = served.numbers.outcomes()["right"]
    pick_picture(visit)
    visit.at("#ask-question textarea").fill("Which is it?")
    visit.at("#compare-button").click()
    expect(visit.at(".sl-pair[data-phase=working]")).to_be_visible()
    expect(visit.at(".sl-vote").first).to_be_disabled()
    expect(visit.at(".sl-pair[data-phase=ready]")).to_be_visible()
    told = visit.page.content().lower()
    assert "v0001" not in visit.at(".sl-pair").inner_html().lower()
    assert "small-sight" not in told
    visit.at("[data-outcome=right]").click()
    expect(visit.at(".sl-pair-status")).to_contain_text("✓ Saved")
    assert served.numbers.outcomes()["right"] == before + 1
    assert visit.at("[data-part=who-left]").inner_text() == ""
    visit.page.get_by_role("button", name="Clearer").click()
    visit.at("[data-verb=reveal]").click()
    expect(visit.at("[data-part=who-left]")).to_contain_text("v000")
    assert "clearer" in {count.reason for count in served.numbers.reason_counts()}


@on_desktop_only
def test_keys_vote_but_not_while_typing_nor_when_switched_off(
    visit: Visit, served: RunningPage
) -> None:
    visit.tab("Ask")
    compare(visit, "First?")
    visit.at("#ask-question textarea").click()
    visit.page.keyboard.type("3 of 4")
    visit.at("[data-part=keys]").uncheck()
    visit.page.keyboard.press("1")
    expect(visit.at(".sl-pair")).to_have_attribute("data-phase", "ready")
    visit.reload()
    expect(visit.at("#search-query textarea")).to_be_visible()
    visit.tab("Ask")
    compare(visit, "Second?")
    expect(visit.at("[data-part=keys]")).not_to_be_checked()
    visit.at("[data-part=keys]").check()
    visit.at(".sl-pair-question").click()
    before = served.numbers.outcomes()
    for key in "4123":
        visit.page.keyboard.press(key)
    expect(visit.at(".sl-pair-status")).to_contain_text("✓ Saved")
    after = served.numbers.outcomes()
    assert after["both_bad"] == before["both_bad"] + 1
    assert sum(after.values()) == sum(before.values()) + 1


@on_desktop_only
def test_a_vote_that_does_not_arrive_is_kept_and_sent_again(
    visit: Visit, served: RunningPage
) -> None:
    visit.tab("Ask")
    compare(visit, "Is it saved?")
    ballots: list[str] = []

    def fail(route: Route) -> None:
        ballots.append(route.request.post_data or "")
        # The server takes the vote, but its answer is lost on the way.
        httpx.post(route.request.url, json=route.request.post_data_json)
        route.abort()

    before = served.numbers.outcomes()["tie"]
    visit.page.route(SERVER_CALLS, fail)
    visit.page.keyboard.press("3")
    expect(visit.at(".sl-pair-status")).to_contain_text("Not saved")
    visit.page.unroute(SERVER_CALLS)
    visit.page.get_by_role("button", name="Try again").click()
    expect(visit.at(".sl-pair-status")).to_contain_text("✓ Saved")
    assert len(ballots) == 1 and served.numbers.outcomes()["tie"] == before + 1
    visit.complaints.clear()  # the connection that this test broke


def test_the_conversation_goes_on_from_the_chosen_answer(visit: Visit) -> None:
    visit.tab("Ask")
    compare(visit, "Which?")
    chosen = visit.at("[data-part=right]").inner_text()
    visit.at("[data-outcome=right]").click()
    expect(visit.at(".sl-pair-status")).to_contain_text("✓ Saved")
    visit.at("#ask-question textarea").fill("And then?")
    visit.at("#ask-button").click()
    expect(visit.at(".sl-pair")).to_be_hidden()
    expect(visit.at(".sl-answer").first).to_contain_text(chosen)


def test_a_text_becomes_a_drawing_whose_plan_can_be_changed(visit: Visit) -> None:
    visit.tab("Illustrate")
    visit.at("#illustrate-text textarea").fill("Explain how rain forms")
    visit.at("#draw-button").click()
    expect(visit.at("#explanation")).to_contain_text("reference notes")
    expect(visit.at(".sl-board img")).to_be_visible()
    captions = visit.at("#plan-captions textarea")
    expect(captions).to_have_value(re.compile("Clouds form"))
    captions.fill("Water warms\nSteam rises\nDrops fall")
    visit.at("#redraw-button").click()
    expect(visit.at(".sl-board img")).to_have_attribute("alt", re.compile("Steam rises"))
    with visit.page.expect_download() as download:
        visit.at("#download-png").click()
    assert download.value.suggested_filename.endswith(".png")


def test_an_answer_can_be_illustrated(visit: Visit) -> None:
    visit.tab("Ask")
    visit.at("#ask-question textarea").fill("What now?")
    visit.at("#ask-button").click()
    visit.at("[data-verb=illustrate]").click()
    expect(visit.at("#illustrate-text textarea")).to_have_value(re.compile("What now"))


def test_insights_show_findings_with_units_and_numbers(visit: Visit) -> None:
    visit.tab("Insights")
    expect(visit.at("#insights-versions")).to_contain_text("v0002 answers now")
    assert visit.at(".sl-chart h3").count() == 7
    expect(visit.at("#insights-votes")).to_contain_text("n =")


def test_the_loop_strip_leads_to_its_place_in_insights(visit: Visit) -> None:
    visit.at("#loop-strip [data-place=versions]").click()
    expect(visit.at("#insights-versions")).to_be_in_viewport()


@on_desktop_only
def test_the_owner_rolls_back_and_may_index_a_folder(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    visit.page.get_by_role("button", name="Add a folder").click()
    visit.at("#own-folder textarea, #own-folder input").first.fill(str(tmp_path))
    visit.page.get_by_role("button", name="Index this folder").click()
    expect(visit.at("#own-folder-state")).to_contain_text("notes.txt")
    visit.tab("Insights")
    visit.page.get_by_role("button", name="Roll back to v0001").click()
    expect(visit.at("#insights-message")).to_contain_text("answers from now on")


@pytest.mark.parametrize("tab", ["Search", "Ask", "Illustrate", "Insights"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_is_wrong_for_screen_readers(visit: Visit, tab: str, theme: str) -> None:
    if theme == "dark":
        visit.at("[data-part=theme]").click()
    visit.tab(tab)
    if tab == "Ask":
        compare(visit, "Which?")
    visit.page.wait_for_timeout(600)  # until colours have settled, which axe measures
    results = axe_playwright.Axe().run(visit.page)
    serious = [
        (found["id"], [node["html"][:160] for node in found["nodes"]][:4])
        for found in results.response["violations"]
        if found["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("visit", [(320, 700)], indirect=True, ids=["narrow"])
def test_nothing_scrolls_sideways_on_a_narrow_phone(visit: Visit) -> None:
    def overflow() -> int:
        return int(visit.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    search(visit, "red disc")
    expect(visit.at(".sl-divider")).to_be_visible()
    assert overflow() <= 0
    visit.at("#loop-strip [data-place=votes]").click()
    expect(visit.at("#insights-votes")).to_be_visible()
    assert overflow() <= 0


@pytest.mark.parametrize("visit", [PHONE], indirect=True, ids=["phone"])
def test_the_vote_bar_sticks_to_the_bottom_of_a_phone(visit: Visit) -> None:
    visit.tab("Ask")
    compare(visit, "word " * 150)
    visit.at(".sl-pair-question").evaluate("element => element.scrollIntoView()")
    expect(visit.at("[data-outcome=left]")).to_be_in_viewport()
    expect(visit.at("[data-outcome=both_bad]")).to_be_in_viewport()


@on_desktop_only
def test_text_of_strangers_never_becomes_markup(visit: Visit) -> None:
    evil = "<img src=x onerror=alert(1)> ${alert(2)} `${alert(3)}` {{alert}} </script>"
    search(visit, evil)
    expect(visit.at(".sl-result-line")).to_contain_text("onerror")
    visit.tab("Ask")
    visit.at("#ask-question textarea").fill(evil)
    visit.at("#ask-button").click()
    expect(visit.at(".sl-answer")).to_contain_text("I say it again. (")
    compare(visit, evil)
    visit.tab("Illustrate")
    visit.at("#illustrate-text textarea").fill(f"{evil}. {evil} two. {evil} three.")
    visit.at("#draw-button").click()
    expect(visit.at(".sl-board img")).to_be_visible()
    visit.page.wait_for_timeout(300)  # a dialog or a broken script would show by now


@on_desktop_only
def test_the_footer_opens_the_documentation_of_the_api(visit: Visit) -> None:
    visit.at("[data-part=api]").click()
    expect(visit.at(".api-docs")).to_contain_text("/search_by_text")
    # Gradio's page looks for its monitoring and its MCP server, which are off.
    visit.complaints.clear()


@on_desktop_only
def test_the_chosen_theme_is_remembered(visit: Visit) -> None:
    visit.at("[data-part=theme]").click()
    visit.reload()
    expect(visit.at("body.dark")).to_have_count(1)


@on_desktop_only
def test_a_photo_is_taken_with_the_camera(visit: Visit) -> None:
    visit.tab("Ask")
    visit.page.get_by_label("Capture from camera").click()
    visit.page.get_by_text("Click to Access Webcam").click()
    is_filming = "() => document.querySelector('#ask-picture video')?.videoWidth > 0"
    visit.page.wait_for_function(is_filming)
    visit.page.get_by_label("capture photo").click()
    expect(visit.at("#recognised .sl-labels").first).to_be_visible()
    # Gradio asks for the progress of an upload without a name; that 404 is not ours.
    visit.complaints.clear()
