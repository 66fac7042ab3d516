"""Measures the page's figures: `target/venv/bin/python tests/browser/measure.py`, with a release build on a quiet
machine (BOBBIN names another binary). docs/page.md explains them."""

import os
import statistics
import sys
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

os.environ.setdefault("BOBBIN", str(Path(__file__).resolve().parents[2] / "target" / "release" / "bobbin"))

from playwright.sync_api import sync_playwright

from conftest import CHROMIUM, FLAGS
from harness import Person, Talker, Instance, some_room

# Chromium's own presets: milliseconds from request to answer, bytes per second.
LINES = {"Fast 3G": (562.5, 180_000), "3G with 300 ms": (300, 200_000)}
SECONDS = int(os.environ.get("SECONDS", 30))


def form_time(browser, instance, line):
    latency, rate = LINES[line]
    times = []
    for _ in range(5):
        context = browser.new_context()
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        session.send("Network.emulateNetworkConditions", {"offline": False, "latency": latency, "downloadThroughput": rate, "uploadThroughput": rate / 2})
        start = time.monotonic()
        page.goto(f"http://127.0.0.1:{instance.port}/", wait_until="commit")
        page.wait_for_function("() => document.querySelector('#join')?.open && document.activeElement.id === 'name'", polling=20)
        times.append(time.monotonic() - start)
        context.close()
    return statistics.median(times)


def frames(browser, instance):
    """Frames per second, for each second, while 50 messages per second arrive and the CPU is throttled to a quarter."""
    room = some_room()
    context = browser.new_context(viewport={"width": 1180, "height": 760})
    ada = Person(context.new_page(), f"http://127.0.0.1:{instance.port}").go(room).join("Ada").joined()
    bob = Talker(instance, room, "Bob")
    bob.say(*(f"line {i}, before the burst, with some words in it" for i in range(300)))
    ada.sees("line 299,")
    context.new_cdp_session(ada.page).send("Emulation.setCPUThrottlingRate", {"rate": 4})

    def burst():
        start = time.monotonic()
        for i in range(50 * SECONDS):
            bob.send(type="message", text=f"burst {i} with @Ada, `code` and https://example.org/{i} in it", ref=f"burst-{i}")
            time.sleep(max(0, start + i / 50 - time.monotonic()))

    threading.Thread(target=burst, daemon=True).start()
    counts = ada.page.evaluate("""async (seconds) => {
        const counts = [];
        for (let second = 0; second < seconds; second++) {
            const start = performance.now();
            let count = 0;
            while (performance.now() - start < 1000) { await new Promise(requestAnimationFrame); count++; }
            counts.push(count);
        }
        return counts;
    }""", SECONDS)
    context.close()
    return min(counts), statistics.median(counts)


def worst_texts(browser, instance):
    texts = (("plain words, " * 316)[:4096], "https://a" + ")" * 4080, "`" * 4096, ("*a **b " * 600)[:4096])
    return [build_time(browser, instance, text) for text in texts]


def build_time(browser, instance, text):
    """The page's longest task while the room's 50 messages are rendered."""
    room = some_room()
    Talker(instance, room, "Bob").say(*[text] * 50)
    context = browser.new_context()
    context.add_init_script("window.long = []; new PerformanceObserver((list) => long.push(...list.getEntries().map((e) => e.duration))).observe({ type: 'longtask', buffered: true });")
    ada = Person(context.new_page(), f"http://127.0.0.1:{instance.port}").go(room).join("Ada").joined()
    ada.wait("() => document.querySelectorAll('.message').length === 50", timeout=60_000)
    ada.page.wait_for_timeout(500)
    longest = max(ada.page.evaluate("window.long"), default=0)
    context.close()
    return longest


def sizes(instance):
    paths = ["/", "/app.js", "/chat.js", "/style.css", "/favicon.svg", "/manifest.webmanifest"]
    packed = 0
    for path in paths:
        with urlopen(Request(f"http://127.0.0.1:{instance.port}{path}", headers={"Accept-Encoding": "gzip"})) as answer:
            packed += len(answer.read())
    source = sum(file.stat().st_size for file in (Path(__file__).resolve().parents[2] / "static").iterdir() if file.suffix != ".png" and file.name != "404.html")
    return packed, source


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    instance = Instance(HISTORY_MESSAGES=6000)
    what = sys.argv[1:] or ["sizes", "form", "frames", "texts"]
    if "sizes" in what:
        packed, source = sizes(instance)
        print(f"size: {packed} bytes compressed, {source} bytes of source")
    if "form" in what:
        for line in LINES:
            print(f"form ready on {line}: {form_time(browser, instance, line):.2f} s (median of 5)")
    if "frames" in what:
        least, median = frames(browser, instance)
        print(f"frames per second, 50 messages per second for {SECONDS} s, CPU slowed down 4 times: least {least}, median {median:.0f}")
    if "texts" in what:
        plain, *worst = worst_texts(browser, instance)
        print(f"longest task with 50 texts of 4,096 bytes: plain {plain:.0f} ms, worst {', '.join(f'{time:.0f}' for time in worst)} ms")
    browser.close()
    instance.stop()
