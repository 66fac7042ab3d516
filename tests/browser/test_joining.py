"""The join form explains errors and retries automatically; names, other devices, and changing one's name."""

import time

import pytest
from playwright.sync_api import expect

from harness import CHAT_IS_LOADED, FakeServer, Talker

PROBLEM = "#join-problem"
AT_ONCE = 6000  # ms within which the form explains an error: the page's 3 s, and as much again for a busy machine


def test_a_dead_server_is_said_in_the_form_and_tried_again(visit, own, room):
    link = own.link(own.instance())
    ada = visit(link, room)
    ada.wait(CHAT_IS_LOADED)
    link.cut()
    ada.join("Ada")
    expect(ada(PROBLEM)).to_contain_text("cannot be reached. Retrying automatically", timeout=AT_ONCE)
    link.mend()
    ada.joined(timeout=20_000)


def test_a_server_that_does_not_answer_is_said_in_the_form(visit, own, room):
    link = own.link(own.instance())
    ada = visit(link, room)
    expect(ada("#join")).to_be_visible()
    ada.wait(CHAT_IS_LOADED)
    link.freeze()
    ada.join("Ada")
    expect(ada(PROBLEM)).to_contain_text("has not answered yet", timeout=AT_ONCE)
    link.thaw()
    ada.joined(timeout=20_000)


def test_a_full_server_is_said_in_its_own_words(visit, own, room):
    instance = own.instance(MAX_CONNECTIONS=1)
    bob = Talker(instance, room, "Bob")
    ada = visit(instance, room).join("Ada")
    expect(ada(PROBLEM)).to_contain_text("all connections are in use", timeout=AT_ONCE)
    bob.leave()
    ada.joined(timeout=20_000)


def test_a_proxy_that_rewrites_host_is_named(visit, own, room):
    """nginx's default behaviour."""
    instance = own.instance()
    link = own.link(instance)
    link.rewrite = (f"Host: 127.0.0.1:{link.port}".encode(), b"Host: bobbin.internal:3000")
    ada = visit(link, room).join("Ada")
    expect(ada(PROBLEM)).to_contain_text("bobbin.internal:3000", timeout=AT_ONCE)
    expect(ada(PROBLEM)).to_contain_text("ALLOWED_ORIGINS")


def test_redis_away_is_said_in_the_form(visit, own, room):
    redis = own.redis()
    instance = own.instance(redis)
    Talker(instance, room, "Bob")
    ada = visit(instance, room)
    redis.pause()
    ada.join("Ada")
    expect(ada(PROBLEM)).to_contain_text("cannot reach its storage", timeout=AT_ONCE)
    redis.resume()
    ada.joined(timeout=20_000)


@pytest.mark.parametrize("code, words", [("full", "is full"), ("rate_limited", "asks to wait: no.")])
def test_what_passes_is_said_and_tried_again(visit, instances, room, code, words):
    server = FakeServer()
    server.answers["join"] = lambda frame: server.send(type="error", code=code, message="no", retry_ms=200)
    ada = visit(instances[0], room, fake=server).join("Ada")
    expect(ada(PROBLEM)).to_contain_text(words)
    del server.answers["join"]
    ada.joined()


def test_sent_away_by_the_host(visit, instances, room):
    server = FakeServer()
    ada = visit(instances[0], room, "Ada", fake=server)
    server.answers["join"] = lambda frame: server.send(type="error", code="banned", message="no")
    server.socket.close(code=4004, reason="removed by the host")
    expect(ada("#away-title")).to_have_text("Banned")
    ada("#come-back").click()
    expect(ada(PROBLEM)).to_contain_text("banned you")


def test_after_a_refusal_a_dead_line_does_not_hold_one_up(visit, own, room):
    instance = own.instance()
    link = own.link(instance)
    Talker(instance, room, "Ada")
    ada = visit(link, room).join("Ada")
    expect(ada(PROBLEM)).to_contain_text("in use")
    link.freeze()
    ada.join("Ada L")
    expect(ada(PROBLEM)).to_contain_text("has not answered yet", timeout=AT_ONCE)
    start = time.monotonic()
    link.thaw()
    ada.joined()
    assert time.monotonic() - start < 8


