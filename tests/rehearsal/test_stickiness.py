"""Stickiness and rebalancing: while the cookie is valid, a client asked to move comes back to the very task that
asked. So it is valid for seconds only."""

import time

from balancer import COOKIE_SECONDS, GRAIN
from processes import poll
from websockets.sync.client import connect

A_DAY = 86_400


def visit(balancer, cookie=None):
    """A connection, the slot that it went to, and the cookie for it."""
    headers = {"Cookie": cookie} if cookie else {}
    socket = connect(f"ws://127.0.0.1:{balancer.port}/ws/lobby", additional_headers=headers, proxy=None)
    given = socket.response.headers.get("Set-Cookie", cookie).partition(";")[0]
    return socket, given.partition("=")[2].partition("|")[0], given


def test_a_cookie_holds_a_client_for_seconds_only(stage):
    tasks = [stage.task(), stage.task()]
    short, long = stage.balancer(), stage.balancer(cookie_seconds=A_DAY)
    slots, cookies = {}, {}
    for balancer in (short, long):
        for task in tasks:
            balancer.add(task)
    came = time.monotonic()
    for balancer in (short, long):
        socket, slots[balancer], cookies[balancer] = visit(balancer)
        # The cookie leads back to its task, even if that is busier than the other.
        sockets = [socket] + [visit(balancer, cookies[balancer])[0] for _ in range(3)]
        poll("they are counted", lambda: max(task.metric("bobbin_connections") for task in tasks) >= len(sockets))
        stage.keep(sockets)

    def moves(balancer):
        socket, slot, _ = visit(balancer, cookies[balancer])
        socket.close()
        return slot != slots[balancer]

    assert not moves(short)
    poll("the cookie lapses", lambda: moves(short), COOKIE_SECONDS + 2 * GRAIN)
    assert time.monotonic() - came >= COOKIE_SECONDS - GRAIN
    assert not moves(long), "a day's cookie should have led back to the busy task"
