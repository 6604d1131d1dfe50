// The operators on the CPU.

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>

#include "cpu/attention.h"
#include "onnxruntime/operators.h"

namespace dinat::ort {
namespace {

bool same(const Problem& a, const Problem& b) {
  // All other fields follow from the node.
  return a.batch == b.batch && a.size[0] == b.size[0] && a.size[1] == b.size[1];
}

// One node. Runs may overlap: the plan in use is shared, and replaced when the sizes change.
class CpuKernel {
 public:
  CpuKernel(const OrtKernelInfo* info, const Operator& op) : node_(info, op.layout, op.type) {}

  void compute(OrtKernelContext* context) {
    const Call call = node_.prepare(context);
    planFor(call.problem)->run(call.operands, parallelFor(context));
  }

 private:
  struct Plan {
    Problem problem;
    cpu::Attention attention;
  };

  std::shared_ptr<const cpu::Attention> planFor(const Problem& problem) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!plan_ || !same(plan_->problem, problem)) {
      plan_.reset(new Plan{problem, cpu::Attention(problem)});
    }
    return {plan_, &plan_->attention};
  }

  // The session's own threads.
  static cpu::ParallelFor parallelFor(OrtKernelContext* context) {
    return [context](size_t count, const std::function<void(size_t)>& task) {
      if (count == 1) return task(0);
      struct Job {
        const std::function<void(size_t)>* task;
        std::atomic<bool> failed{false};
      } job{&task};
      const auto run = [](void* data, size_t index) {
        Job& job = *static_cast<Job*>(data);
        try {
          (*job.task)(index);
        } catch (...) {  // nothing may leave a thread of the runtime
          job.failed = true;
        }
      };
      check(api().KernelContext_ParallelFor(context, run, count, count, &job));
      if (job.failed) throw std::bad_alloc();
    };
  }

  Node node_;
  std::mutex mutex_;
  std::shared_ptr<Plan> plan_;
};

}  // namespace

std::vector<Operator> cpuOperators() {
  std::vector<Operator> operators;
  for (const Layout layout : {Layout::kPacked, Layout::kSplit}) {
    for (const DataType type : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
      Operator op = describe(layout, type, "CPUExecutionProvider");
      op.CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info,
                             void** kernel) {
        return guarded([&] { *kernel = new CpuKernel(info, *static_cast<const Operator*>(op)); });
      };
      op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
        return guarded([&] { static_cast<CpuKernel*>(kernel)->compute(context); });
      };
      op.KernelDestroy = [](void* kernel) { delete static_cast<CpuKernel*>(kernel); };
      operators.push_back(op);
    }
  }
  return operators;
}

}  // namespace dinat::ort
