"""People who chat through a TLS proxy on https://localhost, for compose.sh:

    tls_talk.py wait CA               until /healthz answers
    tls_talk.py say CA TEXT           one joins, sends the text, and leaves with the receipt
    tls_talk.py expect CA TEXT …      one joins and finds exactly these texts
    tls_talk.py move CA COMMAND …     some chat while the command stops an instance: all reconnect, and miss nothing
"""

import json
import ssl
import subprocess
import sys
import time
import urllib.request
import uuid

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

WITHIN = 30


class Person:
    def __init__(self, context, name):
        self.context, self.secret, self.since = context, uuid.uuid4().hex, None
        self.name = f"{name} {self.secret[:6]}"  # unique, because the name stays leased for a while
        self.seen = []
        self.connect()

    def connect(self):
        """Retry until it succeeds: an instance may be starting."""
        end = time.monotonic() + WITHIN
        while True:
            try:
                url = "wss://localhost/ws/compose"
                self.socket = connect(url, ssl=self.context, origin="https://localhost", proxy=None)
                break
            except (OSError, InvalidStatus, EOFError):
                assert time.monotonic() < end, f"{self.name} can't connect"
                time.sleep(0.2)
        join = {"type": "join", "name": self.name, "client": self.secret, "since": self.since}
        self.socket.send(json.dumps(join))
        welcome = self.frame("welcome")
        assert not welcome["gap"]
        self.since = welcome["last"]
        self.seen += [message["text"] for message in welcome["messages"]]

    def frame(self, *kinds):
        """The next frame of one of these types; reconnects if the connection ends."""
        while True:
            frame = json.loads(self.socket.recv(WITHIN))
            if frame["type"] == "message":
                self.seen.append(frame["text"])
                self.since = frame["id"]
            assert frame["type"] != "error", frame
            if frame["type"] in kinds:
                return frame

    def say(self, text):
        ref = uuid.uuid4().hex
        while True:
            try:
                self.socket.send(json.dumps({"type": "message", "text": text, "ref": ref}))
                while self.frame("message").get("ref") != ref:
                    pass
                return
            except ConnectionClosed:
                self.connect()
                if text in self.seen:
                    return

    def hear(self, text):
        while text not in self.seen:
            try:
                self.frame("message")
            except ConnectionClosed:
                self.connect()


def wait(context):
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen("https://localhost/healthz", timeout=5, context=context) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert time.monotonic() < end, "no answer within a minute"
            time.sleep(0.2)


def move(context, command):
    people = [Person(context, f"Person {number}") for number in range(6)]
    texts = [f"{uuid.uuid4().hex[:6]} {number}" for number in range(30)]
    for text in texts[:10]:
        people[0].say(text)
    stopping = subprocess.Popen(command)
    for number, text in enumerate(texts[10:]):
        people[number % len(people)].say(text)
        time.sleep(0.3)
    assert stopping.wait(60) == 0
    people[0].say(last := f"{uuid.uuid4().hex[:6]} the last")
    for person in people:
        person.hear(last)
        own = [text for text in person.seen if text in texts]
        assert own == texts, f"{person.name} saw {own}"
    print(f"{len(people)} people saw all {len(texts)} messages in order")


def main():
    mode, authority, *rest = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    if mode == "wait":
        wait(context)
    elif mode == "say":
        Person(context, "Ada").say(*rest)
    elif mode == "expect":
        seen = Person(context, "Bob").seen
        assert seen == rest, seen
    elif mode == "move":
        move(context, rest)


main()
