// Memory on huge pages where the system grants them: zeroed for tables, used again for batches.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace rowwise {

// `bytes` of zeroed memory, or nullptr. Random rows of a large table miss the TLB at nearly every
// access with 4 KiB pages; asking for 2 MiB ones halves the time of a step.
void* allocate(std::size_t bytes);
void release(void* memory, std::size_t bytes);

// Memory for one batch's vectors or gradients, not zeroed, or nullptr. `bytes` becomes what it
// holds. Given back, it is kept for the next batch: fresh pages cost more than what a step does
// with them.
void* borrow(std::size_t& bytes);
void give_back(void* memory, std::size_t bytes);

// An array in such memory. `size` may be set to less.
template <class T>
class Buffer {
  public:
    int64_t size = 0;

    Buffer() = default;
    explicit Buffer(int64_t count)
        : size(count), bytes_(static_cast<std::size_t>(count) * sizeof(T)) {
        memory_ = static_cast<T*>(borrow(bytes_));
        if (memory_ == nullptr) throw std::bad_alloc();
    }
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Buffer() {
        if (memory_ != nullptr) give_back(memory_, bytes_);
    }

    void swap(Buffer& other) noexcept {
        std::swap(size, other.size);
        std::swap(memory_, other.memory_);
        std::swap(bytes_, other.bytes_);
    }

    T* data() { return memory_; }
    const T* data() const { return memory_; }
    T* begin() { return memory_; }
    T* end() { return memory_ + size; }
    const T* begin() const { return memory_; }
    const T* end() const { return memory_ + size; }
    T& operator[](int64_t i) { return memory_[i]; }
    const T& operator[](int64_t i) const { return memory_[i]; }

  private:
    T* memory_ = nullptr;
    std::size_t bytes_ = 0;
};

}  // namespace rowwise
