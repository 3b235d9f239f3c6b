"""One thread per test process: tiny tensors on several threads wait more than they compute."""

import torch

torch.set_num_threads(1)
