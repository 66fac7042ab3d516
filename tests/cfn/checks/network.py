"""Reachability: subnets, security groups, endpoints, CloudFront."""

import re

from checks.common import MANAGED_POLICIES, check, container, only


@check
def nobody_else_gets_in(world):
    """The internet reaches the load balancer on 80 and 443 (or, behind CloudFront, not at all), the load balancer
    reaches the tasks, and the tasks reach Redis. No group allows everything out, as an empty list would."""
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
            if rule.get("CidrIp") == "0.0.0.0/0" and (
                rule["IpProtocol"] != "tcp" or rule["FromPort"] != 443 or rule["ToPort"] != 443
            ):
                yield f"{key} may call anybody on more than HTTPS"
    for stack, key, rule in world.each("AWS::EC2::SecurityGroupIngress"):
        if "CidrIp" in rule:
            yield f"{key} lets {rule['CidrIp']} in"


@check
def ways_lead_where_they_should(world):
    """Each needed connection is allowed at both ends: load balancer to tasks, tasks to Redis."""
    port = container(world)["PortMappings"][0]["ContainerPort"]
    service = only(world, "AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"]
    balancer = only(world, "AWS::ElasticLoadBalancingV2::LoadBalancer")["SecurityGroups"][0]
    redis = only(world, "AWS::ElastiCache::ReplicationGroup")["SecurityGroupIds"][0]
    out = [
        (r["GroupId"], r["DestinationSecurityGroupId"], r["FromPort"])
        for _, _, r in world.each("AWS::EC2::SecurityGroupEgress")
    ]
    into = [
        (r.get("SourceSecurityGroupId"), f"<{s.name}.{key}.Ref>", r["FromPort"])
        for s, key, g in world.each("AWS::EC2::SecurityGroup")
        for r in g.get("SecurityGroupIngress", [])
    ]
    for what, sources, targets, p in [
        ("load balancer to tasks", [balancer], service, port),
        ("tasks to Redis", service, [redis], 6379),
    ]:
        for direction, rules in [("out", out), ("in", into)]:
            if not any((s, t, p) in rules for s in sources for t in targets):
                yield f"{what}: {direction} is closed on {p}"


@check
def tasks_are_private_and_still_get_out(world):
    """No public address and no route to the internet, but every AWS service needed at startup is reachable."""
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


@check
def cloudfront_carries_sockets(world):
    """All methods and headers of the viewer pass on /ws/*, and nothing is cached; only sets that CloudFront knows are
    used."""
    for _, _, d in world.each("AWS::CloudFront::Distribution"):
        config = d["DistributionConfig"]
        (sockets,) = [b for b in config["CacheBehaviors"] if b["PathPattern"] == "/ws/*"]
        for behaviour in [config["DefaultCacheBehavior"], *config["CacheBehaviors"]]:
            if len(behaviour["AllowedMethods"]) not in (2, 3, 7) or len(behaviour.get("CachedMethods", "12")) not in (
                2,
                3,
            ):
                yield f"CloudFront has no such set of methods: {behaviour['AllowedMethods']}"
            if behaviour.get("OriginRequestPolicyId") != MANAGED_POLICIES["AllViewer"]:
                yield "headers, cookies or queries do not reach the server"
            if behaviour["ViewerProtocolPolicy"] not in ("redirect-to-https", "https-only"):
                yield "plain HTTP is served"
        if len(sockets["AllowedMethods"]) != 7 or sockets["CachePolicyId"] != MANAGED_POLICIES["CachingDisabled"]:
            yield "the socket path lacks methods, or is cached"
        page = world.find(config["DefaultCacheBehavior"]["CachePolicyId"])["CachePolicyConfig"]
        key = page["ParametersInCacheKeyAndForwardedToOrigin"]
        if (
            page["MinTTL"]
            or page["DefaultTTL"]
            or key["HeadersConfig"]["HeaderBehavior"] != "none"
            or key["CookiesConfig"]["CookieBehavior"] != "none"
        ):
            yield "the page is kept against its own headers, or apart for each client"
        headers = world.find(config["DefaultCacheBehavior"]["ResponseHeadersPolicyId"])["ResponseHeadersPolicyConfig"]
        if {"Header": "Set-Cookie"} not in headers["RemoveHeadersConfig"]["Items"]:
            yield "a cached page would hand one client's cookie to all"


REQUESTS = [  # of scripts and administrators (docs/protocol.md); a room may have any name, even one of these words
    ("GET", "/r/lobby/messages"),
    ("POST", "/r/messages/messages"),
    ("POST", "/r/lobby/alertmanager"),
    ("GET", "/admin/rooms"),
    ("DELETE", "/admin/rooms/lobby/messages"),
    ("DELETE", "/admin/rooms/lobby/messages/1732412345678-0"),
    ("POST", "/admin/bans"),
    ("DELETE", "/admin/bans/abcdefgh234567ab"),
    ("GET", "/metrics"),
]
PAGE = ["/", "/r/lobby", "/r/messages", "/r/admin", "/app.js", "/style.css", "/favicon.svg"]
CACHED_ERRORS = {404, 500, 502, 503, 504}  # of those that the server or the load balancer sends


def behaviour_of(config, path):
    """The behaviour that CloudFront uses for a path: the first whose pattern matches, otherwise the default."""
    for behaviour in config["CacheBehaviors"]:
        pattern = re.escape(behaviour["PathPattern"]).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(pattern, path):
            return behaviour
    return config["DefaultCacheBehavior"]


@check
def cloudfront_carries_the_tools(world):
    """Requests of scripts and administrators pass with method, token and query, and no answer is kept. The page keeps its
    own behaviour."""
    for _, _, d in world.each("AWS::CloudFront::Distribution"):
        config = d["DistributionConfig"]
        for method, path in REQUESTS:
            behaviour = behaviour_of(config, path)
            if method not in behaviour["AllowedMethods"]:
                yield f"CloudFront refuses {method} {path}"
            if behaviour["CachePolicyId"] != MANAGED_POLICIES["CachingDisabled"]:
                yield f"{path} is cached, or loses its token"
            if behaviour["OriginRequestPolicyId"] != MANAGED_POLICIES["AllViewer"]:
                yield f"{path} loses its token or its query"
            if behaviour["ViewerProtocolPolicy"] != "https-only":
                yield f"a token for {path} can be sent in the clear, unnoticed"
        for path in PAGE:
            if behaviour_of(config, path) is not config["DefaultCacheBehavior"]:
                yield f"{path} is not served as the page"
        fresh = {e["ErrorCode"] for e in config.get("CustomErrorResponses", []) if e["ErrorCachingMinTTL"] == 0}
        if fresh != CACHED_ERRORS:
            yield f"one client's error is repeated to others: {sorted(CACHED_ERRORS ^ fresh)}"


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
    ((_, _, origin),) = world.each("AWS::CloudFront::VpcOrigin")
    if origin["VpcOriginEndpointConfig"]["OriginProtocolPolicy"] != (
        "https-only" if world.cluster.parameters["CertificateArn"] else "http-only"
    ):
        yield "CloudFront speaks to the wrong port of the load balancer"
