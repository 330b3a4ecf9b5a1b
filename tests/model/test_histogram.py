from yoi_daemon.model.histogram import Histogram


def test_each_value_is_counted_in_its_own_bucket():
    histogram = Histogram((0.1, 1.0))
    for value_s in (0.0, 0.1, 0.5, 1.0, 1.5):
        histogram.observe(value_s)
    told = histogram.snapshot()
    assert told.bounds_s == (0.1, 1.0)
    assert told.counts == (2, 2, 1)
    assert told.sum_s == 3.1
