"""A scale-out: two tasks hold a thousand sessions, two empty ones start, and rebalancing evens the load out.

Sockets stay where they are, so without rebalancing the new tasks would only get new clients. It works with
stickiness because the cookie expires 10 seconds after a client connected: a client asked to move later than that
may land anywhere, and the balancer sends it to the task with the fewest connections. test_stickiness.py shows the
effect of a longer cookie."""

import time
from collections import Counter

from balancer import COOKIE_SECONDS, GRAIN, IDLE_SECONDS
from processes import poll

ROOMS = 50
IN_A_ROOM = 20
SESSIONS = ROOMS * IN_A_ROOM
EVEN_WITHIN = 60
# How far from the average a task may end: moving takes a client up to three seconds, at ten clients per second.
TOLERANCE = 40


def test_rebalancing_fills_new_tasks_within_a_minute(stage):
    balancer = stage.balancer()
    for _ in range(2):
        balancer.add(stage.task())
    crowd = stage.crowd(balancer)
    rooms = [crowd.come(f"room-{room}", [f"Person {number}" for number in range(IN_A_ROOM)]) for room in range(ROOMS)]
    begin = time.monotonic()
    poll("all are there and know it", lambda: all(one.joined and one.participants == IN_A_ROOM for one in crowd.people))
    assert held(stage) == [SESSIONS // 2] * 2
    for one in crowd.people:
        one.came.clear()

    # They have been connected for a while, as is usual: a cookie that is still valid would lead back.
    poll("the last cookie has lapsed", lambda: time.monotonic() > begin + COOKIE_SECONDS + GRAIN, 2 * COOKIE_SECONDS)
    for _ in range(2):
        balancer.add(stage.task())
    scaled = time.monotonic()
    share = SESSIONS // 4
    even = lambda: all(abs(count - share) <= TOLERANCE for count in held(stage))  # noqa: E731
    poll(lambda: f"even: {held(stage)}", lambda: even() and crowd.all_joined(), EVEN_WITHIN)
    took = time.monotonic() - scaled
    moved = sum(task.metric("bobbin_rebalanced_total") for task in stage.tasks)
    print(f"even after {took:.0f} s: {held(stage)}, {moved} asked to move", Counter(sum(p.ends.values()) for p in crowd.people))
    # Half of all sessions exceed their task's share; few are asked twice.
    assert share * 2 - 2 * TOLERANCE <= moved <= share * 2 + 2 * TOLERANCE
    assert all("rebalancing" in "".join(task.log) for task in stage.tasks[:2])

    # The rooms are complete, whoever is connected where; nobody was seen moving.
    for room in rooms:
        room[0].say("still here?")
    poll("every room hears its own", lambda: all([m["text"] for m in one.heard] == ["still here?"] for one in crowd.people))
    # Those who did not move have sent nothing for longer than the balancer's idle timeout: the server's pings kept them
    # connected.
    poll("the idle time-out is over", lambda: time.monotonic() > begin + IDLE_SECONDS + 5, IDLE_SECONDS)
    quiet = [one for one in crowd.people if not one.ends]
    assert len(quiet) >= SESSIONS // 2 - 2 * TOLERANCE
    for one in crowd.people:
        assert set(one.ends) <= {1012} and not one.refused, (one.name, one.ends, one.refused)
        assert (one.left, one.came, one.problems, one.participants) == ([], [], [], IN_A_ROOM), one.name
    assert sum(held(stage)) == SESSIONS


def held(stage):
    return [task.metric("bobbin_connections") for task in stage.tasks]
