"""Reading: history, scrolling back without a jump, the button for new messages, the unread line and count, a bounded
page."""

import re

from playwright.sync_api import expect

from harness import Talker, poll

ROWS = "document.querySelectorAll('#list > li').length"
AT_END = "(() => { const s = document.querySelector('#scroller'); return s.scrollHeight - s.scrollTop - s.clientHeight < 4 })()"


def test_a_room_opens_at_its_end_with_its_history(visit, instances, room):
    Talker(instances[1], room, "Bob").say(*(f"line {i}" for i in range(30)))
    ada = visit(instances[0], room, "Ada")
    ada.sees("line 29")
    assert ada.texts() == [f"line {i}" for i in range(30)]
    assert ada.page.evaluate(AT_END)
    expect(ada(".edge")).to_have_text("These are the oldest messages kept.")


def test_scrolling_up_loads_older_messages_without_a_jump(visit, instances, room):
    Talker(instances[1], room, "Bob").say(*(f"line {i} {'word ' * (i % 40)}" for i in range(400)))
    ada = visit(instances[0], room, "Ada")
    ada.sees("line 399 ")
    top = "document.querySelector('#scroller').getBoundingClientRect().top"
    first = f"[...document.querySelectorAll('.message')].find((row) => row.getBoundingClientRect().bottom > {top} + 5)"
    for _ in range(300):
        if ada("li.edge", has_text="oldest").count():
            break
        before = ada.page.evaluate(f"(() => {{ const row = {first}; return [row.dataset.id, row.getBoundingClientRect().top] }})()")
        above = ada.page.evaluate("document.querySelector('#scroller').scrollTop")
        ada.scroll(-160)
        # Two frames later, whatever has been loaded above, the row has moved exactly by the scrolled distance.
        after = ada.page.evaluate(f"""async (id) => {{
            for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);
            return document.querySelector(`[data-id="${{id}}"]`)?.getBoundingClientRect().top;
        }}""", before[0])
        if above >= 160:
            assert abs(after - before[1] - 160) <= 2, (before, after)
    ada.page.evaluate("document.querySelector('#scroller').scrollTop = 0")
    ada.sees("line 0 ")


def test_when_scrolled_up_a_button_counts_the_new_ones(visit, instances, room):
    bob = Talker(instances[1], room, "Bob")
    bob.say(*(f"line {i}" for i in range(60)))
    ada = visit(instances[0], room, "Ada")
    ada.sees("line 59")
    expect(ada("#jump")).to_be_hidden()
    ada.scroll(-500)
    expect(ada("#jump")).to_contain_text("Latest messages")
    place = ada.message("line 45").bounding_box()["y"]
    bob.say("news one")
    expect(ada("#jump")).to_contain_text("1 new message")
    bob.say("news two", "news three")
    expect(ada("#jump")).to_contain_text("3 new messages")
    assert abs(ada.message("line 45").bounding_box()["y"] - place) < 2
    ada("#jump").click()
    expect(ada("#jump")).to_be_hidden()
    expect(ada.message("news three")).to_be_in_viewport()
    assert ada.page.evaluate(AT_END)


def test_saying_something_goes_to_the_end(visit, instances, room):
    Talker(instances[1], room, "Bob").say(*(f"line {i}" for i in range(60)))
    ada = visit(instances[0], room, "Ada")
    ada.sees("line 59")
    ada.scroll(-600)
    ada.say("mine")
    expect(ada.message("mine")).to_be_in_viewport()


def test_a_line_marks_where_reading_stopped_and_the_title_counts(visit, instances, room):
    bob = Talker(instances[1], room, "Bob")
    ada = visit(instances[0], room, "Ada")
    bob.say("seen")
    ada.sees("seen")
    expect(ada.page).to_have_title(f"#{room} · Bobbin")
    plain = ada("#icon").get_attribute("href")
    ada.look_away()
    bob.say("not seen", "nor this")
    expect(ada.page).to_have_title(f"(2) #{room} · Bobbin")
    assert ada("#icon").get_attribute("href").startswith("data:image/svg+xml,")
    ada.look_back()
    expect(ada.page).to_have_title(f"#{room} · Bobbin")
    expect(ada("#icon")).to_have_attribute("href", re.compile(re.escape(plain)))
    expect(ada(".new")).to_have_count(1)
    assert ada.page.evaluate("document.querySelector('.new').previousElementSibling.textContent").endswith("seen")
    assert "not seen" in ada.page.evaluate("document.querySelector('.new').nextElementSibling.textContent")
    # The line stays while the person reads on, and disappears when they answer.
    bob.say("and this")
    ada.sees("and this")
    expect(ada(".new")).to_have_count(1)
    ada.say("I see")
    ada.sees("I see")
    expect(ada(".new")).to_have_count(0)


