// A small generator: the scheduler shuffles at every rendezvous.
#pragma once

#include <cstdint>
#include <utility>

namespace dinat::emulation {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u) {}

  // Uniform in [0, limit), limit < 2^32.
  uint32_t below(uint32_t limit) {
    return static_cast<uint32_t>((static_cast<uint64_t>(next()) * limit) >> 32);
  }

  template <class Items>
  void shuffle(Items& items) {
    for (uint32_t count = static_cast<uint32_t>(items.size()); count > 1; --count) {
      std::swap(items[count - 1], items[below(count)]);
    }
  }

 private:
  uint32_t next() {  // splitmix64
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t mixed = (state_ ^ state_ >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>(mixed >> 32);
  }

  uint64_t state_;
};

}  // namespace dinat::emulation
