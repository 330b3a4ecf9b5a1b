from yoi_daemon.cli.run import read_ready_line


def test_the_ready_line_as_an_object() -> None:
    line = "ready api=http://127.0.0.1:7420 observe=off"
    assert read_ready_line(line) == {"ready": True, "api": "http://127.0.0.1:7420", "observe": None}
    assert read_ready_line("ready api=unix:/a=b observe=ws://h:1") == {
        "ready": True,
        "api": "unix:/a=b",
        "observe": "ws://h:1",
    }
