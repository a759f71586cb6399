"""Matrix products of numpy's OpenBLAS on one core, in 10^9 operations a second."""
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import time

import numpy as np


def least(f, repeats):
    f()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return best


def rate(dtype, transposed, m, n, k):
    a = np.random.randn(*((k, m) if transposed[0] == "T" else (m, k))).astype(dtype)
    b = np.random.randn(*((n, k) if transposed[1] == "T" else (k, n))).astype(dtype)
    c = np.empty((m, n), dtype)
    a = a.T if transposed[0] == "T" else a
    b = b.T if transposed[1] == "T" else b
    each = max(1, 2_000_000 // (m * n * k))

    def work():
        for _ in range(each):
            np.matmul(a, b, out=c)

    return 2 * m * n * k * each / least(work, 40) / 1e9


THIN = [(32, 64, 30), (32, 64, 64), (32, 1, 64), (256, 64, 30), (256, 64, 64), (256, 1, 64), (64, 64, 256), (30, 64, 256)]

print("numpy", np.__version__)
for dtype in (np.float32, np.float64):
    for transposed in ("NN", "NT", "TN"):
        for n in (32, 64, 128, 256, 512, 1024):
            print(f"{dtype.__name__}/{transposed}/{n} {rate(dtype, transposed, n, n, n):.1f}")
    for m, n, k in THIN:
        for transposed in ("NN", "NT", "TN"):
            print(f"{dtype.__name__}/{transposed}/{m}x{n}x{k} {rate(dtype, transposed, m, n, k):.1f}")
