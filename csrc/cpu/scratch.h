// Working memory of a kernel, aligned to a vector.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "simd.h"

namespace ferkit {

// Not filled. Up to a megabyte stays with its thread: giving pages back and faulting them in again at every step costs
// more than the work on them. A second one at the same time, or a larger one, comes from the heap.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    Kept& kept = of_thread();
    if (bytes > kMost || kept.busy) {
      own_.reset(allocate(bytes));
      data_ = reinterpret_cast<T*>(own_.get());
      return;
    }
    if (kept.bytes < bytes) kept.memory.reset(allocate(bytes)), kept.bytes = bytes;
    kept.busy = true;
    data_ = reinterpret_cast<T*>(kept.memory.get());
  }
  ~Scratch() {
    if (own_ == nullptr) of_thread().busy = false;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }

 private:
  static constexpr int64_t kMost = 1 << 20;
  struct Free {
    void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t(kVectorBytes)); }
  };
  using Memory = std::unique_ptr<char[], Free>;
  struct Kept {
    Memory memory;
    int64_t bytes = 0;
    bool busy = false;
  };
  static Kept& of_thread() {
    static thread_local Kept kept;
    return kept;
  }
  static char* allocate(int64_t bytes) {
    return static_cast<char*>(::operator new[](bytes > 0 ? bytes : 1, std::align_val_t(kVectorBytes)));
  }
  Memory own_;
  T* data_;
};

}  // namespace ferkit
