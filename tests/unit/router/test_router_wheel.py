from fairtrial.router.wheel import MAX_HOP, NEVER, Wheel, ticks


class Timer:
    def __init__(self) -> None:
        self.deadline = NEVER
        self.scheduled = NEVER
        self.fired_at: list[int] = []

    def on_deadline(self) -> None:
        raise AssertionError("the test calls nothing by itself")


def run(wheel: Wheel, timer: Timer, upto: int) -> list[int]:
    fired = []
    while wheel.now < upto:
        if timer in wheel.advance():
            fired.append(wheel.now)
    return fired


def test_seconds_round_up_to_at_least_one_tick() -> None:
    assert [ticks(0.001), ticks(0.05), ticks(0.051), ticks(10)] == [1, 1, 2, 200]


def test_a_deadline_fires_once_at_its_tick() -> None:
    wheel, timer = Wheel(), Timer()
    wheel.arm(timer, 7)
    assert run(wheel, timer, 1000) == [7]


def test_a_later_deadline_moves_the_entry_instead_of_adding_one() -> None:
    wheel, timer = Wheel(), Timer()
    for _ in range(1000):
        wheel.arm(timer, 50)
    assert sum(len(slot) for slot in wheel._slots) == 1
    run(wheel, timer, 40)
    wheel.arm(timer, 50)
    assert run(wheel, timer, 1000) == [90]


def test_an_earlier_deadline_is_kept_though_a_later_entry_exists() -> None:
    wheel, timer = Wheel(), Timer()
    wheel.arm(timer, 150)
    wheel.arm(timer, 3)
    assert run(wheel, timer, 1000) == [3]


def test_deadlines_beyond_the_wheel_are_reached() -> None:
    wheel, timer = Wheel(), Timer()
    wheel.arm(timer, 3333)
    assert run(wheel, timer, 5000) == [3333]


def test_a_disarmed_timer_is_forgotten_within_one_hop() -> None:
    wheel, timer = Wheel(), Timer()
    wheel.arm(timer, 9999)
    wheel.disarm(timer)
    assert run(wheel, timer, MAX_HOP + 1) == []
    assert sum(len(slot) for slot in wheel._slots) == 0


def test_a_timer_can_be_armed_again_after_it_fired() -> None:
    wheel, timer = Wheel(), Timer()
    wheel.arm(timer, 2)
    assert run(wheel, timer, 10) == [2]
    wheel.arm(timer, 5)
    assert run(wheel, timer, 30) == [15]
