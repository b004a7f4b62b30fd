"""Played GPUs on a real kubelet: everything a GPU node has but the silicon.

    settings.py   the GPUs that are played, from a file that may change while it is used
    machine.py    those GPUs: their UUIDs, MIG devices and what each is offered as
    plugin.py     NVIDIA's device plugin: a gRPC server a resource, registered with the kubelet
    dra.py        NVIDIA's DRA driver: claims prepared, ResourceSlices (slices.py) published
    runtime.py    nvidia-container-runtime: puts the driver's library into containers
    broker.py     the silicon: hears what the programs in containers do ...
    work.py       ... and what that looks like to the driver
    node.py       all of it kept going, as one process (__main__.py)
    install.py    what the cluster takes from here before its kubelet runs
    programs/     a program that works, and pause, in Go, for images of one file

The library is tests/fake_nvml; its scenario file is the one thing all containers of the node
share, so they see one machine. It outlives this process, as a driver outlives its plugins: what
works goes on, and takes up its place again when the process is back. Only the energy counters
then start from 0, as after a reload of the driver.
"""
