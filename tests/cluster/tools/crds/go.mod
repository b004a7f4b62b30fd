module gpucost.io/tests/tools/crds

go 1.26.0

// Of these only the CRDs are read, so nothing of theirs is built: not for `go mod tidy`.
require (
	github.com/aws/karpenter-provider-aws v1.14.0
)
