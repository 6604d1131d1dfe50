// The operators on CUDA, on the stream of ONNX Runtime's provider. Compiled only with CUDA.

#include "kernels/runner.h"
#include "onnxruntime/operators.h"

namespace dinat::ort {
namespace {

void check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("dinat operator: ") + doing + ": " +
                           cudaGetErrorString(error));
}

class CudaKernel {
 public:
  CudaKernel(const OrtKernelInfo* info, const Operator& op) : node_(info, op.layout, op.type) {}

  void compute(OrtKernelContext* context) const {
    const Call call = node_.prepare(context);
    void* stream = nullptr;
    ort::check(api().KernelContext_GetGPUComputeStream(context, &stream));
    cuda::Device device;
    check(cuda::currentDevice(&device), "cannot query the device");
    const cuda::Tactic tactic = cuda::Tactic::kHeuristic;
    check(cuda::prepare(call.problem, tactic, device), "cannot load the kernel");
    check(cuda::launch(call.problem, call.operands, tactic, device,
                       static_cast<cudaStream_t>(stream)),
          "cannot launch the kernel");
  }

 private:
  Node node_;
};

}  // namespace

std::vector<Operator> cudaOperators() {
  std::vector<Operator> operators;
  for (const Layout layout : {Layout::kPacked, Layout::kSplit}) {
    for (const DataType type : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
      Operator op = describe(layout, type, "CUDAExecutionProvider");
      op.CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info,
                             void** kernel) {
        return guarded([&] { *kernel = new CudaKernel(info, *static_cast<const Operator*>(op)); });
      };
      op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
        return guarded([&] { static_cast<const CudaKernel*>(kernel)->compute(context); });
      };
      op.KernelDestroy = [](void* kernel) { delete static_cast<CudaKernel*>(kernel); };
      operators.push_back(op);
    }
  }
  return operators;
}

}  // namespace dinat::ort
