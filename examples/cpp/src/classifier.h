// Runs an engine on batches of pictures.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cuda.h"
#include "tensorrt.h"

namespace dinat {

// One run, in milliseconds: the GPU's clock between points of the stream.
struct Timing {
  double to_device;
  double compute;
  double to_host;

  double latency() const { return to_device + compute + to_host; }
};

struct Prediction {
  int index;
  double probability;  // softmax, 0..1
};

// The best classes of one row of logits, best first. Throws Error for logits that are no numbers.
std::vector<Prediction> best(const float* logits, int classes, int count);

class Classifier {
 public:
  // `input` and `output`: names of the tensors. `batch`: pictures of a run; 0 chooses it for
  // `pictures`, which are {channels, height, width}. Throws Error if the engine does not take them.
  Classifier(const Gpu& gpu, Engine& engine, const std::string& input, const std::string& output,
             int batch, int pictures, const Shape& picture);

  int batch() const { return batch_; }
  int classes() const { return classes_; }

  // Whether the engine normalises pictures itself.
  bool takesPixels() const { return tensor(input_, true).type == ElementType::kUint8; }

  // Puts pictures [batch, channels, height, width] in place: pixels for an engine that takes them,
  // normalised ones for others.
  void load(const std::vector<uint8_t>& pixels);
  void load(const std::vector<float>& normalized);

  // Logits [batch, classes] of the pictures in place. Runs `warm_up` times without and `iterations`
  // times with timing; the last run counts.
  std::vector<float> run(int warm_up, int iterations, std::vector<Timing>& timings);

 private:
  const TensorInfo& tensor(const std::string& name, bool input) const;
  void setShape(const TensorInfo& input, int batch, int pictures, const Shape& picture);
  bool chooseProfile(const std::string& input, const Shape& shape);
  void runOnce();

  Engine& engine_;
  Stream stream_;
  Event begin_, copied_, computed_, end_;
  int batch_ = 0;
  int classes_ = 0;
  std::string input_;
  std::string output_;
  std::map<std::string, Buffer> buffers_;  // one for each tensor
};

}  // namespace dinat
