// Runs the CUDA kernels of similarity_preserving on odd sizes and compares them with the same code run on the host.
// Free of torch, for compute-sanitizer:
//   nvcc -std=c++17 -lineinfo -arch=native -o driver tests/gpu/sanitizer_driver.cu && compute-sanitizer ./driver
// `driver raw` leaves device memory as it was allocated, for --tool initcheck. Status 0: all is well; 1: it is not; 2:
// there is no GPU.
#include "../../csrc/common/similarity_preserving_kernels.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

using namespace ferkit;
using namespace ferkit::sp_small;

bool poison = true;

void expect(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

double random_number() {
  static uint64_t state = 1;
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<double>(state >> 11) / 9007199254740992.0;
}

// The same numbers here and there; each array is an allocation of its own, so that every step outside is seen.
template <typename T>
struct Both {
  std::vector<T> host;
  T* device = nullptr;
  explicit Both(int64_t count) : host(static_cast<size_t>(count)) {
    expect(cudaMalloc(&device, bytes()));
    if (poison) expect(cudaMemset(device, 0xff, bytes()));  // NaN
  }
  ~Both() { cudaFree(device); }
  Both(const Both&) = delete;
  Both& operator=(const Both&) = delete;
  size_t bytes() const { return host.size() * sizeof(T); }
  void upload() { expect(cudaMemcpy(device, host.data(), bytes(), cudaMemcpyHostToDevice)); }
  // The largest difference, in units of the largest entry; NaN counts as infinite. One or two rows give zeros but for
  // rounding, which need not agree: then `least` is the unit.
  double difference(size_t count, double least) const {
    std::vector<T> got(host.size());
    expect(cudaMemcpy(got.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost));
    double worst = 0, largest = least;
    for (size_t i = 0; i < count; ++i) {
      const double off = std::fabs(static_cast<double>(got[i]) - static_cast<double>(host[i]));
      worst = off <= worst ? worst : std::isnan(off) ? INFINITY : off;
      largest = std::fmax(largest, std::fabs(static_cast<double>(host[i])));
    }
    return worst / largest;
  }
};

template <typename T>
void emulate(const Job<T>& job) {
  for (int64_t block = 0; block < job.branches * job.groups; ++block) {
    HostTeam team(kForwardThreads, forward_shared(job.wide));
    forward_block(team, job, block / job.groups, block % job.groups);
  }
  if (job.groups > 1) {
    HostTeam team(kFinishThreads, 0);
    finish_block(team, job);
  }
  for (int64_t block = 0; block < backward_blocks(job.branches, job.size, job.subset); ++block) {
    HostTeam team(kBackwardThreads, backward_shared(job.wide));
    backward_block(team, job, block);
  }
}

template <typename T>
bool compare(int64_t size, int64_t branches, bool subset) {
  const int64_t wide = round_up(size, 4), width = 5, groups = groups_of(size);
  Both<T> target(size * width), auxiliary(branches * size * width), grad(branches), loss(branches);
  Both<T> clean_target(size * width), clean_auxiliary(branches * size * width);
  Both<T> grams(gram_entries(branches, size, sizeof(T))), h((branches + 1) * size * size);
  Both<uint8_t> mask(branches * size);
  Both<double> vectors(branches * (5 * wide + 1 + groups));
  for (T& x : target.host) x = static_cast<T>(random_number() - 0.4);
  for (T& x : auxiliary.host) x = static_cast<T>(random_number() - 0.4);
  for (T& x : grad.host) x = static_cast<T>(random_number() + 0.5);
  for (uint8_t& x : mask.host) x = random_number() > 0.3;
  for (int64_t m = 0; m <= branches; ++m) {
    const T* rows = m == 0 ? target.host.data() : auxiliary.host.data() + (m - 1) * size * width;
    for (int64_t n = 0; n < size; ++n)
      for (int64_t p = 0; p < size; ++p) {
        T sum = 0;
        for (int64_t d = 0; d < width; ++d) sum += rows[n * width + d] * rows[p * width + d];
        grams.host[static_cast<size_t>((m * size + n) * size + p)] = sum;
      }
  }
  target.upload(), auxiliary.upload(), grad.upload(), mask.upload(), grams.upload();

  Job<T> job{};
  job.branches = branches, job.size = size, job.wide = wide, job.groups = groups;
  job.rows = (size + groups - 1) / groups, job.subset = subset;
  job.mask_kind = kBool, job.loss_kind = job.grad_kind = sizeof(T) == 4 ? kFloat : kDouble;
  job.target_width = job.auxiliary_width = width;
  Job<T> here = job;
  here.mask = mask.host.data(), here.grad = grad.host.data(), here.loss = loss.host.data();
  here.grams = grams.host.data(), here.vectors = vectors.host.data(), here.h = h.host.data();
  here.target = target.host.data(), here.auxiliary = auxiliary.host.data();
  here.clean_target = clean_target.host.data(), here.clean_auxiliary = clean_auxiliary.host.data();
  emulate(here);
  job.mask = mask.device, job.grad = grad.device, job.loss = loss.device;
  job.grams = grams.device, job.vectors = vectors.device, job.h = h.device;
  job.target = target.device, job.auxiliary = auxiliary.device;
  job.clean_target = clean_target.device, job.clean_auxiliary = clean_auxiliary.device;
  expect(launch_forward(job, nullptr));
  expect(launch_backward(job, nullptr));
  expect(cudaDeviceSynchronize());

  const double least = size <= 3 ? 1e-2 : 1e-30;
  double worst = std::fmax(loss.difference(loss.host.size(), least), h.difference(h.host.size(), least));
  if (subset) {
    worst = std::fmax(worst, clean_target.difference(clean_target.host.size(), least));
    worst = std::fmax(worst, clean_auxiliary.difference(clean_auxiliary.host.size(), least));
  }
  const double inside = vectors.difference(vectors.host.size(), least);
  const bool fine = worst < (sizeof(T) == 4 ? 1e-6 : 1e-12) && inside < 1e-12;
  if (!fine)
    std::printf(
        "float%d size %d branches %d subset %d: off by %g, %g inside\n", static_cast<int>(8 * sizeof(T)),
        static_cast<int>(size), static_cast<int>(branches), subset, worst, inside);
  return fine;
}

}  // namespace

int main(int count, char**) {
  poison = count < 2;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA GPU\n");
    return 2;
  }
  bool fine = true;
  int cases = 0;
  for (int64_t size : {1, 3, 31, 71, 72, 73, 128, 129, 288, 512})
    for (int64_t branches : {1, 3, 9})
      for (bool subset : {false, true}) {
        if (size > 130 && branches == 9) continue;
        fine = compare<float>(size, branches, subset) && fine;
        fine = compare<double>(size, branches, subset) && fine;
        cases += 2;
      }
  std::printf("%d cases, %s\n", cases, fine ? "all as on the host" : "some differ");
  return fine ? 0 : 1;
}
