"""The second engine: Debian's firefox-esr, driven over WebDriver BiDi, which it implements itself. A small client with
the few commands needed, because a driver cannot be downloaded everywhere."""

import itertools
import json
import os
import re
import subprocess
import time

from websockets.sync.client import connect

from harness import PATIENCE, poll

PREFERENCES = {
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "app.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "services.settings.server": "data:,",
}


class Firefox:
    """One headless browser. Each `person` has a user context, with its own storage."""

    def __init__(self, profile):
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        (profile / "user.js").write_text("\n".join(lines))
        args = ["firefox-esr", "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
        self.log = open(profile / "log", "w+")
        # It refuses to run as root with another user's home.
        self.process = subprocess.Popen(args, stdout=self.log, stderr=self.log, env={**os.environ, "HOME": str(profile)})
        address = poll("Firefox listens", self._address, 60)
        self.socket = connect(f"{address}/session", max_size=2**24, ping_interval=None)
        self.numbers = itertools.count()
        self.problems = []
        self.command("session.new", capabilities={})
        self.command("session.subscribe", events=["log.entryAdded"])

    def _address(self):
        assert self.process.poll() is None, "Firefox ended"
        text = open(self.log.name).read()
        found = re.search(r"WebDriver BiDi listening on (ws://\S+)", text)
        return found and found[1]

    def command(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("method") == "log.entryAdded" and answer["params"]["level"] == "error":
                self.problems.append(answer["params"]["text"])
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]

    def person(self, where, room, name, size=(1180, 760)):
        return FoxPerson(self, where, room, name, size)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class FoxPerson:
    """A person using the page in Firefox; the counterpart of `Person` for Chromium."""

    def __init__(self, fox, where, room, name, size):
        self.fox = fox
        user = fox.command("browser.createUserContext")["userContext"]
        self.context = fox.command("browsingContext.create", type="tab", userContext=user)["context"]
        fox.command("browsingContext.setViewport", context=self.context, viewport={"width": size[0], "height": size[1]})
        self.go(f"http://127.0.0.1:{where.port}/r/{room}")
        if name:
            self.wait("document.querySelector('#join').open")
            self.type("#name", name + "\ue007")
            self.joined()

    def go(self, url):
        self.fox.command("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def evaluate(self, script):
        """The value of an expression, via JSON; promises are awaited."""
        answer = self.fox.command(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({script})))()",
            target={"context": self.context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer.get("exceptionDetails", {}).get("text")
        return json.loads(answer["result"].get("value") or "null")

    def wait(self, script, patience=PATIENCE):
        return poll(script, lambda: self.evaluate(script), patience)

    def type(self, selector, keys):
        """Real key presses; \ue007 is Enter, as in WebDriver."""
        self.evaluate(f"void document.querySelector({json.dumps(selector)}).focus()")
        presses = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.fox.command("input.performActions", context=self.context, actions=[{"type": "key", "id": "keys", "actions": presses}])

    def joined(self, patience=PATIENCE):
        self.wait("document.body.dataset.state === 'joined'", patience)
        return self

    def say(self, text):
        self.evaluate(f"(() => {{ const box = document.querySelector('#text'); box.value = {json.dumps(text)}; box.dispatchEvent(new InputEvent('input')); }})()")
        self.type("#text", "\ue007")

    def texts(self):
        return self.evaluate("[...document.querySelectorAll('.message .body')].map((body) => body.textContent)")

    def sees(self, text, patience=PATIENCE):
        self.wait(f"[...document.querySelectorAll('.message .body')].some((body) => body.textContent.includes({json.dumps(text)}))", patience)

    def sent(self):
        self.wait("document.querySelector('.message') && !document.querySelector('.sending, .waiting')", 20)

    def close(self):
        self.fox.command("browsingContext.close", context=self.context)
