"""The dashboard in a real Chromium, over a whole network: what a new user does, by mouse, by keyboard, on a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from cxp2p_node.scrape.rendering import NAMES
from e2e.conftest import EMBED_MODEL, MODEL, VOICE, Up, start

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery"
ANSWER_MS = 60_000
PHONE = {"width": 390, "height": 844}
PAGES = (
    "/",
    "/models",
    f"/models/{MODEL}",
    "/dashboard",
    "/dashboard/keys",
    "/dashboard/usage",
    "/dashboard/apps",
    "/dashboard/receipts",
    "/dashboard/rewards",
    "/dashboard/playground",
    "/dashboard/account",
    "/nothing",
)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The network of `make up`, where anybody may sign up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXP2P_GATEWAY_ACCOUNTS__SIGNUP", "open")
        with start(tmp_path_factory.mktemp("dashboard")) as up:
            yield up


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium here: tools/test-packages.sh installs one")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def tab(browser: Browser, up: Up, *, script: bool = True, phone: bool = False) -> Iterator[Page]:
    """A page in a browser of its own, which fails the test if a script or the policy complained."""
    context: BrowserContext = browser.new_context(
        base_url=up.base_url.removesuffix("/api/v1"),
        java_script_enabled=script,
        viewport=PHONE if phone else {"width": 1280, "height": 900},  # type: ignore[arg-type]
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    assert [each for each in complaints if "404 (Not Found)" not in each] == []


def sign_up(page: Page, email: str) -> str:
    """Makes an account, and gives its base key."""
    page.goto("/signup")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    key = page.locator("[data-secret]").text_content()
    assert key is not None
    page.get_by_role("link", name="I have it, go on").click()
    expect(page).to_have_url(re.compile("/dashboard$"))
    assert key not in page.content()
    return key


def make_key(page: Page, name: str) -> str:
    page.goto("/dashboard/keys")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Spend limit, in credits").fill("2.5")
    page.get_by_role("button", name="Create key").click()
    return page.locator("[data-secret]").text_content() or ""


def status(up: Up, key: str) -> int:
    return httpx.get(f"{up.base_url}/models", headers={"Authorization": f"Bearer {key}"}, timeout=30).status_code


def ask(page: Page, service: str, button: str) -> None:
    """Presses a button of the playground, and waits until its answer is whole."""
    page.locator("label", has_text=re.compile(f"^{service}$")).click()
    panel = page.locator(".panel", has=page.get_by_role("button", name=button, exact=True))
    panel.get_by_role("button", name=button, exact=True).click()
    expect(panel.get_by_role("status")).to_have_text(re.compile(r"\d s\.|tokens\."), timeout=ANSWER_MS)


def test_from_sign_up_to_a_key_that_is_revoked(network: Up, chromium: Browser) -> None:
    """Sign up, an answer in the playground, its receipt with all that it proves, a key, and 401 once it is revoked."""
    with tab(chromium, network) as page:
        base_key = sign_up(page, "ada@example.org")
        assert status(network, base_key) == 200

        page.goto("/dashboard/playground")
        page.get_by_label("Message").fill("Say hello.")
        ask(page, "Chat", "Send")
        assert page.locator(".said.it").text_content()

        page.goto("/dashboard/receipts")
        page.locator("tbody a").first.click()
        expect(page.get_by_label("Holds", exact=True)).to_have_count(7)
        expect(page.get_by_label("Does not hold")).to_have_count(0)

        key = make_key(page, "Blog search")
        assert status(network, key) == 200
        page.get_by_role("link", name="I have it, go on").click()
        page.get_by_role("button", name="Revoke this key").click()
        expect(page.get_by_role("status")).to_contain_text("The key is revoked")
        assert status(network, key) == 401
        assert status(network, base_key) == 200

        page.goto("/dashboard/usage")
        expect(page.locator(".uses").first).to_contain_text(MODEL)
        page.get_by_role("button", name="Log out").click()
        page.goto("/dashboard")
        expect(page).to_have_url(re.compile("/login"))


def test_all_four_services_answer_in_the_playground(network: Up, chromium: Browser) -> None:
    """Chat streams, an embedding shows its size, speech is sound that plays, a page is Markdown, shown as text."""
    with tab(chromium, network) as page:
        sign_up(page, "bob@example.org")
        page.goto(f"/dashboard/playground?model={EMBED_MODEL}")
        ask(page, "Embeddings", "Embed")
        expect(page.locator("[data-vector]")).to_contain_text("384 dimensions")

        page.get_by_text("Speech", exact=True).click()
        expect(page.get_by_label("Voice")).to_have_value(VOICE)
        ask(page, "Speech", "Speak")
        length = "(sound) => new Promise((done) => { const look = () => sound.duration ? done(sound.duration) : "
        length += "setTimeout(look, 50); look(); })"
        assert page.locator("[data-sound]").evaluate(length) > 1.0

        page.get_by_text("Scraping", exact=True).click()
        page.get_by_label("Address of a page").fill(str(network.access["page"]))
        ask(page, "Scraping", "Read the page")
        shown = page.locator("[data-page]")
        assert "#" in (shown.text_content() or "")
        assert shown.locator("*").count() == 0


def pasted(code: str, key: str) -> str:
    """The code with a key in it, as whoever pastes it does."""
    return code.replace("YOUR_API_KEY", key)


@pytest.mark.parametrize("model", [MODEL, EMBED_MODEL, VOICE, "web"])
def test_what_a_models_page_shows_works_when_pasted(network: Up, chromium: Browser, model: str, tmp_path: Path) -> None:
    """curl and Python as they stand; JavaScript that needs no package, where there is Node."""
    with tab(chromium, network) as page:
        key = sign_up(page, f"{model.replace(':', '-')}@example.org")
        page.goto(f"/models/{model}")
        curl, python, javascript = page.locator(".panel code").all_text_contents()
        commands = [["bash", "-c", pasted(curl, key) + " --fail"], [sys.executable, "-c", pasted(python, key)]]
        node = shutil.which("node")
        if node is not None and "from 'openai'" not in javascript:
            commands.append([node, "--input-type=module", "-e", pasted(javascript, key)])
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
            assert done.returncode == 0, done.stderr
            sound = tmp_path / "speech.wav"
            assert done.stdout.strip() or sound.read_bytes().startswith(b"RIFF")
            sound.unlink(missing_ok=True)


def test_everything_but_the_playground_works_without_scripts(network: Up, chromium: Browser) -> None:
    """Sign up, make a key, refresh it, revoke it, log out."""
    with tab(chromium, network, script=False) as page:
        sign_up(page, "eve@example.org")
        first = make_key(page, "Without scripts")
        page.get_by_role("link", name="I have it, go on").click()
        page.get_by_role("button", name="Refresh this key").click()
        second = page.locator("[data-secret]").text_content() or ""
        assert (status(network, first), status(network, second)) == (401, 200)
        page.get_by_role("link", name="I have it, go on").click()
        page.get_by_role("button", name="Revoke this key").click()
        assert status(network, second) == 401
        page.goto("/dashboard/playground")
        assert "The playground needs JavaScript." in page.content()  # Chromium as driven here does not draw <noscript>
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("link", name="Log in").first).to_be_visible()


def test_no_page_is_wider_than_a_phone(network: Up, chromium: Browser) -> None:
    """At 390 pixels nothing has to be scrolled sideways but tables and code, in their own boxes."""
    with tab(chromium, network, phone=True) as page:
        sign_up(page, "phone@example.org")
        for path in PAGES:
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


def test_the_keyboard_reaches_everything(network: Up, chromium: Browser) -> None:
    """The first stop leads past the navigation, every field has a name, and a form is sent with Enter."""
    with tab(chromium, network) as page:
        page.goto("/signup")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.type("kay@example.org")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.locator("[data-secret]")).to_be_visible()
        nameless = (
            "[...document.querySelectorAll('input:not([type=hidden]), select, textarea')]"
            ".filter((field) => !field.labels.length && !field.ariaHidden).map((field) => field.name)"
        )
        for path in PAGES:
            page.goto(path)
            assert page.evaluate(nameless) == [], path
            assert page.locator("h1").count() == 1, path
