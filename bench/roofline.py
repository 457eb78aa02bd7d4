"""The copy roofline: reads all inputs once, writes one output as large as the first of them, and syncs it. No merge can
be faster by much. Each thread takes every Nth piece; a piece stays in the cache between read and write. Write-back
starts early, in the background, which is a third faster than one `fsync` at the end; `--plain` does the latter.

    python bench/roofline.py [--plain] [--threads 2] OUT IN...
"""

import argparse
import os
import threading
from pathlib import Path

PIECE = 1 << 18
PAUSE = 0.05  # seconds between two background syncs


def copy(inputs: list[int], output: int, first: int, threads: int) -> None:
    buffer = memoryview(bytearray(PIECE))
    for start in range(first * PIECE, max(os.fstat(file).st_size for file in inputs), threads * PIECE):
        for file in inputs[1:]:
            os.preadv(file, [buffer], start)
        count = os.preadv(inputs[0], [buffer], start)
        os.pwrite(output, buffer[:count], start)


def sync_until(done: threading.Event, output: int) -> None:
    while not done.wait(PAUSE):
        os.fdatasync(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="one fsync at the end")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("output", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+")
    asked = parser.parse_args()
    inputs = [os.open(path, os.O_RDONLY) for path in asked.inputs]
    output = os.open(asked.output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    os.posix_fallocate(output, 0, os.fstat(inputs[0]).st_size)
    done = threading.Event()
    if not asked.plain:
        threading.Thread(target=sync_until, args=(done, output), daemon=True).start()
    workers = [
        threading.Thread(target=copy, args=(inputs, output, first, asked.threads)) for first in range(asked.threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    os.fsync(output)


if __name__ == "__main__":
    main()
