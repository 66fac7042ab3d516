#!/usr/bin/env bash
# Puts Bobbin on AWS, or takes it away again; `make deploy` and `make destroy` call it. All that it knows is the order:
# each stack imports what the ones before it export. Run it again to update: what has not changed is left alone.
#
#   ENV=production REGION=eu-central-1 cfn/deploy.sh deploy     (or destroy)
#
# CERT=arn…           a certificate of ACM in REGION: the load balancer itself speaks HTTPS, without CloudFront.
# CLOUDFRONT=0|1      in front or not. Default: 1 without CERT (so there is HTTPS all the same), 0 with it.
# DOMAIN, EDGE_CERT   for CLOUDFRONT=1 under your own name: the name, and its certificate in us-east-1.
# IMAGE=…             an image that is already in ECR, instead of building this source.
# ARCH=X86_64|ARM64   what to build for and run on. Default: what this machine is, so that nothing is emulated.
# CLUSTER_PARAMS, RESOURCES_PARAMS, CHAT_PARAMS, CLOUDFRONT_PARAMS   more parameters of the templates, as "A=1 B=2".
# DRY_RUN=1           prints the commands and runs none. What it prints is itself a script.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${ENV:?say which environment, such as ENV=production}" "${REGION:?say which region, such as REGION=eu-central-1}"
IMAGE=${IMAGE:-} DRY_RUN=${DRY_RUN:-}
export AWS_PAGER='' AWS_DEFAULT_REGION=$REGION

case $(uname -m) in aarch64 | arm64) ARCH=${ARCH:-ARM64} ;; *) ARCH=${ARCH:-X86_64} ;; esac
[ "$ARCH" = ARM64 ] && PLATFORM=linux/arm64 || PLATFORM=linux/amd64

# show COMMAND…: prints it as one would type it.
show() {
    local word line='' plain='^[A-Za-z0-9_./:=@%+,$-]+$'
    for word; do
        [[ $word =~ $plain ]] || word="\"$word\""
        line+="$word "
    done
    echo "${line% }"
}

# run COMMAND…: shows it and does it.
run() {
    show "$@"
    [ -n "$DRY_RUN" ] || "$@"
}

# take NAME COMMAND…: NAME becomes what the command prints; in a dry run, the word "$NAME".
take() {
    local name=$1 value="\$$1"
    shift
    echo "$name=\$($(show "$@"))"
    [ -n "$DRY_RUN" ] || value=$("$@")
    [ "$value" != None ] || { echo "nothing found for $name" >&2; exit 1; }
    printf -v "$name" %s "$value"
}

# stack NAME PARAMETER=VALUE…: creates or updates bobbin-ENV-NAME from cfn/NAME.yml, and says why if that fails.
stack() {
    local name=bobbin-$ENV-$1 template=cfn/$1.yml
    shift
    echo "# $template"
    run aws cloudformation deploy --stack-name "$name" --template-file "$template" --capabilities CAPABILITY_IAM \
        --no-fail-on-empty-changeset --tags Project=bobbin "Environment=$ENV" \
        --parameter-overrides "EnvironmentName=$ENV" "$@" && return
    aws cloudformation describe-stack-events --stack-name "$name" --output table --max-items 20 --query \
        "StackEvents[?contains(ResourceStatus, 'FAILED')].[LogicalResourceId, ResourceStatusReason]" >&2
    exit 1
}

# output NAME STACK KEY: NAME becomes that output of that stack.
output() {
    take "$1" aws cloudformation describe-stacks --stack-name "bobbin-$ENV-$2" --output text \
        --query "Stacks[0].Outputs[?OutputKey=='$3'].OutputValue | [0]"
}

build_and_push() {
    local tag
    tag=$(git rev-parse --short=12 HEAD)-$(echo "$ARCH" | tr '[:upper:]' '[:lower:]')
    [ -z "$(git status --porcelain)" ] || tag+=-$(date -u +%Y%m%d%H%M%S) # not just that commit
    output REPOSITORY cluster RepositoryUri
    output REGISTRY cluster Registry
    IMAGE=$REPOSITORY:$tag
    if [ -z "$DRY_RUN" ] &&
        aws ecr describe-images --repository-name "$ENV/chat" --image-ids "imageTag=$tag" >/dev/null 2>&1; then
        echo "# $IMAGE is there already"
        return
    fi
    take PASSWORD aws ecr get-login-password
    echo "docker login --username AWS --password-stdin $REGISTRY <<<\"\$PASSWORD\""
    [ -n "$DRY_RUN" ] || docker login --username AWS --password-stdin "$REGISTRY" <<<"$PASSWORD"
    run docker build --platform "$PLATFORM" --tag "$IMAGE" .
    run docker push "$IMAGE"
}

