"""What a template can get wrong without any linter noticing, one function each.

Every function takes a `World` (the four stacks, resolved) and yields a sentence for each thing that is wrong.
`test_templates.py` runs them all, and shows for each that it bites.
"""

import json
import re

CHECKS = {}
METRICS = {"Connections", "ConnectionsUsed", "Joins", "Messages", "Deliveries", "RedisUp"}  # what the server reports
PING, KEEP_ALIVE = 20, 75  # seconds: the server's WebSocket pings, and how long it keeps an idle HTTP connection


def check(function):
    CHECKS[function.__name__] = function
    return function


def listed(value):
    return value if isinstance(value, list) else [value]


def named(pairs):
    """[{Key/Name/Field: a, Value: b}] as a dict."""
    return {p.get("Key", p.get("Name")): p.get("Value") for p in pairs}


def container(world):
    (_, task), = world.chat.of_kind("AWS::ECS::TaskDefinition")
    return task["ContainerDefinitions"][0]


def only(world, kind):
    (_, _, properties), = world.each(kind)
    return properties


def alarmed_metrics(alarm):
    """(namespace, metric, dimensions) of everything that an alarm looks at."""
    stats = [m["MetricStat"]["Metric"] for m in alarm.get("Metrics", []) if "MetricStat" in m] or [alarm]
    return [(m["Namespace"], m["MetricName"], named(m.get("Dimensions", []))) for m in stats]


# ---- Stacks and what passes between them ----

@check
def stacks_fit_together(world):
    """Every parameter, reference and import has something behind it."""
    for stack in world.stacks.values():
        yield from (f"{stack.name}: {error}" for error in stack.errors)


# Which type of resource a property must be given, wherever it occurs.
WANTED = {"VpcId": "AWS::EC2::VPC", "SubnetIds": "AWS::EC2::Subnet", "Subnets": "AWS::EC2::Subnet",
          "SecurityGroups": "AWS::EC2::SecurityGroup", "SecurityGroupIds": "AWS::EC2::SecurityGroup",
          "GroupId": "AWS::EC2::SecurityGroup", "SourceSecurityGroupId": "AWS::EC2::SecurityGroup",
          "DestinationSecurityGroupId": "AWS::EC2::SecurityGroup", "Cluster": "AWS::ECS::Cluster",
          "ListenerArn": "AWS::ElasticLoadBalancingV2::Listener", "ExecutionRoleArn": "AWS::IAM::Role",
          "LoadBalancerArn": "AWS::ElasticLoadBalancingV2::LoadBalancer", "Roles": "AWS::IAM::Role",
          "TargetGroupArn": "AWS::ElasticLoadBalancingV2::TargetGroup", "ValueFrom": "AWS::SecretsManager::Secret",
          "RouteTableId": "AWS::EC2::RouteTable", "CachePolicyId": "AWS::CloudFront::CachePolicy",
          "CacheSubnetGroupName": "AWS::ElastiCache::SubnetGroup", "TaskDefinition": "AWS::ECS::TaskDefinition",
          "ScalingTargetId": "AWS::ApplicationAutoScaling::ScalableTarget", "awslogs-group": "AWS::Logs::LogGroup"}
MANAGED_POLICIES = {"AllViewer": "216adef6-5c7f-47e4-b989-5492eafa07d3",
                    "CachingDisabled": "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"}


@check
def right_thing_in_the_right_place(world):
    """A subnet where a subnet belongs, also when it came through an export."""
    def walk(value, key, where):
        if isinstance(value, dict):
            for k, v in value.items():
                yield from walk(v, k, f"{where}.{k}")
        elif isinstance(value, list):
            for v in value:
                yield from walk(v, key, where)
        elif key in WANTED and value not in MANAGED_POLICIES.values():
            if getattr(value, "kind", None) != WANTED[key]:
                yield f"{where}: {value!r} is no {WANTED[key]}"
    for stack in world.stacks.values():
        for key, kind in stack.kinds.items():
            for name, value in stack.properties(key).items():
                if (kind, name) != ("AWS::ElastiCache::SubnetGroup", "CacheSubnetGroupName"):  # there it makes the name
                    yield from walk(value, name, f"{stack.name}.{key}.{name}")


