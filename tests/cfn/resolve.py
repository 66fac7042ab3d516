"""Resolves the templates as CloudFormation would, as far as possible without AWS.

Reads the YAML with its short tags, substitutes parameters, evaluates conditions, and follows exports from stack to
stack. What only AWS could know (an id, an ARN, an address) stays a `Symbol`: a string that remembers its resource,
so that a test can check whether what is passed as a subnet is a subnet.
"""

import functools
import re

import yaml

ORDER = ["cluster", "resources", "chat-service", "cloudfront"]  # in cfn/deploy.sh's order
PSEUDO = {
    "AWS::Region": "eu-central-1",
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "stack",
    "AWS::StackId": "stack-id",
}
# Types for which Ref or GetAtt returns a name that the template itself chose: the property with it.
OWN_NAMES = {
    ("AWS::ECS::Cluster", "Ref"): "ClusterName",
    ("AWS::ECS::Service", "Name"): "ServiceName",
    ("AWS::Logs::LogGroup", "Ref"): "LogGroupName",
    ("AWS::CloudWatch::Dashboard", "Ref"): "DashboardName",
    ("AWS::ElastiCache::ReplicationGroup", "Ref"): "ReplicationGroupId",
}
NO_VALUE = object()


class Loader(yaml.CSafeLoader):
    """A YAML loader with CloudFormation's tags: `!Sub x` becomes {"Fn::Sub": x}."""


def _tag(loader, suffix, node):
    kind = {
        yaml.ScalarNode: loader.construct_scalar,
        yaml.MappingNode: lambda n: loader.construct_mapping(n, deep=True),
        yaml.SequenceNode: lambda n: loader.construct_sequence(n, deep=True),
    }[type(node)]
    value = kind(node)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", _tag)


@functools.cache
def parsed(text):
    return yaml.load(text, Loader)


class Symbol(str):
    """A value that AWS would assign: readable as a string, and linked to its resource."""

    def __new__(cls, text, stack, logical_id, kind, attribute):
        self = super().__new__(cls, text)
        self.stack, self.id, self.kind, self.attribute = stack, logical_id, kind, attribute
        return self


