from fairtrial.router.breaker import Breaker, BreakerState


def opened() -> Breaker:
    breaker = Breaker(failures=3, pause=10)
    for _ in range(3):
        breaker.record_failure(now=100)
    return breaker


def test_stays_closed_while_answers_come_between_failures() -> None:
    breaker = Breaker(failures=3, pause=10)
    for _ in range(20):
        breaker.record_failure(now=1)
        breaker.record_failure(now=1)
        breaker.record_answer()
    assert not breaker.is_tripped
    assert breaker.admits(now=1)


def test_opens_after_so_many_failures_in_a_row() -> None:
    breaker = opened()
    assert breaker.is_tripped
    assert not breaker.admits(now=109)
    assert breaker.state(now=109) is BreakerState.OPEN


def test_lets_one_probe_through_per_pause() -> None:
    breaker = opened()
    assert breaker.state(now=110) is BreakerState.HALF_OPEN
    assert [breaker.admits(now=110), breaker.admits(now=110), breaker.admits(now=119)] == [True, False, False]
    assert breaker.admits(now=120), "a probe that never came back must not keep it shut"


def test_an_answered_probe_closes_it() -> None:
    breaker = opened()
    assert breaker.admits(now=110)
    breaker.record_answer()
    assert breaker.state(now=110) is BreakerState.CLOSED
    assert breaker.admits(now=110)


def test_a_failed_probe_opens_it_for_another_pause() -> None:
    breaker = opened()
    assert breaker.admits(now=110)
    breaker.record_failure(now=112)
    assert not breaker.admits(now=121)
    assert breaker.admits(now=122)
    assert breaker.times_opened == 1
