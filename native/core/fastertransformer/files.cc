#include "core/fastertransformer/files.h"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "core/base/error.h"
#include "core/checkpoint/convert_elements.h"

namespace neox {
namespace {

constexpr int64_t kPieceBytes = int64_t{16} << 20;  // of a file, computed and then written in one call
constexpr size_t kManyFiles = 32;
constexpr int64_t kTile = 64;  // rows and columns transposed at a time: two tiles stay in the L1 cache

[[noreturn]] void fail_io(const std::string& path, const char* what) {
  throw CoreError("NEOX_IO", std::string("Could not ") + what + " " + path + ": " + std::strerror(errno));
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, const char* what)
      : path_(path), fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail_io(path, what);
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }

  void write_all(const char* data, int64_t bytes) {
    const off_t begin = ::lseek(fd_, 0, SEEK_CUR);
    int64_t done = 0;
    while (done < bytes) {
      const ssize_t n = ::write(fd_, data + done, static_cast<size_t>(bytes - done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_io(path_, "write");
      done += n;
    }
    // Lets the disk start now, so that sync_ft_files finds little left to do. Not every file system can: no error.
    ::sync_file_range(fd_, begin, bytes, SYNC_FILE_RANGE_WRITE);
  }

  void read_all(char* data, int64_t bytes) {
    int64_t done = 0;
    while (done < bytes) {
      const ssize_t n = ::read(fd_, data + done, static_cast<size_t>(bytes - done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_io(path_, "read");
      if (n == 0) throw CoreError("NEOX_IO", "Could not read " + path_ + ": it became shorter while it was read");
      done += n;
    }
  }

  void close() {
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) fail_io(path_, "write");
  }

 private:
  std::string path_;
  int fd_;
};

// Memory that is kept from file to file, because fresh pages cost more than what is done with them.
class Buffer {
 public:
  void grow(int64_t bytes) {
    if (bytes <= size_) return;
    data_ = std::make_unique_for_overwrite<char[]>(static_cast<size_t>(bytes));
    size_ = bytes;
  }
  char* data() { return data_.get(); }

 private:
  std::unique_ptr<char[]> data_;
  int64_t size_ = 0;
};

// Freed with the thread, which lives for one export.
thread_local Buffer computed_buffer;
thread_local Buffer read_buffer;

struct Piece {
  const Gather& gather;
  ElementConverter* convert;
  int64_t source_item;  // bytes
  int64_t item;         // bytes of an element in the file

  const char* source_at(int64_t offset) const {
    return static_cast<const char*>(gather.source.const_data_ptr()) + offset * source_item;
  }
};

// target[begin, end) of the file's elements, for files that are a row of runs.
ConversionCounts fill_runs(const Piece& piece, int64_t begin, int64_t end, char* target) {
  ConversionCounts counts;
  const int64_t length = piece.gather.length;
  for (int64_t at = begin; at < end;) {
    const int64_t run = at / length, column = at % length;
    const int64_t n = std::min(length - column, end - at);
    counts += piece.convert(piece.source_at(piece.gather.offsets[run] + column), target + (at - begin) * piece.item, n);
    at += n;
  }
  return counts;
}

template <typename T>
void transpose_tile(const T* tile, int64_t rows, int64_t columns, T* target, int64_t target_stride) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t j = 0; j < rows; ++j) target[c * target_stride + j] = tile[j * kTile + c];
  }
}

// Rows [begin, end) of a transposed file into target, for the source rows [first, last) only.
template <typename T>
ConversionCounts fill_transposed(const Piece& piece, int64_t begin, int64_t end, int64_t first, int64_t last,
                                 T* target) {
  ConversionCounts counts;
  alignas(64) T tile[kTile * kTile];
  const auto stride = static_cast<int64_t>(piece.gather.offsets.size());
  for (int64_t j = first; j < last; j += kTile) {
    const int64_t rows = std::min(kTile, last - j);
    for (int64_t c = begin; c < end; c += kTile) {
      const int64_t columns = std::min(kTile, end - c);
      for (int64_t i = 0; i < rows; ++i) {
        counts += piece.convert(piece.source_at(piece.gather.offsets[j + i] + c), tile + i * kTile, columns);
      }
      transpose_tile(tile, rows, columns, target + (c - begin) * stride + j, stride);
    }
  }
  return counts;
}

