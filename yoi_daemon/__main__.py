"""`python -m yoi_daemon` is `yoi-daemon`."""

from yoi_daemon.cli.main import main

main()
