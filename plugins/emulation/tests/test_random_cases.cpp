// Random problems through every tactic that can compute them, against the definition in double
// precision. Usage: test_random_cases [count] [first seed]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/half.h"
#include "cpu/attention.h"
#include "emulation/attention.h"

namespace {

using dinat::BFloat16;
using dinat::DataType;
using dinat::Float16;
using dinat::Problem;
using dinat::Shape;
using dinat::cuda::Tactic;

struct Case {
  Problem problem;
  bool packed;
  bool rpb;
  dinat::cuda::LaunchLimits limits;
};

class Chooser {
 public:
  explicit Chooser(unsigned seed) : generator_(seed) {}
  int32_t between(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(generator_);
  }
  template <size_t kCount>
  int32_t among(const int32_t (&values)[kCount]) {
    return values[between(0, kCount - 1)];
  }
  float normal(float deviation) {
    return std::normal_distribution<float>(0, deviation)(generator_);
  }

 private:
  std::mt19937 generator_;
};

Case randomCase(Chooser& choose) {
  const bool tensor_cores = choose.between(0, 3) != 0;
  int32_t kernel_size[2];
  int32_t dilation[2];
  int64_t size[2];
  const int32_t square = choose.among({3, 3, 5, 7, 7, 7, 9, 11, 13});
  for (int axis = 0; axis < 2; ++axis) {
    kernel_size[axis] = tensor_cores ? square : choose.between(1, 6);
    dilation[axis] = choose.between(1, square > 7 ? 2 : 3);
    const int32_t members = kernel_size[axis] + choose.among({0, 1, 2, 5, 9, 12});
    size[axis] = members * dilation[axis] + choose.between(0, dilation[axis] - 1);
  }
  const Shape shape{choose.between(1, 2), size[0], size[1], choose.between(1, 3),
                    tensor_cores ? choose.among({16, 32, 32, 64}) : choose.between(1, 48)};
  const auto type = static_cast<DataType>(choose.between(tensor_cores ? 1 : 0, 2));
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const bool packed = choose.between(0, 1) == 0;
  Case made{packed ? dinat::packedProblem(shape, kernel_size, dilation, scale, type)
                   : dinat::splitProblem(shape, kernel_size, dilation, scale, type),
            packed,
            choose.between(0, 3) != 0,
            {}};
  if (choose.between(0, 2) == 0) made.limits = {choose.between(1, 40), choose.between(100, 2000)};
  return made;
}

std::string describe(const Case& made) {
  const Problem& p = made.problem;
  char text[200];
  std::snprintf(text, sizeof text, "%s %s%s k %dx%d d %dx%d [%d, %d, %d, %d, %d]",
                dinat::name(p.type), made.packed ? "packed" : "split", made.rpb ? " rpb" : "",
                p.kernel_size[0], p.kernel_size[1], p.dilation[0], p.dilation[1],
                static_cast<int>(p.batch), p.size[0], p.size[1], p.heads, p.head_dim);
  return text;
}

// Exactly as large as it must be, so that AddressSanitizer sees every step beyond.
template <class T>
std::vector<T> randomTensor(int64_t elements, float deviation, Chooser& choose) {
  std::vector<T> tensor(static_cast<size_t>(elements));
  for (T& element : tensor) element = dinat::fromFloat<T>(choose.normal(deviation));
  return tensor;
}

template <class T>
double relativeError(const std::vector<T>& output, const std::vector<T>& expected) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < output.size(); ++i) {
    const double want = dinat::toFloat(expected[i]);
    const double delta = dinat::toFloat(output[i]) - want;
    difference += delta * delta;
    norm += want * want;
  }
  return std::sqrt(difference / norm);
}

template <class T>
int failuresOf(const Case& made, double tolerance, unsigned seed, Chooser& choose) {
  const Problem& p = made.problem;
  const int64_t elements = p.batch * p.size[0] * p.size[1] * p.heads * p.head_dim;
  const int64_t entries =
      int64_t{p.heads} * (2 * p.kernel_size[0] - 1) * (2 * p.kernel_size[1] - 1);
  std::vector<T> inputs[3];
  for (auto& input : inputs) {
    input =
        randomTensor<T>(made.packed && &input == inputs ? 3 * elements : elements, 1.5f, choose);
  }
  const std::vector<T> rpb = randomTensor<T>(entries, 1.0f, choose);
  const void* bias = made.rpb ? rpb.data() : nullptr;
  const T poison = dinat::fromFloat<T>(std::nanf(""));
  std::vector<T> output(static_cast<size_t>(elements), poison);
  std::vector<T> expected = output;
  dinat::Operands operands = made.packed
                                 ? dinat::packedOperands(p, inputs[0].data(), bias, output.data())
                                 : dinat::Operands{inputs[0].data(), inputs[1].data(),
                                                   inputs[2].data(), bias, output.data()};
  operands.output = expected.data();
  dinat::cpu::reference(p, operands);
  operands.output = output.data();

  int failures = 0;
  const auto device = dinat::emulation::deviceOf(dinat::emulation::kComputeCapability);
  for (const Tactic tactic : dinat::cuda::tactics(p, device)) {
    output.assign(output.size(), poison);
    dinat::emulation::Statistics statistics;
    const std::string fault =
        dinat::emulation::attention(p, operands, tactic, seed, made.limits, statistics);
    const double error = relativeError(output, expected);
    if (fault.empty() && error <= tolerance) continue;
    ++failures;
    std::printf("FAILED: seed %u, %s, tactic %s: %s\n", seed, describe(made).c_str(),
                dinat::cuda::name(tactic),
                fault.empty() ? std::to_string(error).c_str() : fault.c_str());
  }
  return failures;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned count = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 30;
  const unsigned first = argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 0;
  int failures = 0;
  for (unsigned seed = first; seed < first + count; ++seed) {
    Chooser choose(seed);
    const Case made = randomCase(choose);
    switch (made.problem.type) {
      case DataType::kFloat32:
        failures += failuresOf<float>(made, 1e-5, seed, choose);
        break;
      case DataType::kFloat16:
        failures += failuresOf<Float16>(made, 2e-3, seed, choose);
        break;
      case DataType::kBFloat16:
        failures += failuresOf<BFloat16>(made, 1e-2, seed, choose);
        break;
    }
  }
  std::printf("%u random cases, %d failures\n", count, failures);
  return failures == 0 ? 0 : 1;
}
