"""Clients through nginx, Caddy and HAProxy as configured in docs/deploy: TLS, the upgrade, the page's origin, the
client's address, idle timeouts, and a restart of Bobbin behind them."""

import http.client
import json
import re
import time
from urllib.parse import urljoin

import pytest
from processes import Instance, poll
from proxies import IDLE_SECONDS, Caddy, HAProxy, Nginx
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

KINDS = {"nginx": Nginx, "caddy": Caddy, "haproxy": HAProxy}


class Client:
    """A client that joins through a proxy."""

    def __init__(self, proxy, name, room="weaving", **options):
        url = f"wss://localhost:{proxy.port}{proxy.base}/ws/{room}"
        options = {"origin": f"https://localhost:{proxy.port}", "ping_interval": None, "proxy": None} | options
        self.socket = connect(url, ssl=proxy.tls, subprotocols=["bobbin.v1"], **options)
        self.send(type="join", name=name, client=f"secret-of-{name:-<16}")
        self.welcome = self.wait_for("welcome")

    def send(self, **frame):
        self.socket.send(json.dumps(frame))

    def wait_for(self, kind, within=10):
        """The next frame of a type."""
        end = time.monotonic() + within
        while True:
            frame = json.loads(self.socket.recv(max(0, end - time.monotonic())))
            if frame["type"] == kind:
                return frame

    def say(self, text):
        self.send(type="message", text=text, ref=text)
        return self.wait_for("message")


class Stage:
    """A Bobbin behind a proxy."""

    def __init__(self, kind, folder, base="", **settings):
        self.bobbin = Instance(**settings)
        try:
            self.proxy = KINDS[kind](folder, self.bobbin, base)
        except BaseException:
            self.bobbin.end()
            raise

    def end(self):
        self.proxy.end()
        self.bobbin.end()


ADMIN_TOKEN = "the-hosts-own-token"


@pytest.fixture(params=KINDS)
def stage(request, tmp_path):
    stage = Stage(request.param, tmp_path, ADMIN_TOKEN=ADMIN_TOKEN)
    yield stage
    stage.end()


@pytest.fixture(scope="module", autouse=True)
def silent(tmp_path_factory):
    """Behind a proxy of each kind, a client that sends nothing for as long as the other tests take."""
    stages = {kind: Stage(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
    clients = {kind: Client(stage.proxy, "Ada") for kind, stage in stages.items()}
    yield clients, time.monotonic()
    for stage in stages.values():
        stage.end()


def test_a_client_through_the_proxy(stage):
    bobbin, proxy = stage.bobbin, stage.proxy
    ada, bob = Client(proxy, "Ada"), Client(proxy, "Bob")
    assert ada.socket.subprotocol == "bobbin.v1"
    assert ada.say("hello")["text"] == "hello"
    assert bob.wait_for("message")["text"] == "hello"

    page = proxy.get("/")
    assert (page.status, page.getheader("Content-Type").partition(";")[0]) == (200, "text/html")
    assert proxy.get("/style.css").status == 200
    assert proxy.get("/metrics").status == 404, "the metrics are public"
    plain = http.client.HTTPConnection("localhost", proxy.plain_port, timeout=10)
    plain.request("GET", "/r/weaving", headers={"Host": "localhost"})
    answer = plain.getresponse()
    assert answer.status in (301, 302, 308), answer.status
    assert answer.getheader("Location") in (f"https://localhost:{proxy.port}/r/weaving", "https://localhost/r/weaving")

    # The browser's Host reaches Bobbin: its own page may connect, another site's may not.
    with pytest.raises(InvalidStatus) as refused:
        Client(proxy, "Eve", origin="https://elsewhere.example")
    assert refused.value.response.status_code == 403

    # So does the client's address; what a client claims as its address does not.
    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    eve = Client(proxy, "Eve", source_address=("127.0.0.2", 0), additional_headers=forged)
    here = bobbin.get("/admin/rooms/weaving", Authorization=f"Bearer {ADMIN_TOKEN}")
    addresses = {person["name"]: person["address"] for person in json.loads(here)["people"]}
    assert addresses == {"Ada": "127.0.0.1", "Bob": "127.0.0.1", "Eve": "127.0.0.2"}
    eve.socket.close()

    # A restart behind the proxy: all clients are asked to reconnect, and can at once. No proxy keeps the server marked
    # down.
    bobbin.restart()
    for client, name in ((ada, "Ada"), (bob, "Bob")):
        with pytest.raises(ConnectionClosed) as closed:
            client.wait_for("nothing")
        assert closed.value.rcvd.code == 1012
        poll(f"{name} is back", lambda name=name: comes_back(proxy, name), 5)


def comes_back(proxy, name):
    try:
        Client(proxy, name)
    except ConnectionClosed:
        return False  # the old instance was just ending
    except InvalidStatus as refused:
        assert refused.response.status_code in (502, 503), refused
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_under_a_path_of_another_site(kind, tmp_path):
    stage = Stage(kind, tmp_path, base="/chat", BASE_PATH="/chat")
    try:
        ada = Client(stage.proxy, "Ada")
        assert ada.say("hello")["text"] == "hello"
        page = stage.proxy.get("/r/weaving")
        assert page.status == 200
        scripts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert any(script.endswith(".css") for script in scripts), page.text
        for path in scripts:
            answer = stage.proxy.get(urljoin("/chat/r/weaving", path).removeprefix("/chat"))
            assert answer.status == 200, path
    finally:
        stage.end()


def test_silent_clients_outlive_the_idle_time_out(silent):
    # Last, so that most of the time has passed. Nothing was sent in either direction but the server's pings and their
    # answers.
    clients, begin = silent
    for kind, client in clients.items():
        with pytest.raises(TimeoutError):
            client.wait_for("nothing", within=max(1, begin + IDLE_SECONDS + 3 - time.monotonic()))
        assert time.monotonic() - begin > IDLE_SECONDS
        assert client.say("still here")["text"] == "still here", kind
