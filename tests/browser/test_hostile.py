"""Names and texts meant to do harm remain plain characters, and stay in their place."""

import pytest
from playwright.sync_api import expect

from harness import Talker

ZALGO = "Z" + "\u0335\u0336\u0337\u0338\u0353\u0349\u0321\u0302\u030a\u0311" * 40
TEXTS = {
    "markup": "<img src=x onerror=alert(1)><script>alert(2)</script><b>bold</b>",
    "link": "https://example.org/\"onmouseover=alert(1) https://a.example/<script> https://[bad javascript:alert(1)",
    "override": "\u202egnp.exe\u202c \u2067 and \u202eback https://example.org/\u202emoc",
    "no space": "w" * 4096,
    "zalgo": ZALGO * 5,
    "lines": "\n".join("l" for _ in range(2000)),
    "code": "`" * 4000,
    "fences": "```" * 1300,
    "wide": "\ufdfd" * 300,
    "separators": "a\u2028b\u2029c\u0085d",
    "emoji": "👩‍👩‍👧‍👦" * 100,
    "mentions": "@Ada" * 1000,
}


@pytest.mark.parametrize("size", [(1180, 760), (320, 560)], ids=["desk", "narrow"])
def test_hostile_texts_do_no_harm_to_the_layout(visit, instances, room, size):
    ada = visit(instances[0], room, "Ada", viewport={"width": size[0], "height": size[1]})
    bob = Talker(instances[1], room, "Bob")
    ada.page.on("dialog", lambda dialog: ada.problems.append("a dialog"))
    for text in TEXTS.values():
        bob.say(text)
        ada.paste(text)
        ada("#text").press("Enter")
        ada.paste("")
    bob.say("the end")
    ada.sees("the end")
    assert ada.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert ada.page.evaluate("(() => { const s = document.querySelector('#scroller'); return s.scrollWidth - s.clientWidth })()") <= 0
    wide = ada.page.evaluate("""() => [...document.querySelectorAll('.message')].filter((row) => {
        const box = row.getBoundingClientRect();
        // The head of a row that follows another one of the same person is not drawn, and so is nowhere.
        const drawn = [...row.querySelectorAll('.body, .head')].filter((part) => part.getClientRects().length);
        return drawn.some((part) => {
            const its = part.getBoundingClientRect();
            return its.left < box.left - 12 || its.right > box.right + 2 || its.height > 600;
        });
    }).map((row) => row.textContent.slice(0, 40))""")
    assert not wide, wide
    assert ada.page.evaluate("document.querySelectorAll('#list img, #list script, #list b').length") == 0
    hrefs = ada.page.evaluate("[...document.querySelectorAll('#list a')].map((a) => a.href)")
    assert hrefs and all(href.startswith("https://") for href in hrefs), hrefs
    assert "%E2%80%AE" not in "".join(hrefs)
    # A link is displayed as it is, whatever the text around it does to the direction of characters.
    assert set(ada("#list a").evaluate_all("(links) => links.map((link) => getComputedStyle(link).unicodeBidi)")) == {"isolate"}


def test_a_long_message_is_folded_and_can_be_unfolded(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    Talker(instances[1], room, "Bob").say("\n".join(f"line {i}" for i in range(200)))
    row = ada.sees("line 0")
    height = row.bounding_box()["height"]
    assert height < 500
    row.get_by_role("button", name="Show all").click()
    assert row.bounding_box()["height"] > 3000
    row.get_by_role("button", name="Show less").click()
    assert row.bounding_box()["height"] == height


@pytest.mark.parametrize("size", [(1180, 760), (320, 560)], ids=["desk", "narrow"])
def test_hostile_names_stay_in_their_place(visit, instances, room, size):
    ada = visit(instances[0], room, "Ada", viewport={"width": size[0], "height": size[1]})
    names = ["<b>Bob</b><script>", "W" * 32, "Z" + "\u0335\u0353\u0321\u0302\u0311" * 6, "\ufdfd" * 20, "אבג 123", "constructor", "__proto__", "$&.*+?(){}|[]\\"]
    for name in names:
        talker = Talker(instances[1], room, name)
        talker.send(type="typing", active=True)
        talker.say(f"from {len(name)}", "@" + name)
    ada.say("hello " + " ".join("@" + name for name in names))
    ada.sees("hello ")
    expect(ada("#people bdi")).to_have_count(len(names) + 1)
    assert sorted(ada("#people bdi").all_text_contents()) == sorted([*names, "Ada"])
    assert ada.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert ada.page.evaluate("document.querySelectorAll('#list b, #people b').length") == 0
    heads = ada.page.evaluate("""() => [...document.querySelectorAll('.lead .head, .person')].filter((head) => {
        const box = head.getBoundingClientRect();
        return box.height > 70 || box.right > innerWidth && head.matches('.head');
    }).map((head) => head.textContent)""")
    assert not heads, heads
