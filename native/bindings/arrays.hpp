// What the bindings share: NumPy arrays in and out, and calls without the GIL.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <string>

#include "memory.hpp"
#include "threads.hpp"

namespace rowwise {

namespace nb = nanobind;

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;  // of any shape
template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using NewVector = nb::ndarray<nb::numpy, T, nb::ndim<1>>;
template <class T>
using NewMatrix = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

template <class T, class... Kind>
std::span<T> span_of(const nb::ndarray<T, Kind...>& array) {
    return {array.data(), array.size()};
}

// Returns an object that hands memory to `Free` once no array needs it.
template <void (*Free)(void*, std::size_t)>
nb::capsule owner_of(void* memory, std::size_t bytes) {
    struct Block {
        void* memory;
        std::size_t bytes;
    };
    return nb::capsule(new Block{memory, bytes}, [](void* p) noexcept {
        auto* block = static_cast<Block*>(p);
        Free(block->memory, block->bytes);
        delete block;
    });
}

// Returns an array of numbers not yet written, in memory that is used again.
template <class T, class... Shape>
auto new_array(Shape... shape) {
    std::size_t bytes = (sizeof(T) * ... * static_cast<std::size_t>(shape));
    void* memory = borrow(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return nb::ndarray<nb::numpy, T, nb::ndim<sizeof...(shape)>>(
        memory, {static_cast<std::size_t>(shape)...}, owner_of<give_back>(memory, bytes));
}

// Returns an array that takes over the memory of a buffer.
template <class T, class... Shape>
auto array_of(Buffer<T> buffer, Shape... shape) {
    auto* owned = new Buffer<T>(std::move(buffer));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<Buffer<T>*>(p); });
    return nb::ndarray<nb::numpy, T, nb::ndim<sizeof...(shape)>>(
        owned->data(), {static_cast<std::size_t>(shape)...}, owner);
}

// Releases the GIL while it lives. At its end, warns of threads that could not be made.
class WithoutGil {
  public:
    WithoutGil() { release_.emplace(); }
    ~WithoutGil() {
        release_.reset();
        const int missing = pop_missing_threads();
        if (missing == 0) return;
        const std::string message = "the system refused " + std::to_string(missing) +
                                    " of the threads asked for; fewer do the work";
        if (PyErr_WarnEx(PyExc_RuntimeWarning, message.c_str(), 2) != 0)
            PyErr_WriteUnraisable(nullptr);  // the call itself went well
    }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

  private:
    std::optional<nb::gil_scoped_release> release_;
};

class Table;
Table& table_of(nb::handle object);  // of a Python `Table`

void bind_device(nb::module_& m);
void bind_disk(nb::module_& m);
void bind_ids(nb::module_& m);
void bind_programs(nb::module_& m);
void bind_table(nb::module_& m);
void bind_turn(nb::module_& m);
void bind_vectors(nb::module_& m);
void bind_word2vec(nb::module_& m);

}  // namespace rowwise
