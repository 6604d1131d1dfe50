// Prints the binary interface that the plugin sees: sizes, offsets, values of enumerations, names
// and versions of interfaces. Compiled with our header and with TensorRT's, the output must agree;
// so must the virtual tables of the classes here (g++ -fdump-lang-class).
#include <cstddef>
#include <cstdio>

#include "tensorrt/creator.h"
#include "tensorrt/logger_abi.h"
#include "tensorrt/plugin.h"

namespace {

using namespace nvinfer1;

// The library's side of the interface, to see where its functions stand.
struct DimensionProbe : apiv::VDimensionExpr {
  bool isConstant() const override { return false; }
  int64_t getConstantValue() const override { return 0; }
  bool isSizeTensor() const override { return false; }
};

struct BuilderProbe : apiv::VExprBuilder {
  const IDimensionExpr* constant(int64_t) override { return nullptr; }
  const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&,
                                  const IDimensionExpr&) override {
    return nullptr;
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&,
                                          const IDimensionExpr&) override {
    return nullptr;
  }
};

// The data members of these are protected.
struct DimensionShell : IDimensionExpr {
  static size_t offset() { return offsetof(DimensionShell, mImpl); }
};

struct BuilderShell : IExprBuilder {
  static size_t offset() { return offsetof(BuilderShell, mImpl); }
};

// The loggers of logger_abi.h; which of them TensorRT has depends on its version.
struct LoggerBefore11 : dinat::tensorrt::before11::Logger {
  void log(dinat::tensorrt::Severity, const char*) noexcept override {}
};

struct LoggerFinderBefore11 : dinat::tensorrt::before11::LoggerFinder {
  dinat::tensorrt::before11::Logger* findLogger() override { return nullptr; }
};

struct LoggerSince11 : dinat::tensorrt::since11::Logger {
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
  void log(dinat::tensorrt::Severity, const char*) noexcept override {}
};

struct LoggerFinderSince11 : dinat::tensorrt::since11::LoggerFinder {
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILoggerFinder", 1, 0}; }
  dinat::tensorrt::since11::Logger* findLogger() override { return nullptr; }
};

#ifdef DINAT_TENSORRT_HEADERS
using dinat::tensorrt::Severity;
static_assert(static_cast<int>(Severity::kInternalError) ==
              static_cast<int>(ILogger::Severity::kINTERNAL_ERROR));
static_assert(static_cast<int>(Severity::kError) == static_cast<int>(ILogger::Severity::kERROR));
static_assert(static_cast<int>(Severity::kWarning) ==
              static_cast<int>(ILogger::Severity::kWARNING));
static_assert(static_cast<int>(Severity::kInfo) == static_cast<int>(ILogger::Severity::kINFO));

struct OfficialLogger : ILogger {
  void log(ILogger::Severity, const char*) noexcept override {}
};

struct OfficialLoggerFinder : ILoggerFinder {
  ILogger* findLogger() override { return nullptr; }
};
#endif

template <class Type>
void size(const char* name) {
  std::printf("sizeof %s %zu\n", name, sizeof(Type));
}

void version(const char* name, const InterfaceInfo& info) {
  std::printf("version %s '%s' %d %d\n", name, info.kind, info.major, info.minor);
}

#define SIZE(type) size<type>(#type)
#define OFFSET(type, member)                                                    \
  std::printf("member %s.%s %zu %zu\n", #type, #member, offsetof(type, member), \
              sizeof(type::member))
#define VALUE(value) std::printf("value %s %d\n", #value, static_cast<int>(value))

