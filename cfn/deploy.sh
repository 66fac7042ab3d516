#!/usr/bin/env bash
# Deploys Bobbin to AWS, or removes it; called by `make deploy` and `make destroy`. It only adds the order: each stack
# imports what the ones before it export. Run it again to update; unchanged stacks are left alone.
#
#   ENV=production REGION=eu-central-1 cfn/deploy.sh deploy     (or destroy)
#
# CERT=arn…           an ACM certificate in REGION: the load balancer itself serves HTTPS, without CloudFront.
# CLOUDFRONT=0|1      whether to use CloudFront. Default: 1 without CERT (to have HTTPS), 0 with it.
# DOMAIN, EDGE_CERT   for CLOUDFRONT=1 under your own name: the name, and its certificate in us-east-1.
# IMAGE=…             an image that is already in ECR, instead of building this source.
# ARCH=X86_64|ARM64   the architecture. Default: this machine's, so that nothing is emulated.
# CLUSTER_PARAMS, RESOURCES_PARAMS, CHAT_PARAMS, CLOUDFRONT_PARAMS   further template parameters, as "A=1 B=2".
# DRY_RUN=1           prints the commands without running them. The output is itself a script.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${ENV:?say which environment, such as ENV=production}" "${REGION:?say which region, such as REGION=eu-central-1}"
IMAGE=${IMAGE:-} DRY_RUN=${DRY_RUN:-}
export AWS_PAGER='' AWS_DEFAULT_REGION=$REGION

case $(uname -m) in aarch64 | arm64) ARCH=${ARCH:-ARM64} ;; *) ARCH=${ARCH:-X86_64} ;; esac
[ "$ARCH" = ARM64 ] && PLATFORM=linux/arm64 || PLATFORM=linux/amd64

# show COMMAND…: prints it as it would be typed.
show() {
    local word line='' plain='^[A-Za-z0-9_./:=@%+,$-]+$'
    for word; do
        [[ $word =~ $plain ]] || word="\"$word\""
        line+="$word "
    done
    echo "${line% }"
}

# run COMMAND…: prints it and runs it.
run() {
    show "$@"
    [ -n "$DRY_RUN" ] || "$@"
}

# take NAME COMMAND…: sets NAME to the command's output; in a dry run, to the word "$NAME".
take() {
    local name=$1 value="\$$1"
    shift
    echo "$name=\$($(show "$@"))"
    [ -n "$DRY_RUN" ] || value=$("$@")
    [ "$value" != None ] || { echo "nothing found for $name" >&2; exit 1; }
    printf -v "$name" %s "$value"
}

# stack NAME PARAMETER=VALUE…: creates or updates bobbin-ENV-NAME from cfn/NAME.yml, and prints the reason if that
# fails.
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

# output NAME STACK KEY: sets NAME to that output of that stack.
output() {
    take "$1" aws cloudformation describe-stacks --stack-name "bobbin-$ENV-$2" --output text \
        --query "Stacks[0].Outputs[?OutputKey=='$3'].OutputValue | [0]"
}

build_and_push() {
    local tag
    tag=$(git rev-parse --short=12 HEAD)-$(echo "$ARCH" | tr '[:upper:]' '[:lower:]')
    [ -z "$(git status --porcelain)" ] || tag+=-$(date -u +%Y%m%d%H%M%S) # contains more than that commit
    output REPOSITORY cluster RepositoryUri
    output REGISTRY cluster Registry
    IMAGE=$REPOSITORY:$tag
    if [ -z "$DRY_RUN" ] &&
        aws ecr describe-images --repository-name "$ENV/chat" --image-ids "imageTag=$tag" >/dev/null 2>&1; then
        echo "# $IMAGE already exists"
        return
    fi
    take PASSWORD aws ecr get-login-password
    echo "docker login --username AWS --password-stdin $REGISTRY <<<\"\$PASSWORD\""
    [ -n "$DRY_RUN" ] || docker login --username AWS --password-stdin "$REGISTRY" <<<"$PASSWORD"
    run docker build --platform "$PLATFORM" --tag "$IMAGE" .
    run docker push "$IMAGE"
}

# before STACK PARAMETER: the value from an earlier deployment, or nothing. A dry run does not look it up.
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

# Decides what faces the internet, and with which certificates. An update need not repeat them; omitting one does not
# remove it.
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

# Parameters with several words are split on purpose.
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
        echo "# add a CNAME (or an alias) for $DOMAIN to $TARGET"
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
    echo "# Redis left a final snapshot; to list it:"
    echo "# aws elasticache describe-snapshots --replication-group-id $ENV-redis"
}

case ${1:-} in
deploy | destroy) "$1" ;;
*) echo "usage: ENV=… REGION=… $0 deploy|destroy" >&2; exit 2 ;;
esac
