"""The task, its service and its Redis: sizes, stopping, settings, permissions."""

import re

from checks.common import SECRETS, check, container, listed, named, only

SIZES = {
    256: [512, 1024, 2048],
    512: range(1024, 4097, 1024),
    1024: range(2048, 8193, 1024),
    2048: range(4096, 16385, 1024),
    4096: range(8192, 30721, 1024),
    8192: range(16384, 61441, 4096),
    16384: range(32768, 122881, 8192),
}


@check
def fargate_sells_that_size(world):
    ((_, task),) = world.chat.of_kind("AWS::ECS::TaskDefinition")
    if int(task["Memory"]) not in SIZES.get(int(task["Cpu"]), ()):
        yield f"no task has {task['Cpu']} CPU and {task['Memory']} MiB"


@check
def goodbye_comes_before_the_end(world):
    """drain < the load balancer's deregistration delay < SIGKILL, whichever order AWS starts the clocks in."""
    drain = int(named(container(world)["Environment"])["DRAIN_SECONDS"])
    attributes = named(only(world, "AWS::ElasticLoadBalancingV2::TargetGroup")["TargetGroupAttributes"])
    cut, kill = int(attributes.get("deregistration_delay.timeout_seconds", 300)), container(world).get(
        "StopTimeout", 30
    )
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
    for what, other in [
        ("service", wired["ContainerPort"]),
        ("environment", named(task["Environment"])["PORT"]),
        ("target group", only(world, "AWS::ElasticLoadBalancingV2::TargetGroup")["Port"]),
    ]:
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
        if re.search("PASSWORD|PASSPHRASE|SECRET|TOKEN", name):
            yield f"{name} lies open in the task definition"


@check
def container_gets_its_settings(world):
    chat, environment = world.chat.parameters, named(container(world)["Environment"])
    internal = only(world, "AWS::ElasticLoadBalancingV2::LoadBalancer")["Scheme"] == "internal"
    expected = {
        # CloudFront is the only client of an internal load balancer, and appends an address of its own.
        "TRUSTED_PROXIES": chat["TrustedProxies"] or ("2" if internal else "1"),
        "REDIS_TLS": "1",
        "METRICS_EMF": f"Bobbin/{chat['EnvironmentName']}/{chat['ServiceName']}",
        "REDIS_ENDPOINT": world.redis.outputs["RedisEndpoint"],
    }
    if chat["AllowedOrigins"]:
        expected["ALLOWED_ORIGINS"] = chat["AllowedOrigins"]
    elif "ALLOWED_ORIGINS" in environment:
        yield "ALLOWED_ORIGINS is set, although nobody asked for it"
    if chat["UserHeader"]:
        expected["USER_HEADER"] = chat["UserHeader"]
        if "/" not in expected["TRUSTED_PROXIES"]:
            yield "whoever reaches the port could claim any name"
    for name, value in expected.items():
        if str(environment.get(name)) != value:
            yield f"{name} is {environment.get(name)}, not {value}"
    if not re.fullmatch(
        r"<resources\.Redis\.PrimaryEndPoint\.Address>:<resources\.Redis\.PrimaryEndPoint\.Port>",
        world.redis.outputs["RedisEndpoint"],
    ):
        yield "RedisEndpoint is not the primary's host and port"


def handed_over(world):
    """{setting: secret} for every secret that the container should get."""
    given = {setting: world.chat.parameters[name] for name, setting in SECRETS.items() if world.chat.parameters[name]}
    return given | {"REDIS_PASSWORD": world.redis.outputs["RedisAuthSecret"]}


@check
def secrets_reach_the_container(world):
    """Each secret that is named arrives as its own setting, and none that is not. The role that starts the tasks may read
    exactly these, and may do so before the first task starts."""
    expected = handed_over(world)
    found = {s["Name"]: s["ValueFrom"] for s in container(world).get("Secrets", [])}
    for name in expected.keys() | found.keys():
        if found.get(name) != expected.get(name):
            yield f"{name} is {found.get(name)}, not {expected.get(name)}"
    role = only(world, "AWS::ECS::TaskDefinition")["ExecutionRoleArn"]
    policies = [
        (stack, key, policy["PolicyDocument"]["Statement"])
        for stack, key, policy in world.each("AWS::IAM::Policy")
        if role.id in [taker.id for taker in policy["Roles"]]
    ]
    readable = [
        secret
        for _, _, statements in policies
        for statement in statements
        if statement["Effect"] == "Allow" and listed(statement["Action"]) == ["secretsmanager:GetSecretValue"]
        for secret in listed(statement["Resource"])
    ]
    if sorted(readable) != sorted(expected.values()):
        yield f"the execution role reads {sorted(readable)}, and the container needs {sorted(expected.values())}"
    ((service, _),) = world.chat.of_kind("AWS::ECS::Service")
    earlier = [value.id for value in world.chat.resources[service].get("Metadata", {}).values() if hasattr(value, "id")]
    for stack, key, _ in policies:
        if stack is world.chat and key not in earlier:
            yield f"tasks may start before {key} lets their secrets be read"


