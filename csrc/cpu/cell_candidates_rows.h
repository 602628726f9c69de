// Products of queries with the rows of a cell, looked at in registers.
// Included by kernels.h, inside the instruction set's namespace.

constexpr int kTall = 6;                                  // queries at once
constexpr int kParts = FERKIT_REGISTER == 64 ? 4 : 2;     // registers of rows at once: with kTall, what a set can hold
constexpr int kLanes = Simd<float>::lanes;                // rows in a block of a panel
using Floats = Register<float>::type;
using Ints = Register<int32_t>::type;

// Whether any number is 0 or less, from the bits of floats: a sign, or a zero, whose bits less one have a sign.
FERKIT_INLINE bool any_sign(const Ints& bits) {
  uint64_t words[FERKIT_REGISTER / 8], all = 0;
  std::memcpy(words, &bits, sizeof(bits));
  for (uint64_t word : words) all |= word;
  return (all & 0x8000000080000000u) != 0;
}

// `P` registers of rows from the one at `first` on, times kTall queries; what is 0 or less goes to `take`.
template <int P, typename Take>
FERKIT_INLINE void visit(
    int64_t depth, int64_t step, const float* const* queries, const float* panel, int64_t first, const Take& take) {
  constexpr int W = Vec<float>::width;
  const float* from[P];
  for (int p = 0; p < P; ++p) from[p] = panel + (first + p) * W / kLanes * step + (first + p) * W % kLanes;
  Floats acc[kTall][P] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Floats right[P];
    for (int p = 0; p < P; ++p) std::memcpy(&right[p], from[p] + k * kLanes, FERKIT_REGISTER);
#pragma GCC unroll 8
    for (int i = 0; i < kTall; ++i) {
      const float left = queries[i][k];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[i][p] += right[p] * left;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTall; ++i) {
    Ints signs = {};
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      Ints bits;
      std::memcpy(&bits, &acc[i][p], FERKIT_REGISTER);
      signs |= bits | (bits - 1);
    }
    if (any_sign(signs)) {
      float values[P * W];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) std::memcpy(values + p * W, &acc[i][p], FERKIT_REGISTER);
      take(i, values, P * W);
    }
  }
}

// Rows begin..end-1 of the table as blocks of (depth rounded up to 8, lanes); lanes without a row are far from all.
FERKIT_INLINE void fill_panel(const float* table, int64_t begin, int64_t end, int64_t rows, int64_t depth, float* panel) {
  const int64_t step = round_up(depth, 8) * kLanes;
  for (int64_t n = begin; n < end; n += kLanes, panel += step) {
    const int used = static_cast<int>(end - n < kLanes ? end - n : kLanes);
    gather<float>(table + n * depth, depth, used, (rows - n) * depth, depth, panel);
    for (int lane = used; lane < kLanes; ++lane)
      for (int64_t k = 0; k < depth; ++k) panel[k * kLanes + lane] = k == depth - 2 ? 1e30f : 0.0f;
  }
}

// Every query of a cell against the rows begin..end-1 of it.
void visit_cell(
    int64_t begin, int64_t end, int64_t rows, int64_t depth, const float* table, const float* points,
    const int64_t* queries, int64_t count, float* panel, CellQueues& queues) {
  constexpr int W = Vec<float>::width;
  const int64_t step = round_up(depth, 8) * kLanes, registers = (end - begin + W - 1) / W;
  fill_panel(table, begin, end, rows, depth, panel);
  for (int64_t first = 0; first < registers; first += kParts) {
    const int64_t parts = registers - first < kParts ? registers - first : kParts;
    for (int64_t top = 0; top < count; top += kTall) {
      const int some = static_cast<int>(count - top < kTall ? count - top : kTall);
      const float* from[kTall];
      for (int i = 0; i < kTall; ++i) from[i] = points + queries[top + (i < some ? i : 0)] * depth;
      const auto take = [&](int i, const float* values, int lanes) {
        if (i >= some) return;
        const int64_t place = begin + first * W, used = end - place < lanes ? end - place : lanes;
        for (int lane = 0; lane < used; ++lane)
          if (values[lane] <= 0) queues.push(queries[top + i], values[lane], place + lane);
      };
      if (parts == kParts)
        visit<kParts>(depth, step, from, panel, first, take);
      else if (parts == 1)
        visit<1>(depth, step, from, panel, first, take);
      else if (parts == 2)
        visit<2>(depth, step, from, panel, first, take);
      else
        visit<kParts < 3 ? kParts : 3>(depth, step, from, panel, first, take);
    }
  }
}
