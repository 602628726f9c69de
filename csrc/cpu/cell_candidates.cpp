// Candidates of an inverted file on the CPU: of each query, the nearest rows among the cells that it visits, by products
// that are looked at in registers. See docs/math/knn_graph.md; ferkit/graph/_scan.py does the same in NumPy.
#include "simd.h"
#include "tensors.h"

#include <cmath>
#include <limits>
#include <memory>
#include <utility>

namespace ferkit {
namespace {

struct Candidate {
  float value;
  int64_t place;
  bool operator<(const Candidate& other) const {
    return value < other.value || (value == other.value && place < other.place);
  }
};

// Of every query the `count` least values that were pushed, and what came since these were last sorted out.
class CellQueues {
 public:
  CellQueues(int64_t queries, int64_t count)
      : count_(count), room_(2 * count + 8), held_(new Candidate[queries * room_]), size_(queries),
        limit_(queries, std::numeric_limits<float>::infinity()) {}

  void push(int64_t query, float value, int64_t place) {
    if (value >= limit_[query]) return;  // of equal ones the first stays: places come in order
    held_[query * room_ + size_[query]] = {value, place};
    if (++size_[query] == room_) keep(query);
  }

  void write(int64_t query, int64_t* places) {
    Candidate* first = &held_[query * room_];
    std::sort(first, first + size_[query]);
    for (int64_t i = 0; i < count_; ++i) places[i] = i < size_[query] ? first[i].place : -1;
  }

 private:
  void keep(int64_t query) {
    Candidate* first = &held_[query * room_];
    std::nth_element(first, first + count_ - 1, first + room_);
    size_[query] = count_, limit_[query] = first[count_ - 1].value;
  }

  const int64_t count_, room_;
  const std::unique_ptr<Candidate[]> held_;  // not filled
  std::vector<int64_t> size_;
  std::vector<float> limit_;
};

// The rows of all cells, [y, |y|^2, 1] each. A row may be read to a multiple of the lanes.
class CellRows {
 public:
  const float* const data;
  const int64_t count, width;

  CellRows(const float* data, int64_t count, int64_t width) : data(data), count(count), width(width) {
    const int64_t wide = round_up(width, Simd<float>::lanes), last = wide / width;  // too little lies behind these
    inside_ = count > last ? count - last : 0;
    last_.assign(data + inside_ * width, data + count * width);
    last_.resize(last_.size() + wide);
  }
  const float* operator[](int64_t row) const {
    return row < inside_ ? data + row * width : last_.data() + (row - inside_) * width;
  }

 private:
  int64_t inside_;
  std::vector<float> last_;
};

// Of the queries [-2x, 1, -b] what is multiplied first: `lead` columns of x, and the norm of the others for them.
// The product is then never more than the whole one (Cauchy and Schwarz), but for rounding, which `slack` is for.
class CellQueries {
 public:
  const int64_t lead;
  const int64_t depth, wide;  // numbers that are multiplied first, with the norm; of a whole row, with zeros
  const float slack;

  CellQueries(const float* data, int64_t count, int64_t width, int64_t lead)
      : lead(lead), depth(lead < width - 2 ? lead + 1 : lead), wide(round_up(width, Simd<float>::lanes)),
        slack((width + 16) * 0x1p-21f), first_(count * (depth + 1)), whole_(count * wide) {
    for (int64_t i = 0; i < count; ++i, data += width) {
      float* to = &first_[i * (depth + 1)];
      const float some = squares(data, lead), others = squares(data + lead, width - 2 - lead);
      std::copy(data, data + lead, to);
      to[depth] = data[width - 1] - slack * ((some + others) / 4 + std::abs(data[width - 1]));
      if (depth > lead) to[lead] = -std::sqrt(others);
      std::copy(data, data + width, &whole_[i * wide]);
    }
  }
  // `depth` numbers, and what the product starts from besides the row's squared norm.
  const float* first(int64_t query) const { return &first_[query * (depth + 1)]; }
  const float* whole(int64_t query) const { return &whole_[query * wide]; }

 private:
  static float squares(const float* from, int64_t count) {
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += from[i] * from[i];
    return sum;
  }

  std::vector<float> first_, whole_;
};

// A query, and a bit for each row of a block that may be a candidate of it.
struct Near {
  int64_t query;
  uint64_t rows;
};

}  // namespace
}  // namespace ferkit

#define FERKIT_KERNELS "cell_candidates_rows.h"
#include "clones.h"

namespace ferkit {
namespace {

constexpr int64_t kStretch = 1024;  // rows of a cell that are laid out at once, a multiple of the lanes

// Which queries visit each cell, ascending: of cell c, queries[begin[c]] to queries[begin[c + 1] - 1].
struct Visitors {
  std::vector<int64_t> begin, queries;

