"""Simulates the scaling rules: what would AWS do with these numbers under such a load?

    python tests/cfn/plot.py        prints the table and plots tests/cfn/scaling.svg

The rules come from the resolved template, so the simulated numbers are the deployed numbers. The model is
deliberately simple. A session costs a thousandth of a task's CPU. Sockets stay where they are; only new ones are
spread. CloudWatch has one datapoint per minute and an alarm sees it a minute late; a task takes a minute to start.
What is known of AWS's behaviour is in `Service.decide`. Nothing is random except which task a scale-in stops
(seeded): ECS ignores sockets.
"""

import dataclasses
import math
import random

STEP = 5  # seconds of simulated time
START = 60  # seconds until a task runs: placed, image pulled, two health checks passed
COST = 0.1  # percent of one task's CPU per session
STAY = 3600  # mean length of a session in seconds


@dataclasses.dataclass
class Alarm:
    threshold: float
    above: bool
    datapoints: int  # M of the last N minutes
    periods: int
    sees: str  # "cpu", or "busier": the larger of CPU and connections

    def rings(self, values):
        last = values[-self.periods :]
        bad = [v >= self.threshold if self.above else v <= self.threshold for v in last]
        return len(last) == self.periods and sum(bad) >= self.datapoints


@dataclasses.dataclass
class Rules:
    """All numbers that determine how many tasks there are."""

    up: Alarm
    up_steps: list  # (lower, upper, adjustment)
    up_percent: bool
    up_cooldown: float
    down: Alarm
    down_steps: list
    down_cooldown: float
    smallest: int
    largest: int
    target: float | None = None  # target tracking on connections used, for scaling out only
    target_cooldown: float = 0
    cap: int | None = None  # maximum sessions per task; None: unlimited
    rebalance: float = 0  # sessions per second that a task over its share asks to move

    def adjust(self, capacity, breach, steps):
        """The capacity after one step, rounded as by Application Auto Scaling; None if no step matches."""
        for lower, upper, change in steps:
            matches = lower <= breach < upper if steps is self.up_steps else lower < breach <= upper
            if matches:
                if steps is self.up_steps and self.up_percent:
                    change = max(1, math.floor(capacity * change / 100))
                return min(self.largest, max(self.smallest, capacity + change))
        return None


# The original recipe's numbers: one datapoint of a minute both ways, a minute's cooldown, no cap, no rebalancing.
ARTICLE = Rules(
    up=Alarm(70, True, 1, 1, "cpu"),
    up_steps=[(0, 15, 1), (15, 25, 2), (25, math.inf, 3)],
    up_percent=False,
    up_cooldown=60,
    down=Alarm(20, False, 1, 1, "cpu"),
    down_steps=[(-math.inf, 0, -1)],
    down_cooldown=60,
    smallest=2,
    largest=10,
)


def from_template(world, cap=850, rebalance=10):
    """The rules of a resolved chat-service stack. A full task (850 sessions) is then at 85 % of its CPU."""
    parts = {
        key: p
        for kind in (
            "CloudWatch::Alarm",
            "ApplicationAutoScaling::ScalingPolicy",
            "ApplicationAutoScaling::ScalableTarget",
        )
        for key, p in world.chat.of_kind("AWS::" + kind)
    }

    def alarm(key):
        p = parts[key]
        return Alarm(
            p["Threshold"],
            p["ComparisonOperator"].startswith("Greater"),
            p["DatapointsToAlarm"],
            p["EvaluationPeriods"],
            {"cpu": "cpu", "MAX([cpu, used])": "busier"}[p.get("Metrics", [{"Expression": "cpu"}])[0]["Expression"]],
        )

    def steps(key):
        policy = parts[key]["StepScalingPolicyConfiguration"]
        found = [
            (
                s.get("MetricIntervalLowerBound", -math.inf),
                s.get("MetricIntervalUpperBound", math.inf),
                s["ScalingAdjustment"],
            )
            for s in policy["StepAdjustments"]
        ]
        return found, policy["AdjustmentType"] == "PercentChangeInCapacity", policy["Cooldown"]

    up_steps, percent, up_cooldown = steps("ScaleUpPolicy")
    down_steps, _, down_cooldown = steps("ScaleDownPolicy")
    tracking = parts.get("ConnectionsPolicy", {}).get("TargetTrackingScalingPolicyConfiguration", {})
    bounds = parts["ScalableTarget"]
    return Rules(
        alarm("HighCpuUsageAlarm"),
        up_steps,
        percent,
        up_cooldown,
        alarm("LowCpuUsageAlarm"),
        down_steps,
        down_cooldown,
        int(bounds["MinCapacity"]),
        int(bounds["MaxCapacity"]),
        tracking.get("TargetValue"),
        tracking.get("ScaleOutCooldown", 0),
        cap,
        rebalance,
    )


