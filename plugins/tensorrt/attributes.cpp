#include "tensorrt/attributes.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <sstream>

#include "common/problem.h"

namespace dinat::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

// One row for each attribute: how it arrives and where it goes.
struct Field {
  const char* name;
  PluginFieldType type;
  int32_t length;
  bool required;
  void* (*member)(Attributes&);
};

constexpr Field kFields[] = {
    {"num_heads", PluginFieldType::kINT32, 1, true,
     [](Attributes& a) -> void* { return &a.num_heads; }},
    {"head_dim", PluginFieldType::kINT32, 1, true,
     [](Attributes& a) -> void* { return &a.head_dim; }},
    {"kernel_size", PluginFieldType::kINT32, 2, true,
     [](Attributes& a) -> void* { return a.kernel_size; }},
    {"dilation", PluginFieldType::kINT32, 2, true,
     [](Attributes& a) -> void* { return a.dilation; }},
    {"scale", PluginFieldType::kFLOAT32, 1, true, [](Attributes& a) -> void* { return &a.scale; }},
    {"height", PluginFieldType::kINT32, 1, false,
     [](Attributes& a) -> void* { return &a.size[0]; }},
    {"width", PluginFieldType::kINT32, 1, false, [](Attributes& a) -> void* { return &a.size[1]; }},
};

// Fields of TensorRT's lookup and parser; they may come along and say nothing about the operator.
constexpr const char* kLookupFields[] = {"plugin_namespace", "plugin_version"};

// Where an engine keeps the layer's name, for messages at run time.
constexpr const char* kLayerField = "layer";

constexpr const char* kReexport = "; export the model again with dinat-deploy, or mend the node";

const char* typeName(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kFLOAT16:
      return "float16";
    case PluginFieldType::kFLOAT32:
      return "float32";
    case PluginFieldType::kFLOAT64:
      return "float64";
    case PluginFieldType::kINT8:
      return "int8";
    case PluginFieldType::kINT16:
      return "int16";
    case PluginFieldType::kINT32:
      return "int32";
    case PluginFieldType::kINT64:
      return "int64";
    default:
      return "unsupported type";
  }
}

// `2 int32 values`.
std::string describe(PluginFieldType type, int32_t length) {
  if (type == PluginFieldType::kCHAR) return "a string";
  return std::to_string(length) + " " + typeName(type) + (length == 1 ? " value" : " values");
}

const Field* find(const char* name) {
  const auto same = [name](const Field& field) { return std::strcmp(field.name, name) == 0; };
  const auto* found = std::find_if(std::begin(kFields), std::end(kFields), same);
  return found == std::end(kFields) ? nullptr : found;
}

bool isLookupField(const char* name) {
  return std::any_of(std::begin(kLookupFields), std::end(kLookupFields),
                     [name](const char* known) { return std::strcmp(known, name) == 0; });
}

std::string knownNames() {
  std::string names;
  for (const Field& field : kFields) names += (names.empty() ? "" : ", ") + std::string(field.name);
  return names;
}

// `[7, 7]`.
template <class Value>
std::string pair(const Value (&entries)[2]) {
  std::ostringstream text;
  text << '[' << entries[0] << ", " << entries[1] << ']';
  return text.str();
}

// What is wrong with values that arrived in the right form.
std::string faultOf(const Attributes& attributes, bool (&given)[std::size(kFields)]) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  for (size_t i = 0; i < std::size(kFields); ++i) {
    int32_t first;
    std::memcpy(&first, kFields[i].member(const_cast<Attributes&>(attributes)), sizeof first);
    if (!kFields[i].required && given[i] && first < 1) {
      return std::string("attribute ") + kFields[i].name + " is " + std::to_string(first) +
             "; expected at least 1, or no such attribute where the size is dynamic";
    }
  }
  // Sizes that are not static are checked when shapes are known.
  const Shape shape{1, attributes.size[0] > 0 ? attributes.size[0] : kLargest,
                    attributes.size[1] > 0 ? attributes.size[1] : kLargest, attributes.num_heads,
                    attributes.head_dim};
  const std::string fault =
      dinat::faultOf(shape, attributes.kernel_size, attributes.dilation, attributes.scale);
  if (!fault.empty()) return fault;
  const int64_t channels = static_cast<int64_t>(attributes.num_heads) * attributes.head_dim;
  if (channels > kLargest / 3) {
    return "num_heads " + std::to_string(attributes.num_heads) + " * head_dim " +
           std::to_string(attributes.head_dim) + " = " + std::to_string(channels) +
           " channels; expected at most " + std::to_string(kLargest / 3) + kReexport;
  }
  for (int axis = 0; axis < 2; ++axis) {
    if (attributes.kernel_size[axis] > kLargest / 2) {
      return "kernel_size is " + pair(attributes.kernel_size) + "; expected at most " +
             std::to_string(kLargest / 2) + kReexport;
    }
  }
  return {};
}

}  // namespace

