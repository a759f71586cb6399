"""One training step of a network 30-64-64-1 in PyTorch on one thread."""
import time

import torch

torch.set_num_threads(1)
print("torch", torch.__version__)
for batch in (32, 256):
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(30, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)
    )
    x = torch.randn(batch, 30)
    y = (torch.arange(batch) % 2).float().unsqueeze(1)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    loss = torch.nn.BCEWithLogitsLoss()
    best = float("inf")
    for _ in range(3000):
        start = time.perf_counter()
        optimiser.zero_grad()
        loss(net(x), y).backward()
        optimiser.step()
        best = min(best, time.perf_counter() - start)
    print(f"batch {batch}: {best * 1e6:.1f} us a step")