@dataclasses.dataclass
class Task:
    sockets: float = 0.0
    rebalancing: bool = False


class Service:
    """The tasks, their sockets, and the clients waiting to connect."""

    def __init__(self, rules, sessions, cost=COST):
        self.rules, self.cost, self.now = rules, cost, 0
        self.tasks = [Task(sessions / rules.smallest) for _ in range(rules.smallest)]  # running tasks
        self.starting = []  # when each starting task will run
        self.waiting = self.dropped = self.moved = 0.0
        self.actions = []  # (time, +n or -n)
        self.out_until = self.in_until = self.tracked_until = -math.inf
        self.base = self.tracked_base = rules.smallest  # capacity before the scale-out whose cooldown is running
        self.minute, self.history = [], {"cpu": [], "used": [], "busier": []}
        self.random = random.Random(1)
        self.log = []

    @property
    def desired(self):
        return len(self.tasks) + len(self.starting)

    @property
    def connected(self):
        return sum(task.sockets for task in self.tasks)

    def cpus(self):
        return [min(100.0, task.sockets * self.cost) for task in self.tasks]

    def step(self, wanted):
        self.tasks += [Task() for at in self.starting if at <= self.now]
        self.starting = [at for at in self.starting if at > self.now]
        here = self.connected
        leaving = min(here, max(here * STEP / STAY, here + self.waiting - wanted))  # sessions begin and end
        for task in self.tasks:
            task.sockets -= task.sockets * leaving / max(here, 1)
        self.waiting = max(0.0, wanted - self.connected)
        self.move_surplus()
        self.connect()
        self.minute.append(
            (sum(self.cpus()) / len(self.tasks), self.connected / len(self.tasks) / (self.rules.cap or math.inf) * 100)
        )
        if len(self.minute) == 60 // STEP:
            cpu, used = (sum(column) / len(column) for column in zip(*self.minute))
            self.minute = []
            self.log.append(
                {
                    "time": self.now,
                    "tasks": len(self.tasks),
                    "desired": self.desired,
                    "average": cpu,
                    "hottest": max(self.cpus()),
                    "waiting": self.waiting,
                    "dropped": self.dropped,
                    "moved": self.moved,
                    "wanted": wanted,
                }
            )
            self.decide()  # before this minute is added: an alarm sees it a minute late
            for key, value in (("cpu", cpu), ("used", used), ("busier", max(cpu, used))):
                self.history[key].append(value)
        self.now += STEP

    def move_surplus(self):
        """A task with over 1.5 times the average, and 200 more, asks a few sessions per second to move, until it has
        the average."""
        average = self.connected / len(self.tasks)
        for task in self.tasks:
            over = task.sockets - average
            task.rebalancing = over > 0 and (task.rebalancing or over > average / 2 and over >= 200)
            if task.rebalancing:
                moved = min(self.rules.rebalance * STEP, over)
                task.sockets -= moved
                self.waiting += moved
                self.moved += moved

    def connect(self):
        """Waiting clients connect: with a cap, to the least loaded tasks, up to the cap; without one, evenly."""
        if self.rules.cap is None:
            for task in self.tasks:
                task.sockets += self.waiting / len(self.tasks)
            self.waiting = 0.0
            return
        coming = min(self.waiting, sum(max(0.0, self.rules.cap - task.sockets) for task in self.tasks))
        low, high = 0.0, float(self.rules.cap)  # fills up to a common level, found by bisection
        for _ in range(40):
            level = (low + high) / 2
            takes = sum(max(0.0, level - task.sockets) for task in self.tasks)
            low, high = (level, high) if takes < coming else (low, level)
        for task in self.tasks:
            task.sockets = max(task.sockets, low)
        self.waiting = max(0.0, self.waiting - coming)

    def decide(self):
        """What the alarms and policies do at the end of a minute.

        An alarm that stays active acts again every minute. During a scale-out's cooldown, what it added counts as
        part of the next one, so only a larger step adds the difference; a cooldown starts when the tasks run. Of
        several policies the largest capacity wins. A scale-in waits for its own cooldown; a scale-out never waits
        for that.
        """
        rules, seen, wishes = self.rules, self.history, []
        if rules.up.rings(seen[rules.up.sees]):
            start = self.base if self.now < self.out_until else self.desired
            wishes.append(
                ("step", start, rules.adjust(start, seen[rules.up.sees][-1] - rules.up.threshold, rules.up_steps))
            )
        if rules.target and len(seen["used"]) >= 3 and min(seen["used"][-3:]) > rules.target:
            start = self.tracked_base if self.now < self.tracked_until else self.desired
            wishes.append(("track", start, min(rules.largest, math.ceil(start * seen["used"][-1] / rules.target))))
        for who, start, wish in sorted(wishes, key=lambda w: w[2]):
            if wish > self.desired:
                if who == "step":
                    self.base, self.out_until = start, self.now + START + rules.up_cooldown
                else:
                    self.tracked_base, self.tracked_until = start, self.now + START + rules.target_cooldown
                self.actions.append((self.now, wish - self.desired))
                self.starting += [self.now + START] * (wish - self.desired)
        if not wishes and rules.down.rings(seen[rules.down.sees]) and self.now >= self.in_until:
            wish = rules.adjust(self.desired, seen[rules.down.sees][-1] - rules.down.threshold, rules.down_steps)
            if wish is not None and wish < self.desired:
                self.actions.append((self.now, wish - self.desired))
                self.in_until = self.now + rules.down_cooldown
                for _ in range(self.desired - wish):
                    if self.starting:
                        self.starting.pop()
                        continue
                    gone = self.tasks.pop(self.random.randrange(len(self.tasks))).sockets
                    self.dropped += gone
                    self.waiting += gone


