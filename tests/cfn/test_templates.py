"""The templates, checked without AWS: cfn-lint first, then every check of `checks.py` on the resolved stacks, and for
every check at least one mutated copy that it must refuse. A check that bites nothing proves nothing."""

import pathlib
import subprocess
import sys

import pytest

import checks
from resolve import ORDER, World

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = {name: (ROOT / "cfn" / f"{name}.yml").read_text() for name in ORDER}
CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/0a1b2c3d"
EDGE = {"DomainName": "chat.example.org", "EdgeCertificateArn": CERTIFICATE.replace("eu-central-1", "us-east-1")}
BEHIND = {"PublicEntry": "cloudfront", "CloudFrontPrefixList": "pl-0a1b2c"}
TOPIC = "arn:aws:sns:eu-central-1:123456789012:people"
DIRECT = ORDER[:3]

# The ways in which a person may deploy: what differs from the defaults, and which stacks.
SCENARIOS = {
    "as it comes": ({}, DIRECT),
    "with a certificate": ({"cluster": {"CertificateArn": CERTIFICATE}, "chat-service": {"AlarmTopicArn": TOPIC}}, DIRECT),
    "behind CloudFront": ({"cluster": BEHIND}, ORDER),
    "behind CloudFront, encrypted throughout": ({"cluster": BEHIND | {"CertificateArn": CERTIFICATE}, "cloudfront": EDGE}, ORDER),
    "cheapest": ({"cluster": {"TaskNetwork": "public-addresses"}, "resources": {"CacheNodes": 1},
                  "chat-service": {"ContainerCpu": 256, "ContainerMemory": 512, "DesiredCount": 1, "CpuArchitecture": "ARM64"}}, DIRECT),
    "sturdiest": ({"cluster": {"TaskNetwork": "endpoints-two-zones"}, "resources": {"CacheNodes": 3}}, DIRECT),
    "CPU alone": ({"chat-service": {"ConnectionScaling": "off", "MaxConnections": "4000"}}, DIRECT),
    "connections alone": ({"chat-service": {"CpuScaling": "off"}}, DIRECT),
    "no scaling": ({"chat-service": {"CpuScaling": "off", "ConnectionScaling": "off"}}, DIRECT),
    "other names": ({n: {"EnvironmentName": "production"} for n in DIRECT} | {"chat-service": {"ServiceName": "talk", "ContainerPort": 8080, "Priority": 7, "Path": "/r/*",
                    "EnvironmentName": "production", "Role": "arn:aws:iam::123456789012:role/own"}}, DIRECT),
}


