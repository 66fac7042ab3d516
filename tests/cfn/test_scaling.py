"""The scaling numbers of chat-service.yml, simulated: their requirements under every load, the failure of the
original's numbers, and that each assertion notices a number changed in the wrong direction."""

import dataclasses
import math
import pathlib

import pytest

import scaling
from plot import plot
from scaling import ARTICLE, LOADS, from_template, simulate
from test_templates import TEXTS, world

HERE = pathlib.Path(__file__).parent


def load(name, rules):
    return simulate(rules, *LOADS[name])


# ---- What good numbers do: each takes rules and yields a sentence for each thing that is wrong ----


def steady_load_is_left_alone(rules):
    """At any constant load (active or quiet people) the number of tasks settles and never reverses."""
    for cost in (scaling.COST, scaling.COST / 5):
        for level in range(200, 6001, 800):
            run = simulate(rules, lambda _: level, 150, cost)
            if run.reversals:
                yield f"{level} sessions: {run.reversals} reversals"
            if run.actions and run.actions[-1][0] > 110 * 60:
                yield f"{level} sessions: still acting after {run.actions[-1][0] // 60} minutes"


def every_breach_has_one_step(rules):
    for steps, sign in ((rules.up_steps, 1), (rules.down_steps, -1)):
        for tenths in range(1, 1000):
            breach = sign * tenths / 10
            if sum(low <= breach < high if sign > 0 else low < breach <= high for low, high, _ in steps) != 1:
                yield f"{breach:+} has no step, or several"
                break
    if (
        rules.adjust(rules.smallest, 0, rules.up_steps) is None
        or rules.adjust(rules.largest, 0, rules.down_steps) is None
    ):
        yield "exactly at the threshold nothing happens"


def going_in_never_brings_back(rules):
    """The load after a scale-in is well below the threshold for scaling out."""
    for tasks in range(rules.smallest + 1, rules.largest + 1):
        left = rules.adjust(tasks, 0, rules.down_steps)
        after = rules.down.threshold * tasks / left
        for limit in (rules.up.threshold, rules.target or math.inf):
            if after > 0.9 * limit:
                yield f"{tasks} to {left} tasks: {after:.0f} %, and at {limit} tasks are added"


def the_daily_peak_is_carried(rules):
    run = load("daily wave", rules)
    if max(row["hottest"] for row in run.log) > 90 or max(row["waiting"] for row in run.log) > 1:
        yield "a task glows, or somebody waits"
    if max(row["desired"] for row in run.log) >= rules.largest or run.reversals:
        yield "as many tasks as allowed, or back and forth"


def a_jump_is_served_soon(rules):
    run = load("jump", rules)
    if run.served > 7 or run.hot_minutes:
        yield f"{run.served:.0f} minutes until all are in and no task over 90 %, {run.hot_minutes} at 95 % or more"


def a_spike_passes(rules):
    run = load("spike", rules)
    if run.reversals > 0 or run.log[-1]["desired"] != rules.smallest:
        yield f"{run.reversals} reversals, {run.log[-1]['desired']} tasks in the end"
    if run.served > 7:
        yield f"{run.served:.0f} minutes until all are in"


def a_swing_does_not_rock_it(rules):
    run = load("swing", rules)
    if len(run.actions) > 4 or run.reversals or run.log[-1]["dropped"]:
        yield f"{len(run.actions)} actions, {run.reversals} reversals, {run.log[-1]['dropped']:.0f} sockets dropped"


PROMISES = [
    steady_load_is_left_alone,
    every_breach_has_one_step,
    going_in_never_brings_back,
    the_daily_peak_is_carried,
    a_jump_is_served_soon,
    a_spike_passes,
    a_swing_does_not_rock_it,
]


@pytest.mark.parametrize("promise", PROMISES)
def test_our_numbers_keep(promise):
    assert not list(promise(from_template(world("as it comes"))))


