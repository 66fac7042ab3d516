"""Whole stacks and what passes between them: parameters, exports, names, tags."""

import re

from checks.common import MANAGED_POLICIES, SECRETS, check, named


@check
def stacks_fit_together(world):
    """Every parameter, reference and import resolves to something."""
    for stack in world.stacks.values():
        yield from (f"{stack.name}: {error}" for error in stack.errors)


# The type of resource that a property refers to, wherever it occurs.
WANTED = {
    "VpcId": "AWS::EC2::VPC",
    "SubnetIds": "AWS::EC2::Subnet",
    "Subnets": "AWS::EC2::Subnet",
    "SecurityGroups": "AWS::EC2::SecurityGroup",
    "SecurityGroupIds": "AWS::EC2::SecurityGroup",
    "GroupId": "AWS::EC2::SecurityGroup",
    "SourceSecurityGroupId": "AWS::EC2::SecurityGroup",
    "DestinationSecurityGroupId": "AWS::EC2::SecurityGroup",
    "Cluster": "AWS::ECS::Cluster",
    "ListenerArn": "AWS::ElasticLoadBalancingV2::Listener",
    "ExecutionRoleArn": "AWS::IAM::Role",
    "LoadBalancerArn": "AWS::ElasticLoadBalancingV2::LoadBalancer",
    "Roles": "AWS::IAM::Role",
    "TargetGroupArn": "AWS::ElasticLoadBalancingV2::TargetGroup",
    "ValueFrom": "AWS::SecretsManager::Secret",
    "RouteTableId": "AWS::EC2::RouteTable",
    "CachePolicyId": "AWS::CloudFront::CachePolicy",
    "CacheSubnetGroupName": "AWS::ElastiCache::SubnetGroup",
    "TaskDefinition": "AWS::ECS::TaskDefinition",
    "ScalingTargetId": "AWS::ApplicationAutoScaling::ScalableTarget",
    "awslogs-group": "AWS::Logs::LogGroup",
}


@check
def right_thing_in_the_right_place(world):
    """Each such property refers to a resource of the right type, also through an export."""

    given = {world.chat.parameters[name] for name in SECRETS}  # secrets made elsewhere, named by their ARN

    def walk(value, key, where):
        if isinstance(value, dict):
            for k, v in value.items():
                yield from walk(v, k, f"{where}.{k}")
        elif isinstance(value, list):
            for v in value:
                yield from walk(v, key, where)
        elif key in WANTED and value not in MANAGED_POLICIES.values():
            if getattr(value, "kind", None) != WANTED[key] and not (key == "ValueFrom" and value in given):
                yield f"{where}: {value!r} is no {WANTED[key]}"

    for stack in world.stacks.values():
        for key, kind in stack.kinds.items():
            for name, value in stack.properties(key).items():
                if (kind, name) != ("AWS::ElastiCache::SubnetGroup", "CacheSubnetGroupName"):  # there it sets the name
                    yield from walk(value, name, f"{stack.name}.{key}.{name}")


@check
def names_carry_the_environment(world):
    """Two environments in one account must not collide."""
    environment = world.chat.parameters["EnvironmentName"]
    for stack in world.stacks.values():
        for key, kind in stack.kinds.items():
            properties = dict(stack.properties(key))
            for config in ("CachePolicyConfig", "ResponseHeadersPolicyConfig", "VpcOriginEndpointConfig"):
                properties["Name"] = properties.get(config, {}).get("Name", properties.get("Name", environment))
            for k, v in properties.items():
                given = k in ("Name", "Family", "ReplicationGroupId") or k.endswith("Name") and "Domain" not in k
                elsewhere = k in ("MetricName", "ServiceName") or hasattr(
                    v, "kind"
                )  # an AWS name, the cluster's name, a reference
                if given and not elsewhere and environment not in str(v):
                    yield f"{stack.name}.{key}: {k} is {v}, without {environment}"
    for name in world.exports:
        if not name.startswith(environment + ":"):
            yield f"export {name} does not begin with {environment}:"


UNTAGGED = {
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::EC2::Route",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::IAM::Policy",
    "AWS::ElasticLoadBalancingV2::Listener",
    "AWS::ElasticLoadBalancingV2::ListenerRule",
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::CloudFront::CachePolicy",
    "AWS::CloudFront::ResponseHeadersPolicy",
}  # cannot be tagged, or free of charge


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