def world(scenario, texts=TEXTS):
    parameters, stacks = SCENARIOS[scenario]
    chat = {"ImageUrl": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/chat:1"} | parameters.get("chat-service", {})
    return World(texts, parameters | {"chat-service": chat}, stacks)


def test_cfn_lint_finds_nothing():
    lint = pathlib.Path(sys.executable).with_name("cfn-lint")
    run = subprocess.run([lint, *(str(ROOT / "cfn" / f"{n}.yml") for n in ORDER)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, ""), run.stdout + run.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_check_holds(scenario):
    found = {name: list(check(world(scenario))) for name, check in checks.CHECKS.items()}
    assert not any(found.values()), {name: f for name, f in found.items() if f}


# (the check that must refuse it, the template, what stands there, what the mutant has instead)
MUTANTS = [
    ("stacks_fit_together", "resources", "${EnvironmentName}:PrivateSubnetOne", "${EnvironmentName}:PrivateSubnet1"),
    ("stacks_fit_together", "cluster", "{Name: !Sub '${EnvironmentName}:VPCId'}", "{Name: !Sub '${EnvironmentName}:VpcId'}"),
    ("stacks_fit_together", "chat-service", "Default: 'on'", "Default: 'yes'"),
    ("right_thing_in_the_right_place", "cluster", "Value: !GetAtt ECSTaskExecutionRole.Arn", "Value: !GetAtt Repository.Arn"),
    ("right_thing_in_the_right_place", "cluster", "Value: !Ref PrivateSubnetTwo", "Value: !Ref VPC"),
    ("right_thing_in_the_right_place", "chat-service", "'${EnvironmentName}:PublicListener'", "'${EnvironmentName}:LoadBalancerArn'"),
    ("names_carry_the_environment", "chat-service", "AlarmName: !Sub '${EnvironmentName}-${ServiceName}-cap-near'", "AlarmName: cap-near"),
    ("names_carry_the_environment", "chat-service", "LogGroupName: !Sub '${EnvironmentName}-service-${ServiceName}'", "LogGroupName: !Ref ServiceName"),
    ("names_carry_the_environment", "cloudfront", "Name: !Sub '${EnvironmentName}-page'", "Name: page"),
    ("names_carry_the_environment", "resources", "{Name: !Sub '${EnvironmentName}:RedisEndpoint'}", "{Name: RedisEndpoint}"),
    ("what_costs_is_tagged", "resources", "      AutoMinorVersionUpgrade: true\n      Tags:", "      AutoMinorVersionUpgrade: true\n      TagsNot:"),
    ("parameters_are_explained", "chat-service", "    AllowedPattern: 'auto|[1-9][0-9]*'\n", ""),
    ("parameters_are_explained", "cluster", "    ConstraintDescription: an id like pl-3b927c52, or nothing\n", ""),
    ("parameters_are_explained", "resources", "    Description: For how many days the nightly snapshot is kept.\n", ""),
    ("nobody_else_gets_in", "resources", "          SourceSecurityGroupId:\n            Fn::ImportValue: !Sub '${EnvironmentName}:FargateContainerSecurityGroup'", "          CidrIp: 0.0.0.0/0"),
    ("nobody_else_gets_in", "chat-service", "          IpProtocol: tcp\n          FromPort: !Ref ContainerPort", "          IpProtocol: -1\n          FromPort: !Ref ContainerPort"),
    ("nobody_else_gets_in", "cluster", "CidrIp: !If [BehindCloudFront, !Ref AWS::NoValue, 0.0.0.0/0]", "CidrIp: 0.0.0.0/0"),
    ("nobody_else_gets_in", "cluster", "OpenHttp: !Or [!Condition FacesInternet, !Not [!Condition HasCertificate]]", "OpenHttp: !Not [!Equals [!Ref EnvironmentName, '']]"),
    ("nobody_else_gets_in", "cluster", "FromPort: 443, ToPort: 443, CidrIp: 0.0.0.0/0", "FromPort: 0, ToPort: 65535, CidrIp: 0.0.0.0/0"),
    ("ways_lead_where_they_should", "chat-service", "      FromPort: !Ref ContainerPort\n      ToPort: !Ref ContainerPort\n      Dest", "      FromPort: 80\n      ToPort: 80\n      Dest"),
    ("ways_lead_where_they_should", "resources", "      FromPort: 6379\n      ToPort: 6379\n      Dest", "      FromPort: 6380\n      ToPort: 6380\n      Dest"),
    ("tasks_are_private_and_still_get_out", "cluster", "!If [PrivateTasks, DISABLED, ENABLED]", "ENABLED"),
    ("tasks_are_private_and_still_get_out", "cluster", ".logs'", ".monitoring'"),
    ("tasks_are_private_and_still_get_out", "cluster", "RouteTableIds: [!Ref PrivateRouteTable]", "RouteTableIds: [!Ref PublicRouteTable]"),
    ("tasks_are_private_and_still_get_out", "cluster", "{SubnetId: !Ref PrivateSubnetTwo, RouteTableId: !Ref PrivateRouteTable}", "{SubnetId: !Ref PrivateSubnetTwo, RouteTableId: !Ref PublicRouteTable}"),
    ("tasks_are_private_and_still_get_out", "cluster", "!Select [1, !GetAZs '']", "!Select [0, !GetAZs '']"),
    ("attributes_are_real", "cluster", "idle_timeout.timeout_seconds", "idle_timeout.seconds"),
    ("attributes_are_real", "chat-service", "deregistration_delay.timeout_seconds, Value: '30'", "deregistration_delay.timeout_seconds, Value: '30s'"),
    ("attributes_are_real", "chat-service", "least_outstanding_requests}", "least_connections}"),
    ("sockets_outlive_silence", "cluster", "idle_timeout.timeout_seconds, Value: '60'", "idle_timeout.timeout_seconds, Value: '30'"),
    ("sockets_outlive_silence", "cluster", "idle_timeout.timeout_seconds, Value: '60'", "idle_timeout.timeout_seconds, Value: '120'"),
    ("sockets_outlive_silence", "cloudfront", "OriginKeepaliveTimeout: 30", "OriginKeepaliveTimeout: 60"),
    ("stickiness_is_short", "chat-service", "        - {Key: stickiness.lb_cookie.duration_seconds, Value: '10'}\n", ""),
    ("stickiness_is_short", "chat-service", "stickiness.enabled, Value: 'true'", "stickiness.enabled, Value: 'false'"),
    ("health_checks_are_patient", "chat-service", "HealthCheckPath: /healthz", "HealthCheckPath: /readyz"),
    ("health_checks_are_patient", "chat-service", "UnhealthyThresholdCount: 3", "UnhealthyThresholdCount: 2"),
    ("health_checks_are_patient", "chat-service", "HealthCheckTimeoutSeconds: 5", "HealthCheckTimeoutSeconds: 10"),
    ("health_checks_are_patient", "chat-service", "            Interval: 10", "            Interval: 5"),
    ("target_type_is_ip", "chat-service", "TargetType: ip", "TargetType: instance"),
    ("https_where_there_is_a_certificate", "cluster", "      SslPolicy: ELBSecurityPolicy-TLS13-1-2-2021-06 # TLS 1.2 and 1.3\n", ""),
    ("https_where_there_is_a_certificate", "cluster", "!If [HasCertificate, !Ref HttpsListener, !Ref HttpListener]", "!Ref HttpListener"),
    ("https_where_there_is_a_certificate", "cluster", "          - Type: redirect", "          - Type: forward"),
    ("private_paths_come_first", "chat-service", "Priority: !Sub '${Priority}0'", "Priority: !Sub '${Priority}9'"),
    ("private_paths_come_first", "chat-service", "[/metrics, /metrics/*, /status, /status/*]", "[/metrics]"),
    ("fargate_sells_that_size", "chat-service", "Default: 2048", "Default: 1024"),
    ("goodbye_comes_before_the_end", "chat-service", "StopTimeout: 90", "StopTimeout: 150"),
    ("goodbye_comes_before_the_end", "chat-service", "          StopTimeout: 90\n", ""),
    ("goodbye_comes_before_the_end", "chat-service", "{Name: DRAIN_SECONDS, Value: '20'}", "{Name: DRAIN_SECONDS, Value: '40'}"),
    ("service_and_task_agree", "chat-service", "{ContainerName: !Ref ServiceName,", "{ContainerName: bobbin,"),
    ("service_and_task_agree", "chat-service", "{Name: PORT, Value: !Ref ContainerPort}", "{Name: PORT, Value: 80}"),
    ("updates_keep_the_count_and_roll_back", "chat-service", "      LaunchType: FARGATE\n", "      LaunchType: FARGATE\n      DesiredCount: !Ref DesiredCount\n"),
    ("updates_keep_the_count_and_roll_back", "chat-service", "MinimumHealthyPercent: 100", "MinimumHealthyPercent: 75"),
    ("updates_keep_the_count_and_roll_back", "chat-service", "{Enable: true, Rollback: true}", "{Enable: true, Rollback: false}"),
    ("updates_keep_the_count_and_roll_back", "chat-service", "      HealthCheckGracePeriodSeconds: 30\n", ""),
    ("updates_keep_the_count_and_roll_back", "chat-service", "AvailabilityZoneRebalancing: DISABLED", "AvailabilityZoneRebalancing: ENABLED"),
    ("container_is_locked_down", "chat-service", "          User: '65532:65532'\n", ""),
    ("container_is_locked_down", "chat-service", "          ReadonlyRootFilesystem: true\n", ""),
    ("container_is_locked_down", "chat-service", "Drop: [ALL]", "Drop: [NET_RAW]"),
    ("container_is_locked_down", "chat-service", "SoftLimit: 65535", "SoftLimit: 1024"),
    ("container_is_locked_down", "chat-service", "mode: non-blocking", "mode: blocking"),
    ("container_is_locked_down", "chat-service", "{Name: REDIS_TLS, Value: '1'}", "{Name: REDIS_PASSWORD, Value: '1'}"),
    ("container_gets_its_settings", "chat-service", "'Bobbin/${EnvironmentName}/${ServiceName}'", "'Bobbin/${ServiceName}'"),
    ("container_gets_its_settings", "resources", "${Redis.PrimaryEndPoint.Address}:${Redis.PrimaryEndPoint.Port}", "${Redis.ReaderEndPoint.Address}:${Redis.ReaderEndPoint.Port}"),
    ("container_gets_its_settings", "chat-service", "- Name: REDIS_PASSWORD", "- Name: REDIS_AUTH"),
    ("roles_fit_their_takers", "cluster", "Service: ecs-tasks.amazonaws.com", "Service: ecs.amazonaws.com"),
    ("roles_fit_their_takers", "chat-service", "      MaxCapacity: !Ref MaxCount\n", "      MaxCapacity: !Ref MaxCount\n      RoleARN: !Ref Role\n"),
    ("roles_fit_their_takers", "cluster", "Action: [logs:CreateLogStream, logs:PutLogEvents]", "Action: logs:*"),
    ("roles_fit_their_takers", "cluster", "log-group:${EnvironmentName}-service-*", "log-group:/ecs/${EnvironmentName}-*"),
    ("roles_fit_their_takers", "resources", "Resource: !Ref RedisAuthSecret}", "Resource: !Ref RedisAuthSecretAccess}"),
    ("logs_end", "chat-service", "      RetentionInDays: !Ref LogDays\n", ""),
    ("redis_is_safe", "resources", "TransitEncryptionEnabled: true", "TransitEncryptionEnabled: false"),
    ("redis_is_safe", "resources", "      AuthToken: !Sub '{{resolve:secretsmanager:${RedisAuthSecret}}}'\n", ""),
    ("redis_is_safe", "resources", "AutomaticFailoverEnabled: !If [HasReplica, true, false]", "AutomaticFailoverEnabled: true"),
    ("redis_is_safe", "resources", "DeletionPolicy: Snapshot", "DeletionPolicy: Delete"),
    ("redis_is_safe", "resources", "Default: cache.t4g.micro", "Default: cache.m4.large"),
    ("redis_is_safe", "resources", "maxmemory-policy: noeviction", "maxmemory-policy: volatile-lru"),
    ("redis_is_safe", "resources", "CacheParameterGroupFamily: valkey8", "CacheParameterGroupFamily: redis7"),
    ("redis_is_safe", "resources", "AtRestEncryptionEnabled: true", "AtRestEncryptionEnabled: false"),
    ("steps_cover_everything_once", "chat-service", "MetricIntervalLowerBound: 6, MetricIntervalUpperBound: 12", "MetricIntervalLowerBound: 8, MetricIntervalUpperBound: 12"),
    ("steps_cover_everything_once", "chat-service", "MetricIntervalLowerBound: 6, MetricIntervalUpperBound: 12", "MetricIntervalLowerBound: 5, MetricIntervalUpperBound: 12"),
    ("steps_cover_everything_once", "chat-service", "{MetricIntervalLowerBound: 12, ", "{MetricIntervalLowerBound: 12, MetricIntervalUpperBound: 30, "),
    ("steps_cover_everything_once", "chat-service", "{MetricIntervalUpperBound: 0, ScalingAdjustment: -1}", "{MetricIntervalLowerBound: 0, ScalingAdjustment: -1}"),
    ("policies_hang_on_alarms", "chat-service", "AlarmActions: [!Ref ScaleDownPolicy]", "AlarmActions: [!Ref ScaleUpPolicy]"),
    ("policies_hang_on_alarms", "chat-service", "AlarmActions: [!Ref ScaleUpPolicy]", "AlarmActions: [!Ref Service]"),
    ("alarms_can_fire", "chat-service", "DatapointsToAlarm: 2", "DatapointsToAlarm: 3"),
    ("alarms_can_fire", "chat-service", "Period: 300", "Period: 90"),
    ("alarms_can_fire", "chat-service", "ReturnData: false", "ReturnData: true"),
    ("alarms_watch_this_service", "chat-service", "MetricName: RedisUp", "MetricName: RedisDown"),
    ("alarms_watch_this_service", "chat-service", "Namespace: AWS/ECS", "Namespace: ECS"),
    ("alarms_watch_this_service", "chat-service", "{Name: ServiceName, Value: !GetAtt Service.Name}", "{Name: ServiceName, Value: chat-service}"),
    ("alarms_watch_this_service", "chat-service", "            - {Name: Service, Value: !Ref ServiceName}\n          Statistic", "          Statistic"),
    ("scaling_points_at_this_service", "chat-service", "'service/${Cluster}/${Service.Name}'", "'service/default/${Service.Name}'"),
    ("scaling_points_at_this_service", "chat-service", "DisableScaleIn: !If [ScalesOnCpu, true, false]", "DisableScaleIn: false"),
    ("scaling_points_at_this_service", "chat-service", "MinCapacity: !Ref DesiredCount", "MinCapacity: 12"),
    ("a_person_is_called", "chat-service", "OKActions: !If [HasTopic, [!Ref AlarmTopicArn], !Ref AWS::NoValue]\n  CapNear", "InsufficientDataActions: []\n  CapNear"),
    ("a_person_is_called", "chat-service", "TreatMissingData: breaching", "TreatMissingData: notBreaching"),
    ("dashboard_shows_what_is_reported", "chat-service", '[".", "Joins"', '[".", "Logins"'),
    ("dashboard_shows_what_is_reported", "chat-service", '["Bobbin", "RedisUp", "Environment", "${EnvironmentName}", "Service"', '["Bobbin", "RedisUp", "Env", "${EnvironmentName}", "Service"'),
    ("cloudfront_carries_sockets", "cloudfront", "[GET, HEAD, OPTIONS, PUT, POST, PATCH, DELETE]", "[GET, HEAD, OPTIONS, POST]"),
    ("cloudfront_carries_sockets", "cloudfront", "[GET, HEAD, OPTIONS, PUT, POST, PATCH, DELETE]", "[GET, HEAD]"),
    ("cloudfront_carries_sockets", "cloudfront", "CachePolicyId: !FindInMap [Managed, CachingDisabled, Id]", "CachePolicyId: !Ref PagePolicy"),
    ("cloudfront_carries_sockets", "cloudfront", "          OriginRequestPolicyId: !FindInMap [Managed, AllViewer, Id]\n          Res", "          Res"),
    ("cloudfront_carries_sockets", "cloudfront", "HeadersConfig: {HeaderBehavior: none}", "HeadersConfig: {HeaderBehavior: whitelist, Headers: [Sec-WebSocket-Key]}"),
    ("cloudfront_carries_sockets", "cloudfront", "[{Header: Set-Cookie}]", "[{Header: Server}]"),
    ("cloudfront_carries_sockets", "cloudfront", "ViewerProtocolPolicy: https-only", "ViewerProtocolPolicy: allow-all"),
    ("cloudfront_is_the_only_way", "cluster", "Scheme: !If [BehindCloudFront, internal, internet-facing]", "Scheme: internet-facing"),
    ("cloudfront_is_the_only_way", "cluster", "Value: !If [HasCertificate, https-only, http-only]", "Value: http-only"),
]


@pytest.mark.parametrize("name, template, old, new", MUTANTS, ids=[f"{i:03}-{m[0]}" for i, m in enumerate(MUTANTS)])
def test_the_check_bites(name, template, old, new):
    assert old in TEXTS[template], f"{template} no longer has {old!r}"
    mutated = TEXTS | {template: TEXTS[template].replace(old, new)}

    assert any(list(checks.CHECKS[name](world(scenario, mutated))) for scenario in SCENARIOS), f"{name} lets {new!r} pass"


def test_every_check_has_a_mutant():
    assert {m[0] for m in MUTANTS} == set(checks.CHECKS)
