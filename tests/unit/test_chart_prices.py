"""The CronJob that renews the price list: off by default, and then no more than it needs."""

from __future__ import annotations

import pytest

from gpucost import cli, config
from helm_chart import NAMESPACE, Refused, install

ON = "priceRefresh: {enabled: true, providers: [azure, oci], regions: [eastus]}"


def test_without_values_nothing_asks_the_clouds() -> None:
    release = install()
    assert {it["kind"] for it in release.objects}.isdisjoint({"CronJob", "Role", "RoleBinding"})
    assert len([it for it in release.objects if it["kind"] == "ConfigMap"]) == 1


def test_the_exporter_follows_the_list_that_the_job_writes() -> None:
    release = install(ON)
    maps = {it["metadata"]["name"]: it for it in release.objects if it["kind"] == "ConfigMap"}
    settings = next(it["data"]["config.yaml"] for it in maps.values() if "data" in it)
    file = config.parse(settings).prices.catalogue_file
    assert file == "/etc/gpucost-prices/prices.txt"
    (mount,) = (it for it in release.container["volumeMounts"] if it["name"] == "prices")
    (volume,) = (it for it in release.pod["volumes"] if it["name"] == "prices")
    assert mount["mountPath"] == "/etc/gpucost-prices"
    written = maps[volume["configMap"]["name"]]
    assert "data" not in written  # or every upgrade would take the prices back
    pod = release.one("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert f"--configmap={NAMESPACE}/{written['metadata']['name']}" in container["args"]
    given = cli._parser(container["args"]).parse_args(container["args"])  # noqa: SLF001 - taken
    assert (given.provider, given.region) == (["azure", "oci"], ["eastus"])
    role = release.one("Role")
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [written["metadata"]["name"]],
            "verbs": ["get", "patch"],
        }
    ]


def test_a_catalogue_file_of_the_user_s_own_is_kept() -> None:
    release = install(ON + "\nconfig: {prices: {catalogue_file: /mine/list.txt}}")
    (settings,) = (
        it["data"]["config.yaml"]
        for it in release.objects
        if it["kind"] == "ConfigMap" and "data" in it
    )
    assert config.parse(settings).prices.catalogue_file == "/mine/list.txt"


@pytest.mark.parametrize(
    "values",
    [
        "priceRefresh: {enabled: true}",
        "priceRefresh: {enabled: true, providers: [lambda]}",
        "priceRefresh: {enabled: true, providers: [aws], schedule: weekly}",
        "priceRefresh: {provider: aws}",
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: str) -> None:
    with pytest.raises(Refused):
        install(values)