def test_the_line_is_not_drawn_under_the_readers_eyes(visit, instances, room):
    bob = Talker(instances[1], room, "Bob")
    bob.say(*(f"old {i}" for i in range(60)))
    ada = visit(instances[0], room, "Ada")
    ada.sees("old 59")
    ada.page.reload()
    ada.joined()
    bob.say("read as it comes")
    ada.sees("read as it comes")
    expect(ada(".new")).to_have_count(0)
    ada.look_away()
    bob.say("missed")
    ada.sees("missed")
    ada.look_back()
    expect(ada(".new")).to_have_count(1)
    # It stays when the person scrolls up to read what was before.
    ada.scroll(-200)
    expect(ada("#jump")).to_be_visible()
    expect(ada(".new")).to_have_count(1)


def test_the_title_counts_in_a_tab_that_is_not_painted(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    ada.page.evaluate("() => { window.requestAnimationFrame = () => 0; }")
    ada.look_away()
    Talker(instances[1], room, "Bob").say("one", "two")
    expect(ada.page).to_have_title(f"(2) #{room} · Bobbin")


def test_coming_back_another_day_the_line_is_in_sight(visit, instances, room):
    bob = Talker(instances[1], room, "Bob")
    bob.say(*(f"old {i}" for i in range(20)))
    ada = visit(instances[0], room, "Ada")
    ada.sees("old 19")
    ada.page.goto("about:blank")
    bob.say(*(f"new {i} {'word ' * 30}" for i in range(30)))
    ada.go(room).joined()
    expect(ada(".new")).to_be_in_viewport()
    expect(ada("#jump")).to_contain_text("30 new messages")
    assert "new 0 " in ada.page.evaluate("document.querySelector('.new').nextElementSibling.textContent")


def test_five_thousand_messages_stay_smooth(visit, instances, room):
    bob = Talker(instances[0], room, "Bob")
    ada = visit(instances[0], room, "Ada")
    bob.say(*(f"line {i} and some more words to read" for i in range(5000)))
    ada.sees("line 4999 ", timeout=20_000)
    assert ada.page.evaluate(ROWS) < 260
    # Two frames after a leap through the list, beside two frames without one: a ratio, so that the machine's speed does
    # not matter.
    still, moving = ada.page.evaluate("""async () => {
        const scroller = document.querySelector('#scroller');
        const times = [[], []];
        for (let i = 0; i < 40; i++) {
            const start = performance.now();
            if (i % 2) scroller.scrollBy(0, i % 4 === 1 ? -3000 : 3000);
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            times[i % 2].push(performance.now() - start);
        }
        return times.map((some) => some.sort((a, b) => a - b)[10]);
    }""")
    assert moving < 4 * still, (still, moving)
    # Scrolls all the way up; the page never holds more rows than its window.
    most = ada.page.evaluate("""async () => {
        const scroller = document.querySelector('#scroller');
        let most = 0;
        for (let i = 0; i < 2000 && !scroller.textContent.includes('line 0 and'); i++) {
            scroller.scrollTop = 0;
            await new Promise(requestAnimationFrame);
            most = Math.max(most, document.querySelectorAll('#list > li').length);
        }
        return most;
    }""")
    assert most <= 300, most
    ada.page.evaluate("document.querySelector('#scroller').scrollTop = 0")
    ada.sees("line 0 and")
    ada("#jump").click()
    expect(ada.message("line 4999 ")).to_be_in_viewport()
    assert ada.page.evaluate(ROWS) < 260


def test_a_full_house_of_history_can_be_scrolled_back_from_the_server(visit, instances, room):
    Talker(instances[0], room, "Bob").say(*(f"line {i}." for i in range(1200)))
    ada = visit(instances[1], room, "Ada")
    ada.sees("line 1199.")

    def top():
        ada.page.evaluate("document.querySelector('#scroller').scrollTop = 0")
        return ada.message("line 0.").count()

    poll("the room's first message", top, 60)
    numbers = [int(text[5:-1]) for text in ada.texts()]
    assert numbers == list(range(len(numbers)))
