"""Plots the simulator's results and prints their table; `python tests/cfn/plot.py` writes both to this folder.

The SVG is assembled as text: it contains little, this makes it the same on every machine, and a test can check that
the committed file matches the templates.
"""

import pathlib

from scaling import LOADS, STEP, from_template, run_all, table

LINES = {"original": ("#c0392b", "the original recipe's numbers"), "ours": ("#1f6feb", "the numbers in cfn/")}
CAPTIONS = {
    "daily wave": "400, 4,000 and 400 in a day",
    "jump": "400 to 4,000 people in 2 minutes",
    "spike": "4,000 people for 10 minutes",
    "swing": "1,800 and 350, 4 minutes each",
}
ROWS = [  # title, what is drawn (column of the log, dash), the top of the axis if fixed
    ("tasks", [("tasks", "")], None),
    ("CPU, %: average, hottest dashed", [("average", ""), ("hottest", "3 2")], 100),
    ("sockets dropped so far", [("dropped", "")], None),
]
WIDTH, HEIGHT, GAP, TOP, LEFT = 250, 110, 42, 66, 40


def text(x, y, words, anchor="start"):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'


def panel(x, y, title, series, most, logs):
    """One panel with its axis limits, and in it a line for each of the rules and columns."""
    end = logs["ours"][-1]["time"]
    most = most or max(1, max(row[column] for log in logs.values() for row in log for column, _ in series))
    yield f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>'
    yield text(x + 4, y - 4, title)
    yield text(x - 4, y + 9, f"{most:.0f}", "end") + text(x - 4, y + HEIGHT, "0", "end")
    yield text(x + WIDTH, y + HEIGHT + 13, f"{(end + STEP) // 60} min", "end")
    for name, (colour, _) in LINES.items():
        rows = logs[name][:: max(1, len(logs[name]) // 120)]
        for column, dash in series:
            points = ((x + row["time"] / end * WIDTH, y + HEIGHT - row[column] / most * HEIGHT) for row in rows)
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-dasharray="{dash}"/>'


def plot(runs):
    """The runs as an SVG: a column per load, a row for each of `ROWS`."""
    size = f'width="{LEFT + len(LOADS) * (WIDTH + GAP)}" height="{TOP + len(ROWS) * (HEIGHT + GAP) - 20}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" stroke-width="1.3">'
    ]
    out.append('<rect width="100%" height="100%" fill="white"/>')
    out.append("<style>text { fill: #444; stroke: none }</style>")
    for i, (colour, label) in enumerate(LINES.values()):
        x = LEFT + i * 240
        out += [f'<path d="M{x} 18h24" stroke="{colour}"/>', text(x + 30, 22, label)]
    for c, load in enumerate(LOADS):
        x = LEFT + c * (WIDTH + GAP)
        out.append(text(x, 44, f'<tspan font-weight="bold">{load}</tspan>: {CAPTIONS[load]}'))
        for r, (title, series, most) in enumerate(ROWS):
            out += panel(
                x, TOP + r * (HEIGHT + GAP), title, series, most, {name: runs[load, name].log for name in LINES}
            )
    return "\n".join(out + ["</svg>"]) + "\n"


if __name__ == "__main__":
    from test_templates import world

    results = run_all(from_template(world("as it comes")))
    print(table(results), end="")
    here = pathlib.Path(__file__).parent
    (here / "scaling.svg").write_text(plot(results))
    (here / "scaling.txt").write_text(table(results))
