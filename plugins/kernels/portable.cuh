// The portable kernel: any window, head dim, type and GPU, by ordinary float32 arithmetic.
//
// A power of two of lanes shares one (token, head); each lane owns eight of its channels, in
// registers. Scores are summed across the lanes by shuffles, and the softmax runs along: the
// weights so far are rescaled when a larger score appears. Four keys at a time, so that eight loads
// are under way and one rescaling serves four.
#pragma once

#include "kernels/device.cuh"
#include "kernels/parameters.h"
#include "kernels/portable_shape.h"

namespace dinat::cuda {

// The channels of one lane. kVectors: contiguous, moved 16 bytes at a time (head dim and strides
// allow it); otherwise interleaved with those of the other lanes and moved one by one.
template <class T, bool kVectors>
struct Channels {
  int32_t first;
  int32_t step;
  int32_t count;  // of the head

  DINAT_DEVICE void load(float (&out)[kLaneChannels], const T* head) const {
    if constexpr (kVectors) {
      constexpr int kWords = 16 / sizeof(T) == 4 ? 2 : 1;
      DINAT_UNROLL
      for (int i = 0; i < kLaneChannels; ++i) out[i] = 0.0f;
      if (first >= count) return;
      DINAT_UNROLL
      for (int part = 0; part < kWords; ++part) {
        const device::Vector16 vector =
            device::loadGlobal16(head + first + part * (kLaneChannels / kWords));
        DINAT_UNROLL
        for (int word = 0; word < 4; ++word) {
          if constexpr (sizeof(T) == 4) {
            out[4 * part + word] = device::asFloat(vector.word[word]);
          } else {
            out[2 * word] = device::unpackLow<T>(vector.word[word]);
            out[2 * word + 1] = device::unpackHigh<T>(vector.word[word]);
          }
        }
      }
    } else {
      DINAT_UNROLL
      for (int i = 0; i < kLaneChannels; ++i) {
        const int32_t channel = first + i * step;
        out[i] = channel < count ? device::load(head + channel) : 0.0f;
      }
    }
  }

  DINAT_DEVICE void store(T* head, const float (&values)[kLaneChannels]) const {
    if constexpr (kVectors) {
      if (first >= count) return;
      if constexpr (sizeof(T) == 4) {
        DINAT_UNROLL
        for (int part = 0; part < 2; ++part) {
          device::Vector16 vector;
          DINAT_UNROLL
          for (int i = 0; i < 4; ++i) vector.word[i] = device::asBits(values[4 * part + i]);
          device::storeGlobal16(head + first + 4 * part, vector);
        }
      } else {
        device::Vector16 vector;
        DINAT_UNROLL
        for (int i = 0; i < 4; ++i) {
          vector.word[i] = device::pack2<T>(values[2 * i], values[2 * i + 1]);
        }
        device::storeGlobal16(head + first, vector);
      }
    } else {
      DINAT_UNROLL
      for (int i = 0; i < kLaneChannels; ++i) {
        const int32_t channel = first + i * step;
        if (channel < count) device::store(head + channel, values[i]);
      }
    }
  }
};

// <query, key> over the channels that belong to other slices of a head of more than 256.
template <class T>
DINAT_DEVICE float otherSlices(const T* query, const T* key, int32_t head_dim, int32_t own_slice,
                               int32_t lane) {
  float sum = 0.0f;
  for (int32_t channel = lane; channel < head_dim; channel += 32) {
    if (channel / kSliceChannels != own_slice) {
      sum = fmaf(device::load(query + channel), device::load(key + channel), sum);
    }
  }
  return sum;
}

// Walks the keys of a window row by row. The same for all threads, so that it costs them little.
struct WindowWalk {
  int64_t offset = 0;       // from the window's first key, in elements
  int64_t bias_offset = 0;  // from its entry in the table
  int32_t column = 0;

