"""Scaling policies, alarms and the dashboard."""

import json

from checks.common import METRICS, alarmed_metrics, check, only


@check
def steps_cover_everything_once(world):
    """Above the threshold for scaling out, below it for scaling in: no gap, no overlap, unbounded at the end."""
    for _, key, p in world.each("AWS::ApplicationAutoScaling::ScalingPolicy"):
        if p["PolicyType"] != "StepScaling":
            continue
        steps = p["StepScalingPolicyConfiguration"]["StepAdjustments"]
        spans = sorted(
            (s.get("MetricIntervalLowerBound", float("-inf")), s.get("MetricIntervalUpperBound", float("inf")))
            for s in steps
        )
        up = steps[0]["ScalingAdjustment"] > 0
        if (spans[0][0], spans[-1][1]) != ((0, float("inf")) if up else (float("-inf"), 0)):
            yield f"{key}: covers {spans[0][0]} to {spans[-1][1]}"
        for (_, end), (start, _) in zip(spans, spans[1:]):
            if end != start:
                yield f"{key}: {'gap' if end < start else 'overlap'} between {end} and {start}"
        if any((s["ScalingAdjustment"] > 0) != up for s in steps) or any(s["ScalingAdjustment"] == 0 for s in steps):
            yield f"{key}: steps in both directions"
        if "Cooldown" not in p["StepScalingPolicyConfiguration"]:
            yield f"{key}: no cooldown"


@check
def policies_hang_on_alarms(world):
    """Every step policy is the action of an alarm, and that alarm looks in the policy's direction."""
    policies = {
        key: p
        for _, key, p in world.each("AWS::ApplicationAutoScaling::ScalingPolicy")
        if p["PolicyType"] == "StepScaling"
    }
    acting = {}
    for _, key, alarm in world.each("AWS::CloudWatch::Alarm"):
        for action in alarm.get("AlarmActions", []):
            if getattr(action, "id", None) in policies:
                acting.setdefault(action.id, []).append(alarm)
            elif not str(action).startswith("arn:aws:sns:"):
                yield f"{key}: {action} is neither a policy nor a topic"
    for key, policy in policies.items():
        up = policy["StepScalingPolicyConfiguration"]["StepAdjustments"][0]["ScalingAdjustment"] > 0
        if key not in acting:
            yield f"{key} is nobody's action"
        for alarm in acting.get(key, []):
            if alarm["ComparisonOperator"].startswith("Greater") != up:
                yield f"{key} hangs on an alarm of the other direction"


@check
def alarms_can_fire(world):
    for _, key, alarm in world.each("AWS::CloudWatch::Alarm"):
        if alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"]) > alarm["EvaluationPeriods"]:
            yield f"{key}: {alarm['DatapointsToAlarm']} datapoints of {alarm['EvaluationPeriods']}"
        periods = (
            [alarm["Period"]]
            if "Period" in alarm
            else [m["MetricStat"]["Period"] for m in alarm["Metrics"] if "MetricStat" in m]
        )
        if any(p not in (10, 30) and p % 60 for p in periods) or max(periods) * alarm["EvaluationPeriods"] > 86_400:
            yield f"{key}: periods {periods}"
        if "Metrics" in alarm and sum(bool(m.get("ReturnData", True)) for m in alarm["Metrics"]) != 1:
            yield f"{key}: exactly one expression may be the alarm's"