@check
def names_carry_the_environment(world):
    """Two environments in one account must not meet."""
    environment = world.chat.parameters["EnvironmentName"]
    for stack in world.stacks.values():
        for key, kind in stack.kinds.items():
            properties = dict(stack.properties(key))
            for config in ("CachePolicyConfig", "ResponseHeadersPolicyConfig", "VpcOriginEndpointConfig"):
                properties["Name"] = properties.get(config, {}).get("Name", properties.get("Name", environment))
            for k, v in properties.items():
                given = k in ("Name", "Family", "ReplicationGroupId") or k.endswith("Name") and "Domain" not in k
                elsewhere = k in ("MetricName", "ServiceName") or hasattr(v, "kind")  # AWS's, the cluster's, a reference
                if given and not elsewhere and environment not in str(v):
                    yield f"{stack.name}.{key}: {k} is {v}, without {environment}"
    for name in world.exports:
        if not name.startswith(environment + ":"):
            yield f"export {name} does not begin with {environment}:"


UNTAGGED = {"AWS::EC2::VPCGatewayAttachment", "AWS::EC2::Route", "AWS::EC2::SubnetRouteTableAssociation",
            "AWS::EC2::SecurityGroupEgress", "AWS::IAM::Policy", "AWS::ElasticLoadBalancingV2::Listener",
            "AWS::ElasticLoadBalancingV2::ListenerRule", "AWS::ApplicationAutoScaling::ScalableTarget",
            "AWS::ApplicationAutoScaling::ScalingPolicy", "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard",
            "AWS::CloudFront::CachePolicy", "AWS::CloudFront::ResponseHeadersPolicy"}  # untaggable, or free of charge


@check
def what_costs_is_tagged(world):
    for stack in world.stacks.values():
        for key, kind in stack.kinds.items():
            tags = named(stack.properties(key).get("Tags", []))
            if kind not in UNTAGGED and tags.get("Environment") != world.chat.parameters["EnvironmentName"]:
                yield f"{stack.name}.{key} has no Environment tag"


@check
def parameters_are_explained(world):
    for stack in world.stacks.values():
        if len(stack.text.encode()) > 51_200:
            yield f"{stack.name} is over the 51,200 bytes that can be deployed without a bucket"
        if len(re.findall(r"^# ", stack.text.split("Description:")[0], re.M)) < 3:
            yield f"{stack.name} has no paragraph at its top"
        for key, p in stack.template["Parameters"].items():
            if not p.get("Description"):
                yield f"{stack.name}: {key} has no description"
            if not {"AllowedPattern", "AllowedValues", "MinValue", "MinLength"} & p.keys():
                yield f"{stack.name}: {key} takes anything"
            if "AllowedPattern" in p and "ConstraintDescription" not in p:
                yield f"{stack.name}: {key} would be refused without a word why"


# ---- Network ----

@check
def nobody_else_gets_in(world):
    """The internet reaches the load balancer on 80 and 443 (behind CloudFront not even that), the load balancer the
    tasks, the tasks Redis; and no group has the "everything out" that an empty list means."""
    front = world.cluster.parameters["PublicEntry"] == "cloudfront"
    for stack, key, group in world.each("AWS::EC2::SecurityGroup"):
        if not group.get("SecurityGroupEgress") and key != "EndpointSecurityGroup":
            yield f"{key} may call anybody"
        for rule in group.get("SecurityGroupIngress", []):
            if str(rule["IpProtocol"]) != "tcp" or rule.get("FromPort") != rule.get("ToPort"):
                yield f"{key} opens more than one TCP port"
            if "CidrIp" in rule and (key != "LoadBalancerSecurityGroup" or rule["FromPort"] not in (80, 443) or front):
                yield f"{key} lets {rule['CidrIp']} in on {rule['FromPort']}"
        if sum("SourcePrefixListId" in r for r in group.get("SecurityGroupIngress", [])) > 1:
            yield f"{key}: CloudFront's list twice is more than 60 rules"
        for rule in group.get("SecurityGroupEgress", []):
            if rule.get("CidrIp") == "0.0.0.0/0" and (rule["IpProtocol"] != "tcp" or rule["FromPort"] != 443 or rule["ToPort"] != 443):
                yield f"{key} may call anybody on more than HTTPS"
    for stack, key, rule in world.each("AWS::EC2::SecurityGroupIngress"):
        if "CidrIp" in rule:
            yield f"{key} lets {rule['CidrIp']} in"


