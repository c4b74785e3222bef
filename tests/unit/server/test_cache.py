from __future__ import annotations

from impasto_server.cache import BytesLru


def test_the_longest_unused_goes_first() -> None:
    cache: BytesLru[str, int] = BytesLru(100)
    for name in "abc":
        cache.put(name, 1, 40)
        assert cache.get("a")
    assert [name for name in "abc" if cache.get(name)] == ["a", "c"]
    assert cache.nbytes == 80


def test_what_is_larger_than_the_whole_cache_drives_nothing_out() -> None:
    cache: BytesLru[str, int] = BytesLru(100)
    cache.put("small", 1, 40)
    cache.put("large", 2, 101)
    assert (cache.get("small"), cache.get("large"), cache.nbytes) == (1, None, 40)
    cache.put("small", 3, 101)
    assert (cache.get("small"), cache.nbytes) == (None, 0)
