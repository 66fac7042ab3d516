"""nginx with `auth_request` as in docs/security.md, and a stand-in for the login server: the login decides the user,
and nobody can choose another."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from processes import ROOT, Instance
from proxies import Nginx, adapt
from test_proxies import Client
from websockets.exceptions import InvalidStatus


class Login(BaseHTTPRequestHandler):
    """Answers 202 with the user if there is a cookie, else 401, like oauth2-proxy."""

    def do_GET(self):
        found = re.search(r"session-of=(\w+)", self.headers.get("Cookie", ""))
        self.send_response(202 if found else 401)
        if found:
            self.send_header("X-Auth-Request-User", found[1])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class WithLogin(Nginx):
    def __init__(self, folder, instance, login):
        self.login = login
        super().__init__(folder, instance)

    def prepare(self):
        super().prepare()
        text = (ROOT / "docs" / "security.md").read_text()
        locations = next(block for block in re.findall(r"```nginx\n(.*?)```", text, re.S) if "auth_request" in block)
        locations = adapt(
            locations,
            (r"http://127\.0\.0\.1:4180", f"http://127.0.0.1:{self.login}"),
            (r"http://127\.0\.0\.1:3000", f"http://{self.upstream}"),
        )
        site = (self.folder / "site.conf").read_text()
        site, count = re.subn(r"    location / \{.*?\n    \}\n", lambda _: locations, site, flags=re.S)
        assert count == 1
        (self.folder / "site.conf").write_text(site)
        return {}

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/").status == 401
        except OSError:
            return False


@pytest.fixture
def proxy(tmp_path):
    login = ThreadingHTTPServer(("127.0.0.1", 0), Login)
    threading.Thread(target=login.serve_forever, daemon=True).start()
    bobbin = Instance(USER_HEADER="Remote-User", TRUSTED_PROXIES="127.0.0.1")
    proxy = WithLogin(tmp_path, bobbin, login.server_port)
    yield proxy
    proxy.end()
    bobbin.end()
    login.shutdown()


def test_the_user_is_whom_the_login_names(proxy):
    ada = Client(proxy, "Eve", additional_headers={"Cookie": "session-of=Ada"})
    assert ada.welcome["name"] == "Ada", "the name in the join does not count"
    assert ada.say("hello")["name"] == "Ada"
    # What a client claims to be does not reach Bobbin.
    forged = {"Cookie": "session-of=Bob", "Remote-User": "Ada"}
    bob = Client(proxy, "Ada", additional_headers=forged)
    assert (bob.welcome["name"], bob.welcome["participants"]) == ("Bob", 2)
    # Without a login nobody gets in, whatever they claim.
    assert proxy.get("/r/weaving", **{"Remote-User": "Ada"}).status == 401
    with pytest.raises(InvalidStatus) as refused:
        Client(proxy, "Ada", additional_headers={"Remote-User": "Ada"})
    assert refused.value.response.status_code == 401
    page = proxy.get("/r/weaving", Cookie="session-of=Ada")
    assert page.status == 200 and 'data-access="user"' in page.text
