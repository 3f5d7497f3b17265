#include "core/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ of Linux 5.14, which older headers lack

[[noreturn]] void fail_io(const std::string& path, const char* what) {
  throw CoreError("NEOX_IO", std::string("Could not ") + what + " " + path + ": " + std::strerror(errno));
}

// Which file it is, and which content: lib/base/files.ts writes the same. The change time is in it because the
// modification time can be set back.
std::string identity_of(const struct stat& status) {
  const auto nanoseconds = [](const timespec& time) {
    return std::to_string(static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec);
  };
  return std::to_string(status.st_dev) + ':' + std::to_string(status.st_ino) + ':' + std::to_string(status.st_size) +
         ':' + nanoseconds(status.st_mtim) + ':' + nanoseconds(status.st_ctim);
}

class MappedFile;

std::mutex open_files_mutex;
// By identity: a checkpoint that was renamed over another one of the same size once gave the weights of the old one,
// because the mapping was looked up by its path.
std::map<std::string, std::weak_ptr<MappedFile>> open_files;
std::map<uintptr_t, uintptr_t> mapped_ranges;  // begin and end

class MappedFile {
 public:
  MappedFile(int fd, const std::string& path, std::string identity, uint64_t size)
      : identity_(std::move(identity)), size_(size) {
    if (size_ == 0) return;
    // Private and read-only: a write to the file by somebody else is theirs, ours cannot happen.
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) fail_io(path, "map");
    data_ = static_cast<const char*>(address);
  }
  ~MappedFile() {
    std::lock_guard<std::mutex> lock(open_files_mutex);
    // Another thread may have mapped the same file since the last reference went.
    const auto own = open_files.find(identity_);
    if (own != open_files.end() && own->second.expired()) open_files.erase(own);
    if (data_ == nullptr) return;
    mapped_ranges.erase(reinterpret_cast<uintptr_t>(data_));
    ::munmap(const_cast<char*>(data_), size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  std::string identity_;
  const char* data_ = nullptr;
  uint64_t size_ = 0;
};

class Descriptor {
 public:
  // O_NONBLOCK: opening a named pipe must not wait for its writer.
  explicit Descriptor(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (fd_ < 0) fail_io(path, "open");
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// One mapping per file, shared by all tensors in it and dropped with the last of them.
std::shared_ptr<MappedFile> open_mapped(const TensorEntry& entry) {
  const Descriptor descriptor(entry.file);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) fail_io(entry.file, "read the size of");
  if (!S_ISREG(status.st_mode)) {
    throw CoreError("NEOX_IO", "Could not map " + entry.file + ": it is not a regular file");
  }
  const std::string identity = identity_of(status);
  if (!entry.identity.empty() && entry.identity != identity) {
    throw CoreError("NEOX_IO",
                    "Could not map " + entry.file + ": it was replaced or changed since its header was read");
  }
  std::shared_ptr<MappedFile> file;
  std::lock_guard<std::mutex> lock(open_files_mutex);
  const auto known = open_files.find(identity);
  if (known != open_files.end()) file = known->second.lock();
  if (file) return file;
  file = std::make_shared<MappedFile>(descriptor.get(), entry.file, identity, static_cast<uint64_t>(status.st_size));
  open_files[identity] = file;
  const auto begin = reinterpret_cast<uintptr_t>(file->data());
  if (file->size() > 0) mapped_ranges[begin] = begin + file->size();
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
  const auto file = open_mapped(entry);
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
  const auto after = mapped_ranges.upper_bound(first);
  if (after == mapped_ranges.begin() || last > std::prev(after)->second) return;
  ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace neox
