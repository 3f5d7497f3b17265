#include "core/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "core/error.h"

namespace neox {
namespace {

constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ of Linux 5.14, which older headers lack

[[noreturn]] void fail_io(const std::string& path, const char* what) {
  throw CoreError("NEOX_IO", std::string("Could not ") + what + " " + path + ": " + std::strerror(errno));
}

class MappedFile {
 public:
  explicit MappedFile(const std::string& path) : path_(path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail_io(path, "open");
    struct stat status {};
    if (::fstat(fd, &status) != 0) {
      ::close(fd);
      fail_io(path, "read the size of");
    }
    size_ = static_cast<uint64_t>(status.st_size);
    if (size_ > 0) {
      // Private and read-only: a write to the file by somebody else is theirs, ours cannot happen.
      void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
      if (address == MAP_FAILED) {
        ::close(fd);
        fail_io(path, "map");
      }
      data_ = static_cast<const char*>(address);
    }
    ::close(fd);
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<char*>(data_), size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const char* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  std::string path_;
  const char* data_ = nullptr;
  uint64_t size_ = 0;
};

std::mutex open_files_mutex;
std::map<std::string, std::weak_ptr<MappedFile>> open_files;

// One mapping per file, shared by all tensors in it and dropped with the last of them.
std::shared_ptr<MappedFile> open_mapped(const std::string& path) {
  std::lock_guard<std::mutex> lock(open_files_mutex);
  auto& slot = open_files[path];
  if (auto file = slot.lock()) {
    struct stat status {};
    // A file that was replaced under the same name has another size or another inode; only the size is cheap to compare
    // here, and a replaced file keeps its old mapping valid, so a stale mapping is at worst the old content.
    if (::stat(path.c_str(), &status) == 0 && static_cast<uint64_t>(status.st_size) == file->size()) return file;
  }
  auto file = std::make_shared<MappedFile>(path);
  slot = file;
  return file;
}

// Elements spanned by a strided tensor, with overflow checks; -1 when it cannot be counted.
int64_t span_of(const std::vector<int64_t>& shape, const std::vector<int64_t>& stride) {
  int64_t span = 1;
  bool is_empty = false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0 || stride[i] < 0) return -1;
    is_empty = is_empty || shape[i] == 0;
    int64_t reach = 0;
    if (shape[i] > 0 &&
        (__builtin_mul_overflow(shape[i] - 1, stride[i], &reach) || __builtin_add_overflow(span, reach, &span)))
      return -1;
  }
  return is_empty ? 0 : span;
}

std::vector<int64_t> row_major(const std::vector<int64_t>& shape) {
  std::vector<int64_t> stride(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) {
    if (__builtin_mul_overflow(stride[i], shape[i], &stride[i - 1])) stride[i - 1] = -1;
  }
  return stride;
}

}  // namespace

at::Tensor map_tensor(const TensorEntry& entry) {
  const auto file = open_mapped(entry.file);
  const std::vector<int64_t> stride = entry.stride.empty() ? row_major(entry.shape) : entry.stride;
  const auto item = static_cast<uint64_t>(c10::elementSize(entry.dtype));
  const int64_t span = stride.size() == entry.shape.size() ? span_of(entry.shape, stride) : -1;
  uint64_t bytes = 0;
  uint64_t end = 0;
  if (span < 0 || __builtin_mul_overflow(static_cast<uint64_t>(span), item, &bytes) || bytes > entry.byte_length ||
      __builtin_add_overflow(entry.offset, bytes, &end) || end > file->size()) {
    throw CoreError("NEOX_BAD_CHECKPOINT", "Tensor " + entry.name + " in " + entry.file +
                                               " reaches outside of its bytes: " + std::to_string(entry.byte_length) +
                                               " bytes at " + std::to_string(entry.offset) + " of a file of " +
                                               std::to_string(file->size()));
  }
  const auto options = at::TensorOptions().dtype(entry.dtype);
  if (bytes == 0) return at::empty(entry.shape, options);
  const char* source = file->data() + entry.offset;
  if (reinterpret_cast<uintptr_t>(source) % item != 0) {
    // safetensors does not promise alignment (a header may have any length).
    at::Tensor copy = at::empty({span}, options);
    std::memcpy(copy.data_ptr(), source, bytes);
    return copy.as_strided(entry.shape, stride);
  }
  return at::from_blob(
      const_cast<char*>(source), entry.shape, stride, [file](void*) {}, options);
}

void load_pages(const at::Tensor& mapped) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<uintptr_t>(mapped.const_data_ptr());
  const uintptr_t begin = start / page * page;
  const size_t bytes = start + mapped.nbytes() - begin;
  if (::madvise(reinterpret_cast<void*>(begin), bytes, kPopulateRead) != 0) {
    ::madvise(reinterpret_cast<void*>(begin), bytes, MADV_WILLNEED);
  }
}

void release_pages(const at::Tensor& mapped) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(mapped.data_ptr());
  const uintptr_t end = begin + mapped.nbytes();
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = end / page * page;
  if (last <= first) return;
  // MADV_DONTNEED on anonymous memory would zero it, so only memory that lies in one of our mappings is touched.
  std::lock_guard<std::mutex> lock(open_files_mutex);
  for (const auto& [path, weak] : open_files) {
    const auto file = weak.lock();
    if (!file) continue;
    const auto base = reinterpret_cast<uintptr_t>(file->data());
    if (first >= base && last <= base + file->size()) {
      ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
      return;
    }
  }
}

}  // namespace neox
