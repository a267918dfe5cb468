"""The HTTP service: the bytes of `score` and `Predictor`, limits, bad, slow and aborted requests."""

import contextlib
import json
import socket
import threading
import time

import numpy as np
import pytest
import torch

from ordkernels.models import DiffoR
from ordkernels.scaling import _requests
from ordkernels.scaling.local import run
from ordkernels.scaling.parts import Job, PartFolder, PartScorer

httpx = pytest.importorskip("httpx")
pytest.importorskip("safetensors")
estimators = pytest.importorskip("ordkernels.estimators", exc_type=ImportError)
serve = pytest.importorskip("ordkernels.scaling.serve", exc_type=ImportError)

N = 200


def table():
    r = np.random.default_rng(0)
    when = np.sort(r.integers(0, 10**15, N)).astype("datetime64[us]")
    return {
        "user": r.integers(0, 9, N), "item": r.choice(["p", "q", "r"], N), "when": when,
        "length": r.lognormal(3, 1, N), "kind": r.choice(["a", "b"], N), "id": r.permutation(N) + 10**12,
    }  # fmt: skip


@contextlib.contextmanager
def served(service):
    """A client of the service, which runs in a thread of its own."""
    running = serve.server(service, port=0, log_level="critical")
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        running.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("served"), table()
    arguments = {"user": "user", "item": "item", "time": "when", "row_id": "id", "epochs": 1}
    estimators.FlowTimeRegressor(**arguments, history=True).fit(rows, rows["length"]).save_pretrained(folder / "flowtime")
    estimators.ValueRegressor(**arguments).fit(rows, rows["length"]).save_pretrained(folder / "value")
    torch.manual_seed(0)
    model = DiffoR(dense_width=2, T=20)
    model.prepare({"y": torch.rand(100) * 9, "dense": torch.randn(100, 2)})
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def client(folders):
    limits = serve.Limits(rows=300, body=100_000, seconds=1.0, values=300 * 128)
    with served(serve.Service(folders / "flowtime", limits=limits, threads=2)) as client:
        yield client


def json_columns(rows):
    return {name: np.datetime_as_string(c).tolist() if c.dtype.kind == "M" else c.tolist() for name, c in rows.items()}


def some(rows, which):
    return {name: c[which] for name, c in rows.items()}


def predictions(response, dtype=np.float32):
    assert response.status_code == 200, response.text
    found = response.json()["predictions"]
    return {name: np.array(c, dtype=np.int64 if name in ("id", "row") else dtype) for name, c in found.items()}


@pytest.fixture(scope="module")
def scored(folders, tmp_path_factory):
    """What `score` writes for the table."""
    path = tmp_path_factory.mktemp("scored")
    np.savez(path / "t.npz", **table())
    job = Job(str(folders / "flowtime"), str(path / "t.npz"), quantiles=(0.1, 0.9), samples=2, seed=3, ending=".npz")
    folder = PartFolder.open(path / "out", job)
    run(folder, PartScorer(job, threads=1))
    folder.finish()
    with np.load(folder.part(0)) as found:
        return dict(found)


OPTIONS = {"quantiles": [0.1, 0.9], "samples": 2, "seed": 3}


def test_json_gives_the_bytes_of_score(client, scored):
    rows = table()
    whole = predictions(client.post("/predict", json={"columns": json_columns(rows), **OPTIONS}))
    assert list(whole) == list(scored)
    for name, expected in scored.items():
        assert whole[name].tobytes() == expected.tobytes(), name
    objects = [dict(zip(rows, row, strict=True)) for row in zip(*json_columns(some(rows, slice(7, 9))).values(), strict=True)]
    two = predictions(client.post("/predict", json={"rows": objects, **OPTIONS}))
    assert all(two[name].tobytes() == scored[name][7:9].tobytes() for name in scored)


