"""People in a room: messages, typing, who is here, joining and leaving; always across two instances."""

import re

from playwright.sync_api import expect

from harness import Talker, poll


def test_a_message_crosses_between_two_tasks(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[1], room, "Bob")
    ada.say("Good morning")
    row = bob.sees("Good morning")
    expect(row.locator(".name")).to_have_text("Ada")
    bob.say("And to you")
    ada.sees("And to you")
    assert ada.texts() == bob.texts() == ["Good morning", "And to you"]


def test_the_count_and_the_names_are_those_of_both_tasks(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[1], room, "Bob")
    for person in (ada, bob):
        expect(person("#people-count")).to_have_text("2")
        expect(person("#people bdi")).to_have_text(["Ada", "Bob"])
    bob.page.close()
    expect(ada("#people-count")).to_have_text("1")
    expect(ada("#people bdi")).to_have_text(["Ada"])


def test_typing_is_seen_by_others_and_not_by_oneself(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[1], room, "Bob")
    bob("#text").press_sequentially("hel")
    expect(ada("#typing")).to_have_text("Bob is typing")
    expect(bob("#typing")).to_have_text("")
    bob("#text").press("Enter")
    ada.sees("hel")
    expect(ada("#typing")).to_have_text("")


def test_typing_of_two_and_of_several(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    others = [Talker(instances[i % 2], room, name) for i, name in enumerate(["Bob", "Cleo", "Dan"])]

    def is_shown(text, *typists):
        def look():
            # Each is forgotten after five seconds.
            for typist in typists:
                typist.send(type="typing", active=True)
            ada.page.wait_for_timeout(300)
            return ada("#typing").inner_text() == text

        poll(text, look)

    is_shown("Bob is typing", others[0])
    is_shown("Bob and Cleo are typing", *others[:2])
    is_shown("Several people are typing", *others)
    others[0].say("done")
    ada.sees("done")
    assert ada("#typing").inner_text() != "Several people are typing"
    is_shown("Cleo and Dan are typing", *others[1:])
    # The typists send nothing more, and are forgotten after five seconds.
    expect(ada("#typing")).to_have_text("", timeout=8000)


def test_comings_and_goings_are_gathered_into_one_quiet_line(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    ada.say("hello")
    ada.sent()
    crowd = [Talker(instances[i % 2], room, f"Guest {i}") for i in range(5)]
    expect(ada(".notice")).to_have_text(["5 people joined"])
    crowd[0].leave()
    crowd[1].leave()
    expect(ada(".notice")).to_have_text(["3 people joined"])
    ada.say("so many")
    ada.sent()
    for guest in crowd[2:]:
        guest.leave()
    expect(ada(".notice")).to_have_text(["3 people joined", "3 people left"])


def test_a_reload_is_not_told_to_others(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[1], room, "Bob")
    expect(ada(".notice")).to_have_text([re.compile("Bob.* joined")])
    bob.say("brb")
    bob.page.reload()
    bob.joined()
    bob.say("back")
    ada.sees("back")
    cleo = Talker(instances[1], room, "Cleo")
    cleo.leave()
    expect(ada(".notice")).to_have_count(1)


def test_messages_of_one_person_are_grouped_and_own_ones_told_apart(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = Talker(instances[1], room, "Bob")
    bob.say("one", "two", "three")
    ada.sees("three")
    ada.say("mine")
    ada.sees("mine")
    assert "lead" in ada.message("one").get_attribute("class")
    assert "lead" not in ada.message("two").get_attribute("class")
    assert "own" in ada.message("mine").get_attribute("class").split()
    expect(ada(".day")).to_have_text(["Today"])
    expect(ada.message("one").locator("time")).to_have_text(re.compile(r"^\d\d:\d\d$"))
    # The time of a message within a group is shown on hover.
    head = ada.message("two").locator(".head")
    expect(head).to_have_css("opacity", "0")
    ada.message("two").hover()
    expect(head).to_have_css("opacity", "1")


def test_a_name_has_one_colour_for_everybody(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[1], room, "Bob")
    Talker(instances[0], room, "Cleo").say("hi")
    hues = [person.sees("hi").evaluate("(row) => row.style.getPropertyValue('--hue')") for person in (ada, bob)]
    assert hues[0] == hues[1] != ""


def test_links_code_and_emoji(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = Talker(instances[1], room, "Bob")
    bob.say(
        "see https://example.org/a_(b)?q=1&r=2. Or (http://example.org/x), not javascript:alert(1) nor ftp://example.org",
        "use `let x = <b>1</b>` *here*",
        "look:\n```rust\nfn main() {\n    1 * 2\n}\n```\nnice",
        "first\nsecond",
        "👍🏽 🇫🇷 👩‍👩‍👧",
        "👍 yes",
    )
    row = ada.sees("see https")
    links = row.locator("a")
    expect(links).to_have_text(["https://example.org/a_(b)?q=1&r=2", "http://example.org/x"])
    expect(links.first).to_have_attribute("href", "https://example.org/a_(b)?q=1&r=2")
    expect(links.first).to_have_attribute("rel", "noopener noreferrer")
    expect(links.first).to_have_attribute("target", "_blank")
    expect(ada.message("let x").locator("code")).to_have_text("let x = <b>1</b>")
    expect(ada.message("let x").locator("em")).to_have_text("here")
    expect(ada.message("look:").locator("pre code")).to_have_text("fn main() {\n    1 * 2\n}")
    assert ada.message("first").locator(".body").inner_text() == "first\nsecond"
    sizes = [float(ada.message(text).locator(".body").evaluate("(body) => parseFloat(getComputedStyle(body).fontSize)")) for text in ("🇫🇷", "👍 yes")]
    assert sizes[0] > 1.5 * sizes[1]
