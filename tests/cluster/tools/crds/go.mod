module gpucost.io/tests/tools/crds

go 1.26.5

// Of these only the CRDs are read, so nothing of theirs is built: not for `go mod tidy`.
require (
	github.com/aws/karpenter-provider-aws v1.14.0
	github.com/grafana/grafana-operator/v5 v5.18.0
)