@check
def alarms_watch_this_service(world):
    """Namespace, metric and dimensions are reported by something, and are those of this service."""
    chat = world.chat.parameters
    ours = {"Environment": chat["EnvironmentName"], "Service": chat["ServiceName"]}
    ecs = {"ClusterName": chat["EnvironmentName"], "ServiceName": only(world, "AWS::ECS::Service")["ServiceName"]}
    elb = {
        "LoadBalancer": "<cluster.LoadBalancer.LoadBalancerFullName>",
        "TargetGroup": "<chat-service.TargetGroup.TargetGroupFullName>",
    }
    known = {("Bobbin", m): ours for m in METRICS} | {
        ("AWS/ECS", "CPUUtilization"): ecs,
        ("AWS/ApplicationELB", "HealthyHostCount"): elb,
        ("AWS/ElastiCache", "DatabaseMemoryUsagePercentage"): {
            "CacheClusterId": f"{chat['EnvironmentName']}-redis-001"
        },
    }
    looked = [(key, m) for _, key, alarm in world.each("AWS::CloudWatch::Alarm") for m in alarmed_metrics(alarm)]
    for _, key, p in world.each("AWS::ApplicationAutoScaling::ScalingPolicy"):
        if p["PolicyType"] == "TargetTrackingScaling":
            looked += [
                (key, m)
                for m in alarmed_metrics(p["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"])
            ]
    for key, (namespace, metric, dimensions) in looked:
        if (namespace, metric) not in known:
            yield f"{key}: nobody reports {namespace} {metric}"
        elif dimensions != known[namespace, metric]:
            yield f"{key}: {namespace} {metric} has {known[namespace, metric]}, not {dimensions}"


@check
def scaling_points_at_this_service(world):
    target, chat = only(world, "AWS::ApplicationAutoScaling::ScalableTarget"), world.chat.parameters
    if target["ResourceId"] != f"service/{chat['EnvironmentName']}/{chat['ServiceName']}":
        yield f"scales {target['ResourceId']}"
    if (target["ServiceNamespace"], target["ScalableDimension"]) != ("ecs", "ecs:service:DesiredCount"):
        yield f"scales {target['ScalableDimension']}"
    if not 1 <= int(target["MinCapacity"]) <= int(target["MaxCapacity"]):
        yield f"from {target['MinCapacity']} to {target['MaxCapacity']} tasks"
    shrinking = [
        p
        for _, _, p in world.each("AWS::ApplicationAutoScaling::ScalingPolicy")
        if not p.get("TargetTrackingScalingPolicyConfiguration", {"DisableScaleIn": p["PolicyName"].endswith("/up")})[
            "DisableScaleIn"
        ]
    ]
    policies = world.each("AWS::ApplicationAutoScaling::ScalingPolicy")
    if policies and len(shrinking) != 1:
        yield f"{len(shrinking)} policies take tasks away"


@check
def a_person_is_called(world):
    """Redis down, no healthy target, cap near, Redis full: each alarm notifies the topic, if there is one."""
    topic = world.chat.parameters["AlarmTopicArn"]
    calling = {
        m
        for _, _, a in world.each("AWS::CloudWatch::Alarm")
        if topic and topic in a.get("AlarmActions", []) and topic in a.get("OKActions", [])
        for _, m, _ in alarmed_metrics(a)
    }
    if topic:
        for metric in {"RedisUp", "HealthyHostCount", "ConnectionsUsed", "DatabaseMemoryUsagePercentage"} - calling:
            yield f"nobody is called for {metric}"
    for _, key, alarm in world.each("AWS::CloudWatch::Alarm"):
        if alarm.get("MetricName") == "HealthyHostCount" and (alarm["TreatMissingData"], alarm["Statistic"]) != (
            "breaching",
            "Maximum",
        ):
            yield f"{key}: no target at all would go unnoticed, or an empty zone be an alarm"


@check
def dashboard_shows_what_is_reported(world):
    body = json.loads(only(world, "AWS::CloudWatch::Dashboard")["DashboardBody"])
    shown = set()
    for widget in body["widgets"]:
        previous = []
        for row in widget["properties"].get("metrics", []):
            row = [cell for cell in row if not isinstance(cell, dict)]
            row = previous if row == ["..."] else [previous[i] if cell == "." else cell for i, cell in enumerate(row)]
            previous = row
            if row[0] == "Bobbin":
                shown.add(row[1])
                if row[1] not in METRICS or row[2:] != [
                    "Environment",
                    world.chat.parameters["EnvironmentName"],
                    "Service",
                    world.chat.parameters["ServiceName"],
                ]:
                    yield f"the dashboard asks for {row}"
    for metric in METRICS - shown:
        yield f"the dashboard does not show {metric}"
