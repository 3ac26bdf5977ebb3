"""The named endpoints, called as programs call them, around a small room of sight."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from tests.pages import RunningPage, running_page

NAMES = {
    "/search_by_text",
    "/search_by_picture",
    "/recognise",
    "/ask",
    "/ask_pair",
    "/vote",
    "/explain_vote",
    "/illustrate",
    "/gallery_status",
}

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPage]:
    with running_page(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="module")
def client(page: RunningPage) -> Client:
    return Client(page.address, verbose=False, analytics_enabled=False)


def encoded(colour: tuple[int, int, int], kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def pair(client: Client, voter: str = "someone") -> dict:
    return client.predict(question="What is this?", voter=voter, api_name="/ask_pair")


def test_endpoints_have_their_final_names_and_documentation(page: RunningPage) -> None:
    endpoints = httpx.get(page.address + "gradio_api/info").json()["named_endpoints"]
    assert set(endpoints) == NAMES
    assert all("Returns:" in endpoint["description"] for endpoint in endpoints.values())


def test_search_by_text_finds_the_picture_whose_caption_fits(client: Client) -> None:
    hits = client.predict(words="red ring", limit=3, api_name="/search_by_text")
    assert [hit["caption"] for hit in hits][0] == "a red ring"
    assert len(hits) == 3


def test_found_pictures_can_be_fetched_from_their_url(client: Client, page: RunningPage) -> None:
    hit = client.predict(words="blue disc", api_name="/search_by_text")[0]
    got = httpx.get(page.address + hit["url"])
    assert got.headers["content-type"] == "image/webp"
    assert got.headers["x-content-type-options"] == "nosniff"


def test_search_by_picture_returns_pictures_and_words(client: Client) -> None:
    found = client.predict(picture=encoded((50, 90, 190)), api_name="/search_by_picture")
    assert "blue" in found["pictures"][0]["caption"]
    assert found["texts"][0] == {"text": "blue", "kind": "label", "score": 0.9}


def test_a_picture_is_sent_once_and_named_afterwards(client: Client) -> None:
    first = client.predict(picture=encoded((38, 140, 90)), api_name="/recognise")
    again = client.predict(picture=first["picture_id"], words=["leaf"], api_name="/recognise")
    assert first["tags"][0]["text"] == "green"
    assert [tag["text"] for tag in again["tags"]] == ["leaf"]


def test_recognise_is_also_understood_with_a_z(client: Client) -> None:
    seen = client.predict("gallery:gold-disc", None, api_name="/recognize")
    assert seen["objects"][0]["text"] == "shape"


def test_ask_streams_and_ends_with_the_whole_answer_and_its_evidence(client: Client) -> None:
    job = client.submit(
        question="What is this?",
        picture="gallery:red-square",
        history=[{"question": "Hello?", "answer": "Hello."}],
        api_name="/ask",
    )
    last = job.result(timeout=30)
    assert last["is_finished"] and last["finish_reason"] == "stop"
    assert "After 1 earlier turns" in last["answer"]
    assert last["adapter"] == "v0002"
    assert len(last["neighbours"]) == 3
    assert len(job.outputs()) > 3


def test_a_pair_says_nothing_of_who_wrote_which(client: Client) -> None:
    told = str(pair(client)).lower()
    assert all(word not in told for word in ("v0001", "v0002", "small-sight", "seed", "adapter"))


def test_a_vote_reveals_both_sides_and_is_stored(client: Client, page: RunningPage) -> None:
    before = page.numbers.outcomes()["left"]
    battle = pair(client)
    reveal = client.predict(
        ticket=battle["ticket"], outcome="left", voter="someone", api_name="/vote"
    )
    assert reveal["is_new"] and reveal["battle_id"] == battle["battle_id"]
    assert "v000" in reveal["left"] and "v000" in reveal["right"]
    assert page.numbers.outcomes()["left"] == before + 1


def test_the_same_ballot_again_is_stored_once(client: Client, page: RunningPage) -> None:
    before = page.numbers.outcomes()["right"]
    ticket = pair(client)["ticket"]
    ballot = {"ticket": ticket, "outcome": "right", "voter": "someone", "ballot_id": "b" * 32}
    first = client.predict(**ballot, api_name="/vote")
    second = client.predict(**ballot, api_name="/vote")
    assert (first["is_new"], second["is_new"]) == (True, False)
    assert first["vote_id"] == second["vote_id"]
    assert page.numbers.outcomes()["right"] == before + 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ticket": "forged"}, "not issued here"),
        ({"voter": "another"}, "another browser"),
        ({"outcome": "best"}, "not an outcome"),
        ({"ballot_id": "?"}, "fresh UUID"),
        ({"ticket": 7}, "part of it is missing"),
    ],
)
def test_a_vote_that_cannot_count_says_why(client: Client, changes: dict, says: str) -> None:
    ballot = {"ticket": pair(client)["ticket"], "outcome": "tie", "voter": "someone"} | changes
    with pytest.raises(AppError, match=says):
        client.predict(**ballot, api_name="/vote")


def test_of_two_different_votes_at_once_one_counts(client: Client, page: RunningPage) -> None:
    before = sum(page.numbers.outcomes().values())
    ticket, address = pair(client)["ticket"], page.address + "gradio_api/run/vote"

    def vote(outcome: str) -> int:
        fields = [ticket, outcome, "someone", None, None, None, None]
        return httpx.post(address, json={"data": fields}).status_code

    with ThreadPoolExecutor(2) as pool:
        codes = sorted(pool.map(vote, ("left", "right")))
    assert codes == [200, 500]
    assert sum(page.numbers.outcomes().values()) == before + 1


def test_a_vote_that_is_no_json_is_refused_and_the_next_one_counts(
    client: Client, page: RunningPage
) -> None:
    address = page.address + "gradio_api/run/vote"
    ticket = pair(client)["ticket"]
    assert httpx.post(address, content=b"{left", headers=JSON).status_code == 422
    assert httpx.post(address, content=b"[]", headers=JSON).status_code == 422
    fields = [ticket, "left", "someone", None, None, None, None]
    for session in ({}, {"session_hash": None}, {"session_hash": "mine"}):
        got = httpx.post(address, json={"data": fields} | session)
        assert got.status_code == (200 if session == {} else 500)
        fields[1] = "right"  # only the first of three different votes counts


def test_a_reason_can_be_given_after_the_vote(client: Client, page: RunningPage) -> None:
    reveal = client.predict(
        ticket=pair(client)["ticket"], outcome="left", voter="someone", api_name="/vote"
    )
    client.predict(
        vote_id=reveal["vote_id"], voter="someone", reasons=["clearer"], api_name="/explain_vote"
    )
    assert "clearer" in {count.reason for count in page.numbers.reason_counts()}


def test_votes_are_acknowledged_quickly_with_eight_clients(
    client: Client, page: RunningPage
) -> None:
    tickets = [pair(client, voter=f"voter {n % 8}")["ticket"] for n in range(64)]
    took_ms: list[float] = []
    lock = threading.Lock()

    def vote(n: int) -> None:
        with httpx.Client() as http:
            for i in range(n, 64, 8):
                fields = [tickets[i], "tie", f"voter {n}", None, None, None, None]
                started = time.perf_counter()
                got = http.post(page.address + "gradio_api/run/vote", json={"data": fields})
                with lock:
                    took_ms.append(1000 * (time.perf_counter() - started))
                assert got.status_code == 200, got.text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vote, range(8)))
    # The bar is 100 ms at p99 on two free cores; ten times that still tells a queue from none.
    assert sorted(took_ms)[-2] < 1000


def test_illustrate_answers_a_request_first_and_draws_it(client: Client) -> None:
    drawn = client.predict(text="Explain how rain forms", api_name="/illustrate")
    assert [step["caption"] for step in drawn["steps"]][-1] == "Rain falls"
    assert drawn["svg"].startswith("<svg")
    assert base64.b64decode(drawn["png"]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("endpoint", "fields", "says"),
    [
        ("/search_by_text", {"words": "  "}, "empty"),
        ("/search_by_text", {"words": "cat", "limit": 0}, "1 to 100"),
        ("/recognise", {"picture": "not base64!"}, "base64"),
        ("/recognise", {"picture": base64.b64encode(b"<svg/>").decode()}, ""),
        ("/recognise", {"picture": "gallery:none"}, "no such picture"),
        ("/recognise", {"picture": "f" * 64}, ""),
        ("/ask", {"question": "Hi", "history": [{"question": 1}]}, "turn of history"),
        ("/ask_pair", {"question": "Hi", "voter": ""}, "voter"),
        ("/illustrate", {"text": "One thing"}, "fewer than three"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(
    client: Client, endpoint: str, fields: dict, says: str
) -> None:
    with pytest.raises(AppError, match=says) as caught:
        client.predict(**fields, api_name=endpoint)
    assert "Traceback" not in str(caught.value) and "/tmp" not in str(caught.value)


def test_queued_endpoints_cannot_be_run_past_the_queue(page: RunningPage) -> None:
    got = httpx.post(page.address + "gradio_api/run/ask", json={"data": ["Hi", None, None]})
    assert got.status_code == 404


def test_a_body_larger_than_any_upload_is_refused_before_it_is_read(page: RunningPage) -> None:
    too_long = {"data": ["x" * (32 * 2**20), "left", "v", None, None, None, None]}
    got = httpx.post(page.address + "gradio_api/run/vote", json=too_long)
    assert got.status_code == 413


def test_nothing_of_the_data_folder_is_served_by_its_path(page: RunningPage) -> None:
    for name in ("feedback.db", "secret.key"):
        path = Path(page.store.path).parent / name
        assert httpx.get(f"{page.address}gradio_api/file={path}").status_code in (403, 404)


def test_pages_may_be_framed_by_spaces_only(page: RunningPage) -> None:
    policy = httpx.get(page.address).headers["content-security-policy"]
    assert "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co" in policy


def test_monitoring_is_off(page: RunningPage) -> None:
    assert httpx.get(page.address + "monitoring/summary").status_code != 200
