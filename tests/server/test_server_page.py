"""The page in a real browser, on a real model behind a small REST route of the test's own."""

import asyncio
import base64
import io
import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from html.parser import HTMLParser

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from browser import LoopThread, chromium
from PIL import Image

from keras_cls.server.batching import Batcher, BatchingOptions
from keras_cls.server.loading import LoadedModel, latest_version
from keras_cls.server.metrics import Metrics
from keras_cls.server.page import STATE_PATH, describe_signature, page_routes
from keras_cls.server.predict import PredictCall
from keras_cls.server.status import Code, RequestError

EVIL = "<script>window.evil=1</script><img src=x onerror=window.evil=1>"
BIG = str((1 << 63) - 1)
PHOTO_LIMIT = 40_000


class Site:
    """A server with the page: one model that answers, and others that have only a state."""

    def __init__(self, base_path) -> None:
        self.metrics = Metrics()
        self.model = LoadedModel("shades", latest_version(base_path))
        self.batcher = Batcher(self.model.run, BatchingOptions())
        self.seen: list[dict] = []
        self.began = time.monotonic()
        self.broken = False
        self.models = [
            {
                "name": "shades",
                "labels": {"stable": "3"},
                "versions": [
                    version("2", "UNLOADING"),
                    version("3", "AVAILABLE", signatures=map_signatures(self.model)),
                    version("4", "END", error="/models/shades/4: cannot be loaded as a SavedModel"),
                ],
            },
            {"name": EVIL, "labels": {EVIL: BIG}, "versions": [version(BIG, "END", error=EVIL)]},
        ]
        for number, state in ((2, "UNLOADING"), (3, "AVAILABLE")):
            self.metrics.set_state("shades", number, state)
        self.metrics.set_queue_depth("shades", 3, 0)

    def state(self):
        if self.broken:
            raise RuntimeError("no state")
        return {
            "ready": True,
            "version": "0.1.0",
            "tensorflow": "2.21.0",
            "uptime_seconds": time.monotonic() - self.began,
            "max_request_bytes": PHOTO_LIMIT,
            "metrics_path": "/metrics",
            "grpc_address": "127.0.0.1:8500",
            "models": self.models,
            "metrics": self.metrics.snapshot(),
        }

    async def predict(self, request: web.Request) -> web.Response:
        begun = time.monotonic()
        body = await request.json()
        self.seen.append({"version": request.match_info.get("version"), **body})
        signature = self.model.signatures[body["signature_name"]]
        photos = [base64.b64decode(one["b64"]) for one in body["instances"]]
        (alias,) = signature.inputs
        status = "OK"
        try:
            call = PredictCall(
                signature, {alias: np.array(photos, object)}, tuple(signature.outputs)
            )
            queued = time.monotonic()
            outputs = await self.batcher.run(call)
            run = 1e6 * (time.monotonic() - queued)
            self.metrics.observe_run("shades", 3, signature.name, run, len(photos))
            answer = {"predictions": rows(outputs, len(photos))}
        except RequestError as error:
            status, answer = error.code.name, {"error": error.message}
        self.metrics.count_request("shades", 3, signature.name, status)
        if status == "OK":
            took = 1e6 * (time.monotonic() - begun)
            self.metrics.observe_latency("shades", 3, signature.name, "Predict", "REST", took)
        code = {"OK": 200, Code.UNAVAILABLE.name: 503}.get(status, 400)
        return web.json_response(answer, status=code)

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(page_routes(self.state))
        app.router.add_post("/v1/models/shades:predict", self.predict)
        app.router.add_post("/v1/models/shades/versions/{version}:predict", self.predict)
        return app


def version(number, state, error="", signatures=()):
    return {"version": number, "state": state, "error": error, "signatures": list(signatures)}


def map_signatures(model):
    return [describe_signature(signature) for signature in model.signatures.values()]


def rows(outputs, count):
    def plain(value):
        return [one.decode() for one in value] if value.dtype == object else value.tolist()

    found = [{name: plain(array[row]) for name, array in outputs.items()} for row in range(count)]
    return [next(iter(row.values())) for row in found] if len(outputs) == 1 else found


