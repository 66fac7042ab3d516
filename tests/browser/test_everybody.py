"""Accessibility: keyboard only, screen readers, zoom, a very small screen, no storage, and a strict policy. The rules
are axe-core's."""

import re
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import expect

from harness import ROOT, Talker

AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text()


def violations(person):
    # The page's policy would block `addScriptTag`; evaluation from outside is allowed.
    person.page.evaluate(AXE)
    found = person.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{v['id']}: {v['help']}: {[node['html'][:120] for node in v['nodes']][:3]}" for v in found["violations"]]


def busy_room(instances, room, ada):
    bob = Talker(instances[1], room, "Bob")
    cast = [Talker(instances[1], room, name) for name in ("Cleo", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jim", "Kit", "Lea")]
    for person in cast:
        person.say(f"I am here, says `{person.welcome['name']}`")
    bob.say("@Ada see https://example.org", "```\ncode\n```", "👍")
    ada.say("mine, with https://example.org and `code`")
    ada.sees("mine, with")
    bob.send(type="typing", active=True)
    expect(ada("#typing")).to_contain_text("Bob is typing")
    return bob


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 390])
def test_axe_finds_nothing(visit, instances, room, scheme, width):
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "reduced_motion": "reduce"}
    ada = visit(instances[0], room, **options)
    expect(ada("#join")).to_be_visible()
    assert violations(ada) == []
    ada.join("Ada").joined()
    bob = busy_room(instances, room, ada)
    assert violations(ada) == []
    if width < 500:
        ada("#open-drawer").click()
        assert violations(ada) == []
        ada("#close-drawer").click()
    ada("#text").fill("x" * 4000)
    ada.look_away()
    bob.say("unseen")
    ada.sees("unseen")
    ada.look_back()
    expect(ada(".new")).to_have_count(1)
    ada.scroll(-900)
    assert violations(ada) == []
    tab = visit(instances[0], room, beside=ada)
    expect(tab("#join-problem")).to_contain_text("another tab")
    assert violations(tab) == []
    tab.page.keyboard.press("Enter")
    expect(ada("#away")).to_be_visible()
    assert violations(ada) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_names_colour_is_readable(visit, instances, room, scheme):
    """All 24 hues as the browser renders them on the page's background, and the letter in the avatar."""
    ada = visit(instances[0], room, "Ada", color_scheme=scheme)
    Talker(instances[1], room, "Bob").say("hello")
    ada.sees("hello")
    worst = ada.page.evaluate("""() => {
        const row = document.querySelector('.message:not(.own)');
        const context = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
        const light = (colour) => {
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const paper = light(getComputedStyle(document.body).backgroundColor);
        let worst = 21;
        for (let hue = 0; hue < 360; hue += 15) {
            row.style.setProperty('--hue', hue);
            worst = Math.min(worst, contrast(light(getComputedStyle(row.querySelector('.name')).color), paper));
        }
        return worst;
    }""")
    assert worst >= 4.5, worst


def settled(person):
    """The browser animates scrolling by keys; wait until it has come to rest."""
    person.page.evaluate("""async () => {
        const scroller = document.querySelector('#scroller');
        for (let still = 0, last = -1; still < 10; last = scroller.scrollTop) {
            await new Promise(requestAnimationFrame);
            still = scroller.scrollTop === last ? still + 1 : 0;
        }
    }""")


def test_the_keyboard_alone_does_everything(visit, instances, room):
    bob = Talker(instances[1], room, "Bob")
    bob.say(*(f"line {i}" for i in range(80)))
    ada = visit(instances[0], room)
    key = ada.page.keyboard
    focus = lambda: ada.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
    assert focus() == "name"
    key.type("Ada")
    key.press("Enter")
    ada.joined()
    expect(ada("#text")).to_be_focused()
    key.type("hello")
    key.press("Enter")
    ada.sees("hello")
    assert focus() == "text"
    # From the text box back through the page, in visual order.
    seen = []
    for _ in range(14):
        key.press("Shift+Tab")
        seen.append(focus())
    order = ["scroller", "invite", "notify", "rename", "go-room"]
    assert [name for name in seen if name in order][: len(order)] == order, seen
    # Scrolling up with keys, and back to the end with the button.
    ada("#scroller").focus()
    for _ in range(3):
        key.press("PageUp")
    expect(ada("#jump")).to_be_visible()
    settled(ada)
    key.press("Tab")
    assert focus() == "jump"
    key.press("Enter")
    expect(ada("#jump")).to_be_hidden()
    assert focus() == "scroller"
    key.press("Tab")
    assert focus() == "text"


