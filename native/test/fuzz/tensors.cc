// Reads random tensor entries, good and bad ones, from small files: every entry must give a tensor whose elements lie
// inside its file, or an error. Built with sanitizers, which see what the checks miss, and run by fuzz/native.mjs:
//
//   fuzz_tensors [seconds] [seed]
#include <ATen/core/Tensor.h>
#include <ATen/ops/sum.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/checkpoint/joined_tensor.h"
#include "core/checkpoint/mapped_file.h"

namespace {

using neox::TensorEntry;

// Sizes around a page, because memory behind the last page of a mapping cannot be read.
constexpr uint64_t kFileSizes[] = {0, 1, 7, 64, 1000, 4095, 4096, 4097, 12288};
constexpr int64_t kEdges[] = {0,
                              1,
                              -1,
                              2,
                              int64_t{1} << 31,
                              int64_t{1} << 32,
                              int64_t{1} << 62,
                              std::numeric_limits<int64_t>::max(),
                              std::numeric_limits<int64_t>::min()};
constexpr at::ScalarType kTypes[] = {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kByte, at::kLong};

class Fuzz {
 public:
  Fuzz(std::string folder, uint64_t seed) : random_(seed) {
    for (const uint64_t size : kFileSizes) {
      files_.push_back(folder + "/" + std::to_string(size) + ".bin");
      std::ofstream(files_.back(), std::ios::binary) << std::string(size, '\x3c');
    }
  }
  ~Fuzz() {
    for (const std::string& file : files_) std::remove(file.c_str());
  }
  Fuzz(const Fuzz&) = delete;
  Fuzz& operator=(const Fuzz&) = delete;

  void step() {
    ++runs;
    const TensorEntry entry = chance(3) ? joined() : single();
    try {
      // Elements can outnumber the bytes of a file where strides are 0; the caller refuses that, and memory is not what
      // is tested.
      if (!is_small(entry)) {
        neox::map_tensor(entry.joined ? entry.pieces.front() : entry);
        return;
      }
      const at::Tensor tensor = neox::read_tensor(entry, chance(2)   ? at::kFloat
                                                         : chance(2) ? at::kHalf
                                                                     : at::kBFloat16);
      ++accepted;
      // Touches every element.
      sum += tensor.to(at::kDouble).sum().item<double>();
    } catch (const neox::CoreError&) {
      ++refused;
    } catch (const c10::Error&) {
      ++refused_by_libtorch;
    }
  }

  uint64_t runs = 0;
  uint64_t accepted = 0;
  uint64_t refused = 0;
  uint64_t refused_by_libtorch = 0;
  double sum = 0;

 private:
  uint64_t below(uint64_t bound) { return random_() % bound; }
  bool chance(uint64_t one_in) { return below(one_in) == 0; }

  static bool is_small(const TensorEntry& entry) {
    double elements = 1;
    for (const int64_t size : entry.shape)
      elements *= static_cast<double>(std::max<int64_t>(
          size == std::numeric_limits<int64_t>::min() ? std::numeric_limits<int64_t>::max() : std::abs(size), 1));
    return elements < 1e6 && std::all_of(entry.pieces.begin(), entry.pieces.end(), is_small);
  }

  int64_t edge() { return kEdges[below(std::size(kEdges))]; }

  TensorEntry single() {
    TensorEntry entry;
    entry.name = "t";
    const uint64_t file = below(files_.size());
    entry.file = files_[file];
    entry.dtype = kTypes[below(std::size(kTypes))];
    const uint64_t rank = below(5);
    for (uint64_t d = 0; d < rank; ++d) entry.shape.push_back(chance(20) ? edge() : static_cast<int64_t>(below(10)));
    if (chance(2)) {
      for (uint64_t d = 0; d < rank; ++d) entry.stride.push_back(chance(20) ? edge() : static_cast<int64_t>(below(40)));
      if (chance(30)) entry.stride.push_back(1);
    }
    entry.offset = chance(20) ? static_cast<uint64_t>(edge()) : below(kFileSizes[file] + 2);
    entry.byte_length =
        chance(10) ? static_cast<uint64_t>(edge()) : kFileSizes[file] - std::min(entry.offset, kFileSizes[file]);
    return entry;
  }

  TensorEntry joined() {
    TensorEntry entry = single();
    entry.joined = true;
    entry.axis = chance(20) ? edge() : static_cast<int64_t>(below(4));
    const uint64_t count = 1 + below(3);
    const TensorEntry first = single();
    for (uint64_t i = 0; i < count; ++i) {
      TensorEntry piece = chance(10) ? single() : first;
      piece.dtype = entry.dtype;
      const auto axis = static_cast<size_t>(entry.axis);
      if (axis < piece.shape.size() && chance(2))
        piece.shape[axis] = chance(10) ? edge() : static_cast<int64_t>(below(6));
      entry.pieces.push_back(piece);
    }
    if (chance(4)) return entry;
    // A shape that fits, most of the time.
    int64_t elements = 0;
    for (const TensorEntry& piece : entry.pieces) {
      int64_t product = 1;
      for (const int64_t size : piece.shape) product = size > -100 && size < 100 ? product * size : 0;
      elements += product;
    }
    entry.shape = {elements};
    if (chance(4)) entry.scale = 2.0;
    return entry;
  }

  std::mt19937_64 random_;
  std::vector<std::string> files_;
};

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  char folder[] = "/tmp/neox-fuzz-XXXXXX";
  if (::mkdtemp(folder) == nullptr) return 2;
  {
    Fuzz fuzz(folder, seed);
    const auto start = std::chrono::steady_clock::now();
    while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) fuzz.step();
    const auto count = [](uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf("%llu entries: %llu read (sum %g), %llu refused, %llu refused by libtorch\n", count(fuzz.runs),
                count(fuzz.accepted), fuzz.sum, count(fuzz.refused), count(fuzz.refused_by_libtorch));
  }
  std::remove(folder);
  return 0;
}
