"""Processes that die in the middle of saving, at a moment that is chosen."""

import itertools
import os
import signal

SAVING = ("write", "fsync", "replace", "unlink")  # what saving asks of the system, in `os`


def in_a_process_killed_at(number, work):
    """Calls work() in a forked process that dies in the middle of the number-th call of SAVING.

    Returns whether it lived to the end.
    """
    child = os.fork()
    if child == 0:
        count = itertools.count()
        write = os.write

        def dying(original):
            def call(*args, **options):
                if next(count) == number:
                    if original is write:  # half of it reaches the file
                        write(args[0], bytes(args[1])[: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **options)

            return call

        for name in SAVING:
            setattr(os, name, dying(getattr(os, name)))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code == 0
