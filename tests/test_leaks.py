"""The leak check itself: it must see what it is there to see."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from tests.leaks import held, left_over


def test_nothing_new_is_no_leak():
    assert left_over(held(), grace=0) == []


def test_a_process_is_seen_even_when_its_parent_died():
    before = held()
    orphan = (
        "from subprocess import DEVNULL, Popen; print(Popen(['sleep', '60'], stdout=DEVNULL).pid)"
    )
    pid = int(subprocess.check_output([sys.executable, "-c", orphan], text=True))
    try:
        (leak,) = left_over(before, grace=0)
        assert leak == f"process {pid}: sleep 60"
    finally:
        subprocess.run(["kill", str(pid)], check=True)


def test_a_socket_is_seen():
    before = held()
    with socket.socket():
        (leak,) = left_over(before, grace=0)
        assert "socket:" in leak


def test_an_open_file_is_seen(tmp_path):
    before = held()
    with (tmp_path / "log").open("w"):
        (leak,) = left_over(before, grace=0)
        assert leak.endswith("/log")


def test_a_thread_is_seen_and_may_end_within_the_grace():
    before = held()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="lingers")
    thread.start()
    try:
        assert left_over(before, grace=0) == ["thread lingers"]
    finally:
        end.set()
    assert left_over(before) == []
    thread.join()


def test_the_plugin_fails_the_test_that_leaks(pytester: pytest.Pytester):
    pytester.makepyfile(
        """
        import socket
        import pytest
        import tests.leaks
        from tests.leaks import no_leaks

        KEPT = []

        @pytest.fixture(autouse=True, scope="session")
        def impatient():
            patience, tests.leaks.GRACE = tests.leaks.GRACE, 0.0
            yield
            KEPT.pop().close()
            tests.leaks.GRACE = patience

        def test_leaks():
            KEPT.append(socket.socket())
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*test_leaks left behind:*", "*socket:*"])
