// The CUDA kernels of similarity_preserving, block by block on the CPU: what tests/ops/test_cuda_blocks.py runs.
#include "../common/similarity_preserving_steps.h"

namespace ferkit {
namespace {

// Blocks of one launch may not depend on each other: the last runs first. A fresh team per block has fresh shared memory.
struct Emulation {
  explicit Emulation(const Tensor&) {}
  static bool holds(const Tensor& t) { return t.is_cpu(); }
  static const char* name() { return "CPU"; }

  template <typename T>
  void forward(const sp_small::Job<T>& job) const {
    for (int64_t block = job.branches * job.groups - 1; block >= 0; --block) {
      HostTeam team(sp_small::kForwardThreads, sp_small::forward_shared(job.wide));
      sp_small::forward_block(team, job, block / job.groups, block % job.groups);
    }
    if (job.groups == 1) return;
    HostTeam team(sp_small::kFinishThreads, 0);
    sp_small::finish_block(team, job);
  }
  template <typename T>
  void backward(const sp_small::Job<T>& job) const {
    for (int64_t block = sp_small::backward_blocks(job.branches, job.size, job.subset) - 1; block >= 0; --block) {
      HostTeam team(sp_small::kBackwardThreads, sp_small::backward_shared(job.wide));
      sp_small::backward_block(team, job, block);
    }
  }
};

// What the emulation must catch: each thread reads its neighbour's cell, with or without a barrier before.
int64_t neighbours(int64_t threads, bool wait) {
  HostTeam team(static_cast<int>(threads), threads);
  int64_t sum = 0;
  team.each([&](int t) { team.set(t, t, t); });
  if (wait) team.barrier();
  team.each([&](int t) { sum += static_cast<int64_t>(team.get(t, (t + 1) % threads)); });
  return sum;
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CompositeExplicitAutograd, m) {
  m.impl("block_neighbours", TORCH_BOX(&ferkit::neighbours));
}

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) {
  m.impl("similarity_preserving_blocks", TORCH_BOX(&ferkit::sp_small::forward<ferkit::Emulation>));
  m.impl("similarity_preserving_blocks_backward", TORCH_BOX(&ferkit::sp_small::backward<ferkit::Emulation>));
}