@check
def ways_lead_where_they_should(world):
    """Each way that is needed is open from both ends: load balancer to tasks, tasks to Redis."""
    port = container(world)["PortMappings"][0]["ContainerPort"]
    service = only(world, "AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"]
    balancer = only(world, "AWS::ElasticLoadBalancingV2::LoadBalancer")["SecurityGroups"][0]
    redis = only(world, "AWS::ElastiCache::ReplicationGroup")["SecurityGroupIds"][0]
    out = [(r["GroupId"], r["DestinationSecurityGroupId"], r["FromPort"]) for _, _, r in world.each("AWS::EC2::SecurityGroupEgress")]
    into = [(r.get("SourceSecurityGroupId"), f"<{s.name}.{key}.Ref>", r["FromPort"]) for s, key, g in world.each("AWS::EC2::SecurityGroup")
            for r in g.get("SecurityGroupIngress", [])]
    for what, sources, targets, p in [("load balancer to tasks", [balancer], service, port), ("tasks to Redis", service, [redis], 6379)]:
        for direction, rules in [("out", out), ("in", into)]:
            if not any((s, t, p) in rules for s in sources for t in targets):
                yield f"{what}: {direction} is closed on {p}"


@check
def tasks_are_private_and_still_get_out(world):
    """No public address and no route to the internet, but each AWS service that a start needs."""
    if world.cluster.parameters["TaskNetwork"] == "public-addresses":
        return
    network = only(world, "AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"]
    if network["AssignPublicIp"] != "DISABLED":
        yield "tasks have public addresses"
    tables = {a["SubnetId"]: a["RouteTableId"] for _, _, a in world.each("AWS::EC2::SubnetRouteTableAssociation")}
    public = {r["RouteTableId"] for _, _, r in world.each("AWS::EC2::Route") if "GatewayId" in r}
    for subnet in network["Subnets"] + only(world, "AWS::ElastiCache::SubnetGroup")["SubnetIds"]:
        if tables.get(subnet) in public:
            yield f"{subnet} has a route to the internet"
    endpoints = {e["ServiceName"].split(".", 3)[3]: e for _, _, e in world.each("AWS::EC2::VPCEndpoint")}
    for need in {"ecr.api", "ecr.dkr", "logs", "secretsmanager", "s3"} - endpoints.keys():
        yield f"tasks have no way to {need}"
    for name, endpoint in endpoints.items():
        if name == "s3" and not {tables[s] for s in network["Subnets"]} <= set(endpoint["RouteTableIds"]):
            yield "S3 is not routed from the tasks' subnets"
        if name != "s3" and not endpoint.get("PrivateDnsEnabled"):
            yield f"{name} would resolve to its public address"
    zones = {world.find(s)["AvailabilityZone"] for s in network["Subnets"]}
    if len(zones) < 2:
        yield "tasks are in one zone"


# ---- Load balancer ----

ATTRIBUTES = {  # of load balancers and target groups: the keys that exist, and what they may hold
    "idle_timeout.timeout_seconds": range(1, 4001), "client_keep_alive.seconds": range(60, 604_801),
    "routing.http.drop_invalid_header_fields.enabled": ("true", "false"), "deletion_protection.enabled": ("true", "false"),
    "stickiness.enabled": ("true", "false"), "stickiness.type": ("lb_cookie", "app_cookie"),
    "stickiness.lb_cookie.duration_seconds": range(1, 604_801), "deregistration_delay.timeout_seconds": range(0, 3601),
    "slow_start.duration_seconds": (0, *range(30, 901)),
    "load_balancing.algorithm.type": ("round_robin", "least_outstanding_requests", "weighted_random")}