  DINAT_DEVICE void next(const PortableParameters& p) {
    const bool wraps = column + 1 == p.kernel_size[1];
    offset += wraps ? p.next_key_row : p.next_key;
    bias_offset += wraps ? p.kernel_size[1] : 1;  // the table has 2 * kernel_size - 1 columns
    column = wraps ? 0 : column + 1;
  }
};

template <class T, bool kVectors>
DINAT_KERNEL(kPortableThreads, 2)
portableKernel(DINAT_PARAMETER PortableParameters p) {
  constexpr int kKeys = 4;  // at a time
  constexpr float kLog2e = 1.4426950408889634f;
  constexpr float kLowest = -3.402823466e38f;  // finite, so that lowest - lowest is no NaN
  const int thread = static_cast<int>(device::threadIndex());
  const int lane = thread & ((1 << p.lanes_log2) - 1);
  uint32_t item = device::blockIndexX() * (device::blockSize() >> p.lanes_log2) +
                  static_cast<uint32_t>(thread >> p.lanes_log2);
  // Lanes past the end repeat the last item, because all must meet at the shuffles.
  const bool live = item < p.items;
  if (!live) item = p.items - 1;
  const int32_t slice = static_cast<int32_t>(p.slices.split(&item));
  const int64_t head = p.heads.split(&item);
  int32_t token[2];
  token[1] = static_cast<int32_t>(p.columns.split(&item));
  token[0] = static_cast<int32_t>(p.rows.split(&item)) + p.first_row;
  const int64_t image = item;

  int32_t first_key[2];  // token
  int32_t first_bias[2];
  for (int axis = 0; axis < 2; ++axis) {
    uint32_t position = static_cast<uint32_t>(token[axis]);
    const int32_t group = static_cast<int32_t>(p.dilation[axis].split(&position));
    const int32_t member = static_cast<int32_t>(position);
    const int32_t dilation = static_cast<int32_t>(p.dilation[axis].divisor);
    const int32_t members = static_cast<int32_t>(p.dilation[axis].quotient(
                                static_cast<uint32_t>(p.size[axis] - group - 1))) +
                            1;
    const int32_t start = windowStart(member, members, p.kernel_size[axis]);
    first_key[axis] = start * dilation + group;
    first_bias[axis] = start - member + p.kernel_size[axis] - 1;
  }

  const int64_t base = image * p.input_batch + head * p.input_head;
  const T* query =
      static_cast<const T*>(p.query) + base + token[0] * p.input_row + token[1] * p.input_column;
  const int64_t first = base + first_key[0] * p.input_row + first_key[1] * p.input_column;
  const T* keys = static_cast<const T*>(p.key) + first;
  const T* values = static_cast<const T*>(p.value) + first;
  const int64_t bias_columns = 2 * static_cast<int64_t>(p.kernel_size[1]) - 1;
  const int64_t bias_rows = 2 * static_cast<int64_t>(p.kernel_size[0]) - 1;
  const T* bias = static_cast<const T*>(p.rpb);
  if (bias) bias += (head * bias_rows + first_bias[0]) * bias_columns + first_bias[1];
  WindowWalk walk;

  const Channels<T, kVectors> channels{
      slice * kSliceChannels + (kVectors ? lane * kLaneChannels : lane), 1 << p.lanes_log2,
      smaller(p.head_dim, (slice + 1) * kSliceChannels)};
  float scaled_query[kLaneChannels];
  channels.load(scaled_query, query);
  DINAT_UNROLL
  for (int i = 0; i < kLaneChannels; ++i) scaled_query[i] *= p.scale;

  float maximum = kLowest;
  float sum = 0.0f;
  float result[kLaneChannels] = {};
  const int64_t count = static_cast<int64_t>(p.kernel_size[0]) * p.kernel_size[1];
  for (int64_t done = 0; done < count; done += kKeys) {
    int64_t offset[kKeys];
    float score[kKeys];
    float entry[kKeys];
    DINAT_UNROLL
    for (int u = 0; u < kKeys; ++u) {
      offset[u] = walk.offset;
      entry[u] = bias ? device::load(bias + walk.bias_offset) * kLog2e : 0.0f;
      // Past the window's end the last key is repeated, with a weight of zero.
      if (done + u >= count) entry[u] = -device::kInfinity;
      if (done + u + 1 < count) walk.next(p);
    }
    DINAT_UNROLL
    for (int u = 0; u < kKeys; ++u) {
      float key[kLaneChannels];
      channels.load(key, keys + offset[u]);
      float dot = 0.0f;
      DINAT_UNROLL
      for (int i = 0; i < kLaneChannels; ++i) dot = fmaf(scaled_query[i], key[i], dot);
      if constexpr (!kVectors) {
        if (p.slices.divisor > 1) {
          dot = fmaf(otherSlices(query, keys + offset[u], p.head_dim, slice, lane), p.scale, dot);
        }
      }
      score[u] = dot;
    }
    for (int mask = 1; mask < 1 << p.lanes_log2; mask *= 2) {
      DINAT_UNROLL
      for (int u = 0; u < kKeys; ++u) score[u] += device::shuffleXor(score[u], mask);
    }
    float larger = maximum;
    DINAT_UNROLL
    for (int u = 0; u < kKeys; ++u) {
      score[u] += entry[u];
      larger = fmaxf(larger, score[u]);
    }
    const float rescale = device::exp2Approximate(maximum - larger);
    maximum = larger;
    sum *= rescale;
    DINAT_UNROLL
    for (int i = 0; i < kLaneChannels; ++i) result[i] *= rescale;
    DINAT_UNROLL
    for (int u = 0; u < kKeys; ++u) {
      float value[kLaneChannels];
      channels.load(value, values + offset[u]);
      const float weight = device::exp2Approximate(score[u] - maximum);
      sum += weight;
      DINAT_UNROLL
      for (int i = 0; i < kLaneChannels; ++i) result[i] = fmaf(weight, value[i], result[i]);
    }
  }

  const float inverse = 1.0f / sum;
  DINAT_UNROLL
  for (int i = 0; i < kLaneChannels; ++i) result[i] *= inverse;
  if (live) {
    channels.store(static_cast<T*>(p.output) + image * p.output_batch + token[0] * p.output_row +
                       token[1] * p.output_column + head * p.output_head,
                   result);
  }
}

}  // namespace dinat::cuda
