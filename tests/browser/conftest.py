"""Fixtures: one browser, one redis-server and two instances for the whole run (each test has a room of its own), and
private ones for tests that break things."""

import os
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from harness import ROOT, Link, Person, Redis, Instance, some_room

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

expect.set_options(timeout=10_000)


@pytest.fixture(scope="session")
def browser():
    # A page loaded from disk counts as one from the internet, which may not open sockets to this machine.
    local = ["--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets"] if os.environ.get("PAGE_FROM_DISK") else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS + local)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def instances(redis):
    """Two instances on one Redis."""
    pair = [Instance(redis, HISTORY_MESSAGES=6000, DRAIN_SECONDS=1) for _ in range(2)]
    yield pair
    codes = [instance.stop() for instance in pair]
    logs = "".join(line for instance in pair for line in instance.log)
    assert "panicked" not in logs and codes == [0, 0], logs


@pytest.fixture
def room():
    return some_room()


@pytest.fixture
def own(tmp_path):
    """Starts things for one test: own.redis(), own.instance(redis, SETTING=…), own.link(instance). All are ended after it."""

    class Own:
        def __init__(self):
            self.started = []

        def _keep(self, thing):
            self.started.append(thing)
            return thing

        def redis(self):
            return self._keep(Redis(tmp_path))

        def instance(self, redis=None, **settings):
            return self._keep(Instance(redis, **settings))

        def link(self, instance, **how):
            return self._keep(Link(instance, **how))

    own = Own()
    yield own
    for thing in reversed(own.started):
        if isinstance(thing, Link):
            thing.close()
        elif thing.process.poll() is None:
            if isinstance(thing, Instance):
                thing.process.kill()
                thing.process.wait()
            else:
                thing.stop()


KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


def from_disk(route):
    """With PAGE_FROM_DISK=1 the page's files are those in static/ at the moment, module by module, so that working on
    the page needs no build for each try. The headers are still the binary's."""
    path = urlsplit(route.request.url).path
    file = ROOT / "static" / ("index.html" if path == "/" or path.startswith("/r/") else path[1:])
    if file.suffix == ".html":
        route.fulfill(response=route.fetch(), body=file.read_bytes())
    elif file.is_file():
        route.fulfill(body=file.read_bytes(), content_type=KINDS.get(file.suffix, "application/octet-stream"))
    else:
        route.continue_()


@pytest.fixture
def visit(browser):
    """visit(where, room, name): a person in a browser context of their own, joined. `where` is an instance or a link;
    without a name the person is still at the form. Keyword arguments go to the browser (`color_scheme`, `viewport`,
    …); `beside` opens another tab in that person's browser; `fake` replaces the server's end of the WebSocket. At
    the end no console may contain an error."""
    people, contexts = [], []

    def visit(where, room, name=None, beside=None, script=None, fake=None, **options):
        options = {"viewport": {"width": 1180, "height": 760}, "locale": "en-GB", "timezone_id": "Europe/London", **options}
        context = beside.page.context if beside else browser.new_context(**options)
        if not beside and os.environ.get("PAGE_FROM_DISK"):
            context.route("**/*", from_disk)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        person = Person(context.new_page(), f"http://127.0.0.1:{where.port}")
        if beside:
            # On a busy machine the other tab needs more time to answer this one's question (`isInAnotherTab` in app.js).
            person.page.add_init_script("const set = setTimeout; window.setTimeout = (act, ms, ...rest) => set(act, ms === 150 ? 2000 : ms, ...rest);")
        if fake:
            person.page.route_web_socket("**/ws/**", fake.open)
        people.append(person)
        person.go(room)
        return person.join(name).joined() if name else person

    yield visit
    problems = [problem for person in people for problem in person.problems]
    for context in dict.fromkeys(contexts):
        context.close()
    assert not problems, problems