@check
def attributes_are_real(world):
    """CloudFormation takes any key here; AWS refuses it half an hour later."""
    for _, key, p in world.each("AWS::ElasticLoadBalancingV2::LoadBalancer") + world.each("AWS::ElasticLoadBalancingV2::TargetGroup"):
        attributes = named(p.get("LoadBalancerAttributes", []) + p.get("TargetGroupAttributes", []))
        for name, value in attributes.items():
            allowed = ATTRIBUTES.get(name, ())
            if str(value) not in map(str, allowed):
                yield f"{key}: {name} = {value}"
        if "slow_start.duration_seconds" in attributes and attributes.get("load_balancing.algorithm.type") != "round_robin":
            yield f"{key}: slow start goes with round_robin only"


@check
def sockets_outlive_silence(world):
    """Two pings fit into the idle time-out, and the server keeps idle connections for longer than the load balancer."""
    attributes = named(only(world, "AWS::ElasticLoadBalancingV2::LoadBalancer")["LoadBalancerAttributes"])
    idle = int(attributes.get("idle_timeout.timeout_seconds", 60))
    if not 2 * PING < idle < KEEP_ALIVE:
        yield f"idle time-out {idle} s is not between two pings ({2 * PING} s) and the server's own {KEEP_ALIVE} s"
    for _, _, d in world.each("AWS::CloudFront::Distribution"):
        if d["DistributionConfig"]["Origins"][0]["VpcOriginConfig"]["OriginKeepaliveTimeout"] >= idle:
            yield "CloudFront would reuse connections that the load balancer has closed"


@check
def stickiness_is_short(world):
    attributes = named(only(world, "AWS::ElasticLoadBalancingV2::TargetGroup")["TargetGroupAttributes"])
    if attributes.get("stickiness.enabled") != "true" or attributes.get("stickiness.type") != "lb_cookie":
        yield "stickiness is off"
    if int(attributes.get("stickiness.lb_cookie.duration_seconds", 86400)) > 60:
        yield "a client that is asked to move would come back to the same task"


@check
def health_checks_are_patient(world):
    """Liveness only; a stall of 20 s must not cost a task its sockets."""
    group, health = only(world, "AWS::ElasticLoadBalancingV2::TargetGroup"), container(world)["HealthCheck"]
    if group["HealthCheckPath"] != "/healthz" or group["Matcher"]["HttpCode"] != "200":
        yield "the load balancer does not ask for liveness (/healthz)"
    if health["Command"] != ["CMD", "/bobbin", "--healthcheck"]:
        yield "the container does not check itself"
    for who, every, timeout, misses in [
            ("load balancer", group["HealthCheckIntervalSeconds"], group["HealthCheckTimeoutSeconds"], group["UnhealthyThresholdCount"]),
            ("container", health["Interval"], health["Timeout"], health["Retries"])]:
        if timeout >= every:
            yield f"{who}: the time-out of {timeout} s is not below the interval of {every} s"
        if misses < 3 or every * misses < 20:
            yield f"{who}: a stall of {every * misses} s kills a task"


@check
def target_type_is_ip(world):
    group = only(world, "AWS::ElasticLoadBalancingV2::TargetGroup")
    if group.get("TargetType", "instance") != "ip":
        yield "a Fargate task is registered by its address: TargetType must be ip"


@check
def https_where_there_is_a_certificate(world):
    listeners = {p["Port"]: p for _, _, p in world.each("AWS::ElasticLoadBalancingV2::Listener")}
    if not world.cluster.parameters["CertificateArn"]:
        return
    if 443 not in listeners or not str(listeners[443].get("SslPolicy", "")).startswith("ELBSecurityPolicy-TLS13-1-2-"):
        yield "HTTPS is missing, or takes versions before TLS 1.2"
    if 80 in listeners and listeners[80]["DefaultActions"][0]["Type"] != "redirect":
        yield "plain HTTP is not redirected"
    if str(world.find(world.exports["production:PublicListener"])["Port"]) != "443":
        yield "services hang on the plain listener"


