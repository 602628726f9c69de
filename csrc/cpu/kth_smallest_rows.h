// The k-th smallest of a row by halving the range it lies in: counting does not branch, as moving numbers about does.
// Included by kernels.h, inside the instruction set's namespace.

using Keys = Vec<int32_t>;

FERKIT_INLINE int64_t count_up_to(const int32_t* keys, int64_t blocks, int32_t most) {
  Keys total = Keys::all(0), key;
  const Keys one = Keys::all(1), none = Keys::all(0), limit = Keys::all(most);
  for (int64_t i = 0; i < blocks; ++i) {
    load<int32_t>(key, keys + i * Simd<int32_t>::lanes);
    total += if_less(limit, key, none, one);
  }
  return sum_lanes<int32_t>(total);
}

// keys: room for `width` numbers rounded up to the lanes.
void kth_of_rows(int64_t rows, int64_t width, int64_t k, const float* values, int32_t* keys, float* found) {
  constexpr int L = Simd<int32_t>::lanes;
  const int64_t blocks = (width + L - 1) / L;
  for (int64_t row = 0; row < rows; ++row, values += width) {
    int32_t low = std::numeric_limits<int32_t>::max(), high = std::numeric_limits<int32_t>::min();
    for (int64_t i = 0; i < width; ++i) {
      int32_t bits;
      std::memcpy(&bits, values + i, sizeof(bits));
      const int32_t key = bits ^ ((bits >> 31) & 0x7fffffff);  // integers in the order of the floats
      keys[i] = key, low = key < low ? key : low, high = key > high ? key : high;
    }
    for (int64_t i = width; i < blocks * L; ++i) keys[i] = std::numeric_limits<int32_t>::max();
    while (low < high) {
      const int32_t middle = static_cast<int32_t>(low + (static_cast<int64_t>(high) - low) / 2);
      const int64_t below = count_up_to(keys, blocks, middle);
      if (below < k) {
        low = middle + 1;
        continue;
      }
      high = middle;
      if (below > k) continue;
      low = std::numeric_limits<int32_t>::min();
      for (int64_t i = 0; i < width; ++i) low = keys[i] <= middle && keys[i] > low ? keys[i] : low;
      break;
    }
    const int32_t bits = low ^ ((low >> 31) & 0x7fffffff);
    std::memcpy(found + row, &bits, sizeof(bits));
  }
}