@check
def roles_fit_their_takers(world):
    """A role's trust policy names the service that assumes it; its permissions cover what the task needs and no more."""
    role = world.find(only(world, "AWS::ECS::TaskDefinition")["ExecutionRoleArn"])
    trust = role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"]
    if listed(trust) != ["ecs-tasks.amazonaws.com"]:
        yield f"tasks can't take a role that trusts {trust}"
    if "Role" in only(world, "AWS::ECS::Service") or "RoleARN" in only(
        world, "AWS::ApplicationAutoScaling::ScalableTarget"
    ):
        yield "ECS and scaling bring their own roles"
    documents = [p["PolicyDocument"] for p in role["Policies"]] + [
        p["PolicyDocument"] for _, _, p in world.each("AWS::IAM::Policy")
    ]
    statements = [s for d in documents for s in d["Statement"]]
    for statement in statements:
        for action in listed(statement["Action"]):
            if "*" in action or ("*" in listed(statement["Resource"]) and action != "ecr:GetAuthorizationToken"):
                yield f"{action} on {statement['Resource']}"
    group = only(world, "AWS::Logs::LogGroup")["LogGroupName"]
    for action, on in [
        ("ecr:BatchGetImage", "arn:aws:ecr:eu-central-1:123456789012:repository/x"),
        *(("secretsmanager:GetSecretValue", secret) for secret in handed_over(world).values()),
        ("logs:PutLogEvents", f"arn:aws:logs:eu-central-1:123456789012:log-group:{group}:log-stream:x"),
    ]:
        if not any(
            action in listed(s["Action"]) and re.fullmatch(re.escape(resource).replace(r"\*", ".*"), on)
            for s in statements
            for resource in listed(s["Resource"])
        ):
            yield f"the execution role may not {action} on {on}"


@check
def logs_end(world):
    for _, key, group in world.each("AWS::Logs::LogGroup"):
        if not group.get("RetentionInDays"):
            yield f"{key} keeps logs for ever"


@check
def redis_is_safe(world):
    ((key, redis),) = world.redis.of_kind("AWS::ElastiCache::ReplicationGroup")
    if (
        redis.get("TransitEncryptionEnabled") is not True
        or redis.get("TransitEncryptionMode", "required") != "required"
    ):
        yield "no TLS" + (", and AUTH works with TLS only" if "AuthToken" in redis else "")
    if not str(redis.get("AuthToken", "")).startswith("{{resolve:secretsmanager:<resources.RedisAuthSecret"):
        yield "the password is none, or not the secret's"
    if redis.get("AtRestEncryptionEnabled") is not True:
        yield "not encrypted at rest"
    several = int(redis["NumCacheClusters"]) > 1
    if (redis.get("AutomaticFailoverEnabled"), redis.get("MultiAZEnabled")) != (several, several):
        yield f"failover and {redis['NumCacheClusters']} nodes do not go together"
    if world.redis.resources[key].get("DeletionPolicy") != "Snapshot" or not int(
        redis.get("SnapshotRetentionLimit", 0)
    ):
        yield "the logs of the rooms are lost with the stack"
    if re.match(r"cache\.(t1|t2|m3|m4|r3)", redis["CacheNodeType"]) or not redis.get("EngineVersion"):
        yield "an old node type, or whatever version"
    parameters = world.find(redis["CacheParameterGroupName"])
    if parameters["Properties"].get("maxmemory-policy") != "noeviction":
        yield "a full Redis would forget rooms"
    if parameters["CacheParameterGroupFamily"] != redis["Engine"] + redis["EngineVersion"].split(".")[0]:
        yield "parameters of another engine"
