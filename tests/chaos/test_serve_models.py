"""`embedfleet serve --model`: no config file to write."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer

from testing.running import free_port, serving
from tests.support.tiny_models import save_xlm_roberta
from tests.support.tolerance import FLOAT32, worst_cosine

BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["plants turn light into sugar", "Paris is in France"]


def test_a_folder_and_a_hub_id_of_the_catalogs(tmp_path):
    own = save_xlm_roberta(tmp_path / "our-model")
    port = free_port()
    models = ["--model", str(own), "--model", BUNDLED, "--port", str(port)]
    with serving(models, port, ["our-model", "all-MiniLM-L6-v2"]) as service:
        with service.client() as http:
            body = {"model": "our-model", "input": TEXTS}
            answer = http.post("/v1/embeddings", json=body).json()
            known = http.get("/v1/models/all-MiniLM-L6-v2").json()
        log = service.log.read_text()
    found = [item["embedding"] for item in answer["data"]]
    expected = SentenceTransformer(str(own), device="cpu").encode(TEXTS)
    worst = 0.9995 if known["dtype"] == "bfloat16" else FLOAT32
    assert worst_cosine(found, expected) >= worst
    assert "--model stands for this config" in log
    assert f"path: {own.resolve()}" in log
