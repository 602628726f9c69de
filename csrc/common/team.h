// A team is the threads of one CUDA block. A kernel is written once, as phases (`each`) between barriers, and runs as a
// block on a GPU and as loops over the threads on a CPU, where the tests are; there it also looks for races.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#if defined(__CUDACC__)
#define FERKIT_HD __host__ __device__ __forceinline__
#else
#define FERKIT_HD inline
#endif
#if defined(__CUDA_ARCH__)
#define FERKIT_UNROLL _Pragma("unroll")
#else
#define FERKIT_UNROLL
#endif

namespace ferkit {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;

// Four neighbours of a row, widened.
struct Quad {
  double at[4];
};

FERKIT_HD void expect_aligned(const void* address) {
#if !defined(__CUDA_ARCH__)
  if (reinterpret_cast<std::uintptr_t>(address) % 16) throw std::runtime_error("team: a vector access is not aligned");
#else
  (void)address;
#endif
}

FERKIT_HD Quad load_vector(const float* from) {
  expect_aligned(from);
#if defined(__CUDA_ARCH__)
  const float4 v = *reinterpret_cast<const float4*>(from);
  return {{v.x, v.y, v.z, v.w}};
#else
  return {{from[0], from[1], from[2], from[3]}};
#endif
}

FERKIT_HD Quad load_vector(const double* from) {
  expect_aligned(from);
#if defined(__CUDA_ARCH__)
  const double2 a = reinterpret_cast<const double2*>(from)[0], b = reinterpret_cast<const double2*>(from)[1];
  return {{a.x, a.y, b.x, b.y}};
#else
  return {{from[0], from[1], from[2], from[3]}};
#endif
}

FERKIT_HD void store_vector(float* to, const Quad& q) {
  expect_aligned(to);
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<float4*>(to) = make_float4(
      static_cast<float>(q.at[0]), static_cast<float>(q.at[1]), static_cast<float>(q.at[2]),
      static_cast<float>(q.at[3]));
#else
  for (int k = 0; k < 4; ++k) to[k] = static_cast<float>(q.at[k]);
#endif
}

FERKIT_HD void store_vector(double* to, const Quad& q) {
  expect_aligned(to);
#if defined(__CUDA_ARCH__)
  reinterpret_cast<double2*>(to)[0] = make_double2(q.at[0], q.at[1]);
  reinterpret_cast<double2*>(to)[1] = make_double2(q.at[2], q.at[3]);
#else
  for (int k = 0; k < 4; ++k) to[k] = q.at[k];
#endif
}

// Places p..p+3 of a row of `size`, zeros beyond its end. Rows of a whole number of quads lie on vectors.
template <typename T>
FERKIT_HD Quad load_quad(const T* row, int64_t p, int64_t size) {
  if (size % 4 == 0) return load_vector(row + p);
  Quad q;
  FERKIT_UNROLL
  for (int k = 0; k < 4; ++k) q.at[k] = p + k < size ? static_cast<double>(row[p + k]) : 0;
  return q;
}

template <typename T>
FERKIT_HD void store_quad(T* row, int64_t p, int64_t size, const Quad& q) {
  if (size % 4 == 0) return store_vector(row + p, q);
  FERKIT_UNROLL
  for (int k = 0; k < 4; ++k)
    if (p + k < size) row[p + k] = static_cast<T>(q.at[k]);
}

#if defined(__CUDACC__)
// One block on a GPU. Lambdas run once, for this thread; a Local is a register.
class DeviceTeam {
 public:
  struct Local {
    double value;
    FERKIT_HD double& operator[](int) { return value; }
  };

  FERKIT_HD explicit DeviceTeam(double* shared) : shared_(shared) {}

  FERKIT_HD int threads() const {
#if defined(__CUDA_ARCH__)
    return static_cast<int>(blockDim.x);
#else
    return 0;
#endif
  }

  template <typename F>
  FERKIT_HD void each(const F& phase) {
#if defined(__CUDA_ARCH__)
    phase(static_cast<int>(threadIdx.x));
#else
    (void)phase;
#endif
  }

