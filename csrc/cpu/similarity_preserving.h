// What the two forms of similarity_preserving share. Derivation: docs/math/similarity_preserving.md.
#pragma once

#include "simd.h"
#include "tensors.h"

namespace ferkit::sp {

struct Problem {
  int64_t branches, size, target_width, branch_width;
  bool subset;                  // mask before the norms are taken
  std::vector<double> weight;   // (M, N)
  std::vector<double> divisor;  // (M,): 1 / N_i^2, 0 for a branch without a row
  int64_t targets() const { return subset ? branches : 1; }  // how many ways the target is normalised
};

// Doubles that the forward keeps for the backward; the Python side asks for exactly these.
int64_t gram_state(const Problem& p);
int64_t factored_state(const Problem& p);

// Fill `state`, then the loss per branch.
template <typename T>
void gram_forward(const Problem& p, const T* target, const T* branches, double* state, double* loss);
template <typename T>
void factored_forward(const Problem& p, const T* target, const T* branches, double* state, double* loss);

// scale (M,) is grad_i / N_i^2.
template <typename T>
void gram_backward(
    const Problem& p, const T* target, const T* branches, const double* scale, const double* state, T* d_target,
    T* d_branches);
template <typename T>
void factored_backward(
    const Problem& p, const T* target, const T* branches, const double* scale, const double* state, T* d_target,
    T* d_branches);

}  // namespace ferkit::sp
