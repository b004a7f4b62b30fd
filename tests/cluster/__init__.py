"""A Kubernetes node of one machine's own, for the tests: everything real except the GPU.

`python -m cluster up` opens a machine inside the machine (its own processes, mounts and
network), and starts etcd, the Kubernetes control plane, containerd, a kubelet and CoreDNS in it;
`down` ends it and leaves nothing. docs/development.md has the picture.
"""
