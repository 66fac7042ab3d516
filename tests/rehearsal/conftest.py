"""What each rehearsal gets: a Redis, and a stage that starts instances, balancers and crowds and ends them all."""

import resource

import pytest

from balancer import Balancer
from crowd import Crowd
from processes import Instance, Redis


@pytest.fixture
def stage(tmp_path):
    # A thousand sockets here, and twice as many in the balancer.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    class Stage:
        def __init__(self):
            self.redis = Redis(tmp_path)
            self.processes, self.tasks, self.crowds, self.sockets = [self.redis.process], [], [], []

        def task(self, **settings):
            # The whole crowd shares one address here.
            limits = dict.fromkeys(("ADDRESS_CONNECTIONS", "ADDRESS_CONNECTION_RATE", "ADDRESS_JOINS", "ADDRESS_NEW_ROOMS"), 0)
            task = Instance(self.redis, **(limits | settings))
            self.processes.append(task.process)
            self.tasks.append(task)
            return task

        def balancer(self, **settings):
            balancer = Balancer(tmp_path, **settings)
            self.processes.append(balancer.process)
            return balancer

        def crowd(self, balancer):
            crowd = Crowd(balancer)
            self.crowds.append(crowd)
            return crowd

        def keep(self, sockets):
            """Close them at the end, not before."""
            self.sockets += sockets

    stage = Stage()
    yield stage
    for socket in stage.sockets:
        socket.close()
    for crowd in stage.crowds:
        crowd.close()
    for process in reversed(stage.processes):
        process.kill()
        process.wait()
    logs = "".join(line for task in stage.tasks for line in task.log)
    assert "panicked" not in logs, logs
