// TensorRT as this program sees it: a library that is loaded when the program runs, 10, 11 or
// TensorRT-RTX, and an engine that it makes of a plan.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

struct CUstream_st;

namespace dinat {

using Shape = std::vector<int64_t>;  // -1: not known before an input shape is set

std::string text(const Shape& shape);  // like 1x3x224x224

enum class ElementType { kFloat32, kFloat16, kBfloat16, kUint8, kOther };

struct TensorInfo {
  std::string name;
  bool input;
  ElementType type;
  Shape shape;
};

// The least and the largest shape of an input that a profile covers.
struct ShapeRange {
  Shape least;
  Shape largest;
};

// A loaded plan and one context to run it in. What fails throws Error with TensorRT's own words.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  virtual int profiles() const = 0;
  virtual ShapeRange range(const std::string& input, int profile) const = 0;
  virtual void chooseProfile(int profile, CUstream_st* stream) = 0;
  virtual void setShape(const std::string& input, const Shape& shape) = 0;
  virtual Shape shape(const std::string& tensor) const = 0;  // after input shapes are set
  virtual void setAddress(const std::string& tensor, void* device_memory) = 0;
  virtual void enqueue(CUstream_st* stream) = 0;
};

// How a plan is loaded.
struct LoadOptions {
  std::string plugin;  // library to load before; empty for none
  bool host_code_allowed = false;
  std::optional<int> dla_core;  // of a Jetson's deep learning accelerator
  bool verbose = false;         // TensorRT's informational messages to stderr
};

// One TensorRT library.
class TensorRt {
 public:
  // `file`: path or name of the library. Throws Error if it cannot be loaded or is no TensorRT.
  explicit TensorRt(const std::string& file);

  // The library for an engine's manifest; with no flavor, the first that is found.
  static TensorRt find(const std::string& flavor, const std::string& version);

  const std::string& flavor() const { return flavor_; }    // tensorrt or tensorrt-rtx
  const std::string& version() const { return version_; }  // like 10.3.0.26
  std::string title() const;                               // like TensorRT 10.3.0.26

  // Throws Error if TensorRT refuses the plan or the plugin.
  std::unique_ptr<Engine> load(const std::vector<uint8_t>& plan, const LoadOptions& options) const;

 private:
  void* library_;  // stays loaded until the process ends, as TensorRT's threads may
  std::string flavor_;
  std::string version_;
  bool before_11_;
};

}  // namespace dinat
