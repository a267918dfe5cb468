"""The service as a deployment of Ray Serve."""

import logging
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ordkernels.models import DiffoR
from ordkernels.scaling import Predictor, ray_serve


@pytest.mark.slow
def test_two_replicas_answer_as_the_predictor(tmp_path):
    serve = pytest.importorskip("ray.serve", exc_type=ImportError)
    ray, httpx = pytest.importorskip("ray"), pytest.importorskip("httpx")
    pytest.importorskip("safetensors")
    pytest.importorskip("ordkernels.scaling.serve", exc_type=ImportError)
    torch.manual_seed(0)
    model = DiffoR(dense_width=2, T=20)
    model.prepare({"y": torch.rand(100) * 9, "dense": torch.randn(100, 2)})
    model.save_pretrained(tmp_path / "model")
    dense = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match=r"directory: expected the folder of a saved model, got .*nowhere"):
        ray_serve.deployment(tmp_path / "nowhere")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
        serve.run(ray_serve.deployment(tmp_path / "model", num_replicas=2))

        def post(rows):
            body = {"columns": {"dense": dense[rows].tolist(), "id": rows}, "row_id": "id", "draws": 16}
            return httpx.post(f"http://127.0.0.1:{port}/predict", json=body, timeout=60)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(post, [[k] for k in range(20)]))
        found = np.float32([a.json()["predictions"]["prediction"][0] for a in answers])
        with Predictor(model) as predictor:
            expected = predictor({"dense": dense}, row_ids=np.arange(20), n=16)
        assert np.array_equal(found, expected)
        refused = httpx.post(f"http://127.0.0.1:{port}/predict", content=b"{", timeout=60)
        assert refused.status_code == 400
        assert "body: expected JSON" in refused.json()["detail"]
        assert httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok"
        assert "ordkernels_rows" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    finally:
        serve.shutdown()
        ray.shutdown()


def test_without_ray_serve(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray.serve", None)
    with pytest.raises(ImportError, match=r"expected Ray Serve, .*ray\[serve\]"):
        ray_serve.deployment(tmp_path)
