"""A deployment: three tasks behind the balancer are replaced one after the other, while forty people chat."""

from processes import poll

PEOPLE = 40
DRAIN = 3


def in_ecs_order(balancer, old, start):
    """As in ECS: the new one becomes healthy, the old one is deregistered, then it is told to stop."""
    balancer.add(start())
    balancer.remove(old)
    old.terminate()
    return old.ended()


def all_at_once(balancer, old, start):
    """A task stopped by hand: deregistered and told to stop at the same moment, and replaced afterwards."""
    balancer.remove(old)
    old.terminate()
    balancer.add(start())
    return old.ended()


def told_too_early(balancer, old, start):
    """The balancer is the last to know: it keeps offering the old task, which has the fewest connections and accepts
    none."""
    old.terminate()
    code = old.ended()
    balancer.remove(old)
    balancer.add(start())
    return code


def test_three_tasks_are_replaced_and_nobody_notices(stage):
    balancer = stage.balancer()
    start = lambda: stage.task(DRAIN_SECONDS=DRAIN)  # noqa: E731
    old_tasks = [start() for _ in range(3)]
    for task in old_tasks:
        balancer.add(task)
    crowd = stage.crowd(balancer)
    people = crowd.come("weaving", [f"Person {number}" for number in range(PEOPLE)])
    poll("all are there and know it", lambda: all(one.joined and one.participants == PEOPLE for one in people))
    assert all(task.metric("bobbin_connections") > 5 for task in old_tasks), "the balancer does not spread them"
    for one in people:
        one.came.clear()

    crowd.start_talking()
    for replace, old in zip([in_ecs_order, all_at_once, told_too_early], old_tasks, strict=True):
        held = old.metric("bobbin_connections")
        assert held > 0, "nobody is on the task that goes"
        before = min(len(one.heard) for one in people)
        assert replace(balancer, old, start) == 0, "".join(old.log)
        poll("all are back", crowd.all_joined)
        poll("the talk goes on", lambda before=before: min(len(one.heard) for one in people) > before + PEOPLE)
        print(f"{replace.__name__}: {held} people moved")
    crowd.stop_talking()
    poll("everything said has its receipt", lambda: not any(one.outbox for one in people))
    most = max(len(one.heard) for one in people)
    poll("all have heard as much", lambda: all(len(one.heard) >= most for one in people))

    # Everyone received the same messages, each once, ordered by id, and each sender's in the order of sending.
    story = [(message["id"], message["name"], message["text"]) for message in people[0].heard]
    for one in people:
        assert [(message["id"], message["name"], message["text"]) for message in one.heard] == story, one.name
        said = [text for _, name, text in story if name == one.name]
        assert said == [f"{one.name} says {number}" for number in range(1, len(said) + 1)], one.name
    ids = [tuple(map(int, number.split("-"))) for number, _, _ in story]
    assert ids == sorted(set(ids))
    print(f"{len(story)} messages, each heard once by each of {PEOPLE}")

    # Nobody was seen leaving or joining; all of them moved, and only when asked to.
    for one in people:
        assert (one.left, one.came, one.problems, one.participants) == ([], [], [], PEOPLE), one.name
        assert set(one.ends) == {1012}, (one.name, one.ends)
    for task in old_tasks:
        assert "stopped in order" in "".join(task.log)
