"""Clients for test.sh. Each command joins people in a new room, and fails if a promise is broken.

    talk.py across URL URL               one at each address; both receive both messages, once, in the same order
    talk.py move FROM TO CODE COMMAND …  ten people at FROM and Bob at TO; COMMAND ends FROM, which closes with CODE
                                         (1006: without a close frame); the ten reconnect at TO, have missed nothing, and
                                         Bob has seen nobody leave
"""

import json
import subprocess
import sys
import time
import uuid

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE = 30
ROOM = f"r{uuid.uuid4().hex[:10]}"


class Person:
    def __init__(self, url, name):
        self.name, self.secret, self.since, self.heard, self.left = name, uuid.uuid4().hex, None, [], []
        self.join(url)

    def join(self, url):
        self.socket = connect(f"{url.replace('http', 'ws')}/ws/{ROOM}", subprotocols=["bobbin.v1"])
        self.send(type="join", name=self.name, client=self.secret, since=self.since)
        welcome = self.until(lambda frame: frame["type"] == "welcome")
        self.since = welcome["last"]

    def send(self, **frame):
        self.socket.send(json.dumps(frame))

    def say(self, text):
        ref = uuid.uuid4().hex
        self.send(type="message", text=text, ref=ref)
        self.until(lambda frame: frame.get("ref") == ref and frame["type"] == "message")

    def until(self, wanted):
        """Read until this frame arrives."""
        end = time.monotonic() + PATIENCE
        while True:
            frame = json.loads(self.socket.recv(timeout=max(0.01, end - time.monotonic())))
            for message in frame.get("messages", [frame] if frame["type"] == "message" else []):
                self.heard.append(message["text"])
                self.since = message["id"]
            self.left += frame.get("left", [])
            if wanted(frame):
                return frame

    def hear(self, text):
        if text not in self.heard:
            self.until(lambda _: text in self.heard)

    def end(self):
        """Read until the connection ends; returns how it did."""
        try:
            self.until(lambda _: False)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006


def across(one, other):
    ada, bob = Person(one, "Ada"), Person(other, "Bob")
    ada.say("hello from one")
    bob.hear("hello from one")
    bob.say("hello from the other")
    ada.hear("hello from the other")
    assert ada.heard == bob.heard == ["hello from one", "hello from the other"], (ada.heard, bob.heard)


def move(old, new, code, *command):
    people, bob = [Person(old, f"Person {number}") for number in range(10)], Person(new, "Bob")
    people[0].say("before")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as ending:
        bob.say("meanwhile")
        for person in people:
            ended = person.end()
            assert ended == int(code), f"{person.name} was closed with {ended}"
            person.join(new)
        bob.say("after")
        for person in people:
            person.hear("after")
            assert person.heard == ["before", "meanwhile", "after"], (person.name, person.heard)
        assert ending.wait(PATIENCE) == 0, command
    assert not bob.left, f"Bob saw them leave: {bob.left}"


if __name__ == "__main__":
    {"across": across, "move": move}[sys.argv[1]](*sys.argv[2:])
