from yoi_daemon.store.sqlite.space import Space

MORE_THAN_THERE_IS = 1 << 60


def test_without_its_reserve_it_is_low(tmp_path):
    space = Space(tmp_path, low_bytes=1024, reserve_bytes=4096)
    assert not space.is_low
    assert space.release()
    assert space.is_low
    assert not space.release()
    space.measure()
    assert not space.is_low
    assert (tmp_path / "reserve").stat().st_size == 4096
    space.close()


def test_a_reserve_that_does_not_fit_is_not_allocated(tmp_path):
    space = Space(tmp_path, low_bytes=1024, reserve_bytes=MORE_THAN_THERE_IS)
    assert space.is_low
    assert not (tmp_path / "reserve").exists()
    space.close()
