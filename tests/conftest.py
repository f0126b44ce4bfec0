"""For all tests: settled threads and repeatable property tests."""

import os

# Before anything imports torch or ONNX Runtime: spinning threads slow a small machine down many times.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis

# No time limit an example (a busy machine is no failure), the same examples every time, nothing written to disk.
hypothesis.settings.register_profile("pocketdet", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("pocketdet")
