#include "classifier.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "elements.h"
#include "error.h"

namespace dinat {
namespace {

size_t elementsOf(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), size_t{1},
                         [](size_t product, int64_t size) { return product * size; });
}

bool within(const Shape& shape, const ShapeRange& range) {
  if (range.least.size() != shape.size() || range.largest.size() != shape.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < range.least[i] || shape[i] > range.largest[i]) return false;
  }
  return true;
}

}  // namespace

std::vector<Prediction> best(const float* logits, int classes, int count) {
  if (!std::all_of(logits, logits + classes, [](float x) { return std::isfinite(x); })) {
    throw Error("The engine returned logits that are not finite numbers.",
                "Compare it with PyTorch: `dinat-deploy verify`.");
  }
  const double largest = *std::max_element(logits, logits + classes);
  std::vector<Prediction> all(classes);
  double total = 0.0;
  for (int i = 0; i < classes; ++i) {
    all[i] = {i, std::exp(logits[i] - largest)};
    total += all[i].probability;
  }
  for (Prediction& one : all) one.probability /= total;
  std::stable_sort(all.begin(), all.end(), [](const Prediction& a, const Prediction& b) {
    return a.probability > b.probability;
  });
  all.resize(std::min(count, classes));
  return all;
}

Classifier::Classifier(const Gpu& gpu, Engine& engine, const std::string& input,
                       const std::string& output, int batch, int pictures, const Shape& picture)
    : engine_(engine),
      stream_(gpu),
      begin_(gpu),
      copied_(gpu),
      computed_(gpu),
      end_(gpu),
      input_(input),
      output_(output) {
  setShape(tensor(input, true), batch, pictures, picture);
  tensor(output, false);
  for (const TensorInfo& info : engine.tensors()) {
    const Shape shape = engine.shape(info.name);
    const bool pixels = info.type == ElementType::kUint8;
    if (info.type == ElementType::kOther || (info.input && info.name != input) ||
        (pixels && !info.input) ||
        std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size < 0; })) {
      throw Error("The engine's tensor " + info.name + " (" + text(shape) + ") is none of a " +
                      "classifier: they are float32, float16 or bfloat16, and there is one input, "
                      "which may be uint8.",
                  "Build the engine from a model that was exported with --task classification.");
    }
    const Buffer& buffer =
        buffers_.try_emplace(info.name, gpu, elementsOf(shape) * bytesOf(info.type)).first->second;
    engine.setAddress(info.name, buffer.device());
  }
  classes_ = static_cast<int>(elementsOf(engine.shape(output)) / batch_);
}

const TensorInfo& Classifier::tensor(const std::string& name, bool input) const {
  std::string others;
  for (const TensorInfo& info : engine_.tensors()) {
    if (info.input != input) continue;
    if (info.name == name) return info;
    others += (others.empty() ? "" : ", ") + info.name;
  }
  throw Error("The engine has no " + std::string(input ? "input " : "output ") + name +
                  ", as model.json calls it; it has " + others + ".",
              "Name the engine's own bundle with --bundle.");
}

void Classifier::setShape(const TensorInfo& input, int batch, int pictures, const Shape& picture) {
  if (input.shape.size() != picture.size() + 1) {
    throw Error("The engine's input " + input.name + " is " + text(input.shape) +
                    ", which is no batch of pictures.",
                "Name the engine's own bundle with --bundle.");
  }
  const bool dynamic = input.shape[0] < 0;
  if (batch == 0 && !dynamic) batch = static_cast<int>(input.shape[0]);
  if (batch == 0) {
    const ShapeRange range = engine_.range(input.name, 0);
    batch = static_cast<int>(std::clamp<int64_t>(pictures, range.least[0], range.largest[0]));
  }
  Shape shape = {batch};
  shape.insert(shape.end(), picture.begin(), picture.end());
  for (size_t i = 0; i < shape.size(); ++i) {
    if (input.shape[i] >= 0 && input.shape[i] != shape[i]) {
      throw Error("The engine takes " + input.name + " of shape " + text(input.shape) + ", and " +
                      text(shape) + " is asked for.",
                  i == 0 ? "Use its own --batch." : "Name the engine's own bundle with --bundle.");
    }
  }
  const bool any =
      std::any_of(input.shape.begin(), input.shape.end(), [](int64_t n) { return n < 0; });
  if (any && !chooseProfile(input.name, shape)) {
    std::string covered;
    for (int profile = 0; profile < engine_.profiles(); ++profile) {
      const ShapeRange range = engine_.range(input.name, profile);
      covered += (covered.empty() ? "" : " or ") + text(range.least) + " to " + text(range.largest);
    }
    throw Error("The engine was built for " + input.name + " of shapes " + covered + ", and " +
                    text(shape) + " is asked for.",
                "Use another --batch, or build it with a --profile for this shape.");
  }
  engine_.setShape(input.name, shape);
  batch_ = batch;
}

// False if no profile covers the shape.
bool Classifier::chooseProfile(const std::string& input, const Shape& shape) {
  for (int profile = 0; profile < engine_.profiles(); ++profile) {
    if (!within(shape, engine_.range(input, profile))) continue;
    engine_.chooseProfile(profile, stream_.get());
    stream_.wait();
    return true;
  }
  return false;
}

void Classifier::load(const std::vector<uint8_t>& pixels) {
  std::memcpy(buffers_.at(input_).host(), pixels.data(), pixels.size());
}

void Classifier::load(const std::vector<float>& normalized) {
  fromFloats(normalized.data(), normalized.size(), tensor(input_, true).type,
             buffers_.at(input_).host());
}

std::vector<float> Classifier::run(int warm_up, int iterations, std::vector<Timing>& timings) {
  for (int i = 0; i < warm_up; ++i) runOnce();
  for (int i = 0; i < iterations; ++i) {
    runOnce();
    timings.push_back({copied_.millisecondsSince(begin_), computed_.millisecondsSince(copied_),
                       end_.millisecondsSince(computed_)});
  }
  std::vector<float> logits(static_cast<size_t>(batch_) * classes_);
  toFloats(buffers_.at(output_).host(), logits.size(), tensor(output_, false).type, logits.data());
  return logits;
}

void Classifier::runOnce() {
  begin_.record(stream_);
  buffers_.at(input_).toDevice(stream_.get());
  copied_.record(stream_);
  engine_.enqueue(stream_.get());
  computed_.record(stream_);
  buffers_.at(output_).toHost(stream_.get());
  end_.record(stream_);
  stream_.wait();
}

}  // namespace dinat
