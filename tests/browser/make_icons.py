"""Draws the icons for home screens from static/favicon.svg: `target/venv/bin/python tests/browser/make_icons.py`.

They fill their square, because every system rounds the corners itself, and use a palette, which keeps them small."""

import struct
import zlib

from playwright.sync_api import sync_playwright

from conftest import CHROMIUM, FLAGS
from harness import ROOT

STATIC = ROOT / "static"


def pixels(page, svg, size):
    return page.evaluate("""async ([svg, size]) => {
        const image = new Image(size, size);
        image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`;
        await image.decode();
        const context = Object.assign(document.createElement('canvas'), { width: size, height: size }).getContext('2d');
        context.drawImage(image, 0, 0, size, size);
        return [...new Uint32Array(context.getImageData(0, 0, size, size).data.buffer)];
    }""", [svg, size])


def png(values, size):
    rgb = [tuple(((v >> shift) & 255) & 0xF0 | ((v >> shift) & 255) >> 4 for shift in (0, 8, 16)) for v in values]
    palette = sorted(set(rgb))
    assert len(palette) <= 256, len(palette)
    index = {colour: i for i, colour in enumerate(palette)}
    rows = b"".join(b"\0" + bytes(index[c] for c in rgb[y * size : (y + 1) * size]) for y in range(size))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", size, size, 8, 3, 0, 0, 0)
    colours = b"".join(map(bytes, palette))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", colours) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    page = browser.new_page()
    svg = (STATIC / "favicon.svg").read_text().replace(' rx="9"', "", 1)
    for size in (180, 192, 512):
        (STATIC / f"icon-{size}.png").write_bytes(png(pixels(page, svg, size), size))
    browser.close()
