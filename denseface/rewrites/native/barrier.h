// A place where the threads of a parallel region wait for each other.

#ifndef DENSEFACE_BARRIER_H_
#define DENSEFACE_BARRIER_H_

#include <atomic>
#include <thread>

namespace {

// Threads spin here, as waking one takes longer than computing a layer of a picture, and OpenMP's barrier puts them to
// sleep at once if the process has more threads than there are cores, as MXNet's has.
class Barrier {
 public:
  // threads: how many of them call this.
  void wait(int threads) {
    int turn = turn_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      turn_.store(turn + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; ++spins)
      if (spins < SPINS)
        __builtin_ia32_pause();
      else
        std::this_thread::yield();  // another process may need the core, or a thread that is still computing
  }

 private:
  static constexpr int SPINS = 2000;  // about a tenth of a millisecond

  std::atomic<int> arrived_{0}, turn_{0};
};

}  // namespace

#endif  // DENSEFACE_BARRIER_H_
