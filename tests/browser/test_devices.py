"""Details for all kinds of devices: touch, paper, no JavaScript, system colours, and the keyboard."""

import re

from playwright.sync_api import expect

from harness import FakeServer, Talker

PHONE = {"viewport": {"width": 390, "height": 760}, "has_touch": True, "is_mobile": True}


def test_on_touch_enter_breaks_the_line_and_the_button_sends(visit, instances, room):
    ada = visit(instances[0], room, "Ada", **PHONE)
    expect(ada("#text")).to_have_attribute("enterkeyhint", "enter")
    ada("#text").press_sequentially("one")
    ada("#text").press("Enter")
    ada("#text").press_sequentially("two")
    expect(ada("#text")).to_have_value("one\ntwo")
    ada("#send").tap()
    ada.sees("one\ntwo")


def test_times_and_you_are_there_at_narrow_widths(visit, instances, room):
    ada = visit(instances[0], room, "Ada", **PHONE)
    ada.say("first")
    ada.say("second")
    ada.sent()
    row = ada.message("second")
    # For screen readers: in the accessibility tree, though not visible.
    assert row.locator(".head").evaluate("(head) => getComputedStyle(head).display") != "none"
    expect(row.locator(".head bdi")).to_have_text("You")
    row.locator(".body").tap()
    expect(row.locator(".head")).to_have_css("opacity", "1")
    expect(row.locator("time")).to_be_visible()


def test_forced_colours_have_borders(visit, instances, room):
    ada = visit(instances[0], room, "Ada", forced_colors="active")
    ada.say("mine")
    ada.sees("mine")
    for part in (".own .body", "#composer", "#send"):
        expect(ada(part).first).to_have_css("border-top-width", re.compile("^[1-9]"))


def test_without_javascript_it_says_so_and_nothing_else(browser, instances):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{instances[0].port}/")
    shot = page.locator("noscript")
    assert "needs JavaScript" in shot.evaluate("(node) => node.innerText")  # Playwright itself skips this element
    box = shot.bounding_box()
    assert box["x"] == box["y"] == 0 and box["width"] >= 1000, box
    context.close()


def test_on_paper_there_is_the_conversation_alone(visit, instances, room):
    Talker(instances[1], room, "Bob").say(*(f"line {i}" for i in range(40)))
    ada = visit(instances[0], room, "Ada")
    ada.sees("line 39")
    ada.page.emulate_media(media="print")
    expect(ada("#sidebar")).to_be_hidden()
    expect(ada("#composer")).to_be_hidden()
    assert ada("#scroller").evaluate("(node) => node.scrollHeight <= node.clientHeight + 1")
    expect(ada.message("line 3").last).to_be_visible()


def test_two_tabs_keep_their_own_drafts(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    tab = visit(instances[0], room, beside=ada)
    expect(tab("#join-problem")).to_contain_text("in another tab")
    tab.join("Bob").joined()
    ada("#text").fill("Ada's draft")
    tab("#text").fill("Bob's draft")
    for person, draft in ((ada, "Ada's draft"), (tab, "Bob's draft")):
        person.page.reload()
        person.joined()
        expect(person("#text")).to_have_value(draft)


def test_a_draft_outlives_its_tab(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    ada("#text").fill("not finished")
    with ada.page.expect_event("close"):
        ada.page.close(run_before_unload=True)
    again = visit(instances[0], room, beside=ada).joined()
    expect(again("#text")).to_have_value("not finished")


def test_a_pasted_picture_is_refused_in_words(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    ada("#text").evaluate("""(box) => {
        const data = new DataTransfer();
        data.items.add(new File(['x'], 'x.png', { type: 'image/png' }));
        box.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
    }""")
    expect(ada("#hint")).to_contain_text("Only text can be sent")


def test_fifty_links_are_not_fifty_stops_of_the_tab_key(visit, instances, room):
    server = FakeServer()
    ada = visit(instances[0], room, "Ada", fake=server)
    for i in range(50):
        server.message(f"see https://example.org/{i}")
    ada.sees("example.org/49")
    key = ada.page.keyboard
    ada("#text").focus()
    stops = 0
    while ada.page.evaluate("document.activeElement.id") != "invite" and stops < 60:
        key.press("Shift+Tab")
        stops += 1
    assert stops <= 3, stops
    # Arrow keys move between messages, and Tab into one.
    ada("#scroller").focus()
    key.press("ArrowUp")
    key.press("ArrowUp")
    expect(ada(".message:focus")).to_contain_text("example.org/48")
    key.press("Tab")
    expect(ada("a:focus")).to_have_text("https://example.org/48")
    key.press("Tab")
    expect(ada(".tools button:focus")).to_have_text("Reply")
    key.press("Escape")
    expect(ada("#text")).to_be_focused()


def test_it_can_be_installed(visit, instances, room):
    ada = visit(instances[0], room, "Ada")
    manifest = ada.page.evaluate("""async () => {
        const link = document.querySelector('link[rel=manifest]');
        const found = await (await fetch(link.href)).json();
        const sizes = await Promise.all(found.icons.filter(({ type }) => type === 'image/png').map(async ({ src, sizes }) => {
            const bitmap = await createImageBitmap(await (await fetch(new URL(src, link.href))).blob());
            return `${bitmap.width}x${bitmap.height}` === sizes;
        }));
        return { ...found, sizes, scope: new URL(found.scope, link.href).pathname };
    }""")
    assert manifest["display"] == "standalone" and manifest["scope"] == "/" and manifest["sizes"] == [True, True]
    expect(ada("link[rel=apple-touch-icon]")).to_have_attribute("href", re.compile("icon-180.png$"))


def test_embedded_it_is_usable_at_320_by_400(visit, own, room):
    import http.server
    import threading

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = f'<iframe src="http://127.0.0.1:{instance.port}/r/{room}" width="320" height="400" style="border:0"></iframe>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    instance = own.instance(FRAME_ANCESTORS=f"http://localhost:{site.server_port}")
    ada = visit(instance, room)
    ada.page.goto(f"http://localhost:{site.server_port}/")
    frame = ada.page.frame_locator("iframe")
    frame.locator("#name").fill("Ada")
    expect(frame.locator("#join-go")).to_be_in_viewport(ratio=1)
    frame.locator("#join-go").click()
    expect(frame.locator("#join")).to_be_hidden()  # until then the page is inert, and Enter goes to the form
    frame.locator("#text").fill("from inside")
    frame.locator("#text").press("Enter")
    expect(frame.locator(".message .body")).to_have_text("from inside")
    expect(frame.locator(".message .body")).to_be_in_viewport()
    expect(frame.locator("#open-drawer")).to_be_in_viewport(ratio=1)
    ada.problems.clear()  # Chromium reports that a frame of another origin does not receive focus by itself
    site.shutdown()
