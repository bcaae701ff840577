"""`auto`, shared spaces and the guard of a required space, with tiny models that hash."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.hashing import SPEED_FILE
from testing.models.files import Recipe
from testing.models.tiny import Shape, save_bert, save_mistral, save_xlm_roberta
from testing.processes import kill, replicas
from testing.shared_service import redeploy
from testing.waiting import until

INSTRUCT = {"query": "Instruct: Find what answers\nQuery: "}
XLM_R = ["ar", "de", "en", "es", "fr", "ja", "ko", "ru", "zh"]
KOREAN = "조선 원자력 발전소 최초의 무엇인가"
CHINESE = "南瓜的家常做法"
ENGLISH = "how much protein should a female eat"
READY = ("small", "many-languages", "long", "pair-float32", "pair-bfloat16", "stranger")


@pytest.fixture(scope="module")
def fleet(shared_service, tmp_path_factory):
    """A small English model, a multilingual one, one for long texts, and three in shared spaces."""
    root = tmp_path_factory.mktemp("fleet")
    short = Recipe(max_seq_length=128)
    save_bert(root / "small", short)
    save_xlm_roberta(root / "many", Recipe(max_seq_length=128), Shape(hidden=64))
    long = Recipe(pooling="lasttoken", max_seq_length=4_096, prompts=INSTRUCT)
    save_mistral(root / "long", long, Shape(hidden=128))
    (root / "long" / SPEED_FILE).write_text("8000")
    save_bert(root / "pair", Recipe(max_seq_length=64), Shape(seed=1))
    save_bert(root / "stranger", Recipe(max_seq_length=64), Shape(seed=2))
    (root / "pair" / SPEED_FILE).write_text("20000")
    shutil.copytree(root / "pair", root / "same-pair")
    english = {"languages": ["en"]}
    models = [
        {"name": "small", "path": str(root / "small"), "size": "small", **english},
        {
            "name": "many-languages",
            "path": str(root / "many"),
            "size": "medium",
            "languages": XLM_R,
        },
        {"name": "long", "path": str(root / "long"), "size": "large", **english},
        pair("float32", root / "pair", "medium"),
        pair("bfloat16", root / "same-pair", "small"),
        {"name": "stranger", "path": str(root / "stranger"), "size": "medium", **english},
    ]
    # `small` is the first of its size, so `auto` prefers it to pair-bfloat16
    members = [{"model": "pair-float32"}, {"model": "pair-bfloat16"}]
    wrong = [{"model": "stranger"}, {"model": "small"}]
    spaces = [{"name": "pair", "members": members}, {"name": "wrong", "members": wrong}]

    routing = {"spaces": spaces, "busy_s": 0.3}
    app = {"import_path": "testing.hashing:build"}
    running = shared_service.serve(models, READY, app, routing=routing)
    until(lambda: have_verdicts(running), 60, "a verdict on each space")
    return running


def pair(dtype: str, path: Path, size: str) -> dict:
    return {
        "name": f"pair-{dtype}",
        "path": str(path),
        "size": size,
        "dtype": dtype,
        "revision": "1" * 40,
        "languages": ["en"],
    }


def spaces(running) -> dict[str, dict]:
    with running.client() as http:
        return {space["name"]: space for space in http.get("/v1/models").json()["spaces"]}


@contextmanager
def flooded(running, **body):
    """Keeps a model busy with requests of this body."""
    stop = threading.Event()

    def send():
        with running.client() as http:
            while not stop.is_set():
                http.post("/v1/embeddings", json=body)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def have_verdicts(running) -> bool:
    return all(space["id"] for space in spaces(running).values())


def embed(running, headers=None, **body):
    with running.client() as http:
        return http.post("/v1/embeddings", json={"input": ENGLISH, **body}, headers=headers)


def model_of(answer) -> str:
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model"] == answer.json()["model"]
    assert answer.headers["x-embedding-space"] == answer.json()["space"]
    return answer.json()["model"]


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"input": ENGLISH}, "small"),
        ({"input": [ENGLISH, "hello"]}, "small"),
        ({"input": KOREAN}, "many-languages"),
        ({"input": CHINESE}, "many-languages"),
        ({"input": [ENGLISH, KOREAN]}, "many-languages"),
        ({"input": "protein " * 1_000}, "long"),
        ({"input": ENGLISH, "instruction": "Find recipes"}, "long"),
        ({"input": ENGLISH, "aim": "best"}, "long"),
        ({"input": ENGLISH, "dimensions": 64}, "many-languages"),
    ],
)
def test_auto_chooses_by_language_length_and_fields(fleet, body, model):
    answer = embed(fleet, model="auto", **body)
    assert model_of(answer) == model
    assert answer.headers["x-route-reason"].startswith("auto: ")


def test_a_text_that_no_model_fits_is_refused_with_each_models_reason(fleet):
    error = embed(fleet, model="auto", input="นี่คือข้อความภาษาไทย").json()["error"]
    assert error["code"] == "no_model_fits"
    assert all(name in error["message"] for name in READY)


def test_route_says_why_and_runs_nothing(fleet):
    with fleet.client() as http:
        reply = http.post("/v1/route", json={"model": "auto", "input": KOREAN}).json()
    assert (reply["model"], reply["languages"]) == ("many-languages", ["ko"])
    reasons = {c["model"]: c["passed_over"] for c in reply["candidates"]}
    assert reasons["many-languages"] is None
    assert "ko" in reasons["small"]


def test_members_that_agree_share_a_space_and_others_are_refused(fleet):
    verdicts = spaces(fleet)
    assert verdicts["pair"]["state"] == "ready"
    assert verdicts["pair"]["worst_cosine"] > 0.99
    assert verdicts["wrong"]["state"] == "unavailable"
    assert verdicts["wrong"]["worst_cosine"] < 0.9
    answer = embed(fleet, model="wrong")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_unavailable"
    assert model_of(embed(fleet, model="small")) == "small"  # the rest serves


def test_first_auto_then_pin(fleet):
    first = embed(fleet, model="auto").json()
    pinned = embed(fleet, model="auto", space=first["space"], input=KOREAN[:3] + ENGLISH)
    assert pinned.json()["space"] == first["space"]
    by_header = embed(fleet, headers={"x-require-space": first["space"]})
    assert model_of(by_header) == first["model"]
    refused = embed(fleet, model="long", space=first["space"])
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "embedding_space_mismatch"


def test_a_pinned_space_is_never_left(fleet):
    space = embed(fleet, model="small").json()["space"]
    refused = embed(fleet, model="auto", space=space, input=KOREAN)
    assert refused.status_code == 400
    assert embed(fleet, model="auto", space="000000000000").status_code == 409


def test_a_flood_moves_a_tight_request_to_the_smaller_model(fleet):
    tight = {"model": "auto", "max_latency_ms": 500}
    assert model_of(embed(fleet, **tight)) == "long"
    with flooded(fleet, model="long", input=["protein " * 300] * 8):
        models = Counter(model_of(embed(fleet, **tight)) for _ in range(5))
    assert "long" not in models


def test_members_of_a_space_share_a_flood_and_nothing_else_does(fleet):
    space = spaces(fleet)["pair"]["id"]
    texts = ["protein female eat " * 5] * 64
    with ThreadPoolExecutor(24) as pool:
        body = {"model": "pair", "input": texts, "aim": "fast"}
        answers = list(pool.map(lambda _: embed(fleet, **body), range(60)))
    models = Counter(model_of(answer) for answer in answers)
    assert set(models) == {"pair-float32", "pair-bfloat16"}, models
    assert {answer.json()["space"] for answer in answers} == {space}


def test_a_killed_replicas_calls_are_answered_from_its_space_or_refused(fleet):
    space = spaces(fleet)["pair"]["id"]
    (victim,) = replicas(fleet, "encoder-pair-bfloat16")
    with ThreadPoolExecutor(8) as pool:
        body = {"model": "pair", "input": ["protein"] * 16}
        pending = [pool.submit(embed, fleet, **body) for _ in range(100)]
        time.sleep(0.2)
        kill([victim])
        answers = [future.result() for future in pending]
    good = [a.json()["space"] for a in answers if a.status_code == 200]
    assert set(good) == {space}
    assert {a.status_code for a in answers} <= {200, 429, 503, 504}
    assert len(good) > 50


def test_user_config_changes_the_choice_without_a_restart(fleet):
    before = replicas(fleet, "encoder-")
    assert model_of(embed(fleet, model="auto")) == "small"
    # `long` becomes the small one; the new routing replaces the old one as a whole, spaces too
    sizes = {"long": "small", "small": "large", "pair-bfloat16": "large"}
    router = {"name": "router", "user_config": {"sizes": sizes}}
    redeploy(fleet, lambda app: app.update(deployments=[router]))
    until(lambda: model_of(embed(fleet, model="auto")) == "long", 60)
    assert spaces(fleet) == {}
    assert replicas(fleet, "encoder-") == before
