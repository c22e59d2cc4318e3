// Memory for torch's tensors on a CPU: malloc, with the alignment made here.
//
//     [ from malloc ... | its address | a multiple of 64: the tensor ... ]
//
// torch asks for it by posix_memalign. There glibc looks for a free block that is larger than the
// tensor by its alignment and some bytes, so that a block that such a tensor has freed is never
// enough for the next one of the same size. Memory then grows until freed neighbours join.

#include <c10/core/CPUAllocator.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

constexpr std::uintptr_t kAligned = 64;  // as torch's own are, for vectors of 512 bits
static_assert(alignof(std::max_align_t) >= sizeof(void*), "no room for the address");

void give_back(void* tensor) {
  if (tensor == nullptr) return;
  c10::profiledCPUMemoryReporter().Delete(tensor);
  std::free(static_cast<void**>(tensor)[-1]);
}

void* take(std::size_t size) {
  void* block = size > SIZE_MAX - kAligned ? nullptr : std::malloc(size + kAligned);
  if (block == nullptr) {
    c10::profiledCPUMemoryReporter().OutOfMemory(size);
    TORCH_CHECK(false, "not enough memory: you tried to allocate ", size, " bytes.");
  }
  const auto start = reinterpret_cast<std::uintptr_t>(block);
  void* tensor = reinterpret_cast<void*>((start / kAligned + 1) * kAligned);
  static_cast<void**>(tensor)[-1] = block;
  c10::profiledCPUMemoryReporter().New(tensor, size);
  return tensor;
}

class ByMalloc final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    void* tensor = size == 0 ? nullptr : take(size);
    return {tensor, tensor, &give_back, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }

  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }
};

ByMalloc by_malloc;

}  // namespace

// Tell whether that is new.
extern "C" int allocate_by_malloc() {
  if (c10::GetCPUAllocator() == &by_malloc) return 0;
  c10::SetCPUAllocator(&by_malloc);
  return 1;
}

extern "C" void allocate_by_default() { c10::SetCPUAllocator(c10::GetDefaultCPUAllocator()); }