def test_the_drawer_by_keyboard(visit, instances, room):
    ada = visit(instances[0], room, "Ada", viewport={"width": 390, "height": 760})
    key = ada.page.keyboard
    expect(ada("#sidebar")).to_be_hidden()
    ada("#open-drawer").focus()
    key.press("Enter")
    expect(ada("#sidebar")).to_be_visible()
    expect(ada("#close-drawer")).to_be_focused()
    key.press("Escape")
    expect(ada("#sidebar")).to_be_hidden()
    expect(ada("#open-drawer")).to_be_focused()
    ada("#open-drawer").click()
    ada.page.mouse.click(20, 400)
    expect(ada("#sidebar")).to_be_hidden()


@pytest.mark.parametrize("viewport", [(320, 480), (590, 380)], ids=["320 px wide", "200% zoom of a small laptop"])
def test_small_and_enlarged(visit, instances, room, viewport):
    """At 200% zoom a window of 1180 by 760 shows 590 by 380 CSS pixels."""
    ada = visit(instances[0], room, viewport={"width": viewport[0], "height": viewport[1]})
    expect(ada.page.get_by_role("button", name="Join")).to_be_in_viewport()
    ada.join("Ada").joined()
    busy_room(instances, room, ada)
    assert ada.page.evaluate("document.documentElement.scrollWidth") <= viewport[0]
    for part in ("h1", "#invite", "#open-drawer", "#text", "#send"):
        expect(ada(part)).to_be_in_viewport(ratio=1)
    expect(ada.message("mine, with")).to_be_in_viewport()
    ada("#open-drawer").click()
    expect(ada("#sidebar")).to_be_visible()
    ada("#notify").scroll_into_view_if_needed()
    expect(ada("#notify")).to_be_in_viewport(ratio=1)
    ada("#close-drawer").click()


def test_text_alone_enlarged(visit, instances, room):
    """A larger font size in the browser makes the page larger."""
    ada = visit(instances[0], room, "Ada")
    busy_room(instances, room, ada)
    ada.page.evaluate("document.documentElement.style.setProperty('font-size', '32px')")
    assert ada.page.evaluate("document.documentElement.scrollWidth") <= 1180
    expect(ada("#send")).to_be_in_viewport(ratio=1)


def test_less_motion(visit, instances, room):
    ada = visit(instances[0], room, "Ada", reduced_motion="reduce")
    Talker(instances[1], room, "Bob").send(type="typing", active=True)
    expect(ada("#typing")).to_have_text("Bob is typing")
    assert ada("#typing").evaluate("(line) => getComputedStyle(line, '::after').animationName") == "none"


def test_it_works_without_storage(visit, instances, room):
    forbid = """
        for (const kind of ['localStorage', 'sessionStorage']) {
            Object.defineProperty(window, kind, { get() { throw new DOMException('forbidden', 'SecurityError'); } });
        }
    """
    ada = visit(instances[0], room, script=forbid)
    bob = visit(instances[1], room, "Bob")
    ada.join("Ada").joined()
    ada.say("no storage here")
    bob.sees("no storage here")


def test_the_policy_is_strict_and_nothing_offends_it(visit, instances, room):
    ada = visit(instances[0], room, "Ada", script="window.offences = []; addEventListener('securitypolicyviolation', (e) => window.offences.push(e.violatedDirective));")
    answers = {}
    ada.page.on("response", lambda response: answers.update({response.url: response}))
    ada.look_away()
    Talker(instances[1], room, "Bob").say("@Ada a badge on the icon is a data: image")
    expect(ada.page).to_have_title(re.compile(r"^\(1\)"))
    ada.page.reload()
    ada.joined()
    assert all(url.startswith(ada.url) or url.startswith("data:") for url in answers), list(answers)
    headers = answers[f"{ada.url}/r/{room}"].headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert ada.page.evaluate("window.offences") == []


def test_the_page_is_small():
    files = {file.name: file.read_bytes() for file in sorted((ROOT / "static").iterdir()) if file.suffix != ".png" and file.name != "404.html"}
    assert sum(map(len, files.values())) <= 110_000, {name: len(text) for name, text in files.items()}
    lines = {name: text.count(b"\n") for name, text in files.items() if name.endswith(".js")}
    assert max(lines.values()) <= 350, lines
