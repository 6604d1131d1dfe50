// The entry points of the library: all that it exports.

#include <cstdlib>
#include <string>

#include "onnxruntime/operators.h"

#define DINAT_EXPORT extern "C" __attribute__((visibility("default")))

namespace dinat::ort {
namespace {

// Before 1.24, ONNX Runtime dereferences the missing type of an input that is left empty ("") when
// it prepares the call of an operator's shape inference. There the sizes stay unknown until a run.
bool infersShapesSafely(const OrtApiBase& base) {
  const std::string version = base.GetVersionString();
  const size_t dot = version.find('.');
  if (dot == std::string::npos) return false;
  const int major = std::atoi(version.c_str()), minor = std::atoi(version.c_str() + dot + 1);
  return major > 1 || (major == 1 && minor >= 24);
}

// Lives as long as the process: sessions keep pointers to the operators.
struct Library {
  std::vector<Operator> operators = cpuOperators();
  OrtCustomOpDomain* domain = nullptr;

  explicit Library(const OrtApiBase& base) {
#if DINAT_HAVE_CUDA
    for (const Operator& op : cudaOperators()) operators.push_back(op);
#endif
    if (!infersShapesSafely(base)) {
      for (Operator& op : operators) op.InferOutputShapeFn = nullptr;
    }
    check(api().CreateCustomOpDomain("dinat", &domain));
    for (const Operator& op : operators) check(api().CustomOpDomain_Add(domain, &op));
  }
};

OrtStatus* tooOld(const OrtApiBase& base) {
  // Interface 1 is in every release; without any there is no way to say what is wrong.
  const OrtApi* oldest = base.GetApi(1);
  if (!oldest) return nullptr;
  const std::string message = std::string("the dinat operator needs ONNX Runtime 1.17 or later, ") +
                              "and this is " + base.GetVersionString() +
                              "; pip install 'onnxruntime>=1.17'.";
  return oldest->CreateStatus(ORT_FAIL, message.c_str());
}

}  // namespace
}  // namespace dinat::ort

// Adds the operators to a session's options; ONNX Runtime calls it by its name.
DINAT_EXPORT dinat::ort::OrtStatus* RegisterCustomOps(dinat::ort::OrtSessionOptions* options,
                                                      const dinat::ort::OrtApiBase* base) {
  using namespace dinat::ort;
  const OrtApi* table = base->GetApi(kInterfaceVersion);
  if (!table) return tooOld(*base);
  setApi(*table);
  return guarded([&] {
    static const Library* const library = new Library(*base);
    check(api().AddCustomOpDomain(options, library->domain));
  });
}

// The project's version, for messages and manifests.
DINAT_EXPORT const char* dinat_onnxruntime_version() { return DINAT_VERSION; }