def test_arrow_gives_the_bytes_of_score(client, scored):
    pa = pytest.importorskip("pyarrow")
    sink = pa.BufferOutputStream()
    arrow = pa.table(table())
    with pa.ipc.new_stream(sink, arrow.schema) as writer:
        writer.write_table(arrow, max_chunksize=70)
    response = client.post(
        "/predict?quantiles=0.1,0.9&samples=2&seed=3", content=sink.getvalue().to_pybytes(), headers={"content-type": _requests.ARROW}
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == _requests.ARROW
    found = pa.ipc.open_stream(response.content).read_all()
    assert found.column_names == list(scored)
    for name, expected in scored.items():
        assert found[name].to_numpy().tobytes() == expected.tobytes(), name


def test_requests_that_come_together_give_the_bytes_of_each_alone(client, scored):
    rows, parts = table(), np.array_split(np.random.default_rng(1).permutation(N), 40)
    options = [OPTIONS if j % 5 else {**OPTIONS, "seed": 4} for j in range(len(parts))]
    bodies = [json.dumps({"columns": json_columns(some(rows, p)), **o}).encode() for p, o in zip(parts, options, strict=True)]
    found = [predictions(response) for response in together(client, bodies)]
    for j, which in enumerate(parts):
        same = [found[j][name].tobytes() == scored[name][which].tobytes() for name in scored]
        assert all(same) if j % 5 else not all(same)


def test_models_without_an_estimator(folders):
    rng = np.random.default_rng(0)
    dense, ids = rng.normal(size=(50, 2)), rng.permutation(50) + 7
    service = serve.Service(folders / "model", threads=1)
    expected = service.predictor({"dense": dense}, quantiles=[0.2], n=16, row_ids=ids)
    with served(service) as client:
        body = {"columns": {"dense": dense.tolist(), "name": ids.tolist()}, "quantiles": [0.2], "draws": 16, "row_id": "name"}
        found = predictions(client.post("/predict", json=body))
        np.testing.assert_allclose(found["q0.2"], expected[:, 0], rtol=0.2)  # the sampler's quantiles are another definition
        assert found["row"].tolist() == ids.tolist()
        for bad in ([[1.0, None]], [[1.0, "x"]], [[1.0, 10**30]], [[1.0, 2.0, 3.0]], [1.0], ["x"], [None], [{}], [[]], [[[1.0, 2.0]]]):
            response = client.post("/predict", json={"columns": {"dense": bad}})
            assert response.status_code == 400, (bad, response.text)
            assert "dense" in response.json()["detail"]
        assert client.get("/health").json()["model"] == "DiffoR"


def test_models_without_draws(folders):
    with served(serve.Service(folders / "value", threads=1)) as client:
        rows = json_columns(table())
        assert list(predictions(client.post("/predict", json={"columns": rows}))) == ["id", "prediction"]
        response = client.post("/predict", json={"columns": rows, "quantiles": [0.5]})
        assert response.status_code == 400
        assert "quantiles: expected none" in response.json()["detail"]


def body(**changes):
    columns = json_columns(some(table(), slice(0, 3)))
    return {"columns": {**columns, **changes}}


def without(name):
    return {"columns": {key: c for key, c in body()["columns"].items() if key != name}}


BAD = {
    "no JSON": (b"{", 400, "expected JSON"),
    "no UTF-8": (b'{"rows": "\xff"}', 400, "expected JSON"),
    "deep": (b"[" * 90_000, 400, "expected JSON"),
    "NaN": (b'{"columns": {"user": [NaN]}}', 400, "which JSON has not"),
    "long number": (b'{"columns": {"user": [' + b"9" * 5000 + b"]}}", 400, "expected JSON"),
    "nothing": (b"", 400, "got nothing"),
    "a list": (b"[]", 400, 'either "rows"'),
    "rows and columns": (b'{"rows": [], "columns": {}}', 400, 'either "rows"'),
    "no rows": (b'{"rows": []}', 400, "at least one"),
    "empty rows": (b'{"rows": [{}]}', 400, "objects with values"),
    "scalar rows": (b'{"rows": [1]}', 400, "at least one object"),
    "unknown option": ({**body(), "quantile": [0.1]}, 400, "got 'quantile'"),
    "unequal columns": (body(user=[1, 2]), 400, "column 'item': expected 2 rows"),
    "no such column": (without("length"), 400, "expected the column 'length'"),
    "no column at all": ({"columns": {"x": [1]}}, 400, "expected the columns"),
    "text for numbers": (body(length=["a", "b", "c"]), 400, "column 'length': expected numbers"),
    "numbers for text": (body(kind=[1, 2, 3]), 400, "column 'kind': expected text"),
    "objects": (body(length=[{}, {}, {}]), 400, "column 'length'"),
    "lists": (body(length=[[1], [2], [3]]), 400, "column 'length'"),
    "large whole number": (body(user=[1, 2, 2**70]), 400, "column 'user': expected numbers of at most 64 bits"),
    "a time": (body(when=["yesterday"] * 3), 400, "column 'when': expected times"),
    "no row id": (body(id=[1, 2, None]), 400, "column 'id': expected a row id"),
    "a fraction as row id": (body(id=[1, 2, 2.5]), 400, "column 'id': expected whole numbers"),
    "another row id": ({**body(), "row_id": "user"}, 400, "row_id: expected none"),
    "levels": ({**body(), "quantiles": [1.5]}, 400, "quantiles: expected"),
    "no list of levels": ({**body(), "quantiles": 0.5}, 400, "quantiles: expected a list"),
    "text as a level": ({**body(), "quantiles": ["x"]}, 400, "quantiles: expected"),
    "draws": ({**body(), "draws": 0}, 400, "draws: expected"),
    "many draws": ({**body(), "draws": 30_000}, 413, "rows x draws"),
    "fractional draws": ({**body(), "draws": 1.5}, 400, "draws: expected an int"),
    "samples": ({**body(), "samples": -1}, 400, "samples: expected"),
    "seed": ({**body(), "seed": -1}, 400, "seed: expected"),
    "many rows": ({"columns": {"user": [1] * 301}}, 413, "at most 300"),
    "many rows as objects": ({"rows": [{"user": 1}] * 301}, 413, "at most 300"),
    "rows of other names": ({"rows": [{f"{k}": 1} for k in range(300)]}, 400, "the same names"),
    "a large body": (b" " * 100_001, 413, "at most 100,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_say_what_is_wrong_and_the_next_one_works(client, name):
    content, status, message = BAD[name]
    response = client.post("/predict", content=content if isinstance(content, bytes) else json.dumps(content).encode())
    assert response.status_code == status, response.text
    assert message in response.json()["detail"]
    assert client.post("/predict", json=body()).status_code == 200


def test_other_routes_methods_and_types(client):
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict").status_code == 405
    assert client.post("/predict", content=b"x", headers={"content-type": "text/csv"}).status_code == 415
    assert client.post("/predict", content=b"x", headers={"content-encoding": "gzip"}).status_code == 415
    assert client.post("/predict", content=iter([b" " * 60_000] * 2)).status_code == 413  # of a length that is not said before
    assert client.get("/health").json()["status"] == "ok"
    page = client.get("/metrics").text
    for name in ('ordkernels_requests_total{status="413"}', "ordkernels_request_seconds_count", "ordkernels_batch_rows_sum"):
        assert name in page
    assert "/predict" in client.get("/openapi.json").json()["paths"]


def test_bad_arrow_streams(client):
    pa = pytest.importorskip("pyarrow")

    def stream(table, **options):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    def post(content, query=""):
        response = client.post("/predict" + query, content=content, headers={"content-type": _requests.ARROW})
        return response.status_code, response.text

    good = pa.table(some(table(), slice(0, 3)))
    whole = stream(good)
    assert post(whole)[0] == 200
    assert post(b"x" * 100)[0] == post(whole[:100])[0] == post(whole[: len(whole) // 2])[0] == 400
    for codec in ("lz4", "zstd"):
        assert post(stream(good, compression=codec))[0] == 415
    coded = pa.table({"c": pa.array(["x" * 50] * 9).dictionary_encode()})
    assert post(stream(coded, compression="zstd"))[0] == 415
    assert post(stream(pa.table({"a": pa.nulls(10**9)})))[0] == 413
    assert post(stream(good.append_column("user", good["user"])))[0] == 400
    assert post(stream(good.slice(0, 0)))[0] == 400
    assert post(stream(good.set_column(3, "length", pa.array([[1], [2], [3]]))))[0] == 400
    for query, message in (("?n=3", "got 'n'"), ("?draws=x", "draws: expected a number"), ("?quantiles=0.1,x", "quantiles: expected")):
        status, text = post(whole, query)
        assert status == 400
        assert message in text
    rng = np.random.default_rng(0)
    for _ in range(100):  # any damage is refused, or leaves a stream of the same form
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(256)
        assert post(bytes(damaged))[0] in (200, 400, 413, 415)
    assert post(whole)[0] == 200


def connect(client):
    s = socket.create_connection((client.base_url.host, client.base_url.port), timeout=10)
    s.settimeout(10)
    return s


def received(s):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := s.recv(65536):
            data += part
    return data


def test_slow_and_aborted_requests_are_dropped(client):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with connect(client) as silent, connect(client) as half_a_head, connect(client) as half_a_body:
        half_a_head.sendall(head)
        half_a_body.sendall(head + b"Content-Length: 90\r\n\r\n{")
        assert received(half_a_body).startswith(b"HTTP/1.1 408")
        assert received(half_a_head) == received(silent) == b""
    whole = json.dumps(body()).encode()
    for sent in (len(whole) // 2, len(whole)):
        with connect(client) as s:  # gone in the middle of the body, or of the scoring
            s.sendall(head + b"Content-Length: %d\r\n\r\n" % len(whole) + whole[:sent])
    with connect(client) as s:
        s.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert received(s).startswith(b"HTTP/1.1 400")
    with connect(client) as s:
        s.sendall(head + b"X: " + b"x" * 200_000)
        assert received(s)[:12] in (b"HTTP/1.1 400", b"")
    assert client.post("/predict", json=body()).status_code == 200


def together(client, bodies):
    """The responses to bodies that are sent at the same time."""
    start, found = threading.Barrier(len(bodies)), {}

    def ask(k):
        with httpx.Client(base_url=client.base_url, timeout=30) as own:
            start.wait()
            found[k] = own.post("/predict", content=bodies[k])

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[k] for k in range(len(bodies))]


def test_a_full_queue_and_too_many_connections_say_so(folders):
    with served(serve.Service(folders / "model", limits=serve.Limits(queue=1, connections=4, wait=2.0), threads=1)) as client:
        request = {"columns": {"dense": [[0.0, 1.0]]}}
        found = together(client, [json.dumps(request).encode()] * 2)
        assert sorted(r.status_code for r in found) == [200, 503]
        assert client.get("/health").status_code == 200
        with connect(client), connect(client), connect(client), connect(client):
            time.sleep(0.2)
            assert httpx.get(client.base_url.join("/health")).status_code == 503
        time.sleep(0.2)
        assert client.post("/predict", json=request).status_code == 200


def test_a_failure_inside_is_a_500_of_that_request_alone(folders):
    service = serve.Service(folders / "model", limits=serve.Limits(wait=0.5), threads=1)
    score = service.score

    def failing(queries):
        if any(q.batch["dense"].isinf().any() for q in queries):
            raise RuntimeError("secret")
        return score(queries)

    service.score = failing
    with served(service) as client:
        ones, infinite, twos = together(client, [b'{"columns": {"dense": [[0, %s]]}}' % value for value in (b"1", b"1e999", b"2")])
        assert [r.status_code for r in (ones, infinite, twos)] == [200, 500, 200]
        assert "secret" not in infinite.text
