"""Failed attempts: counted by address, forgotten in time, in bounded memory."""

from service.attempts import MAX_ADDRESSES, Attempts, network_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def attempts(clock: Clock) -> Attempts:
    return Attempts(limit=3, window_s=60, pause_s=30, clock=clock)


def test_after_so_many_failures_an_address_waits_and_another_does_not() -> None:
    clock = Clock()
    found = attempts(clock)
    for wanted in (0, 0, 30):
        found.failed("10.0.0.1")
        assert found.pause("10.0.0.1") == wanted
    assert found.pause("10.0.0.2") == 0
    clock.now = 29
    assert found.pause("10.0.0.1") == 1
    clock.now = 30
    assert found.pause("10.0.0.1") == 0
    found.failed("10.0.0.1")
    assert found.pause("10.0.0.1") == 0


def test_failures_of_another_minute_do_not_count() -> None:
    clock = Clock()
    found = attempts(clock)
    for clock.now in (0, 1, 62, 63):
        found.failed("10.0.0.1")
        assert found.pause("10.0.0.1") == 0


def test_memory_is_bounded() -> None:
    found = attempts(Clock())
    for number in range(MAX_ADDRESSES + 100):
        found.failed(f"10.0.{number // 256}.{number % 256}")
    assert len(found) == MAX_ADDRESSES


def test_one_machine_has_one_network_of_ipv6() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::2") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1")
    assert network_of("unix:") == "unix:"
