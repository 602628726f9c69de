"""A training process killed again and again in mid-epoch ends with the weights of one that was left alone."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys

import torch

TRAINING = """
import os, sys, time
import torch
from ferkit.samplers import NeighborGroupBatchSampler

folder, kill_at = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
points = torch.rand(60, 3, generator=torch.Generator().manual_seed(1))
squared = torch.cdist(points, points).square().fill_diagonal_(float("inf"))
distances, indices = squared.topk(3, largest=False)
faces = [{"image": points[i], "label": i % 4, "index": i} for i in range(60)]
sampler = NeighborGroupBatchSampler({"va": (indices, torch.exp(-distances))}, groups=7, neighbors=3, seed=5)
model = torch.nn.Linear(3, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
path, epoch, done = os.path.join(folder, "last.pt"), 0, 0
if os.path.exists(path):
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    sampler.load_state_dict(state["sampler"])
    epoch, done = state["sampler"]["epoch"], state["sampler"]["position"]
loader = torch.utils.data.DataLoader(faces, batch_sampler=sampler, collate_fn=sampler.collate, num_workers=1)
steps = 0
for epoch in range(epoch, 3):
    sampler.set_epoch(epoch)
    for batch in loader:
        log = model(batch["image"]).log_softmax(1)
        guided = (batch["weight"].reshape(-1, 1) * log[7:].exp().detach() * log[:7].repeat_interleave(3, 0)).sum()
        optimizer.zero_grad()
        (torch.nn.functional.nll_loss(log[:7], batch["label"][:7]) - 0.1 * guided).backward()
        optimizer.step()
        done, steps = done + 1, steps + 1
        # workers are ahead: the position is what was trained on
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "sampler": sampler.state_dict(done)}
        torch.save(state, path + ".new")
        os.replace(path + ".new", path)
        print(epoch, done, batch["index"][:7].tolist(), flush=True)
        if steps == kill_at:
            print("waiting", flush=True)
            time.sleep(600)
    done = 0
print("finished", flush=True)
"""


def run_here(folder, monkeypatch):
    """Lines of a training that nothing disturbs."""
    monkeypatch.setattr(sys, "argv", ["training", str(folder), "0"])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(TRAINING, {"__name__": "training"})
    return printed.getvalue().splitlines()


def run_and_kill(folder, kill_at):
    """Lines of a process that is killed after its step ``kill_at``, if that comes."""
    command = [sys.executable, "-c", TRAINING, str(folder), str(kill_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line == "waiting\n":
                process.send_signal(signal.SIGKILL)
                break
            lines.append(line.strip())
        process.stdout.close()
        code = process.wait()
    assert code == (-signal.SIGKILL if kill_at else 0)
    return lines


def test_killed_in_mid_epoch(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = run_here(whole, monkeypatch)
    assert len(expected) == 3 * 9 + 1  # 60 centres in groups of 7
    # killed in the second epoch, at its very end, and not
    seen = [line for kill_at in (13, 5, 0) for line in run_and_kill(cut, kill_at)]
    assert seen == expected
    first, second = (torch.load(folder / "last.pt") for folder in (whole, cut))
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    assert first["sampler"] == second["sampler"]