@check
def private_paths_come_first(world):
    """/metrics and /status are refused by a rule that is asked before the one that forwards."""
    rules = sorted((int(p["Priority"]), p) for _, _, p in world.each("AWS::ElasticLoadBalancingV2::ListenerRule"))
    paths = [(p["Actions"][0]["Type"], p["Conditions"][0]["PathPatternConfig"]["Values"]) for _, p in rules]
    if paths[0][0] != "fixed-response" or not {"/metrics", "/metrics/*", "/status", "/status/*"} <= set(paths[0][1]):
        yield f"first comes {paths[0]}"
    if sum(len(values) for _, values in paths) > 5 * len(paths) or any(len(values) > 5 for _, values in paths):
        yield "a rule may hold five values"


# ---- The task and its service ----

SIZES = {256: [512, 1024, 2048], 512: range(1024, 4097, 1024), 1024: range(2048, 8193, 1024),
         2048: range(4096, 16385, 1024), 4096: range(8192, 30721, 1024), 8192: range(16384, 61441, 4096),
         16384: range(32768, 122881, 8192)}


@check
def fargate_sells_that_size(world):
    (_, task), = world.chat.of_kind("AWS::ECS::TaskDefinition")
    if int(task["Memory"]) not in SIZES.get(int(task["Cpu"]), ()):
        yield f"no task has {task['Cpu']} CPU and {task['Memory']} MiB"


@check
def goodbye_comes_before_the_end(world):
    """drain < the load balancer's patience < SIGKILL, whichever order AWS starts the clocks in."""
    drain = int(named(container(world)["Environment"])["DRAIN_SECONDS"])
    attributes = named(only(world, "AWS::ElasticLoadBalancingV2::TargetGroup")["TargetGroupAttributes"])
    cut, kill = int(attributes.get("deregistration_delay.timeout_seconds", 300)), container(world).get("StopTimeout", 30)
    if not 0 < drain < cut <= 30:
        yield f"drain {drain} s, cut by the load balancer at {cut} s"
    if not cut + drain <= kill <= 120:
        yield f"killed at {kill} s; at most 120 is allowed, and {cut + drain} may be needed"


@check
def service_and_task_agree(world):
    """Container name and port are the same in task, service, target group and environment."""
    task, service = container(world), only(world, "AWS::ECS::Service")
    port, wired = task["PortMappings"][0]["ContainerPort"], service["LoadBalancers"][0]
    if wired["ContainerName"] != task["Name"]:
        yield f"the service wires {wired['ContainerName']}, the container is {task['Name']}"
    for what, other in [("service", wired["ContainerPort"]), ("environment", named(task["Environment"])["PORT"]),
                        ("target group", only(world, "AWS::ElasticLoadBalancingV2::TargetGroup")["Port"])]:
        if int(other) != int(port):
            yield f"{what}: port {other}, the container has {port}"


@check
def updates_keep_the_count_and_roll_back(world):
    service = only(world, "AWS::ECS::Service")
    deployment = service["DeploymentConfiguration"]
    if "DesiredCount" in service:
        yield "DesiredCount would reset the scaled number at each update"
    if deployment["MinimumHealthyPercent"] < 100 or deployment["MaximumPercent"] < 150:
        yield "old tasks go before new ones are there"
    if deployment.get("DeploymentCircuitBreaker") != {"Enable": True, "Rollback": True}:
        yield "a broken image is not rolled back"
    if not 20 <= service.get("HealthCheckGracePeriodSeconds", 0) <= 120:
        yield "a starting task is judged at once"
    if service.get("AvailabilityZoneRebalancing") != "DISABLED":
        yield "tasks are moved for evenness between zones, and their sockets cut"