// Gives the file's content in order, in pieces of about kPieceBytes: use(data, bytes).
template <typename Use>
FtCounts for_each_piece(const Gather& gather, at::ScalarType dtype, const FtProgress& progress, Use use) {
  const auto item = static_cast<int64_t>(c10::elementSize(dtype));
  const Piece piece{gather, element_converter(gather.source.scalar_type(), dtype),
                    static_cast<int64_t>(gather.source.element_size()), item};
  // A piece is a number of the file's rows: [length, offsets] when transposed, else single elements.
  const auto width = gather.transposed ? static_cast<int64_t>(gather.offsets.size()) : 1;
  const int64_t rows = gather.transposed ? gather.length : gather.elements();
  int64_t step = std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, width * item));
  if (gather.transposed && step > kTile) step -= step % kTile;
  step = std::min(step, std::max<int64_t>(1, rows));
  Buffer& buffer = computed_buffer;
  buffer.grow(step * width * item);
  std::atomic<int64_t> overflowed{0}, non_finite{0};
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(rows, begin + step);
    const auto add = [&](const ConversionCounts& counts) {
      overflowed += counts.overflowed;
      non_finite += counts.non_finite;
    };
    if (gather.transposed) {
      at::parallel_for(0, width, 4 * kTile, [&](int64_t first, int64_t last) {
        add(item == 2 ? fill_transposed(piece, begin, end, first, last, reinterpret_cast<uint16_t*>(buffer.data()))
                      : fill_transposed(piece, begin, end, first, last, reinterpret_cast<uint32_t*>(buffer.data())));
      });
    } else {
      at::parallel_for(begin, end, int64_t{1} << 16, [&](int64_t first, int64_t last) {
        add(fill_runs(piece, first, last, buffer.data() + (first - begin) * item));
      });
    }
    const int64_t bytes = (end - begin) * width * item;
    use(buffer.data(), bytes);
    progress(static_cast<uint64_t>(bytes));
  }
  return FtCounts{overflowed, non_finite};
}

float element_at(const char* data, int64_t index, at::ScalarType dtype) {
  if (dtype == at::kFloat) return reinterpret_cast<const float*>(data)[index];
  return static_cast<float>(reinterpret_cast<const c10::Half*>(data)[index]);
}

void compare_piece(const char* expected, const char* actual, int64_t bytes, at::ScalarType dtype,
                   FtComparison& result) {
  if (std::memcmp(expected, actual, static_cast<size_t>(bytes)) == 0) return;
  const auto item = static_cast<int64_t>(c10::elementSize(dtype));
  for (int64_t i = 0; i < bytes / item; ++i) {
    if (std::memcmp(expected + i * item, actual + i * item, static_cast<size_t>(item)) == 0) continue;
    const double difference = std::abs(static_cast<double>(element_at(expected, i, dtype)) -
                                       static_cast<double>(element_at(actual, i, dtype)));
    ++result.differing;
    result.max_abs_difference = std::max(result.max_abs_difference,
                                         std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
  }
}

void release_sources(const FtFile& file, const Gather& gather) {
  if (!file.sources.empty() && file.layout != FtLayout::bias) release_pages(gather.source);
}

}  // namespace

FtCounts write_ft_file(const FtFile& file, at::ScalarType dtype, const FtProgress& progress) {
  FtCounts counts;
  const Gather gather = checked_gather(file, dtype, counts);
  Descriptor out(file.path, O_WRONLY | O_CREAT | O_EXCL, "create");
  const FtCounts written =
      for_each_piece(gather, dtype, progress, [&](const char* data, int64_t bytes) { out.write_all(data, bytes); });
  out.close();
  release_sources(file, gather);
  if (file.layout != FtLayout::bias) return written;
  // A bias was converted when it was summed; an infinity that only the sum brought is an overflow as well.
  counts.overflowed = std::max(counts.overflowed, written.non_finite - counts.non_finite);
  return counts;
}

FtComparison compare_ft_file(const FtFile& file, at::ScalarType dtype, const FtProgress& progress) {
  FtComparison result;
  result.expected_bytes = static_cast<uint64_t>(file.elements) * c10::elementSize(dtype);
  struct stat status {};
  if (::stat(file.path.c_str(), &status) != 0) {
    if (errno != ENOENT) fail_io(file.path, "read");
    result.missing = true;
  } else {
    result.actual_bytes = static_cast<uint64_t>(status.st_size);
  }
  if (result.missing || result.actual_bytes != result.expected_bytes) {
    progress(result.expected_bytes);
    return result;
  }
  FtCounts counts;
  const Gather gather = checked_gather(file, dtype, counts);
  Descriptor in(file.path, O_RDONLY, "read");
  Buffer& actual = read_buffer;
  for_each_piece(gather, dtype, progress, [&](const char* expected, int64_t bytes) {
    actual.grow(bytes);
    in.read_all(actual.data(), bytes);
    compare_piece(expected, actual.data(), bytes, dtype, result);
  });
  release_sources(file, gather);
  return result;
}

void sync_ft_files(const std::vector<std::string>& paths, const std::string& directory) {
  const Descriptor folder(directory, O_RDONLY | O_DIRECTORY, "sync");
  // An export has hundreds of small files: one commit of the file system's journal instead of one for each of them.
  if (paths.size() > kManyFiles && ::syncfs(folder.get()) == 0) return;
  for (const std::string& path : paths) {
    const Descriptor file(path, O_RDONLY, "sync");
    if (::fsync(file.get()) != 0) fail_io(path, "sync");
  }
  if (::fsync(folder.get()) != 0) fail_io(directory, "sync");
}

}  // namespace neox
