#include <cmath>
#include <limits>
#include <vector>

#include "common/half.h"
#include "common/window.h"
#include "cpu/attention.h"

namespace dinat::cpu {
namespace {

// Where a token's window lies along one axis.
struct Window {
  int32_t first;   // token
  int32_t offset;  // bias index of `first`
};

Window windowOf(const Problem& problem, int axis, int32_t token) {
  const int32_t dilation = problem.dilation[axis], kernel_size = problem.kernel_size[axis];
  const int32_t group = token % dilation, position = token / dilation;
  const int32_t members = groupLength(problem.size[axis], group, dilation);
  const int32_t start = windowStart(position, members, kernel_size);
  return {group + start * dilation, start - position + kernel_size - 1};
}

template <class T>
void compute(const Problem& problem, const Operands& operands) {
  const T* query = static_cast<const T*>(operands.query);
  const T* key = static_cast<const T*>(operands.key);
  const T* value = static_cast<const T*>(operands.value);
  const T* rpb = static_cast<const T*>(operands.rpb);
  T* output = static_cast<T*>(operands.output);
  const int32_t kh = problem.kernel_size[0], kw = problem.kernel_size[1];
  std::vector<double> weights(static_cast<size_t>(kh) * kw);
  std::vector<double> sums(problem.head_dim);
  const auto at = [](const Strides& strides, int64_t image, int64_t head, int64_t row,
                     int64_t column) {
    return image * strides.batch + head * strides.head + row * strides.row +
           column * strides.column;
  };
  const auto attend = [&](int64_t image, int64_t head, int32_t row, int32_t column) {
    const Window rows = windowOf(problem, 0, row), columns = windowOf(problem, 1, column);
    const T* of_query = query + at(problem.input, image, head, row, column);
    const auto neighbour = [&](int32_t place) {
      return at(problem.input, image, head, rows.first + int64_t{place / kw} * problem.dilation[0],
                columns.first + int64_t{place % kw} * problem.dilation[1]);
    };
    double greatest = -std::numeric_limits<double>::infinity();
    for (int32_t place = 0; place < kh * kw; ++place) {
      const T* of_key = key + neighbour(place);
      double score = 0.0;
      for (int32_t channel = 0; channel < problem.head_dim; ++channel) {
        score += double{toFloat(of_query[channel])} * double{toFloat(of_key[channel])};
      }
      score *= problem.scale;
      if (rpb) {
        const int64_t table_row = head * (2 * int64_t{kh} - 1) + rows.offset + place / kw;
        score += toFloat(rpb[table_row * (2 * int64_t{kw} - 1) + columns.offset + place % kw]);
      }
      weights[place] = score;
      greatest = std::fmax(greatest, score);
    }
    double total = 0.0;
    for (double& weight : weights) {
      weight = std::exp(weight - greatest);
      total += weight;
    }
    sums.assign(problem.head_dim, 0.0);
    for (int32_t place = 0; place < kh * kw; ++place) {
      const T* of_key = value + neighbour(place);
      for (int32_t channel = 0; channel < problem.head_dim; ++channel) {
        sums[channel] += weights[place] * double{toFloat(of_key[channel])};
      }
    }
    T* target = output + at(problem.output, image, head, row, column);
    for (int32_t channel = 0; channel < problem.head_dim; ++channel) {
      target[channel] = fromFloat<T>(static_cast<float>(sums[channel] / total));
    }
  };
  for (int64_t image = 0; image < problem.batch; ++image) {
    for (int64_t head = 0; head < problem.heads; ++head) {
      for (int32_t row = 0; row < problem.size[0]; ++row) {
        for (int32_t column = 0; column < problem.size[1]; ++column) {
          attend(image, head, row, column);
        }
      }
    }
  }
}

}  // namespace

void reference(const Problem& problem, const Operands& operands) {
  switch (problem.type) {
    case DataType::kFloat32:
      return compute<float>(problem, operands);
    case DataType::kFloat16:
      return compute<Float16>(problem, operands);
    case DataType::kBFloat16:
      return compute<BFloat16>(problem, operands);
  }
}

}  // namespace dinat::cpu
