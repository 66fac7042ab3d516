"""Under a sub-path behind nginx, Caddy and HAProxy: with `BASE_PATH=/chat`, whether or not the proxy strips the path."""

import shutil
import subprocess

import pytest
from playwright.sync_api import expect

from harness import free_port, poll

NGINX = """
daemon off;
pid {tmp}/nginx.pid;
error_log {tmp}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {tmp}/body; proxy_temp_path {tmp}/proxy; fastcgi_temp_path {tmp}/f; uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port};
        location = /chat {{ return 308 /chat/; }}
        location /chat/ {{
            proxy_pass http://127.0.0.1:{instance}{slash};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_read_timeout 75s;
        }}
    }}
}}
"""
CADDY = """
{{
    admin off
    auto_https off
    storage file_system {tmp}
}}
http://127.0.0.1:{port} {{
    bind 127.0.0.1
    redir /chat /chat/
    {directive} /chat/* {{
        reverse_proxy 127.0.0.1:{instance}
    }}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    timeout tunnel 1h
frontend web
    bind 127.0.0.1:{port}
    http-request redirect location /chat/ if {{ path /chat }}
    {strip}
    default_backend bobbin
backend bobbin
    server one 127.0.0.1:{instance}
"""
WAYS = {
    "nginx": (["nginx", "-c", "{file}"], NGINX, {"slash": ""}),
    "nginx taking the path away": (["nginx", "-c", "{file}"], NGINX, {"slash": "/"}),
    "caddy": (["caddy", "run", "--adapter", "caddyfile", "--config", "{file}"], CADDY, {"directive": "handle"}),
    "caddy taking the path away": (["caddy", "run", "--adapter", "caddyfile", "--config", "{file}"], CADDY, {"directive": "handle_path"}),
    "haproxy": (["haproxy", "-db", "-f", "{file}"], HAPROXY, {"strip": ""}),
    "haproxy taking the path away": (["haproxy", "-db", "-f", "{file}"], HAPROXY, {"strip": "http-request replace-path /chat/(.*) /\\1"}),
}


class Proxy:
    def __init__(self, way, tmp, instance):
        command, template, values = WAYS[way]
        self.port = free_port()
        file = tmp / "proxy.conf"
        file.write_text(template.format(tmp=tmp, port=self.port, instance=instance.port, **values))
        log = open(tmp / "log", "w")
        env = {"HOME": str(tmp), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_CONFIG_HOME": str(tmp), "XDG_DATA_HOME": str(tmp)}
        self.process = subprocess.Popen([part.format(file=file) for part in command], stdout=log, stderr=log, env=env)
        poll(f"{way} listens: {tmp}/log", self._listens)

    def _listens(self):
        import socket

        assert self.process.poll() is None, "the proxy ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self):
        # Not in order: Caddy would wait for the page's open connection.
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def under_chat(tmp_path_factory):
    from harness import Instance

    instance = Instance(BASE_PATH="/chat")
    yield instance
    instance.stop()


@pytest.mark.parametrize("way", WAYS)
def test_the_chat_works_under_a_sub_path(visit, under_chat, tmp_path, room, way):
    if not shutil.which(WAYS[way][0][0]):
        pytest.skip(f"{WAYS[way][0][0]} is not installed")
    proxy = Proxy(way, tmp_path, under_chat)
    try:
        ada = visit(proxy, room)
        ada.url += "/chat"
        ada.problems.clear()  # this page is not served at the root
        ada.page.goto(f"http://127.0.0.1:{proxy.port}/chat")
        expect(ada.page).to_have_url(f"http://127.0.0.1:{proxy.port}/chat/")
        ada.join(f"Ada {room}").joined()  # everyone starts in the same lobby
        expect(ada("h1")).to_have_text("#lobby")
        ada("#go-room").fill(room)
        ada("#go-room").press("Enter")
        ada.joined()
        expect(ada.page).to_have_url(f"http://127.0.0.1:{proxy.port}/chat/r/{room}")
        ada.say("under a path")
        ada.sees("under a path")
        ada.page.reload()
        ada.joined().sees("under a path")
        ada.page.goto(f"http://127.0.0.1:{proxy.port}/chat/r/{room.upper()}/")
        expect(ada.page).to_have_url(f"http://127.0.0.1:{proxy.port}/chat/r/{room}")
        ada.page.goto(f"http://127.0.0.1:{proxy.port}/chat/r/no.way")
        ada.page.get_by_role("link", name="Go to the lobby").click()
        expect(ada.page).to_have_url(f"http://127.0.0.1:{proxy.port}/chat/")
        ada.joined()
        assert ada.page.evaluate("document.querySelector('#rooms a[aria-current]').pathname") == "/chat/"
    finally:
        proxy.close()
