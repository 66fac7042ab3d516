"""What the page shows is true: whose a message is, who is here, what is kept, what was missed."""

import re

import pytest
from playwright.sync_api import expect

from harness import FakeServer, Talker, fake_message


def test_a_hyphen_or_any_other_mark_in_a_name_blanks_nobodys_room(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    names = ["Mary-Lou", "a-b-c", *(f"x{mark}y" for mark in "!\"#$%&'()*+,./:;<=>?@[\\]^_`{|}~-")]
    for name in names:
        Talker(instances[1], room, name).say(f"I am @{name}")
    ada.sees(f"I am @{names[-1]}")
    newcomer = visit(instances[1], room, "Zoe")
    newcomer.sees("I am @Mary-Lou")
    expect(ada(".message .mention")).to_have_text([f"@{name}" for name in names])
    ada.say("@Mary-Lou hello")
    newcomer.sees("@Mary-Lou hello")


def test_a_stranger_under_a_departed_name_does_not_get_her_messages(visit, instances, room):
    first = Talker(instances[1], room, "Ada")
    first.say("I am the first Ada")
    first.leave()
    ada = visit(instances[0], room).join("Ada").joined()
    ada.say("I am the second")
    row = ada.sees("I am the first Ada")
    assert "own" not in row.get_attribute("class").split()
    expect(row.locator(".name")).to_have_text("Ada")
    bob = visit(instances[1], room, "Bob")
    bob.sees("I am the second")
    marks = bob(".message .mark").evaluate_all("(marks) => marks.map((mark) => [mark.title, mark.textContent + mark.style.cssText])")
    assert len(marks) == 2 and marks[0] != marks[1], marks
    assert all(title.startswith("Identity: ") for title, _ in marks)
    # The same person has the same mark again.
    ada.page.reload()
    ada.joined().say("and here again")
    again = bob.sees("and here again")
    assert "lead" not in again.get_attribute("class").split()


def test_who_is_announced_again_did_not_join(visit, instances, room):
    server = FakeServer(names=["Ada", "Bob"], participants=2)
    ada = visit(instances[0], room, "Ada", fake=server)
    server.send(type="presence", joined=["Ada", "Bob", "Cleo"], left=[], participants=3)
    expect(ada(".notice")).to_have_text([re.compile("^.Cleo. joined$")])


def test_a_thousand_people_and_oneself_among_them(visit, instances, room):
    names = sorted(f"Guest {i:04}" for i in range(1000))
    server = FakeServer(names=names[:100], participants=1000)
    ada = visit(instances[0], room, "Zoe", fake=server)
    expect(ada("#people li", has_text="you")).to_have_count(1)
    expect(ada("#people li")).to_have_count(100)
    expect(ada("#people-rest")).to_have_text("and 900 more")
    for i in range(0, 1000, 20):
        server.send(type="presence", joined=names[i : i + 20], left=[], participants=1000)
    server.send(type="presence", joined=[], left=names[:30], participants=970)
    expect(ada("#people-count")).to_have_text("970")
    expect(ada("#people-rest")).to_have_text("and 870 more")
    expect(ada("#people li", has_text="you")).to_have_count(1)


def test_more_missed_than_is_loaded_is_not_called_fifty(visit, instances, room):
    bob = Talker(instances[1], room, "Bob")
    ada = visit(instances[0], room, "Ada")
    bob.say("read this")
    ada.sees("read this")
    ada.page.goto("about:blank")
    bob.say(*(f"missed {i}." for i in range(300)))
    ada.page.add_init_script("document.hasFocus = () => false;")
    ada.go(room).joined()
    expect(ada.page).to_have_title(f"(50+) #{room} · Bobbin")
    expect(ada(".new")).to_have_count(0)
    expect(ada("li.edge, .message").first).to_be_attached()
    for _ in range(400):
        ada.page.evaluate("document.querySelector('#scroller').scrollTop = 0")
        ada.page.wait_for_timeout(50)
        if ada(".new").count():
            break
    expect(ada.page).to_have_title(f"(300) #{room} · Bobbin")
    expect(ada("#jump")).to_contain_text("300 new messages")
    assert "missed 0." in ada.page.evaluate("document.querySelector('.new').nextElementSibling.textContent")


def test_a_server_restarted_without_its_messages_is_said_now_and_later(visit, own, room):
    instance = own.instance(DRAIN_SECONDS=0)
    link = own.link(instance)
    ada = visit(link, room, "Ada")
    ada.say("it was here")
    ada.sent()
    instance.stop()
    link.to(own.instance())
    ada.joined(timeout=20_000)
    expect(ada(".notice")).to_have_text(["The server has lost all messages: those above exist only on this page."])
    ada.page.reload()
    ada.joined()
    expect(ada(".edge")).to_have_text("The messages that were here are no longer kept.")


def test_five_thousand_paged_from_the_server_and_back_are_never_more_than_300_rows(visit, instances, room):
    Talker(instances[0], room, "Bob").say(*(f"line {i}." for i in range(5000)))
    ada = visit(instances[1], room, "Ada")
    ada.sees("line 4999.")
    most, nodes = ada.page.evaluate("""async () => {
        const scroller = document.querySelector('#scroller');
        const rows = () => document.querySelectorAll('#list > li').length;
        let most = 0, nodes = 0;
        const step = async (top) => {
            scroller.scrollTop = top;
            await new Promise(requestAnimationFrame);
            most = Math.max(most, rows());
            nodes = Math.max(nodes, document.querySelectorAll('*').length);
        };
        for (let i = 0; i < 6000 && !scroller.textContent.includes('line 0.'); i++) await step(scroller.scrollTop < 50 ? 1 : 0);
        if (!scroller.textContent.includes('line 0.')) throw new Error('the top was not reached');
        for (let i = 0; i < 3000 && !scroller.textContent.includes('line 4999.'); i++) await step(scroller.scrollHeight);
        if (!scroller.textContent.includes('line 4999.')) throw new Error('the end was not reached');
        return [most, nodes];
    }""")
    assert most <= 300 and nodes < 3000, (most, nodes)


def test_days_and_waiting_messages_count_as_rows_too(visit, instances, room):
    day = 86_400_000
    history = [{**fake_message(i, f"day {i}."), "id": f"{1_700_000_000_000 + i * day}-0", "at": 1_700_000_000_000 + i * day} for i in range(500)]
    server = FakeServer(messages=history, last=history[-1]["id"])
    server.answers["message"] = lambda frame: None
    ada = visit(instances[0], room, "Ada", fake=server)
    assert ada.page.evaluate("document.querySelectorAll('#list > li').length") <= 300
    ada.page.evaluate("""() => { for (let i = 0; i < 400; i++) {
        document.querySelector('#text').value = `mine ${i}`;
        document.querySelector('#text').dispatchEvent(new InputEvent('input'));
        document.querySelector('#composer').requestSubmit();
    } }""")
    ada.sees("mine 399")
    assert ada.page.evaluate("document.querySelectorAll('#list > li').length") <= 300


@pytest.mark.parametrize("way", ["refused", "missing"])
def test_notifications_that_the_browser_does_not_show_are_said(visit, instances, room, way):
    script = {"refused": "window.Notification = class { static permission = 'granted'; static async requestPermission() { return 'granted'; } constructor() { throw new TypeError('Illegal constructor'); } };", "missing": "delete window.Notification;"}[way]
    ada = visit(instances[0], room, "Ada", script=script)
    ada("#notify").select_option("all")
    if way == "refused":
        ada.look_away()
        Talker(instances[1], room, "Bob").say("look")
        ada.sees("look")
    expect(ada("#notify-hint")).to_contain_text("does not show notifications")
    expect(ada("#notify")).to_have_value("off")


def test_steady_messages_are_announced(visit, instances, room):
    server = FakeServer()
    ada = visit(instances[0], room, "Ada", fake=server)
    for i in range(25):
        for part in range(4):
            server.message(f"steady {i}.{part}")
        ada.page.wait_for_timeout(100)
    assert "new messages" in ada.page.get_by_role("log").inner_text()