  Visitors(const bool* visits, int64_t count, int64_t cells) : begin(cells + 2) {
    each(visits, count, cells, [&](int64_t, int64_t cell) { ++begin[cell + 2]; });
    for (int64_t cell = 0; cell < cells; ++cell) begin[cell + 2] += begin[cell + 1];
    queries.resize(begin[cells + 1]);
    each(visits, count, cells, [&](int64_t query, int64_t cell) { queries[begin[cell + 1]++] = query; });
  }

 private:
  template <typename F>
  static void each(const bool* visits, int64_t count, int64_t cells, const F& f) {
    constexpr int64_t kWord = sizeof(uint64_t);
    for (int64_t query = 0; query < count; ++query, visits += cells)
      for (int64_t cell = 0; cell < cells; cell += kWord) {
        const int64_t some = std::min(kWord, cells - cell);
        uint64_t word = 0;
        std::memcpy(&word, visits + cell, some);
        if (word == 0) continue;  // cells that follow each other are near: visits come in clusters
        for (int64_t i = 0; i < some; ++i)
          if (visits[cell + i]) f(query, cell + i);
      }
  }
};

// (Q, count) places in `table` (U, R + 2), of rows [y, |y|^2, 1] by cell, of the least products with each of `points`
// (Q, R + 2), [-2x, 1, -b], in order, of those that are 0 or less and in a cell that x visits, `visits` (Q, cells); -1
// where there are fewer. Cell c has the rows starts[c]..starts[c+1]-1. The first `lead` columns decide what is worth a
// whole product. Everything is finite. One thread does it.
Tensor cell_candidates(Tensor table, Tensor points, Tensor visits, Tensor starts, int64_t count, int64_t lead) {
  for (const auto& [tensor, name] : {std::pair{&table, "table"}, std::pair{&points, "points"}}) {
    check_floating(*tensor, name);
    require(tensor->scalar_type() == ScalarType::Float, std::string(name) + ": expected dtype torch.float32");
    require(tensor->dim() == 2 && tensor->is_contiguous(), std::string(name) + ": expected contiguous rows");
  }
  for (const auto& [tensor, name] : {std::pair{&visits, "visits"}, std::pair{&starts, "starts"}})
    require(tensor->is_cpu() && tensor->is_contiguous(), std::string(name) + ": expected a contiguous CPU tensor");
  require(visits.scalar_type() == ScalarType::Bool, "visits: expected dtype torch.bool");
  require(starts.scalar_type() == ScalarType::Long && starts.dim() == 1, "starts: expected a vector of torch.int64");
  const int64_t rows = table.size(0), width = table.size(1), size = points.size(0), cells = starts.size(0) - 1;
  require(width >= 3 && points.size(1) == width, "points: expected the columns of the table");
  require(cells >= 0, "starts: expected one more than there are cells");
  check_shape(visits, {size, cells}, "visits");
  require(count > 0, "count: expected a positive number");
  require(lead > 0 && lead <= width - 2, "lead: expected from 1 to " + std::to_string(width - 2));
  const int64_t* s = in<int64_t>(starts);
  bool right = s[0] == 0 && s[cells] == rows;
  for (int64_t cell = 0; cell < cells; ++cell) right = right && s[cell] <= s[cell + 1];
  require(right, "starts: expected ascending numbers from 0 to " + std::to_string(rows));
  Tensor found = make(table, {size, count}, ScalarType::Long);
  static const auto visit = FERKIT_PICK(visit_cell);
  const Visitors visitors(in<bool>(visits), size, cells);
  const CellRows all(in<float>(table), rows, width);
  const CellQueries asked(in<float>(points), size, width, lead);
  CellQueues queues(size, count);
  std::vector<float> panel(kStretch * (round_up(asked.depth, 8) + 1) + Simd<float>::lanes * round_up(width, 8));
  std::vector<Near> near(size + 8);
  for (int64_t cell = 0; cell < cells; ++cell) {
    const int64_t from = visitors.begin[cell], some = visitors.begin[cell + 1] - from;
    if (some == 0) continue;
    for (int64_t begin = s[cell]; begin < s[cell + 1]; begin += kStretch)
      visit(
          begin, std::min(begin + kStretch, s[cell + 1]), all, asked, &visitors.queries[from], some, panel.data(),
          near.data(), queues);
  }
  for (int64_t i = 0; i < size; ++i) queues.write(i, out<int64_t>(found) + i * count);
  return found;
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) { m.impl("cell_candidates", TORCH_BOX(&ferkit::cell_candidates)); }
