"""Files that fail while they are read, as on a broken disk."""

import os


def let_reads_fail(monkeypatch, module, *names):
    """Let reading from files of these names, opened by ``open_input`` of a module, fail with EIO."""
    opened = module.open_input

    def failing(path):
        file = opened(path)
        if os.path.basename(path) in names:
            os.dup2(os.open("/proc/self/mem", os.O_RDONLY), file.fileno())  # which fails at 0, as a broken disk does
        return file

    monkeypatch.setattr(module, "open_input", failing)
