// Tensors whose elements lie more than 2^31 elements apart, in reserved but mostly unused memory:
// offsets that are computed in too few bits end up outside of it. The images are also more than
// 2^32 vectors of 16 bytes apart.
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/half.h"
#include "cpu/attention.h"
#include "emulation/attention.h"

namespace {

using dinat::Float16;
using dinat::Operands;
using dinat::Problem;
using dinat::Strides;
using dinat::cuda::Tactic;

struct Reserved {
  explicit Reserved(size_t size)
      : bytes(size),
        data(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Reserved() { munmap(data, bytes); }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;

  size_t bytes;
  void* data;
};

template <class Visit>
void forEachElement(const Problem& p, const Strides& strides, Visit visit) {
  for (int64_t image = 0; image < p.batch; ++image) {
    for (int32_t row = 0; row < p.size[0]; ++row) {
      for (int32_t column = 0; column < p.size[1]; ++column) {
        for (int32_t channel = 0; channel < p.head_dim; ++channel) {
          visit(image * strides.batch + row * strides.row + column * strides.column + channel);
        }
      }
    }
  }
}

// Two images of 8 x 8 tokens.
bool agrees(const char* what, Tactic tactic, const Strides& strides) {
  const int32_t seven[] = {7, 7};
  const int32_t one[] = {1, 1};
  Problem problem =
      dinat::splitProblem({2, 8, 8, 1, 16}, seven, one, 0.25f, dinat::DataType::kFloat16);
  problem.input = problem.output = strides;
  const size_t bytes =
      2 * static_cast<size_t>(strides.batch + 7 * strides.row + 7 * strides.column + 16);
  const Reserved input(bytes);
  const Reserved output(bytes);
  const Reserved expected(bytes);
  for (const Reserved* memory : {&input, &output, &expected}) {
    if (memory->data == MAP_FAILED) {
      std::printf("cannot reserve %zu bytes of address space\n", bytes);
      return false;
    }
  }
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  Float16* elements = static_cast<Float16*>(input.data);
  forEachElement(problem, strides,
                 [&](int64_t i) { elements[i] = dinat::fromFloat<Float16>(normal(generator)); });
  Operands operands{input.data, input.data, input.data, nullptr, expected.data};
  dinat::cpu::reference(problem, operands);
  operands.output = output.data;
  dinat::emulation::Statistics statistics;
  const std::string fault =
      dinat::emulation::attention(problem, operands, tactic, 1, {}, statistics);
  int64_t wrong = 0;
  forEachElement(problem, strides, [&](int64_t i) {
    const float ours = dinat::toFloat(static_cast<const Float16*>(output.data)[i]);
    const float theirs = dinat::toFloat(static_cast<const Float16*>(expected.data)[i]);
    if (!(std::fabs(ours - theirs) < 4e-3f)) ++wrong;  // counts NaN too
  });
  const bool good = fault.empty() && wrong == 0;
  std::printf("%s, %s: %s%s, %lld values differ\n", name(tactic), what, good ? "ok" : "WRONG ",
              fault.c_str(), static_cast<long long>(wrong));
  return good;
}

}  // namespace

int main() {
  constexpr int64_t kFar = int64_t{1} << 31;
  bool good = true;
  for (const Tactic tactic : {Tactic::kPortable, Tactic::kTile4, Tactic::kGroup}) {
    good &= agrees("images far apart", tactic, {17 * kFar, 128, 16, 16});
    good &= agrees("rows far apart", tactic, {16, kFar / 2, 64, 16});
    good &= agrees("columns far apart", tactic, {16, 64, kFar / 2, 16});
  }
  return good ? 0 : 1;
}