@check
def container_is_locked_down(world):
    task = container(world)
    if str(task.get("User", "root")).split(":")[0] in ("root", "0"):
        yield "runs as root"
    if not task.get("ReadonlyRootFilesystem"):
        yield "the root file system can be written"
    linux = task.get("LinuxParameters", {})
    if linux.get("Capabilities", {}).get("Drop") != ["ALL"] or not linux.get("InitProcessEnabled"):
        yield "holds capabilities, or has no init"
    limits = {u["Name"]: min(u["SoftLimit"], u["HardLimit"]) for u in task.get("Ulimits", [])}
    if not 65_000 <= limits.get("nofile", 1024) <= 1_048_576:
        yield "too few files for its sockets"
    log = task["LogConfiguration"]["Options"]
    if log.get("mode") != "non-blocking" or "max-buffer-size" not in log:
        yield "a slow log would hold the chat up"
    for name in named(task["Environment"]):
        if re.search("PASSWORD|SECRET|TOKEN", name):
            yield f"{name} lies open in the task definition"


@check
def container_gets_its_settings(world):
    chat, environment = world.chat.parameters, named(container(world)["Environment"])
    expected = {"REDIS_TLS": "1", "METRICS_EMF": f"Bobbin/{chat['EnvironmentName']}/{chat['ServiceName']}",
                "REDIS_ENDPOINT": world.redis.outputs["RedisEndpoint"]}
    for name, value in expected.items():
        if str(environment.get(name)) != value:
            yield f"{name} is {environment.get(name)}, not {value}"
    if "REDIS_PASSWORD" not in {s["Name"] for s in container(world).get("Secrets", [])}:
        yield "REDIS_PASSWORD is not handed over"
    if not re.fullmatch(r"<resources\.Redis\.PrimaryEndPoint\.Address>:<resources\.Redis\.PrimaryEndPoint\.Port>", world.redis.outputs["RedisEndpoint"]):
        yield "RedisEndpoint is not the primary's host and port"


@check
def roles_fit_their_takers(world):
    """A role's trust names the service that takes it; its rights reach what the task needs, and no further."""
    role = world.find(only(world, "AWS::ECS::TaskDefinition")["ExecutionRoleArn"])
    trust = role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"]
    if listed(trust) != ["ecs-tasks.amazonaws.com"]:
        yield f"tasks can't take a role that trusts {trust}"
    if "Role" in only(world, "AWS::ECS::Service") or "RoleARN" in only(world, "AWS::ApplicationAutoScaling::ScalableTarget"):
        yield "ECS and scaling bring their own roles"
    documents = [p["PolicyDocument"] for p in role["Policies"]] + [p["PolicyDocument"] for _, _, p in world.each("AWS::IAM::Policy")]
    statements = [s for d in documents for s in d["Statement"]]
    for statement in statements:
        for action in listed(statement["Action"]):
            if "*" in action or (statement["Resource"] == "*" and action != "ecr:GetAuthorizationToken"):
                yield f"{action} on {statement['Resource']}"
    group, secret = only(world, "AWS::Logs::LogGroup")["LogGroupName"], container(world)["Secrets"][0]["ValueFrom"]
    for action, on in [("ecr:BatchGetImage", "arn:aws:ecr:eu-central-1:123456789012:repository/x"), ("secretsmanager:GetSecretValue", secret),
                       ("logs:PutLogEvents", f"arn:aws:logs:eu-central-1:123456789012:log-group:{group}:log-stream:x")]:
        if not any(action in listed(s["Action"]) and re.fullmatch(re.escape(s["Resource"]).replace(r"\*", ".*"), on) for s in statements):
            yield f"the execution role may not {action} on {on}"


@check
def logs_end(world):
    for _, key, group in world.each("AWS::Logs::LogGroup"):
        if not group.get("RetentionInDays"):
            yield f"{key} keeps logs for ever"


# ---- Redis ----