def wave(minute):
    return 2200 - 1800 * math.cos(2 * math.pi * minute / 1440)


LOADS = {  # wanted sessions by minute, and the number of minutes
    "daily wave": (wave, 1440),
    "jump": (lambda m: 400 + 3600 * min(1, max(0, (m - 20) / 2)), 120),
    "spike": (lambda m: 400 + 3600 * (20 <= m < 30), 120),
    "swing": (lambda m: 1800 if m % 8 < 4 else 350, 90),
}


@dataclasses.dataclass
class Run:
    log: list
    actions: list

    @property
    def reversals(self):
        """Changes of direction within 10 minutes."""
        return sum(b > 0 > a or a > 0 > b for (s, a), (t, b) in zip(self.actions, self.actions[1:]) if t - s <= 600)

    @property
    def hot_minutes(self):
        return sum(row["hottest"] >= 95 for row in self.log)

    @property
    def served(self):
        """Length of the overload in minutes: from the first to the last time that clients waited or a task was above 90 %."""
        bad = [row["time"] / 60 for row in self.log if row["waiting"] > 1 or row["hottest"] > 90]
        return bad[-1] - bad[0] + 1 if bad else 0


def simulate(rules, load, minutes, cost=COST):
    service = Service(rules, load(0), cost)
    for _ in range(int(minutes * 60 / STEP)):
        service.step(load(service.now / 60))
    return Run(service.log, service.actions)


def table(runs):
    """One line per load and rules, from {(load, rules' name): Run}."""
    head = (
        "load",
        "numbers",
        "actions",
        "reversals",
        "most tasks",
        "task hours",
        "minutes >= 95 %",
        "minutes to serve",
        "kept waiting",
        "dropped",
        "asked to move",
    )
    rows = [head] + [
        (
            load,
            name,
            len(r.actions),
            r.reversals,
            max(x["desired"] for x in r.log),
            f"{sum(x['desired'] for x in r.log) / 60:.0f}",
            r.hot_minutes,
            f"{r.served:.0f}",
            f"{max(x['waiting'] for x in r.log):.0f}",
            f"{r.log[-1]['dropped']:.0f}",
            f"{r.log[-1]['moved']:.0f}",
        )
        for (load, name), r in runs.items()
    ]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(head))]
    return (
        "\n".join(
            "  ".join(
                str(c).ljust(w) if i < 2 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths))
            ).rstrip()
            for row in rows
        )
        + "\n"
    )


def run_all(ours):
    return {
        (load, name): simulate(rules, shape, minutes)
        for load, (shape, minutes) in LOADS.items()
        for name, rules in (("original", ARTICLE), ("ours", ours))
    }
