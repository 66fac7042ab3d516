"""nginx, Caddy and HAProxy in front of Bobbin, each with its file from docs/deploy: only ports, the certificate and
the timeouts differ from what a reader copies. A replacement that no longer matches the file fails the test."""

import http.client
import os
import re
import ssl
import subprocess

from processes import ROOT, free_port, poll

DEPLOY = ROOT / "docs" / "deploy"
# Instead of 75 s, to keep the test short. Bobbin pings every 20 s, which must suffice.
IDLE_SECONDS = 30


def adapt(text, *changes):
    """Every pattern must occur."""
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.M)
        assert count, f"the file has no {pattern}"
    return text


class Proxy:
    """One running proxy with TLS on `port`; `tls` is a client context that trusts it."""

    def __init__(self, folder, instance, base=""):
        self.folder, self.upstream, self.base = folder, f"127.0.0.1:{instance.port}", base
        self.port, self.plain_port = free_port(), free_port()
        self.log = folder / "proxy.log"
        environment = {**os.environ, **self.prepare()}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command(), env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            poll(lambda: f"the proxy answers: {self.log.read_text()}", self._answers)
        except BaseException:
            self.end()
            raise

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/healthz").status == 200
        except OSError:
            return False

    def get(self, path, source="127.0.0.1", **headers):
        """An answer, read to its end, with its body in `text`."""
        context = ssl.create_default_context(cafile=self.authority)
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, source_address=(source, 0), context=context)
        connection.request("GET", self.base + path, headers=headers)
        answer = connection.getresponse()
        answer.text = answer.read().decode(errors="replace")
        connection.close()
        return answer

    @property
    def tls(self):
        """For WebSocket clients. They read and write on two threads, which OpenSSL does not support while it processes what
        TLS 1.3 sends after the handshake (session tickets): now and then the request was never answered."""
        context = ssl.create_default_context(cafile=self.authority)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    def certificate(self):
        """A key and a certificate for localhost, in a file each, and both in one."""
        key, self.authority, both = (self.folder / name for name in ("key.pem", "certificate.pem", "both.pem"))
        args = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
        args += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", self.authority]
        subprocess.run(args, check=True, capture_output=True)
        both.write_text(self.authority.read_text() + key.read_text())
        return key, both

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Nginx(Proxy):
    def prepare(self):
        key, _ = self.certificate()
        site = adapt(
            (DEPLOY / "nginx.conf").read_text(),
            (r"listen 80;\n.*listen \[::\]:80;", f"listen 127.0.0.1:{self.plain_port};"),
            (r"listen 443 ssl http2;\n.*listen .*;", f"listen 127.0.0.1:{self.port} ssl http2;"),
            (r"https://\$host\$request_uri", f"https://$host:{self.port}$request_uri"),
            (r"chat\.example\.org;", "localhost;"),
            (r"ssl_certificate .*;", f"ssl_certificate {self.authority};"),
            (r"ssl_certificate_key .*;", f"ssl_certificate_key {key};"),
            (r"server 127\.0\.0\.1:3000;", f"server {self.upstream};"),
            (r"\b75s\b", f"{IDLE_SECONDS}s"),
        )
        if self.base:
            site = adapt(site, (r"    location / \{", f"    location {self.base}/ {{"))
        (self.folder / "site.conf").write_text(site)
        places = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in TEMPORARY)
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder}/nginx.pid; error_log stderr; events {{ worker_connections 512; }}\n"
            f"http {{ access_log off; {places} include {self.folder}/site.conf; }}\n"
        )
        return {}

    def command(self):
        return ["nginx", "-p", self.folder, "-c", self.folder / "nginx.conf"]


TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Caddy(Proxy):
    def prepare(self):
        options = (
            f"{{\n\tadmin off\n\tskip_install_trust\n\thttp_port {self.plain_port}\n\thttps_port {self.port}\n"
            f"\tdefault_bind 127.0.0.1\n}}\n"
        )
        text = (DEPLOY / "Caddyfile").read_text()
        if self.base:
            text = adapt(text, (r"reverse_proxy \{\$UP", f"reverse_proxy {self.base}/* {{$UP"))
        (self.folder / "Caddyfile").write_text(options + text)
        self.authority = self.folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        places = {"XDG_DATA_HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder), "HOME": str(self.folder)}
        return places | {"DOMAIN": "localhost", "UPSTREAMS": self.upstream}

    def command(self):
        return ["caddy", "run", "--config", self.folder / "Caddyfile"]


class HAProxy(Proxy):
    def prepare(self):
        _, both = self.certificate()
        config = adapt(
            (DEPLOY / "haproxy.cfg").read_text(),
            # Two files per connection, which not every test machine allows.
            (r"maxconn 20000", "maxconn 200"),
            (r"bind :80$", f"bind 127.0.0.1:{self.plain_port}"),
            (r"bind :443 ssl crt .*", f"bind 127.0.0.1:{self.port} ssl crt {both}"),
            (r"127\.0\.0\.1:3000", self.upstream),
            (r"\b75s\b", f"{IDLE_SECONDS}s"),
        )
        if self.base:
            config = adapt(
                config,
                (r"^    default_backend bobbin\n", ""),
                (r"#use_backend bobbin if \{ path_beg /chat/", f"use_backend bobbin if {{ path_beg {self.base}/"),
            )
        (self.folder / "haproxy.cfg").write_text(config)
        return {}

    def command(self):
        return ["haproxy", "-db", "-f", self.folder / "haproxy.cfg"]