def test_our_numbers_without_a_cap_of_our_own():
    """MaxConnections=auto: no task refuses anybody; CPU and rebalancing suffice. A jump then overloads the tasks for a
    while."""
    rules = from_template(world("as it comes"), cap=16_000)
    for promise in PROMISES:
        if promise is not a_jump_is_served_soon and promise is not a_spike_passes:
            assert not list(promise(rules)), promise.__name__
    jump = load("jump", rules)
    assert jump.served <= 15 and jump.reversals == 0


def test_rebalancing_relieves_the_first_tasks():
    rules = from_template(world("as it comes"), cap=16_000)
    with_it, without = load("jump", rules), load("jump", dataclasses.replace(rules, rebalance=0))
    assert without.hot_minutes > 3 * with_it.hot_minutes


def test_the_original_numbers_do_not():
    """The simulator is only useful if it reproduces their failure."""
    swing, jump = load("swing", ARTICLE), load("jump", ARTICLE)
    assert len(swing.actions) > 50 and swing.reversals > 15 and swing.log[-1]["dropped"] > 5000
    assert jump.hot_minutes > 60
    assert [row["desired"] for row in jump.log][-1] == 8 and len(jump.actions) == 2  # 2, 5, 8: it overshoots
    assert list(a_swing_does_not_rock_it(ARTICLE)) and list(a_jump_is_served_soon(ARTICLE))


# (the requirement that must be violated, the text in chat-service.yml, its replacement)
MUTANTS = [
    (steady_load_is_left_alone, "Expression: MAX([cpu, used])", "Expression: cpu"),
    (
        every_breach_has_one_step,
        "MetricIntervalLowerBound: 6, MetricIntervalUpperBound: 12",
        "MetricIntervalLowerBound: 8, MetricIntervalUpperBound: 12",
    ),
    (
        every_breach_has_one_step,
        "{MetricIntervalUpperBound: 0, ScalingAdjustment: -1}",
        "{MetricIntervalUpperBound: -5, ScalingAdjustment: -1}",
    ),
    (going_in_never_brings_back, "      Threshold: 35\n", "      Threshold: 45\n"),
    (going_in_never_brings_back, "ScalingAdjustment: -1}", "ScalingAdjustment: -2}"),
    (the_daily_peak_is_carried, "    Default: 10\n", "    Default: 5\n"),
    (
        a_jump_is_served_soon,
        "{MetricIntervalLowerBound: 12, ScalingAdjustment: 100}",
        "{MetricIntervalLowerBound: 12, ScalingAdjustment: 10}",
    ),
    (a_spike_passes, "        Cooldown: 300\n", "        Cooldown: 3000\n"),
    (
        a_swing_does_not_rock_it,
        "      EvaluationPeriods: 10\n      DatapointsToAlarm: 10\n      Threshold: 35",
        "      EvaluationPeriods: 1\n      DatapointsToAlarm: 1\n      Threshold: 35",
    ),
]


@pytest.mark.parametrize("promise, old, new", MUTANTS, ids=[f"{p.__name__}-{i}" for i, (p, _, _) in enumerate(MUTANTS)])
def test_the_promise_bites(promise, old, new):
    assert old in TEXTS["chat-service"], f"chat-service.yml no longer has {old!r}"
    rules = from_template(world("as it comes", TEXTS | {"chat-service": TEXTS["chat-service"].replace(old, new)}))
    assert list(promise(rules)), f"{promise.__name__} lets {new!r} pass"


def test_every_promise_has_a_mutant():
    assert {m[0] for m in MUTANTS} == set(PROMISES)


def test_table_and_plot_are_up_to_date():
    """The committed files match the output of `python tests/cfn/plot.py` for the current templates."""
    runs = scaling.run_all(from_template(world("as it comes")))
    print(scaling.table(runs))
    assert (HERE / "scaling.txt").read_text() == scaling.table(
        runs
    ), "run python tests/cfn/plot.py and commit what it writes"
    assert (HERE / "scaling.svg").read_text() == plot(runs), "run python tests/cfn/plot.py and commit what it writes"
