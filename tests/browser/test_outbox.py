"""Unsent messages are not stranded: they are sent from whichever page is open, whatever room they were written in."""

import re

from playwright.sync_api import expect

from harness import FakeServer, Talker, poll


def test_going_to_another_room_does_not_leave_the_page(visit, own, room):
    link = own.link(own.instance())
    ada = visit(link, room, "Ada")
    ada.page.evaluate("window.same = true")
    ada("#go-room").fill(f"{room}-b")
    ada("#go-room").press("Enter")
    ada.joined()
    expect(ada("h1")).to_have_text(f"#{room}-b")
    ada.say("in b")
    ada.sent()
    ada.page.go_back()
    expect(ada("h1")).to_have_text(f"#{room}")
    ada.joined()
    assert ada.texts() == []
    ada.page.go_forward()
    ada.sees("in b")
    # Not even offline does the browser's own error page appear.
    link.cut()
    ada("#rooms a", has_text=re.compile(f"^{room}$")).click()
    expect(ada("h1")).to_have_text(f"#{room}")
    assert ada.page.evaluate("window.same")
    link.mend()
    ada.joined(timeout=20_000)


def test_what_waits_goes_out_from_another_room(visit, own, room):
    instance = own.instance()
    link = own.link(instance)
    ada = visit(link, room, "Ada")
    bob = Talker(instance, room, "Bob")
    link.cut()
    ada.say("written in the first room")
    ada.say("and a second one")
    ada("#go-room").fill(f"{room}-b")
    ada("#go-room").press("Enter")
    expect(ada("#waiting")).to_contain_text(f"2 messages of \u2068Ada\u2069 for #{room} wait")
    link.mend()
    ada.joined(timeout=20_000)
    assert [bob.next("message", 40)["text"] for _ in range(2)] == ["written in the first room", "and a second one"]
    expect(ada("#waiting li")).to_have_count(0)
    expect(ada("h1")).to_have_text(f"#{room}-b")


def test_what_waits_survives_the_tab_and_goes_out_from_the_next_one(visit, own, room):
    instance = own.instance()
    link = own.link(instance)
    ada = visit(link, room, "Ada")
    bob = Talker(instance, room, "Bob")
    link.cut()
    ada.say("before I close it")
    ada.sees("before I close it")
    ada.page.close()
    link.mend()
    visit(link, f"{room}-b", beside=ada).joined()
    assert bob.next("message", 20)["text"] == "before I close it"


def test_what_waits_can_be_discarded(visit, own, room):
    link = own.link(own.instance())
    ada = visit(link, room, "Ada")
    link.cut()
    ada.say("on second thoughts")
    ada.page.once("dialog", lambda dialog: dialog.accept())
    ada("#go-room").fill(f"{room}-b")
    ada("#go-room").press("Enter")
    ada("#waiting").get_by_role("button", name="Discard").click()
    expect(ada("#waiting li")).to_have_count(0)
    assert ada.page.evaluate("Object.keys(localStorage).filter((key) => key.includes('.out.'))") == []


def test_two_tabs_say_each_message_once(visit, own, room):
    instance = own.instance()
    link = own.link(instance)
    ada = visit(link, room, "Ada")
    other = visit(link, f"{room}-b", beside=ada)
    other.joined()
    bob = Talker(instance, room, "Bob")
    for i in range(10):
        ada.say(f"{i}.")
    ada.sent()
    bob.say("end")
    newcomer = Talker(instance, room, "Cleo")
    seen = [m["text"] for m in newcomer.welcome["messages"]]
    assert seen == [f"{i}." for i in range(10)] + ["end"]


def test_five_hundred_written_at_once_keep_the_servers_pace(visit, own, room):
    instance = own.instance(RATE_LIMIT=60)
    ada = visit(instance, room, "Ada", script="""
        window.frames = window.refusals = 0;
        const listen = Object.getOwnPropertyDescriptor(WebSocket.prototype, 'onmessage');
        Object.defineProperty(WebSocket.prototype, 'onmessage', { set(handler) {
            listen.set.call(this, (event) => { window.frames++; if (event.data.includes('rate_limited')) window.refusals++; handler(event); });
        } });
    """)
    ada.page.evaluate("""() => {
        const box = document.querySelector('#text');
        for (let i = 0; i < 500; i++) {
            box.value = `line ${i}.`;
            box.dispatchEvent(new InputEvent('input'));
            document.querySelector('#composer').requestSubmit();
        }
    }""")
    assert ada.page.evaluate("document.querySelectorAll('#list > li').length") <= 300
    ada.wait("() => !Object.keys(localStorage).some((key) => key.includes('.out.'))", timeout=40_000)
    assert ada.page.evaluate("window.frames") > 500
    assert ada.page.evaluate("window.refusals") < 15
    expect(ada("body")).to_have_attribute("data-state", "joined")
    welcome = Talker(instance, room, "Bob", since="1-1").welcome
    assert [m["text"] for m in welcome["messages"]] == [f"line {i}." for i in range(500)]


def test_a_receipt_is_ones_own_only_with_ones_own_mark(visit, instances, room):
    server = FakeServer()
    refs = []
    server.answers["message"] = lambda frame: refs.append(frame["ref"])
    ada = visit(instances[0], room, "Ada", fake=server)
    ada.say("mine")
    poll("it was sent", lambda: ada.page.wait_for_timeout(20) or refs)
    server.message("somebody else's under the same ref", ref=refs[0])
    ada.sees("somebody else's")
    expect(ada.message("mine")).to_have_class(re.compile("sending"))
    server.message("mine", name="Ada", by="b" * 16, ref=refs[0])
    expect(ada(".sending")).to_have_count(0)


def test_damaged_storage_does_no_harm(visit, instances, room):
    ada = visit(instances[0], room, script="""
        if (!sessionStorage.done) {
            const bad = ['{', '5', '"x"', 'null', '[null]', '{"a":1}', '[[]]'];
            const keys = ['client', 'name', 'rooms', 'notify', 'passphrase', `read.${location.pathname.slice(3)}`, `draft.${location.pathname.slice(3)}`, 'out.abc', 'out.def'];
            keys.forEach((key, i) => { localStorage[`bobbin.${key}`] = bad[(i + Number(sessionStorage.round ?? 0)) % bad.length]; sessionStorage[`bobbin.${key}`] = bad[(i + 3) % bad.length]; });
        }
    """)
    for round in range(7):
        ada.page.evaluate("(round) => { sessionStorage.clear(); localStorage.clear(); sessionStorage.round = round; }", round)
        ada.page.reload()
        ada.wait("() => document.querySelector('#join').open || document.body.dataset.state === 'joined'")
        if ada("#join").is_visible():
            ada.join("Ada").joined()
        ada.say(f"still here {round}")
        ada.sees(f"still here {round}")
        ada.page.evaluate("sessionStorage.done = 1")
        ada.page.evaluate("delete sessionStorage.done")
