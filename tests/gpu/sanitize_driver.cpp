// Runs every kernel variant once on exactly allocated memory and compares it with the definition in
// double precision. Small problems, no Python: made to be run under compute-sanitizer.
//
//     compute-sanitizer --tool memcheck ./dinat_sanitize_driver lib/libdinat_kernels.so
//
// Prints one line per variant; exit status 1 on a wrong result, a refused launch or a CUDA error.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/half.h"
#include "common/problem.h"
#include "cpu/attention.h"

namespace {

using dinat::DataType;
using dinat::Operands;
using dinat::Problem;
using dinat::Shape;

// The C interface of the kernels' library (plugins/kernels/c_api.cpp).
struct Kernels {
  int (*attention)(const Problem* problem, const Operands* operands, int tactic, void* stream);
  int (*tactics)(const Problem* problem, int* out, int capacity);
  const char* (*tacticName)(int tactic);
};

Kernels kernels;
int failures = 0;

template <class Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (!*function) std::printf("FAIL %s is missing: %s\n", name, dlerror());
  return *function;
}

bool load(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    std::printf("FAIL %s\n", dlerror());
    return false;
  }
  return find(library, "dinat_cuda_attention", &kernels.attention) &&
         find(library, "dinat_cuda_tactics", &kernels.tactics) &&
         find(library, "dinat_cuda_tactic_name", &kernels.tacticName);
}

bool succeeded(int code, const char* what) {
  if (code == cudaSuccess) return true;
  std::printf("FAIL %s: %s\n", what, cudaGetErrorString(static_cast<cudaError_t>(code)));
  ++failures;
  return false;
}

// Device memory of exactly the size asked for, so that a read past its end is seen.
class Buffer {
 public:
  explicit Buffer(const std::vector<char>& bytes) : size_(bytes.size()) {
    if (succeeded(cudaMalloc(&data_, size_), "cudaMalloc")) {
      succeeded(cudaMemcpy(data_, bytes.data(), size_, cudaMemcpyHostToDevice), "cudaMemcpy");
    }
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }

