"""Data pipelines with which language models improve themselves, every training example traceable."""

import os

# Read by the OpenMP runtime when torch is loaded. Threads that spin while they wait for one another slow
# training several times over on a machine that does anything else besides.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


os.environ.setdefault("GOMP_SPINCOUNT", "0")
