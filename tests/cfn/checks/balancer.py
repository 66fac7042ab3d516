"""The load balancer: attributes, timeouts, health checks, listeners and rules."""

from checks.common import KEEP_ALIVE, PING, check, container, named, only

ATTRIBUTES = {  # of load balancers and target groups: the keys that exist, and their possible values
    "idle_timeout.timeout_seconds": range(1, 4001),
    "client_keep_alive.seconds": range(60, 604_801),
    "routing.http.drop_invalid_header_fields.enabled": ("true", "false"),
    "deletion_protection.enabled": ("true", "false"),
    "stickiness.enabled": ("true", "false"),
    "stickiness.type": ("lb_cookie", "app_cookie"),
    "stickiness.lb_cookie.duration_seconds": range(1, 604_801),
    "deregistration_delay.timeout_seconds": range(0, 3601),
    "slow_start.duration_seconds": (0, *range(30, 901)),
    "load_balancing.algorithm.type": ("round_robin", "least_outstanding_requests", "weighted_random"),
}


@check
def attributes_are_real(world):
    """CloudFormation accepts any key here; AWS rejects it half an hour later."""
    for _, key, p in world.each("AWS::ElasticLoadBalancingV2::LoadBalancer") + world.each(
        "AWS::ElasticLoadBalancingV2::TargetGroup"
    ):
        attributes = named(p.get("LoadBalancerAttributes", []) + p.get("TargetGroupAttributes", []))
        for name, value in attributes.items():
            allowed = ATTRIBUTES.get(name, ())
            if str(value) not in map(str, allowed):
                yield f"{key}: {name} = {value}"
        if (
            "slow_start.duration_seconds" in attributes
            and attributes.get("load_balancing.algorithm.type") != "round_robin"
        ):
            yield f"{key}: slow start goes with round_robin only"


@check
def sockets_outlive_silence(world):
    """Two pings fit into the idle timeout, and the server keeps idle connections for longer than the load balancer."""
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
        (
            "load balancer",
            group["HealthCheckIntervalSeconds"],
            group["HealthCheckTimeoutSeconds"],
            group["UnhealthyThresholdCount"],
        ),
        ("container", health["Interval"], health["Timeout"], health["Retries"]),
    ]:
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
    """/metrics and /status are refused by a rule that precedes the forwarding one, except /metrics if it has a token."""
    rules = sorted((int(p["Priority"]), p) for _, _, p in world.each("AWS::ElasticLoadBalancingV2::ListenerRule"))
    paths = [(p["Actions"][0]["Type"], p["Conditions"][0]["PathPatternConfig"]["Values"]) for _, p in rules]
    private = {"/metrics", "/metrics/*", "/status", "/status/*"}
    if world.chat.parameters["MetricsTokenSecret"]:
        private.remove("/metrics")
    if paths[0][0] != "fixed-response" or set(paths[0][1]) != private:
        yield f"first comes {paths[0]}, not a refusal of {sorted(private)}"
    if sum(len(values) for _, values in paths) > 5 * len(paths) or any(len(values) > 5 for _, values in paths):
        yield "a rule may hold five values"
