"""Identity and place: the form, names, the passphrase, rooms, and the same person in two tabs."""

import re

from playwright.sync_api import expect

from harness import Talker


def test_the_name_is_remembered(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    ada.page.reload()
    ada.joined()
    ada.page.close()
    again = visit(instances[0], room, beside=ada)
    again.joined()
    expect(again("#my-name")).to_have_text("Ada")


def test_a_name_is_folded_and_a_bad_one_refused(visit, instances, room):
    ada = visit(instances[0], room)
    for name in ("", "   ", "x" * 33, "a\u202eb"):
        ada.join(name)
        expect(ada("#join-problem")).to_contain_text("1 to 32 characters")
    ada.join("  Ada   Lovelace ").joined()
    expect(ada("#my-name")).to_have_text("Ada Lovelace")


def test_a_name_that_is_taken(visit, instances, room):
    Talker(instances[1], room, "Ada")
    ada = visit(instances[0], room)
    ada.join("ADA")
    expect(ada("#join-problem")).to_contain_text("is in use here")
    ada.join("Ada 2").joined()


def test_changing_ones_name(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[1], room, "Bob")
    ada.say("I am Ada")
    ada.sees("I am Ada")
    ada("#rename").click()
    expect(ada("#name")).to_have_value("Ada")
    ada.join("Countess").joined()
    expect(bob("#people bdi")).to_have_text(["Bob", "Countess"])
    ada.say("now I am not")
    expect(bob.sees("now I am not").locator(".name")).to_have_text("Countess")
    assert ada.texts() == ["I am Ada", "now I am not"]


def test_the_passphrase(visit, own, room):
    instance = own.instance(PASSPHRASE="open sesame")
    ada = visit(instance, room)
    expect(ada("#passphrase")).to_be_visible()
    ada.join("Ada")
    expect(ada("#join-problem")).to_have_text("This chat requires a passphrase.")
    expect(ada("#passphrase")).to_be_focused()
    ada.join("Ada", "open barley")
    expect(ada("#join-problem")).to_have_text("The passphrase is wrong.")
    ada.join("Ada", "open sesame").joined()
    ada.page.reload()
    ada.joined()


def test_the_passphrase_wrong_too_often(visit, own, room):
    instance = own.instance(PASSPHRASE="open sesame")
    ada = visit(instance, room).join("Ada")
    expect(ada("#join-problem")).to_have_text("This chat requires a passphrase.")
    for word in ("open barley", "open oats", "open rye", "open wheat"):
        ada.join("Ada", word)
        expect(ada("#join-problem")).to_contain_text(re.compile("passphrase is wrong|Too many wrong"))
        ada.page.wait_for_timeout(50)
    expect(ada("#join-problem")).to_contain_text("Too many wrong")
    ada.join("Ada", "open sesame").joined()


def test_taken_over_in_another_tab_and_back(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[1], room, "Bob")
    ada("#text").fill("half")
    tab = visit(instances[0], room, beside=ada)
    # The second tab knows of the first, and asks before it takes the place over.
    expect(tab("#join-problem")).to_contain_text("in another tab")
    expect(tab("#name")).to_have_value("Ada")
    tab.page.keyboard.press("Enter")
    tab.joined()
    expect(ada("#away-title")).to_have_text("You are here in another tab")
    bob.say("which one are you?")
    tab.sees("which one are you?")
    ada("#come-back").click()
    ada.joined()
    ada.sees("which one are you?")
    expect(ada("#away")).to_be_hidden()
    expect(ada("#text")).to_have_value("half")
    expect(tab("#away-title")).to_have_text("You are here in another tab")
    # And once more; Escape, however often, is not an answer.
    tab("#come-back").click()
    tab.joined()
    expect(ada("#away")).to_be_visible()
    for _ in range(4):
        ada.page.keyboard.press("Escape")
    ada("#come-back").click()
    ada.joined()
    expect(bob("#people-count")).to_have_text("2")
    expect(bob(".notice")).to_have_count(0)


def test_two_tabs_of_one_browser_can_be_two_people(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    tab = visit(instances[0], room, beside=ada)
    expect(tab("#join-problem")).to_contain_text("in another tab")
    tab.join("Bob").joined()
    tab.say("hello myself")
    ada.sees("hello myself")
    expect(ada("#people bdi")).to_have_text(["Ada", "Bob"])
    # Each tab comes back under its own name.
    ada.page.reload()
    ada.joined()
    expect(ada("#my-name")).to_have_text("Ada")


def test_rooms_by_address_and_by_the_switcher(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    expect(ada("h1")).to_have_text(f"#{room}")
    ada("#go-room").fill("No such room!")
    ada("#go-room").press("Enter")
    expect(ada("#go-problem")).to_be_visible()
    ada("#go-room").fill(f" #{room.upper()} two ")
    ada("#go-room").press("Enter")
    expect(ada.page).to_have_url(re.compile(f"/r/{room}-two$"))
    ada.joined()
    expect(ada("h1")).to_have_text(f"#{room}-two")
    expect(ada("#rooms a")).to_have_text(["lobby", room, f"{room}-two"])
    expect(ada("#rooms [aria-current=page]")).to_have_text(f"{room}-two")
    ada("#rooms a", has_text=re.compile(f"^{room}$")).click()
    ada.joined()
    expect(ada("h1")).to_have_text(f"#{room}")
    ada("#rooms a", has_text="lobby").click()
    ada.joined()
    expect(ada.page).to_have_url(f"{ada.url}/")


def test_rooms_do_not_hear_each_other(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    bob = visit(instances[0], f"{room}-b", "Bob")
    ada.say("in one")
    ada.sees("in one")
    bob.say("in two")
    bob.sees("in two")
    assert (ada.texts(), bob.texts()) == (["in one"], ["in two"])


def test_the_invitation_is_a_link_to_the_room(visit, instances, room):
    ada = visit(instances[0], room, "Ada", permissions=["clipboard-read", "clipboard-write"])
    ada("#invite").click()
    expect(ada("#invite")).to_have_text("Link copied")
    assert ada.page.evaluate("navigator.clipboard.readText()") == f"{ada.url}/r/{room}"