class Stack:
    """One template, resolved: `resources` (only those whose condition holds), `outputs`, and the problems found."""

    def __init__(self, name, text, parameters, exports):
        self.name, self.text, self.exports, self.errors = name, text, exports, []
        self.template = parsed(text)
        self.parameters = {}
        for key, declared in self.template.get("Parameters", {}).items():
            if key not in parameters and "Default" not in declared:
                self.errors.append(f"parameter {key} has no value")
            self.parameters[key] = parameters.get(key, declared.get("Default", ""))
            pattern, allowed = declared.get("AllowedPattern"), declared.get("AllowedValues")
            if pattern and not re.fullmatch(pattern, str(self.parameters[key])):
                self.errors.append(f"parameter {key}={self.parameters[key]} does not match {pattern}")
            if allowed and str(self.parameters[key]) not in map(str, allowed):
                self.errors.append(f"parameter {key}={self.parameters[key]} is none of {allowed}")
        self.errors += [f"parameter {key} is not declared" for key in parameters if key not in self.parameters]
        for rule in self.template.get("Rules", {}).values():
            if self.test(rule.get("RuleCondition", True)):
                self.errors += [a["AssertDescription"] for a in rule["Assertions"] if not self.test(a["Assert"])]
        raw = self.template["Resources"]
        present = {key: r for key, r in raw.items() if "Condition" not in r or self.condition(r["Condition"])}
        self.kinds = {key: r["Type"] for key, r in present.items()}
        self.resources = {key: self.value(r) for key, r in present.items()}
        self.outputs = {}
        for key, output in self.template.get("Outputs", {}).items():
            self.outputs[key] = self.value(output["Value"])
            if "Export" in output:
                exports[self.value(output["Export"]["Name"])] = self.outputs[key]

    def properties(self, key):
        return self.resources[key].get("Properties", {})

    def of_kind(self, kind):
        """(logical id, properties) of each resource of a type."""
        return [(key, self.properties(key)) for key, k in self.kinds.items() if k == kind]

    def condition(self, name):
        return self.test(self.template["Conditions"][name])

    def test(self, rule):
        if isinstance(rule, bool):
            return rule
        ((how, args),) = rule.items()
        if how == "Condition":
            return self.condition(args)
        if how == "Fn::Equals":
            left, right = (str(self.value(a)) for a in args)
            return left == right
        if how == "Fn::Not":
            return not self.test(args[0])
        return {"Fn::And": all, "Fn::Or": any}[how](self.test(a) for a in args)

    def value(self, raw):
        """`raw` with all functions evaluated and every `AWS::NoValue` removed."""
        if isinstance(raw, list):
            return [v for v in map(self.value, raw) if v is not NO_VALUE]
        if not isinstance(raw, dict):
            return raw
        if len(raw) == 1:
            ((how, args),) = raw.items()
            if how == "Ref":
                return NO_VALUE if args == "AWS::NoValue" else self.reference(args)
            if how.startswith("Fn::"):
                return getattr(self, "_" + how[4:].lower())(args)
        return {k: v for k, v in ((k, self.value(v)) for k, v in raw.items()) if v is not NO_VALUE}

    def reference(self, name, attribute="Ref"):
        if attribute == "Ref" and name in self.parameters:
            return self.parameters[name]
        if name in PSEUDO:
            return PSEUDO[name]
        kind = self.kinds.get(name)
        if kind is None:
            self.errors.append(f"reference to {name}, which is not there")
        own = OWN_NAMES.get((kind, attribute))
        properties = self.template["Resources"].get(name, {}).get("Properties", {})
        text = self.value(properties[own]) if own in properties else f"<{self.name}.{name}.{attribute}>"
        return Symbol(text, self.name, name, kind, attribute)

    def _getatt(self, args):
        return self.reference(args[0], args[1])

    def _if(self, args):
        return self.value(args[1] if self.condition(args[0]) else args[2])

    def _sub(self, args):
        text, extra = args if isinstance(args, list) else (args, {})
        extra = {k: self.value(v) for k, v in extra.items()}

        def replace(match):
            name, _, attribute = match[1].partition(".")
            return str(extra[name] if name in extra else self.reference(name, attribute or "Ref"))

        return re.sub(r"\$\{([^}!]+)\}", replace, text)

    def _join(self, args):
        return args[0].join(map(str, self.value(args[1])))

    def _select(self, args):
        return self.value(args[1])[int(self.value(args[0]))]

    def _split(self, args):
        return self.value(args[1]).split(args[0])

    def _getazs(self, _):
        return ["eu-central-1a", "eu-central-1b", "eu-central-1c"]

    def _findinmap(self, args):
        section, key, field = self.value(args)
        return self.template["Mappings"][section][key][field]

    def _importvalue(self, args):
        name = self.value(args)
        if name not in self.exports:
            self.errors.append(f"import of {name}, which no earlier stack exports")
        return self.exports.get(name, f"<missing {name}>")


class World:
    """All four stacks of one environment, deployed in order with the given parameters."""

    def __init__(self, texts, parameters, stacks=ORDER):
        self.exports = {}
        self.stacks = {name: Stack(name, texts[name], parameters.get(name, {}), self.exports) for name in stacks}
        self.cluster, self.redis, self.chat = (self.stacks[n] for n in ORDER[:3])
        self.cloudfront = self.stacks.get("cloudfront")

    def each(self, kind):
        """(stack, logical id, properties) of every resource of a type, in all stacks."""
        return [(s, key, p) for s in self.stacks.values() for key, p in s.of_kind(kind)]

    def find(self, symbol):
        """The properties of the resource that a symbol stands for."""
        return self.stacks[symbol.stack].properties(symbol.id)
