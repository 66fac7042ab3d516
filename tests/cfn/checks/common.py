"""What the checks share: their list, the server's constants, and ways to look things up in a `World`."""

CHECKS = {}
METRICS = {"Connections", "ConnectionsUsed", "Joins", "Messages", "Deliveries", "RedisUp"}  # reported by the server
MANAGED_POLICIES = {
    "AllViewer": "216adef6-5c7f-47e4-b989-5492eafa07d3",
    "CachingDisabled": "4135ea2d-6df8-44a3-9df3-4b5a84be39ad",
}
SECRETS = {  # the parameters that name a secret, and the setting that gets its text
    "PassphraseSecret": "PASSPHRASE",
    "AdminTokenSecret": "ADMIN_TOKEN",
    "PostTokenSecret": "POST_TOKEN",
    "MetricsTokenSecret": "METRICS_TOKEN",
}
PING, KEEP_ALIVE = 20, 75  # seconds: the server's WebSocket ping interval, and its keep-alive for idle HTTP connections


def check(function):
    CHECKS[function.__name__] = function
    return function


def listed(value):
    return value if isinstance(value, list) else [value]


def named(pairs):
    """[{Key/Name/Field: a, Value: b}] as a dict."""
    return {p.get("Key", p.get("Name")): p.get("Value") for p in pairs}


def container(world):
    ((_, task),) = world.chat.of_kind("AWS::ECS::TaskDefinition")
    return task["ContainerDefinitions"][0]


def only(world, kind):
    ((_, _, properties),) = world.each(kind)
    return properties


def alarmed_metrics(alarm):
    """(namespace, metric, dimensions) of everything that an alarm looks at."""
    stats = [m["MetricStat"]["Metric"] for m in alarm.get("Metrics", []) if "MetricStat" in m] or [alarm]
    return [(m["Namespace"], m["MetricName"], named(m.get("Dimensions", []))) for m in stats]