@contextmanager
def served(site):
    """The address of the site, in a thread of its own."""
    loop = LoopThread()

    async def start():
        runner = web.AppRunner(site.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = loop.run(start())
    try:
        yield "http://{}:{}/".format(*runner.addresses[0])
    finally:
        loop.run(runner.cleanup())
        loop.close()


@pytest.fixture(scope="module")
def site(base_path):
    site = Site(base_path)
    yield site
    site.batcher.close()
    site.model.close()


@pytest.fixture(scope="module")
def address(site):
    with served(site) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def tab(browser, address, site):
    site.seen.clear()
    found = browser.new_tab()
    found.open(address)
    found.wait_for("document.getElementById('ready').innerText === 'ready'")
    yield found
    found.call("Page.close")


def photo_of(brightness, side=64):
    shades = np.clip(np.linspace(brightness - 30, brightness + 30, side), 0, 255)
    pixels = np.repeat(np.repeat(shades[None, :, None], side, 0), 3, 2).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def bright(tmp_path):
    path = tmp_path / "bright.png"
    path.write_bytes(photo_of(230))
    return path


def drop(tab, name, content, kind="image/png"):
    """Drop a file on the page, as a person would drag it there."""
    numbers = json.dumps(list(content))
    tab.evaluate(f"""(() => {{
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array({numbers})], {json.dumps(name)}, {{type: "{kind}"}}));
      for (const kind of ["dragenter", "dragover", "drop"]) {{
        document.getElementById("drop").dispatchEvent(
          new DragEvent(kind, {{dataTransfer: data, bubbles: true, cancelable: true}}));
      }}
    }})()""")


def get(address):
    async def fetch():
        async with aiohttp.ClientSession() as session, session.get(address) as response:
            return response.status, response.headers, await response.text()

    return asyncio.run(fetch())


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [
            (name, value)
            for name, value in attributes
            if name in ("src", "href", "style", "action") or name.startswith("on")
        ]


def test_the_page_is_one_file_that_lets_nothing_else_run(address):
    status, headers, text = get(address)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for directive in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy[directive])
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    (icon,) = Links(text).found
    assert icon[1].startswith("data:image/svg+xml,")
    assert "innerHTML" not in text
    assert set(re.findall(r"https?://[^\s'\"]+", text)) == {"http://www.w3.org/2000/svg"}


def test_the_state_is_json(address, site):
    status, headers, text = get(address.rstrip("/") + STATE_PATH)
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    state = json.loads(text)
    assert state["models"] == json.loads(json.dumps(site.models))


def test_a_signature_as_the_state_tells_it(site):
    assert describe_signature(site.model.signatures["pair"]) == {
        "name": "pair",
        "method": "tensorflow/serving/predict",
        "inputs": [
            {"name": "a", "type": "float", "shape": [None, None]},
            {"name": "b", "type": "float", "shape": [None]},
        ],
        "outputs": [
            {"name": "batch_rows", "type": "int32", "shape": [None]},
            {"name": "total", "type": "float", "shape": [None]},
        ],
    }


def test_models_are_listed_and_what_they_are_called_stays_text(tab):
    assert tab.texts(".model h3") == ["shades", EVIL]
    assert tab.texts(".model:first-child .row > span:first-child") == [
        *("version 4", "version 3", "version 2")
    ]
    assert tab.texts(".model:last-child .row > span:first-child") == [f"version {BIG}"]
    assert tab.texts(".model:first-child .badge") == ["failed", "available", "unloading"]
    assert tab.texts(".tag") == ["stable", EVIL]
    assert tab.texts(".version .problem")[1] == EVIL
    assert tab.evaluate("document.querySelectorAll('#models script, #models img').length") == 0
    tab.evaluate("document.querySelector('details summary').click()")
    assert tab.evaluate("document.getElementById('model').options[1].text") == EVIL
    tab.evaluate("""(() => {
      const model = document.getElementById("model");
      model.value = model.options[1].value;
      model.dispatchEvent(new Event("change"));
    })()""")
    tab.wait_for("document.getElementById('file').disabled")
    assert tab.evaluate("document.getElementById('version').options[0].text") == "none is available"
    assert tab.evaluate("window.evil") is None
    assert tab.complaints == []


def test_signatures_that_take_photos_are_offered_best_first(tab):
    names = tab.evaluate("[...document.getElementById('signature').options].map(o => o.value)")
    assert names[0] == "serving_default"
    assert set(names) == {"serving_default", "probabilities", "ninth_byte"}


def test_a_photo_that_is_chosen_is_classified(tab, site, bright):
    tab.choose_file("#file", bright)
    tab.wait_for("document.querySelectorAll('#labels li').length === 3")
    assert tab.text(".best") == "bright"
    assert tab.texts("#labels .label") == ["bright", "medium", "dark"]
    shares = [float(text.removesuffix(" %")) for text in tab.texts("#labels .score")]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert re.search(
        r"bright\.png, .* · version 3 · answered in [\d.]+ (ms|µs|s)", tab.text("#answer")
    )
    assert tab.evaluate("document.getElementById('photo').naturalWidth") == 64
    assert [(one["version"], one["signature_name"]) for one in site.seen] == [
        (None, "serving_default")
    ]
    assert tab.complaints == []


def test_a_photo_that_is_dropped_is_classified_by_the_version_that_is_chosen(tab, site):
    tab.evaluate("""(() => {
      const version = document.getElementById("version");
      version.value = "3";
      version.dispatchEvent(new Event("change"));
    })()""")
    drop(tab, "night.png", photo_of(20))
    tab.wait_for("document.querySelector('.best')")
    assert tab.text(".best") == "dark"
    assert [one["version"] for one in site.seen] == ["3"]
    assert tab.evaluate("document.querySelectorAll('#drop.over').length") == 0
    assert tab.complaints == []


