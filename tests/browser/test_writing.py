"""The text box, and the states of a message: pending, sent, or failed with a way to continue."""

from playwright.sync_api import expect

from harness import Talker, poll


def test_enter_sends_shift_enter_breaks_and_the_box_grows(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    box = ada("#text")
    low = box.bounding_box()["height"]
    box.press_sequentially("one")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    expect(box).to_have_value("one\ntwo")
    assert box.bounding_box()["height"] > low + 15
    box.press("Enter")
    assert ada.sees("one").locator(".body").inner_text() == "one\ntwo"
    expect(box).to_have_value("")
    assert abs(box.bounding_box()["height"] - low) < 2
    box.fill("\n".join("x" * 40 for _ in range(60)))
    assert box.bounding_box()["height"] < 0.4 * 760


def test_nothing_but_white_space_is_not_sent(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    ada("#text").fill("  \n ")
    expect(ada("#send")).to_be_disabled()
    ada("#text").press("Enter")
    ada.say("real")
    ada.sees("real")
    assert ada.texts() == ["real"]


def test_a_draft_survives_a_reload_and_belongs_to_its_room(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    ada("#text").fill("half a thou")
    ada.page.reload()
    ada.joined()
    expect(ada("#text")).to_have_value("half a thou")
    ada.go(f"{room}-b").joined()
    expect(ada("#text")).to_have_value("")
    ada.go(room).joined()
    expect(ada("#text")).to_have_value("half a thou")
    ada("#text").press("Enter")
    ada.sees("half a thou")
    ada.page.reload()
    ada.joined()
    expect(ada("#text")).to_have_value("")


def test_a_message_shows_at_once_as_pending_then_as_sent(visit, own, room):
    instance = own.instance()
    link = own.link(instance)
    ada = visit(link, room, "Ada")
    link.freeze()
    ada.say("slowly")
    row = ada.sees("slowly")
    expect(row.locator("time")).to_have_text("Sending…")
    link.thaw()
    expect(row.locator("time")).not_to_have_text("Sending…")
    assert "sending" not in row.get_attribute("class")
    assert ada.texts() == ["slowly"]


def test_a_refused_message_says_why_and_can_be_tried_again_or_discarded(visit, instances, room):
    # No real server refuses what the page considers valid, so the page's length check is disabled.
    lenient = "TextEncoder.prototype.encode = () => new Uint8Array(0);"
    ada = visit(instances[0], room, "Ada", script=lenient)
    ada.say("x" * 5000)
    row = ada("li.failed")
    expect(row.locator("time")).to_have_text("Not sent")
    expect(row.locator(".problem")).to_contain_text("4096")
    ada.say("after")  # the next message is not held up
    ada.sees("after")
    row.get_by_role("button", name="Try again").click()
    expect(ada("li.failed")).to_have_count(1)
    ada("li.failed").get_by_role("button", name="Discard").click()
    expect(ada("li.failed")).to_have_count(0)


def test_near_the_limit_a_counter_counts_bytes(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    counter = ada("#counter")
    ada("#text").fill("é" * 1700)
    expect(counter).to_be_hidden()
    ada("#text").fill("é" * 2000)
    expect(counter).to_have_text("96 bytes left")
    ada("#text").fill("é" * 2049)
    expect(counter).to_have_text("2 bytes too many")
    expect(ada("#send")).to_be_disabled()
    ada("#text").press("Enter")
    expect(ada("#text")).to_have_value("é" * 2049)
    ada("#text").fill("é" * 2048)
    expect(counter).to_have_text("0 bytes left")
    ada("#text").press("Enter")
    ada.sees("é" * 2048)


def test_up_arrow_in_an_empty_box_brings_the_last_text_back(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    ada.say("helo wrold")
    ada.sees("helo wrold")
    Talker(instances[1], room, "Bob").say("what?")
    ada.sees("what?")
    ada("#text").press("ArrowUp")
    expect(ada("#text")).to_have_value("helo wrold")


def test_too_fast_is_slowed_down_and_nothing_is_lost(visit, own, room):
    instance = own.instance(RATE_LIMIT=5)
    ada = visit(instance, room, "Ada")
    texts = [f"quick {i}" for i in range(26)]
    for text in texts:
        ada.say(text)
    ada.wait("(n) => document.querySelectorAll('.message').length === n && !document.querySelector('.sending, .waiting')", len(texts), timeout=15_000)
    assert ada.texts() == texts
    bob = Talker(instance, room, "Bob")
    assert [m["text"] for m in bob.welcome["messages"]] == texts


def test_messages_that_a_reload_interrupts_still_go_out_once(visit, own, room):
    instance = own.instance()
    link = own.link(instance)
    ada = visit(link, room, "Ada")
    bob = Talker(instance, room, "Bob")
    link.freeze()
    ada.say("one")
    ada.say("two")
    ada.page.evaluate("() => { location.reload() }")
    link.thaw()
    ada.wait("() => document.body.dataset.state === 'joined' && document.querySelectorAll('.message').length === 2 && !document.querySelector('.sending, .waiting')")
    assert [bob.next("message")["text"] for _ in range(2)] == ["one", "two"]
    assert poll("both are there", ada.texts) == ["one", "two"]