  FERKIT_HD void barrier() {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }

  // Sum over the lanes of each warp, in every lane: a butterfly, so the order is fixed. Called by all threads alike.
  FERKIT_HD void sum_lanes(Local& v) {
#if defined(__CUDA_ARCH__)
    FERKIT_UNROLL
    for (int step = kWarp / 2; step > 0; step /= 2) v.value += __shfl_xor_sync(0xffffffffu, v.value, step);
#else
    (void)v;
#endif
  }

  // Shared memory, in doubles; a thread sees what others wrote only after a barrier.
  FERKIT_HD double get(int, int64_t i) const { return shared_[i]; }
  FERKIT_HD void set(int, int64_t i, double value) { shared_[i] = value; }

 private:
  double* shared_;
};
#endif

// The same on a CPU. Shared memory remembers who wrote and read it since the last barrier: two threads at one place,
// one of them writing, is a race and throws; so do unwritten and outside memory.
class HostTeam {
 public:
  struct Local {
    double value[kMaxThreads];
    FERKIT_HD double& operator[](int thread) { return value[thread]; }
  };

  HostTeam(int threads, int64_t shared) : threads_(threads), cells_(static_cast<size_t>(shared)) {}

  FERKIT_HD int threads() const { return threads_; }

  template <typename F>
  FERKIT_HD void each(const F& phase) {
#if !defined(__CUDA_ARCH__)
    for (int t = 0; t < threads_; ++t) phase(t);
#else
    (void)phase;
#endif
  }

  FERKIT_HD void barrier() { ++epoch_; }

  FERKIT_HD void sum_lanes(Local& v) {
#if !defined(__CUDA_ARCH__)
    if (threads_ % kWarp) throw std::runtime_error("team: a warp is not whole");
    double old[kWarp];
    for (int first = 0; first < threads_; first += kWarp)
      for (int step = kWarp / 2; step > 0; step /= 2) {
        for (int lane = 0; lane < kWarp; ++lane) old[lane] = v.value[first + lane];
        for (int lane = 0; lane < kWarp; ++lane) v.value[first + lane] = old[lane] + old[lane ^ step];
      }
#else
    (void)v;
#endif
  }

  FERKIT_HD double get(int thread, int64_t i) {
#if !defined(__CUDA_ARCH__)
    Cell& cell = at(i);
    if (cell.write_epoch < 0) throw std::runtime_error("team: unwritten shared memory is read");
    if (cell.write_epoch == epoch_ && cell.writer != thread) throw std::runtime_error("team: a read races a write");
    cell.reader = cell.read_epoch == epoch_ && cell.reader != thread ? kSeveral : thread;
    cell.read_epoch = epoch_;
    return cell.value;
#else
    (void)thread, (void)i;
    return 0;
#endif
  }

  FERKIT_HD void set(int thread, int64_t i, double value) {
#if !defined(__CUDA_ARCH__)
    Cell& cell = at(i);
    if (cell.write_epoch == epoch_ && cell.writer != thread) throw std::runtime_error("team: two writes race");
    if (cell.read_epoch == epoch_ && cell.reader != thread) throw std::runtime_error("team: a write races a read");
    cell.value = value, cell.writer = thread, cell.write_epoch = epoch_;
#else
    (void)thread, (void)i, (void)value;
#endif
  }

 private:
  static constexpr int kSeveral = -2;
  struct Cell {
    double value = 0;
    int64_t write_epoch = -1, read_epoch = -1;
    int writer = -1, reader = -1;
  };
#if !defined(__CUDA_ARCH__)
  Cell& at(int64_t i) {
    if (i < 0 || i >= static_cast<int64_t>(cells_.size()))
      throw std::runtime_error("team: an access lies outside shared memory");
    return cells_[static_cast<size_t>(i)];
  }
#endif
  int threads_;
  int64_t epoch_ = 0;
  std::vector<Cell> cells_;
};

}  // namespace ferkit