def test_a_photo_that_is_pasted_is_classified(tab):
    numbers = json.dumps(list(photo_of(128)))
    tab.evaluate(f"""(() => {{
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array({numbers})], "image.png", {{type: "image/png"}}));
      document.dispatchEvent(new ClipboardEvent("paste", {{clipboardData: data}}));
    }})()""")
    tab.wait_for("document.querySelector('.best')")
    assert tab.text(".best") == "medium"


def test_scores_without_labels_are_numbered(tab, bright):
    tab.choose_file("#file", bright)
    tab.wait_for("document.querySelector('.best')")
    tab.evaluate("""(() => {
      const signature = document.getElementById("signature");
      signature.value = "probabilities";
      signature.dispatchEvent(new Event("change"));
    })()""")
    tab.wait_for("document.querySelector('.best').innerText === 'class 2'")
    assert tab.texts("#labels .label") == ["class 2", "class 1", "class 0"]


def test_an_error_answer_is_shown(tab):
    drop(tab, "broken.png", b"\x89PNG<img src=x onerror=window.evil=1>")
    tab.wait_for("document.querySelector('#answer .problem')")
    assert tab.text("#answer .problem b") == "The server refused: 400 Bad Request"
    assert len(tab.text("#answer .problem")) > len("The server refused: 400 Bad Request") + 10
    assert tab.evaluate("window.evil") is None
    (complaint,) = tab.complaints  # the browser's own line for the answer 400
    assert "400" in complaint


@pytest.mark.parametrize(
    ("name", "content", "kind", "title", "words"),
    [
        (
            "big.png",
            bytes(PHOTO_LIMIT),
            "image/png",
            "The photo is too large",
            "40 kB; this server",
        ),
        ("notes.txt", b"hello", "text/plain", "That is no photo", "of the type text/plain"),
    ],
)
def test_what_need_not_be_asked_is_not(tab, site, name, content, kind, title, words):
    drop(tab, name, content, kind)
    tab.wait_for("document.querySelector('#answer .problem')")
    assert tab.text("#answer .problem b") == title
    assert words in tab.text("#answer .problem")
    assert site.seen == []
    assert tab.complaints == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_command_line_asks_the_same(tab, tmp_path):
    tab.evaluate("document.querySelector('#terminal summary').click()")
    command = tab.text("#command")
    assert command.endswith("/v1/models/shades:predict")
    (tmp_path / "photo.jpg").write_bytes(photo_of(20))
    answer = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(answer.stdout)["predictions"][0]["classes"] == ["dark", "medium", "bright"]


def test_traffic_is_drawn(tab, site, bright):
    tab.choose_file("#file", bright)
    tab.wait_for("document.querySelector('.best')")
    tab.wait_for("document.querySelector('#latency path.line').getAttribute('d')")
    tab.wait_for("document.querySelectorAll('#histogram rect.bar').length")
    label = tab.evaluate("document.getElementById('latency').getAttribute('aria-label')")
    assert re.search(r"latest: p50 [\d.]+ (ms|µs|s), p99 [\d.]+ (ms|µs|s)", label)
    assert tab.evaluate("document.querySelector('#rate path.line').getAttribute('d').length") > 500
    assert tab.texts("#figures tr th")[:3] == ["shades", "3", "probabilities"]
    tab.evaluate("""document.getElementById("rate").dispatchEvent(
      new PointerEvent("pointermove", {clientX: 400, clientY: 10}))""")
    assert tab.evaluate("document.querySelector('#rate .said').textContent").endswith(" s ago")
    assert tab.complaints == []


def test_a_server_that_tells_nothing_is_told_of(tab, site):
    site.broken = True
    try:
        tab.wait_for("!document.getElementById('offline').hidden")
        assert "it answered 500" in tab.text("#offline")
        assert tab.text("#ready") == "no answer"
        assert tab.texts(".model h3")[0] == "shades"
    finally:
        site.broken = False
    tab.wait_for("document.getElementById('offline').hidden")


def test_everything_to_operate_has_a_name(tab):
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("combobox", "button", "link", "region", "image", "img", "DisclosureTriangle")
    for node in nodes:
        if node.get("role", {}).get("value") in roles and not node.get("ignored"):
            assert node["name"]["value"], node


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_how_it_looks(tab, bright, tmp_path, width, dark):
    """For people to look at; that nothing is cut off is checked."""
    tab.choose_file("#file", bright)
    tab.wait_for("document.querySelector('.best')")
    tab.wait_for("document.querySelectorAll('#histogram rect.bar').length")
    picture = tab.screenshot(tmp_path / "page.png", width, dark=dark)
    with Image.open(picture) as image:
        assert image.width == width
    tab.call(
        "Emulation.setDeviceMetricsOverride",
        **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