void printStructures() {
  SIZE(Dims);
  OFFSET(Dims, nbDims);
  OFFSET(Dims, d);
  SIZE(PluginTensorDesc);
  OFFSET(PluginTensorDesc, dims);
  OFFSET(PluginTensorDesc, type);
  OFFSET(PluginTensorDesc, format);
  OFFSET(PluginTensorDesc, scale);
  SIZE(DynamicPluginTensorDesc);
  OFFSET(DynamicPluginTensorDesc, desc);
  OFFSET(DynamicPluginTensorDesc, min);
  OFFSET(DynamicPluginTensorDesc, max);
  OFFSET(DynamicPluginTensorDesc, opt);
  SIZE(InterfaceInfo);
  OFFSET(InterfaceInfo, kind);
  OFFSET(InterfaceInfo, major);
  OFFSET(InterfaceInfo, minor);
  SIZE(PluginField);
  OFFSET(PluginField, name);
  OFFSET(PluginField, data);
  OFFSET(PluginField, type);
  OFFSET(PluginField, length);
  SIZE(PluginFieldCollection);
  OFFSET(PluginFieldCollection, nbFields);
  OFFSET(PluginFieldCollection, fields);
  SIZE(DimsExprs);
  OFFSET(DimsExprs, nbDims);
  OFFSET(DimsExprs, d);
  SIZE(DimensionShell);
  SIZE(BuilderShell);
  std::printf("offset IDimensionExpr.mImpl %zu\n", DimensionShell::offset());
  std::printf("offset IExprBuilder.mImpl %zu\n", BuilderShell::offset());
  SIZE(IVersionedInterface);
  SIZE(IPluginV3);
  SIZE(IPluginV3OneCore);
  SIZE(IPluginV3OneBuild);
  SIZE(IPluginV3OneRuntime);
  SIZE(IPluginCreatorV3One);
  SIZE(dinat::tensorrt::Plugin);
  SIZE(dinat::tensorrt::Creator);
}

void printValues() {
  VALUE(DataType::kFLOAT);
  VALUE(DataType::kHALF);
  VALUE(DataType::kINT8);
  VALUE(DataType::kINT32);
  VALUE(DataType::kBOOL);
  VALUE(DataType::kUINT8);
  VALUE(DataType::kFP8);
  VALUE(DataType::kBF16);
  VALUE(DataType::kINT64);
  VALUE(DataType::kINT4);
  VALUE(TensorFormat::kLINEAR);
  VALUE(TensorFormat::kCHW2);
  VALUE(TensorFormat::kHWC8);
  VALUE(TensorFormat::kCHW4);
  VALUE(APILanguage::kCPP);
  VALUE(APILanguage::kPYTHON);
  VALUE(DimensionOperation::kSUM);
  VALUE(DimensionOperation::kPROD);
  VALUE(DimensionOperation::kMAX);
  VALUE(DimensionOperation::kMIN);
  VALUE(DimensionOperation::kSUB);
  VALUE(DimensionOperation::kEQUAL);
  VALUE(DimensionOperation::kLESS);
  VALUE(DimensionOperation::kFLOOR_DIV);
  VALUE(DimensionOperation::kCEIL_DIV);
  VALUE(PluginFieldType::kFLOAT16);
  VALUE(PluginFieldType::kFLOAT32);
  VALUE(PluginFieldType::kFLOAT64);
  VALUE(PluginFieldType::kINT8);
  VALUE(PluginFieldType::kINT16);
  VALUE(PluginFieldType::kINT32);
  VALUE(PluginFieldType::kCHAR);
  VALUE(PluginFieldType::kDIMS);
  VALUE(PluginFieldType::kUNKNOWN);
  VALUE(PluginFieldType::kBF16);
  VALUE(PluginFieldType::kINT64);
  VALUE(PluginCapabilityType::kCORE);
  VALUE(PluginCapabilityType::kBUILD);
  VALUE(PluginCapabilityType::kRUNTIME);
  VALUE(TensorRTPhase::kBUILD);
  VALUE(TensorRTPhase::kRUNTIME);
  VALUE(IPluginV3OneBuild::kDEFAULT_FORMAT_COMBINATION_LIMIT);
  VALUE(Dims::MAX_DIMS);
}

void printVersions() {
  dinat::tensorrt::Creator creator(dinat::tensorrt::Layout::kPacked);
  dinat::tensorrt::Plugin plugin(dinat::tensorrt::Layout::kPacked, {}, "");
  version("creator", creator.getInterfaceInfo());
  version("plugin", static_cast<IPluginV3&>(plugin).getInterfaceInfo());
  version("core", static_cast<IPluginV3OneCore&>(plugin).getInterfaceInfo());
  version("build", static_cast<IPluginV3OneBuild&>(plugin).getInterfaceInfo());
  version("runtime", static_cast<IPluginV3OneRuntime&>(plugin).getInterfaceInfo());
  // A field by default, as TensorRT's code makes it.
  const PluginField field;
  VALUE(field.type);
  VALUE(field.length);
}

}  // namespace

int main() {
  SIZE(DimensionProbe);
  SIZE(BuilderProbe);
  printStructures();
  printValues();
  printVersions();
}