@check
def redis_is_safe(world):
    (key, redis), = world.redis.of_kind("AWS::ElastiCache::ReplicationGroup")
    if redis.get("TransitEncryptionEnabled") is not True or redis.get("TransitEncryptionMode", "required") != "required":
        yield "no TLS" + (", and AUTH works with TLS only" if "AuthToken" in redis else "")
    if not str(redis.get("AuthToken", "")).startswith("{{resolve:secretsmanager:<resources.RedisAuthSecret"):
        yield "the password is none, or not the secret's"
    if redis.get("AtRestEncryptionEnabled") is not True:
        yield "not encrypted at rest"
    several = int(redis["NumCacheClusters"]) > 1
    if (redis.get("AutomaticFailoverEnabled"), redis.get("MultiAZEnabled")) != (several, several):
        yield f"failover and {redis['NumCacheClusters']} nodes do not go together"
    if world.redis.resources[key].get("DeletionPolicy") != "Snapshot" or not int(redis.get("SnapshotRetentionLimit", 0)):
        yield "the logs of the rooms are lost with the stack"
    if re.match(r"cache\.(t1|t2|m3|m4|r3)", redis["CacheNodeType"]) or not redis.get("EngineVersion"):
        yield "an old node type, or whatever version"
    parameters = world.find(redis["CacheParameterGroupName"])
    if parameters["Properties"].get("maxmemory-policy") != "noeviction":
        yield "a full Redis would forget rooms"
    if parameters["CacheParameterGroupFamily"] != redis["Engine"] + redis["EngineVersion"].split(".")[0]:
        yield "parameters of another engine"


# ---- Scaling and alarms ----

@check
def steps_cover_everything_once(world):
    """Above the threshold for out, below it for in: no gap, no overlap, no end."""
    for _, key, p in world.each("AWS::ApplicationAutoScaling::ScalingPolicy"):
        if p["PolicyType"] != "StepScaling":
            continue
        steps = p["StepScalingPolicyConfiguration"]["StepAdjustments"]
        spans = sorted((s.get("MetricIntervalLowerBound", float("-inf")), s.get("MetricIntervalUpperBound", float("inf"))) for s in steps)
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
    """Every step policy is some alarm's action, of the alarm that looks in its direction."""
    policies = {key: p for _, key, p in world.each("AWS::ApplicationAutoScaling::ScalingPolicy") if p["PolicyType"] == "StepScaling"}
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
        periods = [alarm["Period"]] if "Period" in alarm else [m["MetricStat"]["Period"] for m in alarm["Metrics"] if "MetricStat" in m]
        if any(p not in (10, 30) and p % 60 for p in periods) or max(periods) * alarm["EvaluationPeriods"] > 86_400:
            yield f"{key}: periods {periods}"
        if "Metrics" in alarm and sum(bool(m.get("ReturnData", True)) for m in alarm["Metrics"]) != 1:
            yield f"{key}: exactly one expression may be the alarm's"


@check
def alarms_watch_this_service(world):
    """Namespace, metric and dimensions are ones that somebody reports, and those of this service."""
    chat = world.chat.parameters
    ours = {"Environment": chat["EnvironmentName"], "Service": chat["ServiceName"]}
    ecs = {"ClusterName": chat["EnvironmentName"], "ServiceName": only(world, "AWS::ECS::Service")["ServiceName"]}
    elb = {"LoadBalancer": "<cluster.LoadBalancer.LoadBalancerFullName>", "TargetGroup": "<chat-service.TargetGroup.TargetGroupFullName>"}
    known = {("Bobbin", m): ours for m in METRICS} | {("AWS/ECS", "CPUUtilization"): ecs, ("AWS/ApplicationELB", "HealthyHostCount"): elb,
             ("AWS/ElastiCache", "DatabaseMemoryUsagePercentage"): {"CacheClusterId": f"{chat['EnvironmentName']}-redis-001"}}
    looked = [(key, m) for _, key, alarm in world.each("AWS::CloudWatch::Alarm") for m in alarmed_metrics(alarm)]
    for _, key, p in world.each("AWS::ApplicationAutoScaling::ScalingPolicy"):
        if p["PolicyType"] == "TargetTrackingScaling":
            looked += [(key, m) for m in alarmed_metrics(p["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"])]
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
    shrinking = [p for _, _, p in world.each("AWS::ApplicationAutoScaling::ScalingPolicy")
                 if not p.get("TargetTrackingScalingPolicyConfiguration", {"DisableScaleIn": p["PolicyName"].endswith("/up")})["DisableScaleIn"]]
    policies = world.each("AWS::ApplicationAutoScaling::ScalingPolicy")
    if policies and len(shrinking) != 1:
        yield f"{len(shrinking)} policies take tasks away"