const char* operatorName(Layout layout) {
  return layout == Layout::kPacked ? "NeighborhoodAttention2D" : "NeighborhoodAttention2DSplit";
}

const PluginFieldCollection& fieldNames() {
  static const std::vector<PluginField> names = [] {
    std::vector<PluginField> made;
    for (const Field& field : kFields) {
      made.emplace_back(field.name, nullptr, field.type, field.length);
    }
    return made;
  }();
  static const PluginFieldCollection collection{static_cast<int32_t>(names.size()), names.data()};
  return collection;
}

std::string parse(const PluginFieldCollection* fields, TensorRTPhase phase,
                  Attributes* attributes) {
  if (fields == nullptr || fields->nbFields < 0 ||
      (fields->nbFields > 0 && fields->fields == nullptr)) {
    return std::string("no attributes were given; expected ") + knownNames() + kReexport;
  }
  *attributes = {};
  bool given[std::size(kFields)] = {};
  for (int32_t i = 0; i < fields->nbFields; ++i) {
    const PluginField& got = fields->fields[i];
    if (got.name == nullptr) return std::string("an attribute has no name") + kReexport;
    const Field* expected = find(got.name);
    if (expected == nullptr) {
      if (phase == TensorRTPhase::kRUNTIME || isLookupField(got.name)) continue;
      return "attribute '" + std::string(got.name) + "' is unknown; expected " + knownNames() +
             kReexport;
    }
    const size_t row = static_cast<size_t>(expected - kFields);
    if (given[row]) return "attribute " + std::string(got.name) + " is given twice" + kReexport;
    if (got.type != expected->type || got.length != expected->length || got.data == nullptr) {
      return "attribute " + std::string(got.name) + " is " +
             describe(got.type, got.data == nullptr ? 0 : got.length) + "; expected " +
             describe(expected->type, expected->length) + kReexport;
    }
    // All attributes are of 32-bit types.
    std::memcpy(expected->member(*attributes), got.data, sizeof(int32_t) * expected->length);
    given[row] = true;
  }
  for (size_t row = 0; row < std::size(kFields); ++row) {
    if (kFields[row].required && !given[row]) {
      return "attribute " + std::string(kFields[row].name) + " is missing; expected " +
             describe(kFields[row].type, kFields[row].length) + kReexport;
    }
  }
  return faultOf(*attributes, given);
}

std::string toJson(const Attributes& attributes) {
  std::ostringstream text;
  text.precision(std::numeric_limits<float>::max_digits10);
  text << "{\"num_heads\": " << attributes.num_heads << ", \"head_dim\": " << attributes.head_dim
       << ", \"kernel_size\": " << pair(attributes.kernel_size)
       << ", \"dilation\": " << pair(attributes.dilation) << ", \"scale\": " << attributes.scale;
  if (attributes.size[0] > 0) text << ", \"height\": " << attributes.size[0];
  if (attributes.size[1] > 0) text << ", \"width\": " << attributes.size[1];
  text << '}';
  return text.str();
}

std::string storedLayer(const PluginFieldCollection& fields) {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    if (field.name != nullptr && std::strcmp(field.name, kLayerField) == 0 &&
        field.type == PluginFieldType::kCHAR && field.data != nullptr && field.length > 0) {
      return {static_cast<const char*>(field.data), static_cast<size_t>(field.length)};
    }
  }
  return {};
}

StoredFields::StoredFields(const Attributes& attributes, const std::string& layer)
    : attributes_(attributes), layer_(layer) {
  for (const Field& field : kFields) {
    void* const member = field.member(attributes_);
    int32_t first;
    std::memcpy(&first, member, sizeof first);
    if (!field.required && first == 0) continue;
    fields_.emplace_back(field.name, member, field.type, field.length);
  }
  if (!layer_.empty()) {
    fields_.emplace_back(kLayerField, layer_.data(), PluginFieldType::kCHAR,
                         static_cast<int32_t>(layer_.size()));
  }
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

}  // namespace dinat::tensorrt