  std::vector<char> read() const {
    std::vector<char> bytes(size_);
    succeeded(cudaMemcpy(bytes.data(), data_, size_, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return bytes;
  }

 private:
  void* data_ = nullptr;
  size_t size_;
};

void store(DataType type, char* to, float value) {
  if (type == DataType::kFloat32) {
    std::memcpy(to, &value, sizeof value);
  } else if (type == DataType::kFloat16) {
    const auto half = dinat::fromFloat<dinat::Float16>(value);
    std::memcpy(to, &half, sizeof half);
  } else {
    const auto half = dinat::fromFloat<dinat::BFloat16>(value);
    std::memcpy(to, &half, sizeof half);
  }
}

float valueAt(DataType type, const char* from) {
  if (type == DataType::kFloat32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  if (type == DataType::kFloat16) {
    dinat::Float16 half;
    std::memcpy(&half, from, sizeof half);
    return dinat::toFloat(half);
  }
  dinat::BFloat16 half;
  std::memcpy(&half, from, sizeof half);
  return dinat::toFloat(half);
}

// Values in [-1.5, 1.5), the same in every run.
std::vector<char> random(DataType type, int64_t count, uint64_t seed) {
  const int64_t size = dinat::elementSize(type);
  std::vector<char> bytes(count * size);
  for (int64_t index = 0; index < count; ++index) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    store(type, bytes.data() + index * size, 3.0f * float(seed >> 40) / float(1 << 24) - 1.5f);
  }
  return bytes;
}

double tolerance(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return 2e-5;
    case DataType::kFloat16:
      return 2e-3;
    case DataType::kBFloat16:
      return 1e-2;
  }
  return 0.0;
}

// Largest difference relative to the largest expected value; infinite if a value is no number.
double relativeError(DataType type, const std::vector<char>& found,
                     const std::vector<char>& expected) {
  const int64_t size = dinat::elementSize(type);
  double difference = 0.0, largest = 0.0;
  for (size_t at = 0; at < found.size(); at += size) {
    const double value = valueAt(type, found.data() + at),
                 wanted = valueAt(type, expected.data() + at);
    if (!std::isfinite(value)) return INFINITY;
    difference = std::fmax(difference, std::fabs(value - wanted));
    largest = std::fmax(largest, std::fabs(wanted));
  }
  return difference / largest;
}

struct Case {
  Shape shape;
  int32_t kernel_size;
  int32_t dilation;
  DataType type;
  bool rpb;
};

void run(const Case& tried) {
  const int32_t kernel_size[2] = {tried.kernel_size, tried.kernel_size};
  const int32_t dilation[2] = {tried.dilation, tried.dilation};
  const float scale = 1.0f / std::sqrt(float(tried.shape.head_dim));
  const std::string fault = dinat::faultOf(tried.shape, kernel_size, dilation, scale);
  if (!fault.empty()) {
    std::printf("FAIL a case of this program is no valid problem: %s\n", fault.c_str());
    ++failures;
    return;
  }
  const Problem problem =
      dinat::packedProblem(tried.shape, kernel_size, dilation, scale, tried.type);
  const int64_t outputs = tried.shape.batch * tried.shape.height * tried.shape.width *
                          tried.shape.heads * tried.shape.head_dim;
  const int64_t span = 2 * tried.kernel_size - 1;
  const std::vector<char> qkv = random(tried.type, 3 * outputs, 1);
  const std::vector<char> rpb = random(tried.type, tried.shape.heads * span * span, 2);
  std::vector<char> expected(outputs * dinat::elementSize(tried.type));
  dinat::cpu::reference(problem,
                        dinat::packedOperands(problem, qkv.data(), tried.rpb ? rpb.data() : nullptr,
                                              expected.data()));

  int tactics[64];
  const int count = kernels.tactics(&problem, tactics, 64);
  if (count < 1) {
    std::printf("FAIL no tactic for a valid problem\n");
    ++failures;
  }
  for (int index = 0; index < count; ++index) {
    const int tactic = tactics[index];
    char title[200];
    std::snprintf(title, sizeof title, "%s %s k%d d%d %ldx%ld dim%ld%s", kernels.tacticName(tactic),
                  dinat::name(tried.type), tried.kernel_size, tried.dilation,
                  long(tried.shape.height), long(tried.shape.width), long(tried.shape.head_dim),
                  tried.rpb ? " rpb" : "");
    const Buffer device_qkv(qkv), device_rpb(rpb);
    const Buffer device_output(std::vector<char>(expected.size(), char(0xff)));  // NaN
    const Operands operands = dinat::packedOperands(
        problem, device_qkv.data(), tried.rpb ? device_rpb.data() : nullptr, device_output.data());
    if (!succeeded(kernels.attention(&problem, &operands, tactic, nullptr), title)) continue;
    if (!succeeded(cudaDeviceSynchronize(), title)) return;
    const double error = relativeError(tried.type, device_output.read(), expected);
    const bool right = error <= tolerance(tried.type);
    failures += !right;
    std::printf("%s %s: relative error %.1e\n", right ? "ok  " : "FAIL", title, error);
  }
}

// Each instantiation once: type, window and head dim; with a map that leaves tiles overhanging and,
// for the window that models use, one whose dilation groups are the window.
std::vector<Case> cases() {
  std::vector<Case> all;
  const DataType types[] = {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16};
  for (const DataType type : types) {
    for (const int32_t kernel_size : {3, 4, 5, 7, 9, 11, 13}) {
      const int64_t size = 2 * kernel_size + 3;
      all.push_back({{1, size, size + 2, 2, 32}, kernel_size, 2, type, true});
    }
    for (const int64_t dim : {8, 16, 24, 64, 128}) {
      all.push_back({{1, 17, 15, 1, dim}, 7, 2, type, true});
    }
    all.push_back({{2, 14, 14, 3, 32}, 7, 2, type, true});
    all.push_back({{1, 14, 14, 2, 32}, 7, 2, type, false});
    all.push_back({{1, 21, 10, 2, 32}, 7, 1, type, false});
  }
  return all;
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) {
    std::printf("usage: %s path/to/libdinat_kernels.so\n", words[0]);
    return 2;
  }
  if (!load(words[1])) return 1;
  int devices = 0;
  if (!succeeded(cudaGetDeviceCount(&devices), "cudaGetDeviceCount")) return 1;
  for (const Case& tried : cases()) run(tried);
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
