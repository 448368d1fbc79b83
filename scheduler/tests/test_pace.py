"""Whether there is a burst of writes."""

from whipstaff.scheduler import pace


def test_the_pace_is_that_of_the_last_second() -> None:
    clock = [0.0]
    counted = pace.Pace(lambda: clock[0])
    assert counted.per_second == 0
    for _ in range(200):
        clock[0] += 0.005
        counted.note()
    assert 195 <= counted.per_second <= 205
    assert counted.is_burst
    clock[0] += 0.6
    assert not counted.is_burst
    clock[0] += 1.4
    assert counted.per_second == 0


def test_a_pause_is_forgotten_at_once_and_a_steady_pace_is_no_burst() -> None:
    clock = [0.0]
    counted = pace.Pace(lambda: clock[0])
    for _ in range(500):
        counted.note()
    clock[0] = 10.0
    assert counted.per_second == 0
    for _ in range(250):
        clock[0] += 0.02
        counted.note()
    assert 49 <= counted.per_second <= 51
    assert not counted.is_burst
