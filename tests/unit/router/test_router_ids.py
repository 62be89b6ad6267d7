from fairtrial.router.ids import REQUEST_ID_LENGTH, RequestIds


def test_ids_are_unique_fixed_in_length_and_lower_case_hex() -> None:
    ids = RequestIds(unix_ms=1_760_000_000_000)
    made = [ids.new() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert {len(each) for each in made} == {REQUEST_ID_LENGTH}
    assert all(int(each, 16) >= 0 and each == each.lower() for each in made)


def test_ids_sort_by_time_across_workers() -> None:
    first, second = RequestIds(unix_ms=1_760_000_000_000), RequestIds(unix_ms=1_760_000_000_000)
    early = [first.new(), second.new()]
    first.tick(1_760_000_000_050)
    second.tick(1_760_000_000_050)
    assert max(early) < min(first.new(), second.new())


def test_the_leading_digits_are_the_unix_time_in_milliseconds() -> None:
    assert int(RequestIds(unix_ms=1_760_000_000_123).new()[:12], 16) == 1_760_000_000_123
