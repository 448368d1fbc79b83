"""ImageLocality."""

from typing import Any

import pytest

from whipstaff.scheduler import testing
from whipstaff.scheduler.plugins import imagelocality

MB = 1024 * 1024


def scores(images: list[str], *held: dict[str, int], **spec: Any) -> list[int]:
    cluster = testing.cluster(
        testing.node(str(number), images=each) for number, each in enumerate(held)
    )
    containers = [testing.container(image=image) for image in images]
    found = testing.scores(
        imagelocality.ImageLocality(),
        testing.pod_info(containers=containers, **spec),
        cluster,
    )
    assert found is not None
    return list(found.values())


def test_an_image_counts_by_its_size_and_the_share_of_nodes_that_have_it() -> None:
    # 250 MB on one node of two: (125 - 23) of (1000 - 23), in per cent.
    assert scores(["web"], {"web:latest": 250 * MB}, {}) == [10, 0]
    assert scores(["web"], {"web:latest": 250 * MB}, {"web:latest": 250 * MB}) == [23, 23]


@pytest.mark.parametrize(
    ("size", "score"),
    [(10 * MB, 0), (23 * MB, 0), (24 * MB, 0), (33 * MB, 1), (1000 * MB, 100), (9000 * MB, 100)],
)
def test_small_images_count_nothing_and_large_ones_no_more_than_so_much(
    size: int, score: int
) -> None:
    assert scores(["web:1"], {"web:1": size}) == [score]


def test_the_most_that_counts_grows_with_the_number_of_containers() -> None:
    assert scores(["web:1", "db:1"], {"web:1": 1000 * MB}) == [100 * (1000 - 23) // (2000 - 23)]


def test_the_same_image_twice_counts_twice() -> None:
    assert scores(["web:1", "web:1"], {"web:1": 1000 * MB}) == [100]


def test_images_of_init_containers_and_volumes_count_too() -> None:
    held = {"setup:1": 500 * MB, "data:1": 400 * MB}

    assert scores(
        ["web:1"],
        held,
        initContainers=[testing.container(image="setup:1")],
        volumes=[{"name": "data", "image": {"reference": "data:1"}}],
    ) == [100 * (900 - 23) // (2000 - 23)]


def test_a_share_is_cut_to_whole_bytes() -> None:
    # A third of it is 34,361,835.67 bytes; one byte more than the cut number would score 1.
    assert scores(["web:1"], {"web:1": 103_085_507}, {}, {}) == [0, 0, 0]
    assert scores(["web:1"], {"web:1": 103_085_508}, {}, {}) == [1, 0, 0]


def test_a_cluster_without_the_image_is_all_zero() -> None:
    assert scores(["web"], {}, {"other:1": 900 * MB}) == [0, 0]
