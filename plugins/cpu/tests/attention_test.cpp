// The kernel against the reference on a few problems, for every instruction set of this machine:
// what `ctest` can say without Python. The Python tests go further.

#include "cpu/attention.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "common/half.h"
#include "cpu/isa.h"

namespace {

using dinat::Problem;
using dinat::cpu::Isa;

void inOrder(size_t count, const std::function<void(size_t)>& task) {
  for (size_t i = 0; i < count; ++i) task(i);
}

template <class T>
std::vector<T> normalValues(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<T> values(count);
  for (T& value : values) value = dinat::fromFloat<T>(normal(random));
  return values;
}

// Largest difference from the reference.
template <class T>
double error(const dinat::Shape& shape, const int32_t (&kernel_size)[2],
             const int32_t (&dilation)[2], dinat::DataType type, Isa isa) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const Problem problem = dinat::packedProblem(shape, kernel_size, dilation, scale, type);
  std::mt19937 random(1);
  const int64_t count = shape.batch * shape.height * shape.width * shape.heads * shape.head_dim;
  const std::vector<T> qkv = normalValues<T>(3 * count, random);
  const std::vector<T> rpb =
      normalValues<T>(shape.heads * (2 * kernel_size[0] - 1) * (2 * kernel_size[1] - 1), random);
  std::vector<T> output(count, dinat::fromFloat<T>(NAN)), expected = output;
  dinat::cpu::reference(problem,
                        dinat::packedOperands(problem, qkv.data(), rpb.data(), expected.data()));
  const dinat::cpu::Attention attention(problem, isa);
  attention.run(dinat::packedOperands(problem, qkv.data(), rpb.data(), output.data()), inOrder);
  double largest = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const double difference =
        std::fabs(double{dinat::toFloat(output[i])} - double{dinat::toFloat(expected[i])});
    if (!(difference <= largest)) largest = difference;  // NaN too
  }
  return largest;
}

}  // namespace

int main() {
  struct Case {
    dinat::Shape shape;
    int32_t kernel_size[2];
    int32_t dilation[2];
  };
  const Case cases[] = {
      {{1, 28, 28, 2, 32}, {7, 7}, {1, 1}},
      {{1, 14, 14, 2, 32}, {7, 7}, {2, 2}},
      {{2, 13, 17, 1, 16}, {3, 5}, {2, 1}},
      {{1, 24, 25, 1, 20}, {11, 13}, {1, 1}},
      {{1, 9, 21, 3, 5}, {2, 4}, {4, 3}},
      {{1, 5, 5, 1, 64}, {1, 1}, {5, 5}},
      {{0, 14, 14, 2, 32}, {7, 7}, {1, 1}},
      // Groups that are a window, with a last key alone in its vector or without.
      {{1, 14, 15, 2, 24}, {7, 7}, {2, 2}},
      {{1, 18, 19, 1, 32}, {9, 9}, {2, 2}},
      {{2, 10, 5, 2, 16}, {5, 5}, {2, 1}},
      {{1, 6, 9, 2, 32}, {2, 3}, {3, 3}},
      // Groups of even and odd sides.
      {{1, 22, 27, 2, 32}, {7, 7}, {2, 2}},
  };
  int failures = 0;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (!dinat::cpu::supported(isa)) continue;
    for (const Case& one : cases) {
      const auto check = [&](double found, double limit, dinat::DataType type) {
        const bool passed = found <= limit;
        if (!passed) ++failures;
        std::printf("%s %s %s %dx%d kernel %dx%d: %.1e\n", passed ? "ok  " : "FAIL",
                    dinat::cpu::name(isa), dinat::name(type), static_cast<int>(one.shape.height),
                    static_cast<int>(one.shape.width), one.kernel_size[0], one.kernel_size[1],
                    found);
      };
      using dinat::DataType;
      const auto run = [&](auto of_type, DataType type) {
        return error<decltype(of_type)>(one.shape, one.kernel_size, one.dilation, type, isa);
      };
      // Outputs stay below 4: an error is at most the last bit of a 16-bit output.
      check(run(float{}, DataType::kFloat32), 2e-5, DataType::kFloat32);
      check(run(dinat::Float16{}, DataType::kFloat16), 2e-3, DataType::kFloat16);
      check(run(dinat::BFloat16{}, DataType::kBFloat16), 1.6e-2, DataType::kBFloat16);
    }
  }
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