def test_a_name_in_use_offers_the_next_one_in_one_click(visit, instances, room):
    Talker(instances[1], room, "Ada")
    Talker(instances[1], room, "Ada 2")
    phone = visit(instances[0], room).join("Ada")
    expect(phone(PROBLEM)).to_contain_text("perhaps by you on another device")
    other = phone("#join-other")
    expect(other).to_have_text("Join as Ada 2")
    other.click()
    phone.joined()
    expect(phone("#my-name")).to_have_text("Ada 3")


def test_changing_ones_name_keeps_the_place_until_the_new_one_is_granted(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[1], room, "Bob")
    ada("#rename").click()
    expect(ada("#join-title")).to_contain_text("Change your name")
    ada.join("Bob")
    expect(ada(PROBLEM)).to_contain_text("in use")
    bob.say("are you still there?")
    ada.sees("are you still there?")
    expect(bob("#people bdi")).to_have_text(["Ada", "Bob"])
    ada.page.keyboard.press("Escape")
    expect(ada("#join")).to_be_hidden()
    expect(ada("#my-name")).to_have_text("Ada")
    ada.say("I am")
    bob.sees("I am")
    ada("#rename").click()
    ada("#join-cancel").click()
    expect(ada("#join")).to_be_hidden()
    ada("#rename").click()
    ada.join("Countess")
    expect(ada("#my-name")).to_have_text("Countess")
    expect(bob("#people bdi")).to_have_text(["Bob", "Countess"])
    assert ada.texts() == ["are you still there?", "I am"]
    # Messages sent under the former name remain one's own, labelled with that name.
    expect(ada.message("I am").locator(".head bdi")).to_contain_text("You, as")


def test_the_proxy_names_the_user(visit, instances, room):
    server = FakeServer()
    ada = visit(instances[0], room, fake=server, script="""
        new MutationObserver((_, all) => document.documentElement && (document.documentElement.dataset.access = 'user', all.disconnect())).observe(document, { childList: true });
    """).joined()
    assert "name" not in server.received[0]
    expect(ada("#my-name")).to_have_text("Proxied")
    expect(ada("#rename")).to_be_hidden()


def test_the_passphrase_is_asked_once_in_a_browser(visit, own, room):
    instance = own.instance(PASSPHRASE="open sesame")
    ada = visit(instance, room)
    expect(ada("#join-hint")).to_be_hidden()
    ada.join("Ada", "open sesame").joined()
    tab = visit(instance, f"{room}-b", beside=ada)
    tab.joined()


def test_the_form_says_what_this_is(visit, own, room):
    ada = visit(own.instance(HISTORY_MESSAGES=250, HISTORY_DAYS=7), room)
    expect(ada("#join-about")).to_have_text("A chat room. Anyone who has the link can read and write here. The last 250 messages stay, for up to 7 days.")
    ada = visit(own.instance(PASSPHRASE="sesame"), room)
    expect(ada("#join-about")).to_contain_text("the link and the passphrase")


def test_nothing_can_be_written_before_the_join(visit, instances, room):
    ada = visit(instances[0], room)
    expect(ada("#join")).to_be_visible()
    assert ada.page.evaluate("document.querySelector('#main').inert && document.querySelector('#sidebar').inert")
    ada.join("Ada").joined()
    expect(ada("#text")).to_be_focused()


def test_a_new_private_room_cannot_be_guessed(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    seen = set()
    for _ in range(3):
        ada("#new-room").click()
        ada.wait("(seen) => !seen.includes(location.pathname)", [f"/r/{room}", *seen])
        ada.joined()
        seen.add(ada.page.evaluate("location.pathname"))
    assert len(seen) == 3 and all(len(path) == len("/r/private-") + 24 for path in seen), seen


def test_behind_a_proxy_that_logs_people_in_no_name_is_asked(visit, own, room):
    instance = own.instance(USER_HEADER="Remote-User", TRUSTED_PROXIES="127.0.0.1/32")
    link = own.link(instance, rewrite=(b"\r\nHost: ", b"\r\nRemote-User: Grace\r\nHost: "))
    grace = visit(link, room).joined()
    expect(grace("#my-name")).to_have_text("Grace")
    expect(grace("#rename")).to_be_hidden()
    grace.say("logged in")
    grace.sees("logged in")
    grace.page.reload()
    grace.joined()
