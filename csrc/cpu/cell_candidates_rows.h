// Products of queries with the rows of a cell, looked at in registers.
// Included by kernels.h, inside the instruction set's namespace.

constexpr int kTall = 6;                               // queries at once
constexpr int kParts = FERKIT_REGISTER == 64 ? 4 : 2;  // registers of rows at once: with kTall, what a set can hold
constexpr int kLanes = Simd<float>::lanes;             // rows in a block of a panel
using Floats = Register<float>::type;
using Ints = Register<int32_t>::type;

// A bit for each lane that is 0 or less: a sign, or a zero, whose bits less one have a sign.
FERKIT_INLINE uint32_t at_most_zero(const Floats& values) {
  Ints bits;
  std::memcpy(&bits, &values, sizeof(bits));
  bits |= bits - 1;
#if FERKIT_SETS == 3 && FERKIT_REGISTER == 64
  return __builtin_ia32_cvtd2mask512(bits);
#elif FERKIT_SETS == 3
  Floats signs;
  std::memcpy(&signs, &bits, sizeof(signs));
#if FERKIT_REGISTER == 32
  return __builtin_ia32_movmskps256(signs);
#else
  return __builtin_ia32_movmskps(signs);
#endif
#else
  uint32_t found = 0;
  for (int lane = 0; lane < Vec<float>::width; ++lane) found |= static_cast<uint32_t>(bits[lane] < 0) << lane;
  return found;
#endif
}

// A panel's block: `depth` columns rounded up to 8, and the squared norms.
FERKIT_INLINE int64_t block_size(const CellQueries& asked) { return (round_up(asked.depth, 8) + 1) * kLanes; }

// `P` registers of rows from the one at `first` on, times kTall queries; which are 0 or less is put down behind `near`.
// Of the queries the first `used` are asked for: what is said of the others counts for nothing, whatever it is.
template <int P>
FERKIT_INLINE Near* visit(
    const CellQueries& asked, const int64_t* queries, int used, const float* panel, int64_t first, Near* near) {
  constexpr int W = Vec<float>::width;
  const int64_t depth = asked.depth, step = block_size(asked);
  const float *from[P], *query[kTall];
  Floats acc[kTall][P], right[P];
  for (int p = 0; p < P; ++p) {
    from[p] = panel + (first + p) * W / kLanes * step + (first + p) * W % kLanes;
    std::memcpy(&right[p], from[p] + step - kLanes, FERKIT_REGISTER);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTall; ++i) {
    query[i] = asked.first(queries[i]);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) acc[i][p] = right[p] + query[i][depth];
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int p = 0; p < P; ++p) std::memcpy(&right[p], from[p] + k * kLanes, FERKIT_REGISTER);
#pragma GCC unroll 8
    for (int i = 0; i < kTall; ++i) {
      const float left = query[i][k];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[i][p] += right[p] * left;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTall; ++i) {
    near->query = queries[i], near->rows = 0;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) near->rows |= static_cast<uint64_t>(at_most_zero(acc[i][p])) << p * W;
    near += near->rows != 0 && i < used;
  }
  return near;
}

// Rows begin..end-1 as blocks; lanes without a row repeat the first. Behind the blocks is room for whole rows.
FERKIT_INLINE void fill_panel(
    int64_t begin, int64_t end, const CellRows& rows, const CellQueries& asked, float* panel) {
  const int64_t step = block_size(asked), width = rows.width, lead = asked.lead;
  float* const room = panel + (end - begin + kLanes - 1) / kLanes * step;
  for (int64_t n = begin; n < end; n += kLanes, panel += step) {
    const int used = static_cast<int>(end - n < kLanes ? end - n : kLanes);
    gather<float>(rows.data + n * width, width, used, (rows.count - n) * width, width - 1, room);
    std::memcpy(panel, room, lead * kLanes * sizeof(float));
    Vec<float> norm, others = Vec<float>::all(0), one;
    if (asked.depth > lead) {
      for (int64_t k = lead; k < width - 2; ++k) load<float>(one, room + k * kLanes), others += one * one;
      float* const root = panel + lead * kLanes;
      store<float>(root, others);
      for (int lane = 0; lane < kLanes; ++lane) root[lane] = std::sqrt(root[lane]);
    }
    load<float>(norm, room + (width - 2) * kLanes);
    store<float>(panel + step - kLanes, norm - norm * asked.slack);
  }
}

FERKIT_INLINE float product(const float* a, const float* b, int64_t wide) {
  Vec<float> sum = Vec<float>::all(0), left, right;
  for (int64_t k = 0; k < wide; k += kLanes) {
    load<float>(left, a + k), load<float>(right, b + k);
    sum += left * right;
  }
  return sum_lanes<float>(sum);
}

// Whole products of what is near, and those that still are.
FERKIT_INLINE void look_closer(
    const Near* from, const Near* to, uint64_t filled, int64_t place, const CellRows& rows, const CellQueries& asked,
    CellQueues& queues) {
  for (; from != to; ++from) {
    const float* query = asked.whole(from->query);
    for (uint64_t left = from->rows & filled; left != 0; left &= left - 1) {
      const int row = __builtin_ctzll(left);
      const float value = product(rows[place + row], query, asked.wide);
      if (value <= 0) queues.push(from->query, value, place + row);
    }
  }
}

// Every query of a cell against the rows begin..end-1 of it.
void visit_cell(
    int64_t begin, int64_t end, const CellRows& rows, const CellQueries& asked, const int64_t* queries, int64_t count,
    float* panel, Near* near, CellQueues& queues) {
  constexpr int W = Vec<float>::width;
  const int64_t registers = (end - begin + W - 1) / W;
  fill_panel(begin, end, rows, asked, panel);
  for (int64_t first = 0; first < registers; first += kParts) {
    const int64_t parts = registers - first < kParts ? registers - first : kParts, place = begin + first * W;
    const uint64_t filled = end - place < 64 ? (uint64_t(1) << (end - place)) - 1 : ~uint64_t(0);
    Near* last = near;
    for (int64_t top = 0; top < count; top += kTall) {
      const int some = static_cast<int>(count - top < kTall ? count - top : kTall);
      int64_t at[kTall];
      for (int i = 0; i < kTall; ++i) at[i] = queries[top + (i < some ? i : 0)];
      if (parts == kParts)
        last = visit<kParts>(asked, at, some, panel, first, last);
      else if (parts == 1)
        last = visit<1>(asked, at, some, panel, first, last);
      else if (parts == 2)
        last = visit<2>(asked, at, some, panel, first, last);
      else
        last = visit<kParts < 3 ? kParts : 3>(asked, at, some, panel, first, last);
    }
    look_closer(near, last, filled, place, rows, asked, queues);
  }
}