# before STACK PARAMETER: what an earlier deployment was given, or nothing. A dry run asks nobody.
before() {
    local told
    [ -z "$DRY_RUN" ] || return 0
    told=$(aws cloudformation describe-stacks --stack-name "bobbin-$ENV-$1" --output text --query \
        "Stacks[0].Parameters[?ParameterKey=='$2'].ParameterValue | [0]" 2>&1) || case $told in
    *"does not exist"*) return 0 ;;
    *) echo "$told" >&2 && return 1 ;;
    esac
    [ "$told" = None ] || echo "$told"
}

# Who faces the internet, and with which certificates. An update need not be told again, and does not undo by silence.
decide_entry() {
    CERT=${CERT:-$(before cluster CertificateArn)}
    DOMAIN=${DOMAIN:-$(before cloudfront DomainName)}
    EDGE_CERT=${EDGE_CERT:-$(before cloudfront EdgeCertificateArn)}
    CLOUDFRONT=${CLOUDFRONT:-$(before cluster PublicEntry)}
    case $CLOUDFRONT in
    0 | load-balancer) CLOUDFRONT=0 ;;
    1 | cloudfront) CLOUDFRONT=1 ;;
    *) [ -n "$CERT" ] && CLOUDFRONT=0 || CLOUDFRONT=1 ;;
    esac
}

# The parameters that hold several words are split on purpose.
# shellcheck disable=SC2086
deploy() {
    local entry=load-balancer list=''
    decide_entry
    if [ "$CLOUDFRONT" = 1 ]; then
        if [ -n "$CERT" ] && [ -z "$DOMAIN" ]; then
            echo 'CLOUDFRONT=1 with CERT needs DOMAIN and EDGE_CERT too' >&2
            exit 1
        fi
        take PREFIX_LIST aws ec2 describe-managed-prefix-lists --output text --query 'PrefixLists[0].PrefixListId' \
            --filters Name=prefix-list-name,Values=com.amazonaws.global.cloudfront.origin-facing
        entry=cloudfront list=$PREFIX_LIST
    fi
    stack cluster "CertificateArn=$CERT" "PublicEntry=$entry" "CloudFrontPrefixList=$list" ${CLUSTER_PARAMS:-}
    [ -n "$IMAGE" ] || build_and_push
    stack resources ${RESOURCES_PARAMS:-}
    stack chat-service "ImageUrl=$IMAGE" "CpuArchitecture=$ARCH" ${CHAT_PARAMS:-}
    run aws ecs wait services-stable --cluster "$ENV" --services chat
    if [ "$CLOUDFRONT" = 1 ]; then
        stack cloudfront "DomainName=$DOMAIN" "EdgeCertificateArn=$EDGE_CERT" ${CLOUDFRONT_PARAMS:-}
        output URL cloudfront PublicURL
        output TARGET cloudfront DistributionDomainName
    else
        output URL cluster ExternalUrl
        output TARGET cluster ExternalDnsName
        [ -z "$CERT" ] || take DOMAIN aws acm describe-certificate --certificate-arn "$CERT" --output text \
            --query Certificate.DomainName
    fi
    if [ -n "$DOMAIN" ]; then
        URL=https://$DOMAIN
        echo "# in the DNS of $DOMAIN put a CNAME (or an alias) to $TARGET"
    else
        run curl --silent --show-error --fail --retry 30 --retry-delay 5 --retry-all-errors "$URL/healthz"
    fi
    echo "# the chat: $URL"
}

destroy() {
    local name
    for name in cloudfront chat-service resources cluster; do
        run aws cloudformation delete-stack --stack-name "bobbin-$ENV-$name"
        run aws cloudformation wait stack-delete-complete --stack-name "bobbin-$ENV-$name"
    done
    echo "# Redis left a last snapshot; to see it:"
    echo "# aws elasticache describe-snapshots --replication-group-id $ENV-redis"
}

case ${1:-} in
deploy | destroy) "$1" ;;
*) echo "usage: ENV=… REGION=… $0 deploy|destroy" >&2; exit 2 ;;
esac
