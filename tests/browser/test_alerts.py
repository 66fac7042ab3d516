"""Notifications, mentions, and announcements to screen readers."""

import pytest
from playwright.sync_api import expect

from harness import Talker

# Headless browsers show no notifications, so this replaces the browser's API and records the calls.
FAKE = """
    window.asked = 0; window.notes = [];
    class Fake {
        static permission = localStorage.granted ?? 'default';
        static async requestPermission() { window.asked++; return (Fake.permission = localStorage.granted = window.answer ?? 'granted'); }
        constructor(title, options) { window.notes.push([title, options.body]); }
        close() {}
    }
    window.Notification = Fake;
"""


def test_nothing_is_asked_until_one_chooses(visit, instances, room):
    ada = visit(instances[0], room, "Ada", script=FAKE)
    expect(ada("#notify")).to_have_value("off")
    ada.look_away()
    Talker(instances[1], room, "Bob").say("@Ada hello")
    ada.sees("@Ada hello")
    assert ada.page.evaluate("[window.asked, window.notes.length]") == [0, 0]


@pytest.mark.parametrize("choice, expected", [("mentions", ["hey @ada, look", "@Ada!"]), ("all", ["to nobody", "hey @ada, look", "to @Adam", "@Ada!"])])
def test_notifications_when_hidden(visit, instances, room, choice, expected):
    ada = visit(instances[0], room, "Ada", script=FAKE)
    bob = Talker(instances[1], room, "Bob")
    ada("#notify").select_option(choice)
    ada.wait("() => window.asked === 1")
    bob.say("@Ada while looking")
    ada.sees("@Ada while looking")
    ada.look_away()
    for text in ("to nobody", "hey @ada, look", "to @Adam", "@Ada!"):
        bob.say(text)
        ada.sees(text)
    notes = ada.page.evaluate("window.notes")
    assert [body for _, body in notes] == expected
    assert "Bob" in notes[0][0] and room in notes[0][0]
    ada.page.reload()
    ada.joined()
    expect(ada("#notify")).to_have_value(choice)


def test_a_refused_permission_is_said(visit, instances, room):
    ada = visit(instances[0], room, "Ada", script=FAKE + "window.answer = 'denied';")
    ada("#notify").select_option("all")
    expect(ada("#notify")).to_have_value("off")
    expect(ada("#notify-hint")).to_contain_text("does not allow")


def test_a_mention_stands_out(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = Talker(instances[1], room, "Bob")
    bob.say("dear @Ada, this is for you", "and mail@Ada.example is not", "nor @Adam", "@Bob is I")
    row = ada.sees("this is for you")
    expect(row.locator("mark")).to_have_text("@Ada")
    assert "to-me" in row.get_attribute("class")
    ada.sees("@Bob is I")
    expect(ada("mark")).to_have_count(1)
    expect(ada("span.mention")).to_have_text("@Bob")


def test_a_screen_reader_is_told_of_new_messages_politely(visit, own, instances, room):
    bob = Talker(instances[1], room, "Bob")
    bob.say("history is not read out")
    link = own.link(instances[0])
    ada = visit(link, room, "Ada")
    ada.sees("history")
    log = ada.page.get_by_role("log")
    bob.say("hello")
    expect(log).to_have_text("Bob: hello")
    ada.say("my own is not read out")
    bob.say("second")
    expect(log.locator("p")).to_have_text(["Bob: hello", "Bob: second"])
    # Together, however busy the machine is: in one `welcome`.
    link.cut()
    bob.say(*(f"burst {i}" for i in range(10)))
    link.mend()
    ada.joined(timeout=20_000)
    expect(log).to_contain_text("10 new messages")
