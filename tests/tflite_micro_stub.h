// The part of TensorFlow Lite Micro's interface that a bundle's main.cc uses, for its test: the
// interpreter answers with the logits that the bundle expects of its self-test, twice, then fails.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "model_io.h"

#define TFLITE_SCHEMA_VERSION 3
#define MicroPrintf(...) (std::printf(__VA_ARGS__), std::printf("\n"))

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
struct TfLiteTensor {
  union {
    std::int8_t* int8;
  } data;
};

namespace tflite {
struct Model {
  const unsigned char* bytes;
  std::uint32_t version() const { return bytes[4] == 'T' ? 3 : 0; }
};
inline const Model* GetModel(const void* bytes) {
  static Model model;
  model.bytes = static_cast<const unsigned char*>(bytes);
  return &model;
}
inline void InitializeTarget() {}

template <unsigned int count>
class MicroMutableOpResolver {
 public:
  TfLiteStatus AddConv2D() { return Add(); }
  TfLiteStatus AddFullyConnected() { return Add(); }
  TfLiteStatus AddMaxPool2D() { return Add(); }

 private:
  TfLiteStatus Add() { return ++registered_ <= count ? kTfLiteOk : kTfLiteError; }
  unsigned int registered_ = 0;
};

class MicroInterpreter {
 public:
  template <typename Operators>
  MicroInterpreter(const Model*, const Operators&, std::uint8_t*, std::size_t arena)
      : arena_(arena) {}
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  std::size_t arena_used_bytes() const { return arena_; }
  TfLiteTensor* input(std::size_t) { return &input_; }
  TfLiteTensor* output(std::size_t) { return &output_; }
  TfLiteStatus Invoke() {
    for (int each = 0; each < kClasses; ++each) logits_[each] = kSelfTestLogits[each];
    return ++calls_ <= 2 ? kTfLiteOk : kTfLiteError;
  }

 private:
  std::size_t arena_;
  int calls_ = 0;
  std::int8_t pixels_[kInputBytes] = {};
  std::int8_t logits_[kClasses] = {};
  TfLiteTensor input_ = {{pixels_}};
  TfLiteTensor output_ = {{logits_}};
};
}  // namespace tflite
