"""The pictures in the README. With SCREENSHOTS=1 they are written to tests/browser/screenshots/; otherwise they are
taken but discarded, so that a test run does not change the work tree (they contain the time of day)."""

import os

import pytest
from playwright.sync_api import expect

from harness import ROOT, Talker

PICTURES = ROOT / "tests" / "browser" / "screenshots"
SIZES = {
    "desk": {"viewport": {"width": 1180, "height": 860}, "device_scale_factor": 2},
    "phone": {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
}


def take(person, name):
    person.page.mouse.move(0, 0)
    person.page.evaluate("document.fonts.ready")
    path = PICTURES / f"{name}.png" if os.environ.get("SCREENSHOTS") else None
    assert person.page.screenshot(path=path, animations="disabled").startswith(b"\x89PNG")


def conversation(instance, room, ada):
    ben, cleo = (Talker(instance, room, name) for name in ("Ben", "Cleo Marsh"))
    ben.say("Morning! Did the deploy go through?")
    cleo.say("At 9:40. I watched it roll: every instance drained, nobody noticed.", "Not one “left the room” in the logs 🎉")
    ada.say("I was on the train the whole time. Two tunnels, and everything I wrote arrived in order.")
    ada.sent()
    ben.say("Ha. What did you do, switch to paper?")
    ada.say("😄")
    ada.sent()
    cleo.say("@Ada this is all it takes to run it:\n```sh\nREDIS_ENDPOINT=redis:6379 bobbin\n```", "The rest is in `README.md`, or https://example.org/bobbin if you are on your phone.")
    ben.say("Reading.")
    ada.say("Same. Thanks, @Ben and @Cleo Marsh!")
    ada.sent()
    cleo.send(type="typing", active=True)
    expect(ada("#typing")).to_contain_text("Cleo Marsh is typing")
    return ben, cleo


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_the_form_and_a_conversation(visit, own, scheme, size):
    instance = own.instance()
    ada = visit(instance, "weaving", color_scheme=scheme, **SIZES[size])
    expect(ada("#join")).to_be_visible()
    ada("#name").fill("Ada")
    take(ada, f"join-{size}-{scheme}")
    ada.join("Ada").joined()
    conversation(instance, "weaving", ada)
    take(ada, f"conversation-{size}-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_being_offline(visit, own, scheme):
    instance = own.instance()
    link = own.link(instance)
    ada = visit(link, "weaving", "Ada", color_scheme=scheme, **SIZES["phone"])
    conversation(instance, "weaving", ada)
    link.cut()
    ada.page.context.set_offline(True)
    expect(ada("#status p")).to_contain_text("You are offline")
    ada.say("In the tunnel now.")
    ada.say("This one waits, too.")
    expect(ada(".waiting")).to_have_count(2)
    take(ada, f"offline-phone-{scheme}")


def test_picture_of_the_drawer(visit, own):
    instance = own.instance()
    ada = visit(instance, "garden", "Ada", **SIZES["phone"])
    ada.go("weaving").joined()
    conversation(instance, "weaving", ada)
    ada("#open-drawer").click()
    expect(ada("#close-drawer")).to_be_focused()
    ada("#sidebar").evaluate("async (node) => Promise.all(node.getAnimations().map((a) => a.finished))")
    take(ada, "drawer-phone-light")


def test_picture_of_the_other_tab(visit, own):
    instance = own.instance()
    ada = visit(instance, "weaving", "Ada", **SIZES["desk"])
    conversation(instance, "weaving", ada)
    tab = visit(instance, "weaving", beside=ada)
    expect(tab("#join-problem")).to_contain_text("another tab")
    tab.page.keyboard.press("Enter")
    expect(ada("#away")).to_be_visible()
    take(ada, "elsewhere-desk-light")


def test_picture_of_coming_back_to_news(visit, own):
    instance = own.instance()
    ada = visit(instance, "weaving", "Ada", **SIZES["desk"])
    ben, cleo = conversation(instance, "weaving", ada)
    ada.look_away()
    ben.say("Read it. One question about the leases.", "When an instance dies, who tells the others that its people have left?")
    cleo.say("Whichever instance reaps first. The script lets only one of them announce it.")
    ada.sees("Whichever instance")
    ada.look_back()
    expect(ada(".new")).to_have_count(1)
    take(ada, "news-desk-light")
