"""The second engine: chatting, connection faults, and hostile texts and names, in Firefox."""

import shutil

import pytest

from firefox import Firefox
from harness import CHAT_IS_LOADED, Talker
from test_hostile import TEXTS
from test_text import TOOLS

pytestmark = pytest.mark.skipif(not shutil.which("firefox-esr"), reason="firefox-esr is not installed")

# Firefox itself logs that a connection broke; that is not the page's fault.
NETWORK = ("can’t establish a connection", "connection to ws://", "was interrupted while the page was loading", "NetworkError")


@pytest.fixture(scope="module")
def fox(tmp_path_factory):
    fox = Firefox(tmp_path_factory.mktemp("firefox"))
    yield fox
    fox.close()


@pytest.fixture
def person(fox):
    people = []

    def person(*args, **how):
        people.append(fox.person(*args, **how))
        return people[-1]

    fox.problems.clear()
    yield person
    for one in people:
        one.close()
    problems = [text for text in fox.problems if not any(words in text for words in NETWORK)]
    assert not problems, problems


def test_people_talk(person, instances, room):
    ada, bob = person(instances[0], room, "Ada"), person(instances[1], room, "Bob")
    bob.type("#text", "hel")
    ada.wait("document.querySelector('#typing').textContent === 'Bob is typing'")
    ada.say("Good morning")
    bob.sees("Good morning")
    bob.say("**And** to you, @Ada")
    ada.sees("And to you")
    assert ada.texts() == bob.texts() == ["Good morning", "And to you, @Ada"]
    assert ada.evaluate("document.querySelector('.to-me mark').textContent") == "@Ada"
    ada.wait("document.querySelector('#people-count').textContent === '2'")
    ada.type("#text", "one\ue008\ue007\ue008two\ue007")  # Shift is pressed and released around Enter
    bob.sees("two")


def test_a_cut_line_and_a_restart_lose_nothing(person, own, room):
    redis = own.redis()
    instance = own.instance(redis, DRAIN_SECONDS=1)
    link = own.link(instance)
    ada = person(link, room, "Ada")
    bob = Talker(instance, room, "Bob")
    bob.say("before")
    ada.sees("before")
    link.cut()
    ada.wait("document.body.dataset.state === 'waiting'")
    bob.say("meanwhile")
    ada.say("from the train")
    ada.wait("document.querySelector('.waiting')")
    link.mend()
    ada.joined(20)
    ada.sent()
    assert ada.texts() == ["before", "meanwhile", "from the train"]
    bob.leave()
    instance.stop()
    link.to(own.instance(redis))
    ada.say("while it restarts")
    ada.joined(30)
    ada.sent()
    assert ada.texts()[-1] == "while it restarts" and len(ada.texts()) == 4


def test_the_form_says_what_is_wrong(person, own, room):
    link = own.link(own.instance())
    ada = person(link, room, None)
    ada.wait("document.querySelector('#join').open")
    ada.wait(CHAT_IS_LOADED)
    link.cut()
    ada.type("#name", "Ada\ue007")
    ada.wait("document.querySelector('#join-problem').textContent.includes('Retrying automatically')", 10)
    link.mend()
    ada.joined(20)


def test_another_room_without_leaving_the_page(person, own, room):
    instance = own.instance()
    link = own.link(instance)
    ada = person(link, room, "Ada")
    bob = Talker(instance, room, "Bob")
    link.cut()
    ada.say("left behind")
    ada.type("#go-room", f"{room}-b\ue007")
    ada.wait(f"document.querySelector('#waiting').textContent.includes('#{room}')")
    link.mend()
    assert bob.next("message", 30)["text"] == "left behind"
    ada.wait("!document.querySelector('#waiting li')")


@pytest.mark.parametrize("size", [(1180, 760), (450, 560)], ids=["desk", "narrow"])
def test_hostile_texts_stay_in_their_place(person, instances, room, size):
    ada = person(instances[0], room, "Ada", size=size)
    bob = Talker(instances[1], room, "Mary-Lou")
    bob.say(*TEXTS.values(), "https://a" + ")" * 4080, "the end")
    ada.sees("the end")
    assert ada.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = ada.evaluate("""[...document.querySelectorAll('.message')].filter((row) => {
        const box = row.getBoundingClientRect();
        return [...row.querySelectorAll('.body, .head')].some((part) => {
            const its = part.getBoundingClientRect();
            return its.left < box.left - 12 || its.right > box.right + 2 || its.height > 600;
        });
    }).map((row) => row.textContent.slice(0, 40))""")
    assert not wide, wide
    assert ada.evaluate("document.querySelectorAll('#list img, #list script, #list b').length") == 0


def test_random_names_and_texts_make_no_exception(person, instances, room):
    ada = person(instances[0], room, "Ada")
    wrong = ada.evaluate("(async () => {" + TOOLS.replace("SEED", "2") + """
        const wrong = [];
        for (let i = 0; i < 3000 && wrong.length < 5; i++) {
            const [me, text] = [string(12), string(i % 40 ? 40 : 900)];
            try {
                const node = document.createElement('div');
                node.append(render(text, nameIndex([me]), nameIndex([me, string(9), string(9)])));
                mentions(text, nameIndex([me]));
                if (node.querySelector('script, img, b, style')) wrong.push(text);
            } catch (error) { wrong.push([String(error), me, text]); }
        }
        return wrong;
    })()""")
    assert wrong == []
