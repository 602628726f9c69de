// Candidates of an inverted file on the CPU: of each query, the nearest rows among the cells that it visits, by products
// that are looked at in registers. See docs/math/knn_graph.md; ferkit/graph/_scan.py does the same in NumPy.
#include "simd.h"
#include "tensors.h"

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

}  // namespace
}  // namespace ferkit

#define FERKIT_KERNELS "cell_candidates_rows.h"
#include "clones.h"

namespace ferkit {
namespace {

constexpr int64_t kStretch = 1024;  // rows of a cell that are laid out at once, a multiple of the lanes

void check_integers(const Tensor& t, const char* name) {
  require(t.is_cpu() && t.is_contiguous() && t.dim() == 1, std::string(name) + ": expected a contiguous CPU vector");
  require(t.scalar_type() == ScalarType::Long, std::string(name) + ": expected dtype torch.int64");
}

// edges, starts: ascending, from 0 to `last`.
void check_edges(const int64_t* edges, int64_t cells, int64_t last, const char* name) {
  bool right = edges[0] == 0 && edges[cells] == last;
  for (int64_t cell = 0; cell < cells; ++cell) right = right && edges[cell] <= edges[cell + 1];
  require(right, std::string(name) + ": expected ascending numbers from 0 to " + std::to_string(last));
}

// (Q, count) places in `table` (U, R + 2), of rows [y, |y|^2, 1] by cell, of the least products with each of `points`
// (Q, R + 2), [-2x, 1, -b], in order, of those that are 0 or less and in a cell that lists x; -1 where there are fewer.
// Cell c has the rows starts[c]..starts[c+1]-1 and lists queries[edges[c]..edges[c+1]-1]. One thread does it.
Tensor cell_candidates(Tensor table, Tensor points, Tensor queries, Tensor edges, Tensor starts, int64_t count) {
  for (const auto& [tensor, name] : {std::pair{&table, "table"}, std::pair{&points, "points"}}) {
    check_floating(*tensor, name);
    require(tensor->scalar_type() == ScalarType::Float, std::string(name) + ": expected dtype torch.float32");
    require(tensor->dim() == 2 && tensor->is_contiguous(), std::string(name) + ": expected contiguous rows");
  }
  check_integers(queries, "queries"), check_integers(edges, "edges"), check_integers(starts, "starts");
  const int64_t rows = table.size(0), depth = table.size(1), size = points.size(0), cells = starts.size(0) - 1;
  require(depth >= 2 && points.size(1) == depth, "points: expected the columns of the table");
  require(cells >= 0 && edges.size(0) == cells + 1, "edges: expected one more than there are cells");
  require(count > 0, "count: expected a positive number");
  const int64_t *q = in<int64_t>(queries), *e = in<int64_t>(edges), *s = in<int64_t>(starts);
  check_edges(e, cells, queries.size(0), "edges"), check_edges(s, cells, rows, "starts");
  for (int64_t i = 0; i < queries.size(0); ++i)
    require(q[i] >= 0 && q[i] < size, "queries: expected numbers of points");
  Tensor found = make(table, {size, count}, ScalarType::Long);
  static const auto visit = FERKIT_PICK(visit_cell);
  CellQueues queues(size, count);
  std::vector<float> panel(kStretch * round_up(depth, 8));
  for (int64_t cell = 0; cell < cells; ++cell) {
    const int64_t visitors = e[cell + 1] - e[cell];
    if (visitors == 0) continue;
    for (int64_t begin = s[cell]; begin < s[cell + 1]; begin += kStretch)
      visit(
          begin, std::min(begin + kStretch, s[cell + 1]), rows, depth, in<float>(table), in<float>(points), q + e[cell],
          visitors, panel.data(), queues);
  }
  for (int64_t i = 0; i < size; ++i) queues.write(i, out<int64_t>(found) + i * count);
  return found;
}

}  // namespace
}  // namespace ferkit

STABLE_TORCH_LIBRARY_IMPL(ferkit_native, CPU, m) { m.impl("cell_candidates", TORCH_BOX(&ferkit::cell_candidates)); }
