// What TensorRT's Python bindings import beside the runtime, and the test does not use.
#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void* createInferBuilder_INTERNAL(void*, int) { return nullptr; }
EXPORT void* createInferRefitter_INTERNAL(void*, void*, int) { return nullptr; }
EXPORT void* createNvOnnxParser_INTERNAL(void*, void*, int) { return nullptr; }
EXPORT void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) { return nullptr; }
EXPORT void* getBuilderPluginRegistry(int) { return nullptr; }
EXPORT void* getPluginRegistry() { return nullptr; }
EXPORT int getNvOnnxParserVersion() { return 0; }
EXPORT bool initLibNvInferPlugins(void*, const char*) { return true; }