@check
def a_person_is_called(world):
    """Redis away, nobody healthy, cap near, Redis full: each alarm goes to the topic, if there is one."""
    topic = world.chat.parameters["AlarmTopicArn"]
    calling = {m for _, _, a in world.each("AWS::CloudWatch::Alarm") if topic and topic in a.get("AlarmActions", []) and topic in a.get("OKActions", [])
               for _, m, _ in alarmed_metrics(a)}
    if topic:
        for metric in {"RedisUp", "HealthyHostCount", "ConnectionsUsed", "DatabaseMemoryUsagePercentage"} - calling:
            yield f"nobody is called for {metric}"
    for _, key, alarm in world.each("AWS::CloudWatch::Alarm"):
        if alarm.get("MetricName") == "HealthyHostCount" and (alarm["TreatMissingData"], alarm["Statistic"]) != ("breaching", "Maximum"):
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
                if row[1] not in METRICS or row[2:] != ["Environment", world.chat.parameters["EnvironmentName"], "Service", world.chat.parameters["ServiceName"]]:
                    yield f"the dashboard asks for {row}"
    for metric in METRICS - shown:
        yield f"the dashboard does not show {metric}"


# ---- CloudFront ----

@check
def cloudfront_carries_sockets(world):
    """All methods and all that the viewer sent on /ws/*, nothing cached there; only method sets that CloudFront knows."""
    for _, _, d in world.each("AWS::CloudFront::Distribution"):
        config = d["DistributionConfig"]
        sockets, = [b for b in config["CacheBehaviors"] if b["PathPattern"] == "/ws/*"]
        for behaviour in [config["DefaultCacheBehavior"], *config["CacheBehaviors"]]:
            if len(behaviour["AllowedMethods"]) not in (2, 3, 7) or len(behaviour.get("CachedMethods", "12")) not in (2, 3):
                yield f"CloudFront has no such set of methods: {behaviour['AllowedMethods']}"
            if behaviour.get("OriginRequestPolicyId") != MANAGED_POLICIES["AllViewer"]:
                yield "headers, cookies or queries do not reach the server"
            if behaviour["ViewerProtocolPolicy"] not in ("redirect-to-https", "https-only"):
                yield "plain HTTP is served"
        if len(sockets["AllowedMethods"]) != 7 or sockets["CachePolicyId"] != MANAGED_POLICIES["CachingDisabled"]:
            yield "the socket path lacks methods, or is cached"
        page = world.find(config["DefaultCacheBehavior"]["CachePolicyId"])["CachePolicyConfig"]
        key = page["ParametersInCacheKeyAndForwardedToOrigin"]
        if page["MinTTL"] or page["DefaultTTL"] or key["HeadersConfig"]["HeaderBehavior"] != "none" or key["CookiesConfig"]["CookieBehavior"] != "none":
            yield "the page is kept against its own headers, or apart for each client"
        headers = world.find(config["DefaultCacheBehavior"]["ResponseHeadersPolicyId"])["ResponseHeadersPolicyConfig"]
        if {"Header": "Set-Cookie"} not in headers["RemoveHeadersConfig"]["Items"]:
            yield "a cached page would hand one client's cookie to all"


@check
def cloudfront_is_the_only_way(world):
    if world.cluster.parameters["PublicEntry"] != "cloudfront":
        return
    balancer = only(world, "AWS::ElasticLoadBalancingV2::LoadBalancer")
    if balancer["Scheme"] != "internal":
        yield "the load balancer can be reached around CloudFront"
    for _, _, d in world.each("AWS::CloudFront::Distribution"):
        if "VpcOriginConfig" not in d["DistributionConfig"]["Origins"][0]:
            yield "the origin is reached over the internet"
    (_, _, origin), = world.each("AWS::CloudFront::VpcOrigin")
    if origin["VpcOriginEndpointConfig"]["OriginProtocolPolicy"] != ("https-only" if world.cluster.parameters["CertificateArn"] else "http-only"):
        yield "CloudFront speaks to the wrong port of the load balancer"
