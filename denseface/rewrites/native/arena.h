// Memory that operators share, and its division into arrays.

#ifndef DENSEFACE_ARENA_H_
#define DENSEFACE_ARENA_H_

#include <omp.h>

#include <cstddef>
#include <mutex>

#include "vectors.h"

namespace {

// Cuts memory into aligned arrays, or measures how much memory the same calls would need.
class Arena {
 public:
  explicit Arena(char* memory = nullptr) : memory_(memory) {}

  bool measures() const { return !memory_; }
  size_t size() const { return size_; }

  // An array that is not initialized; null when measuring.
  template <class Value>
  Value* take(size_t count) {
    size_t first = size_;
    size_ += (sizeof(Value) * count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return memory_ ? reinterpret_cast<Value*>(memory_ + first) : nullptr;
  }

 private:
  char* memory_;
  size_t size_ = 0;
};

// Measure what carve(arena) takes.
template <class Carve>
size_t measured(Carve carve) {
  Arena arena;
  carve(&arena);
  return arena.size();
}

// Return what carve(arena) takes from memory, which grows to the size that it needs.
template <class Carve>
auto carved(Array<char>* memory, Carve carve) {
  Arena arena(memory->get(measured(carve)));
  return carve(&arena);
}

// What all operators share. One of them computes at a time, on all cores, and holds the mutex.
struct Shared {
  std::mutex mutex;
  Array<char> arrays;   // of the operator that computes
  Array<char> weights;  // packed
  Array<char> sums;     // of the gradients of weights, of every thread
  Array<char> scratch;  // of every thread
};
Shared shared;

// Call work(job, scratch) for jobs 0 to count - 1, on all threads; carve(arena) takes a thread's scratch. Registers is
// what a thread has meanwhile. Nothing in here may allocate: an exception cannot leave a parallel region.
template <class Registers, class Carve, class Work>
void for_each_job(int count, Carve carve, Work work) {
  size_t size = measured(carve);
  char* memory = shared.scratch.get(omp_get_max_threads() * size);
#pragma omp parallel
  {
    Registers registers;
    Arena arena(memory + omp_get_thread_num() * size);
    auto scratch = carve(&arena);
#pragma omp for schedule(static)
    for (int job = 0; job < count; ++job) work(job, scratch);
  }
}

}  // namespace

#endif  // DENSEFACE_ARENA_H_
