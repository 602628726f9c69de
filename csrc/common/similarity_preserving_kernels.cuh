// The kernels proper: a block of threads is handed to the block functions. Free of torch, so that a small driver can
// run them under compute-sanitizer.
#pragma once

#include "similarity_preserving_block.h"

#include <cuda_runtime.h>

namespace ferkit::sp_small {

template <typename T>
__global__ void __launch_bounds__(kForwardThreads) forward_kernel(const __grid_constant__ Job<T> job) {
  extern __shared__ double shared[];
  DeviceTeam team(shared);
  forward_block(team, job, blockIdx.x / job.groups, blockIdx.x % job.groups);
}

template <typename T>
__global__ void __launch_bounds__(kFinishThreads) finish_kernel(const __grid_constant__ Job<T> job) {
  DeviceTeam team(nullptr);
  finish_block(team, job);
}

template <typename T>
__global__ void __launch_bounds__(kBackwardThreads) backward_kernel(const __grid_constant__ Job<T> job) {
  extern __shared__ double shared[];
  DeviceTeam team(shared);
  backward_block(team, job, static_cast<int64_t>(blockIdx.x));
}

// The caller has checked kMaxRows and kMaxBranches, so that a grid fits.
template <typename T>
cudaError_t launch_forward(const Job<T>& job, cudaStream_t stream) {
  const size_t shared = static_cast<size_t>(forward_shared(job.wide)) * sizeof(double);
  forward_kernel<T><<<static_cast<unsigned>(job.branches * job.groups), kForwardThreads, shared, stream>>>(job);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess || job.groups == 1) return error;
  finish_kernel<T><<<1, kFinishThreads, 0, stream>>>(job);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_backward(const Job<T>& job, cudaStream_t stream) {
  const size_t shared = static_cast<size_t>(backward_shared(job.wide)) * sizeof(double);
  const int64_t blocks = backward_blocks(job.branches, job.size, job.subset);
  backward_kernel<T><<<static_cast<unsigned>(blocks), kBackwardThreads, shared, stream>>>(job);
  return cudaGetLastError();
}

}  // namespace ferkit::sp_small
